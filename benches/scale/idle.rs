//! What it costs when nothing happens.

use std::{collections::BTreeMap, time::Duration};

use crate::host::{Host, LIBVIRT_DBUS, SNAPPERD, UDISKSD, uri};

/// MiB resident.
const MEMORY_BAR: f64 = 14.0;

pub(crate) fn measure(host: &Host) {
    host.start_ours();
    let peers = [LIBVIRT_DBUS, SNAPPERD, UDISKSD];
    for peer in peers {
        host.start(peer);
    }
    // Connected, and asked nothing: what libvirt's library and what that is built on take alone.
    host.tb.ok(&format!(
        "systemd-run --quiet --unit=virsh bash -c \"exec virsh -c '{}' >/dev/null < <(sleep infinity)\"",
        uri()
    ));
    let units: Vec<_> = ["virtsnapd", "virsh"].into_iter().chain(peers.map(|peer| peer.name)).collect();
    // snapperd ends when nobody has asked it anything for a minute.
    let pids: Vec<_> = units.iter().map(|unit| host.pid(unit)).collect();
    // What it looks at once after its start is over by then.
    host.tb.ok("sleep 10");
    let before: Vec<_> = pids.iter().map(|pid| switches(host, *pid)).collect();
    let resident: Vec<_> = units.iter().map(|unit| host.resident(unit)).collect();
    let seconds = 45;
    host.tb.ok_within(Duration::from_mins(2), &format!("sleep {seconds}"));
    println!("idle, {} VMs of {} snapshots:", host.vms, host.snapshots);
    for (i, unit) in units.iter().enumerate() {
        let after = switches(host, pids[i]);
        let new = |(task, n): (&u32, &u64)| n - before[i].get(task).copied().unwrap_or_default();
        let a_minute = after.iter().map(new).sum::<u64>() * 60 / seconds;
        println!("  {unit}: {:.1} MiB resident, {a_minute} context switches a minute", resident[i]);
    }
    println!("  the bar is {MEMORY_BAR} MiB, and no wake-up but for the watchdog and libvirt's keepalive");
}

/// Of each of its threads: some end meanwhile, others begin.
fn switches(host: &Host, pid: u32) -> BTreeMap<u32, u64> {
    let script = format!(
        "for task in /proc/{pid}/task/*; do
             awk -v task=${{task##*/}} '/ctxt_switches/ {{sum += $2}} END {{print task, sum}}' $task/status
         done"
    );
    let told = host.tb.ok(&script);
    let of_task =
        |line: &str| line.split_once(' ').map(|(task, n)| (task.parse().unwrap(), n.parse().unwrap()));
    told.lines().filter_map(of_task).collect()
}
