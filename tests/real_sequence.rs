//! A random sequence of everything that is done to a VM's snapshots, with the data of each compared after every step.
//!
//! At each snapshot a full copy of every disk is put aside, made of what was written and of nothing that libvirt or
//! virtsnap had a hand in. Whatever happens then (creates, merges of one or several, reverts, branches, restarts; kills and
//! cancellations in the middle of them), every snapshot that is offered holds what its copy holds, none is not offered
//! but what was to be deleted, the VM's disks hold what was written to them, every image is
//! sound, libvirt and the bus tell the same tree, and no file is left that nobody owns. At the end all is deleted,
//! and each disk is one image again.
//!
//! The seed is printed with each step; `VIRTSNAP_SEED` repeats a run, as far as kills can be repeated, and
//! `VIRTSNAP_SEQUENCE_STEPS` makes it longer.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and expects by failing"
)]

#[path = "real_sequence/act.rs"]
mod act;
#[path = "real_sequence/branches.rs"]
mod branches;
#[path = "real_sequence/dice.rs"]
mod dice;
mod harness;
#[path = "real_sequence/merges.rs"]
mod merges;
#[path = "real_sequence/oracle.rs"]
mod oracle;

use act::World;
use harness::{Bare, Daemon};

/// So many steps, if the environment does not say how many: a minute at most.
const STEPS: u64 = 30;
/// The same at every run, so that a change that passes once passes again; any other finds other sequences.
const SEED: u64 = 4;

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

harness::on_both! {
    /// See the module.
    fn whatever_is_done_in_whatever_order_no_data_is_lost(tb) {
        let (seed, steps) = (
            from_environment("VIRTSNAP_SEED", SEED),
            from_environment("VIRTSNAP_SEQUENCE_STEPS", STEPS),
        );
        println!("VIRTSNAP_SEED={seed} VIRTSNAP_SEQUENCE_STEPS={steps}");
        let vm = Bare::define(tb, "seq", 2);
        tb.ok("virsh -q start seq");
        let daemon = Daemon::running(tb, merges::POLICY);
        let mut world = World::new(tb, &daemon, vm, seed);
        for step in 0..steps {
            world.step(step);
            world.check();
        }
        world.end();
    }
}
