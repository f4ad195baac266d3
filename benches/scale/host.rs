//! A libvirtd with many VMs, ours, and the daemons beside it.

use std::{fmt::Write as _, path::Path, process::Command, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::harness::{Daemon, Suite, Testbed, wait_for};

const NODE: &str = "/var/lib/scale/node.xml";
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
        tb.push_file(NODE, node(vms, snapshots), 0o644);
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

/// Where libvirtd has the VMs. Each connection sees a host of its own, made of the same file.
pub(crate) fn uri() -> String {
    format!("test+unix://{NODE}?socket=/run/libvirt/libvirt-sock")
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

fn node(vms: usize, snapshots: usize) -> String {
    let mut xml = String::from("<node>");
    for vm in 0..vms {
        let (_, body) = domain(vm);
        let namespace = "xmlns:test='http://libvirt.org/schemas/domain/test/1.0'";
        let _ = write!(xml, "<domain type='test' {namespace}>{body}");
        for n in 0..snapshots {
            let active = u8::from(n + 1 == snapshots);
            let snapshot = snapshot(n, &body);
            let _ =
                write!(xml, "<test:domainsnapshot>{snapshot}<active>{active}</active></test:domainsnapshot>");
        }
        xml += "</domain>";
    }
    xml + "</node>"
}
