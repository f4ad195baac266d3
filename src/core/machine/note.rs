//! What the machine tells the log.

use jiff::Timestamp;

use crate::core::{
    job::{Job, Outcome},
    model::{PolicyName, VmId},
};

/// What the log should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A policy fired.
    Fired {
        /// The policy.
        policy: PolicyName,
        /// The scheduled time.
        at: Timestamp,
        /// How many VMs it is for now.
        vms: usize,
        /// How many earlier times this run stands for.
        missed: u32,
    },
    /// A policy's time passed without a run.
    Skipped {
        /// The policy.
        policy: PolicyName,
        /// The scheduled time.
        at: Timestamp,
        /// Why.
        why: &'static str,
    },
    /// The clock was set back by so much that a policy began anew.
    ClockReset {
        /// The policy.
        policy: PolicyName,
        /// How far it had got.
        handled: Timestamp,
        /// What the clock shows.
        now: Timestamp,
    },
    /// The clock was set back a little: a policy waits until it has caught up.
    ClockBehind {
        /// The policy.
        policy: PolicyName,
        /// How far it had got.
        handled: Timestamp,
        /// What the clock shows.
        now: Timestamp,
    },
    /// The clock shows a time long past, so no policy runs.
    ClockTooEarly {
        /// What it shows.
        now: Timestamp,
    },
    /// A job ended.
    Ended {
        /// The job.
        job: Box<Job>,
        /// The VM's name.
        vm_name: String,
        /// How.
        outcome: Outcome,
    },
    /// A run that an earlier life of the daemon had begun is not taken up again.
    Dropped {
        /// The policy.
        policy: PolicyName,
        /// The VM.
        vm: VmId,
        /// The scheduled time.
        at: Timestamp,
        /// Its snapshot is there; else it is too late for it.
        done: bool,
    },
    /// The settings say something in vain, given the VMs there are.
    Warning(String),
}
