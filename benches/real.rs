//! What real guests notice of us, beside `virsh` in the same run: `make bench-real`.
//!
//! Debian 13 in a container, as in the tests. First how long a guest is frozen for a quiesced snapshot of one, four and
//! eight disks, ours and `virsh snapshot-create-as --quiesce` in turn; then what pruning ten snapshots costs, against
//! `virsh snapshot-delete` ten times. What counts is the ratio: the machine is noisy, and the guests are emulated.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's result is what it prints, and it ends where it cannot go on"
)]

#[allow(unused_macros, reason = "only tests run on both Debians")]
#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "real/prune.rs"]
mod prune;
#[path = "real/window.rs"]
mod window;

fn main() {
    for disks in [1, 4, 8] {
        window::measure(disks);
    }
    prune::measure();
}

/// The middle one of some measurements.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
