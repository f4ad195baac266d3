//! What a host with 1,000 VMs of 20 snapshots each costs on the bus, and one with 100 VMs when nothing happens, with
//! libvirt-dbus, snapperd, udisksd and virsh beside it in the same run: `make bench-scale`.
//!
//! Debian 13 in a container, the daemon installed as its unit; libvirtd serves its test driver, whose VMs have no QEMU
//! and no images, so that it is the inventory and the bus that are measured. What counts is the ratio: the machine is
//! noisy.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's result is what it prints, and it ends where it cannot go on"
)]

#[path = "scale/client.rs"]
mod client;
#[allow(unused_macros, reason = "only tests run on both Debians")]
#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "scale/host.rs"]
mod host;
#[path = "scale/idle.rs"]
mod idle;
#[path = "scale/inventory.rs"]
mod inventory;
#[path = "scale/reads.rs"]
mod reads;

use self::host::Host;

fn main() {
    let host = Host::new(1000, 20);
    inventory::measure(&host);
    reads::measure(&host);
    drop(host);
    idle::measure(&Host::new(100, 20));
}

/// The one in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
