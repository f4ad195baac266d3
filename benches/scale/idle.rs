//! What it costs when nothing happens.

use std::time::Duration;

use crate::host::{Host, LIBVIRT_DBUS, SNAPPERD, UDISKSD};

/// MiB resident.
const MEMORY_BAR: f64 = 14.0;

pub(crate) fn measure(host: &Host) {
    host.start_ours();
    let peers = [LIBVIRT_DBUS, SNAPPERD, UDISKSD];
    for peer in peers {
        host.start(peer);
    }
    let units: Vec<_> = ["virtsnapd"].into_iter().chain(peers.map(|peer| peer.name)).collect();
    // snapperd ends when nobody has asked it anything for a minute.
    let pids: Vec<_> = units.iter().map(|unit| host.pid(unit)).collect();
    host.tb.ok("sleep 5");
    let before: Vec<_> = pids.iter().map(|pid| switches(host, *pid)).collect();
    let resident: Vec<_> = units.iter().map(|unit| host.resident(unit)).collect();
    let seconds = 45;
    host.tb.ok_within(Duration::from_mins(2), &format!("sleep {seconds}"));
    println!("idle, {} VMs of {} snapshots:", host.vms, host.snapshots);
    for (i, unit) in units.iter().enumerate() {
        let a_minute = (switches(host, pids[i]) - before[i]) * 60 / seconds;
        println!("  {unit}: {:.1} MiB resident, {a_minute} context switches a minute", resident[i]);
    }
    println!("  the bar is {MEMORY_BAR} MiB, and no wake-up but for the watchdog and libvirt's keepalive");
}

/// Of all of its threads.
fn switches(host: &Host, pid: u32) -> u64 {
    let script =
        format!("cat /proc/{pid}/task/*/status | awk '/ctxt_switches/ {{sum += $2}} END {{print sum}}'");
    host.tb.ok(&script).trim().parse().unwrap()
}
