//! Every operation stopped before and after each call with which it changes something through libvirt, and the daemon,
//! libvirtd or QEMU killed there; or the daemon once more while it settles that.
//!
//! Whatever was cut short is ended, taken back or reported by the next life, with nobody's help: each snapshot that is
//! offered holds its own data, the VM's disks hold what they held or what they were to hold, the definition names what the
//! VM runs on, nothing is "creating", no job is left in libvirt, no file is left that nobody owns or tells of, and the
//! next operations work.
//!
//! A first run of each operation counts its calls. By default some of all boundaries are taken, always the same ones;
//! `VIRTSNAP_EVERY=1` takes all of them (`=3` each third), and `VIRTSNAP_CASE`, which a failure prints, one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and expects by failing"
)]

#[path = "real_boundaries/case.rs"]
mod case;
#[path = "real_boundaries/check.rs"]
mod check;
mod harness;
#[path = "real_boundaries/operations.rs"]
mod operations;
#[path = "real_boundaries/scene.rs"]
mod scene;

harness::on_both! {
    fn a_create_that_is_cut_short_is_ended_or_taken_back(tb) {
        case::run_all(tb.suite(), operations::CREATES);
    }
    fn a_delete_that_is_cut_short_is_ended(tb) {
        case::run_all(tb.suite(), operations::DELETES);
    }
    fn a_prune_that_is_cut_short_is_ended(tb) {
        case::run_all(tb.suite(), operations::PRUNES);
    }
    fn a_branch_that_is_cut_short_is_ended_or_taken_back(tb) {
        case::run_all(tb.suite(), operations::BRANCHES);
    }
    fn a_revert_that_is_cut_short_is_ended_or_taken_back(tb) {
        case::run_all(tb.suite(), operations::REVERTS);
    }
}
