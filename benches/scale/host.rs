//! A libvirtd with many VMs, ours, and the daemons beside it.

use std::{path::Path, process::Command, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::harness::{Daemon, Suite, Testbed, wait_for};

/// What keeps the VMs there: the test driver's host lasts as long as somebody is connected to it.
const KEEPER: &str = "/var/lib/scale/keeper.py";
const PEERS: &str = "/opt/peers";

/// A daemon that is measured beside ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) bus_name: &'static str,
    command: &'static str,
}

pub(crate) const LIBVIRT_DBUS: Peer = Peer {
    name: "libvirt-dbus",
    bus_name: "org.libvirt",
    command: "usr/sbin/libvirt-dbus --system --threads 4",
};
/// Ours, without what its unit has systemd do before.
pub(crate) const BARE: Peer = Peer {
    name: "bare",
    bus_name: "org.virtsnap1",
    command: "../../usr/bin/virtsnapd --state-dir /var/lib/bare",
};
pub(crate) const SNAPPERD: Peer =
    Peer { name: "snapperd", bus_name: "org.opensuse.Snapper", command: "usr/sbin/snapperd" };
pub(crate) const UDISKSD: Peer =
    Peer { name: "udisksd", bus_name: "org.freedesktop.UDisks2", command: "usr/libexec/udisks2/udisksd" };

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) tb: &'static Testbed,
    pub(crate) daemon: Daemon<'static>,
    pub(crate) vms: usize,
    pub(crate) snapshots: usize,
}

impl Host {
    /// Nothing of it is started yet but libvirtd and the bus.
    pub(crate) fn new(vms: usize, snapshots: usize) -> Self {
        // The daemon's handle borrows it; there are two in a run.
        let tb: &'static Testbed = Box::leak(Box::new(Testbed::start(Suite::Trixie)));
        tb.push_file(KEEPER, keeper(vms, snapshots), 0o644);
        tb.ok_within(
            Duration::from_mins(5),
            &format!(
                "systemd-run --quiet --unit=keeper --service-type=notify --property=NotifyAccess=all \
                      --property=TimeoutStartSec=5min python3 {KEEPER}"
            ),
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/peers.sh");
        let peers = Command::new(script).output().unwrap();
        assert!(peers.status.success(), "{}", String::from_utf8_lossy(&peers.stderr));
        let from = String::from_utf8(peers.stdout).unwrap();
        let copied = Command::new("cp").args(["-a", from.trim()]).arg(tb.path(PEERS)).status().unwrap();
        assert!(copied.success());
        // libvirt-dbus reads what it serves from there.
        tb.ok(&format!(
            "mkdir -p /usr/share/dbus-1 && cp -a {PEERS}/usr/share/dbus-1/interfaces /usr/share/dbus-1/"
        ));
        // Each of them wants a user of its own, which is of no matter here.
        let anybody = "<busconfig><policy context=\"mandatory\"><allow own=\"*\"/><allow send_destination=\"*\"/>\
                       </policy></busconfig>";
        tb.push_file("/etc/dbus-1/system.d/zz-anybody.conf", anybody, 0o644);
        let daemon = Daemon::install(tb, "");
        tb.push_file("/etc/virtsnap/virtsnapd.toml", format!("[daemon]\nuri = \"{}\"\n", uri()), 0o644);
        Self { tb, daemon, vms, snapshots }
    }

    /// Starts it, and returns when it has its name.
    pub(crate) fn start(&self, peer: Peer) {
        let Peer { name, bus_name, command } = peer;
        self.tb.ok(&format!(
            "systemd-run --quiet --unit={name} --service-type=dbus --property=BusName={bus_name} \
             --setenv=LD_LIBRARY_PATH={PEERS}/usr/lib/x86_64-linux-gnu {PEERS}/{command}"
        ));
    }

    pub(crate) fn stop(&self, unit: &str) {
        self.tb.ok(&format!("systemctl stop {unit}; systemctl reset-failed {unit} 2>/dev/null || true"));
    }

    /// A time of a unit, in seconds of the monotonic clock.
    pub(crate) fn unit_time(&self, unit: &str, what: &str) -> f64 {
        let shown = self.tb.ok(&format!("systemctl show {unit} -p {what}TimestampMonotonic --value"));
        shown.trim().parse::<f64>().unwrap() / 1e6
    }

    pub(crate) fn pid(&self, unit: &str) -> u32 {
        self.tb.ok(&format!("systemctl show {unit} -p MainPID --value")).trim().parse().unwrap()
    }

    /// MiB of memory that it holds now.
    pub(crate) fn resident(&self, unit: &str) -> f64 {
        let pid = self.pid(unit);
        let kib = self.tb.ok(&format!("awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status"));
        kib.trim().parse::<f64>().unwrap() / 1024.0
    }

    /// Starts ours, and waits until it knows all that there is; when that was.
    pub(crate) fn start_ours(&self) -> f64 {
        self.daemon.start();
        wait_for(Duration::from_mins(1), "the daemon knows all VMs", || {
            let connected = self.daemon.manager::<bool>("HypervisorConnected");
            (connected && self.daemon.manager::<String>("State") == "running").then_some(())
        });
        monotonic()
    }
}

/// Where libvirtd has the VMs: one host for all who connect.
pub(crate) fn uri() -> String {
    "test+unix:///default?socket=/run/libvirt/libvirt-sock".to_owned()
}

pub(crate) fn monotonic() -> f64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_secs_f64()
}

/// A VM, as libvirt's test driver takes it.
pub(crate) fn domain(vm: usize) -> (String, String) {
    let (name, uuid) = (format!("vm{vm}"), format!("00000000-0000-4000-8000-{:012x}", vm + 1));
    let body = format!(
        "<name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory><os><type>hvm</type></os><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/nowhere/{name}'/>\
         <target dev='vda' bus='virtio'/></disk></devices>"
    );
    (name, body)
}

/// The n-th snapshot of a VM, each a child of the one before; hourly.
pub(crate) fn snapshot(n: usize, domain: &str) -> String {
    let parent = n.checked_sub(1).map(|p| format!("<parent><name>s{p}</name></parent>")).unwrap_or_default();
    format!(
        "<name>s{n}</name><description>one of many</description><state>running</state>{parent}<creationTime>{}</creationTime>\
         <domain type='test'>{domain}</domain>",
        1_780_000_000 + n * 3600
    )
}

/// All VMs run.
fn keeper(vms: usize, snapshots: usize) -> String {
    let (_, body) = domain(0);
    let (uri, all) = (uri(), (0..snapshots).map(|n| snapshot(n, &body)).collect::<Vec<_>>());
    let (name, uuid) = ("vm0", "00000000-0000-4000-8000-000000000001");
    format!(
        r#"import libvirt, subprocess, time
connection = libvirt.open("{uri}")
for there in connection.listAllDomains():
    if there.isActive():
        there.destroy()
    there.undefine()
again = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
for vm in range({vms}):
    def own(xml):
        return xml.replace("{name}<", f"vm{{vm}}<").replace("{uuid}", f"00000000-0000-4000-8000-{{vm + 1:012x}}")
    domain = connection.defineXML(own("<domain type='test'>{body}</domain>"))
    domain.create()
    snapshots = {all:?}
    for (n, xml) in enumerate(snapshots):
        newest = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if n == len(snapshots) - 1 else 0
        domain.snapshotCreateXML(own("<domainsnapshot>" + xml + "</domainsnapshot>"), again | newest)
subprocess.run(["systemd-notify", "--ready"], check=True)
while True:
    time.sleep(3600)
"#
    )
}
