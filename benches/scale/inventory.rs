//! How soon it is there, and how soon it knows what there is.

use crate::{
    host::{BARE, Host, SNAPPERD, uri},
    median,
};

const ROUNDS: usize = 3;
/// Seconds from the start to READY.
const START_BAR: f64 = 0.05;
/// Of what libvirt's own client takes to list all.
const INVENTORY_BAR: f64 = 1.2;

pub(crate) fn measure(host: &Host) {
    let (mut ready, mut bare, mut name, mut known, mut listed) = (vec![], vec![], vec![], vec![], vec![]);
    let unit = "virtsnapd";
    for _ in 0..ROUNDS {
        let end = host.start_ours();
        let begin = host.unit_time(unit, "ExecMainStart");
        ready.push(host.unit_time(unit, "ActiveEnter") - begin);
        known.push(end - begin);
        host.stop(unit);
        host.start(BARE);
        bare.push(host.unit_time(BARE.name, "ActiveEnter") - host.unit_time(BARE.name, "ExecMainStart"));
        host.stop(BARE.name);
        host.start(SNAPPERD);
        name.push(
            host.unit_time(SNAPPERD.name, "ActiveEnter") - host.unit_time(SNAPPERD.name, "ExecMainStart"),
        );
        host.stop(SNAPPERD.name);
        listed.push(list(host));
    }
    let (ready, bare, name) = (median(&ready), median(&bare), median(&name));
    let (known, listed) = (median(&known), median(&listed));
    println!(
        "start to READY: virtsnapd {:.0} ms by itself, {:.0} ms with its sandbox made before, snapperd, which has none, \
         {:.0} ms (medians of {ROUNDS}); the bar is {:.0} ms",
        bare * 1e3,
        ready * 1e3,
        name * 1e3,
        START_BAR * 1e3
    );
    println!(
        "{} VMs of {} snapshots known: virtsnapd {known:.2} s after its start, connecting to libvirt and listing all with \
         XML by libvirt's client alone {listed:.2} s: ratio {:.2}, the bar is {INVENTORY_BAR}",
        host.vms,
        host.snapshots,
        known / listed
    );
}

/// What libvirt's own client takes to read all of it once.
fn list(host: &Host) -> f64 {
    let uri = uri();
    let script = format!(
        "python3 -c '
import libvirt, time
begin = time.monotonic()
known = 0
for vm in libvirt.open(\"{uri}\").listAllDomains():
    vm.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    for snapshot in vm.listAllSnapshots():
        snapshot.getXMLDesc()
        known += 1
print(known, time.monotonic() - begin)
'"
    );
    let said = host.tb.ok(&script);
    let (known, seconds) = said.trim().split_once(' ').unwrap();
    assert_eq!(known, (host.vms * host.snapshots).to_string());
    seconds.parse().unwrap()
}
