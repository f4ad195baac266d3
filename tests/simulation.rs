//! The whole daemon but its D-Bus objects, simulated: the engine, its threads, the store and the hypervisor's model, one
//! thread at a time, in virtual time, in an order that a seed decides.
//!
//! * `boundaries`: each operation, and at each boundary between two of its steps the daemon is killed (and killed again
//!   while it recovers), libvirt goes, the store or the images' disk is full, the agent hangs, QEMU dies, the clock jumps.
//! * `random`: VMs, policies, requests and faults as a seed has them.
//! * `many`: hundreds of VMs that are due in the same second, or 1,000.
//!
//! In the environment: `VIRTSNAP_EVERY=1` tries every boundary (else some, that differ from operation to operation),
//! `VIRTSNAP_CASE=text` those whose names hold it, `VIRTSNAP_SEEDS=n` so many seeds from `VIRTSNAP_FIRST_SEED` on,
//! `VIRTSNAP_SEED=n` this one alone; `VIRTSNAP_VMS=1000` so many VMs. `make simulate` has most of it. A failure says what
//! shows it again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "all of this is tests, in functions of their own"
)]

#[path = "simulation/mod.rs"]
mod simulation;
