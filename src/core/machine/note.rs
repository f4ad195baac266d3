//! What the machine tells the log.

use jiff::{SignedDuration, Timestamp};

use crate::core::{
    health::{self, Health},
    inhibit::Inhibitor,
    inventory::VmRecord,
    job::{Job, JobId, Outcome},
    model::{PolicyName, SnapshotName, VmId, VmState},
    suspend::Suspension,
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
        /// On how many VMs it runs now.
        vms: usize,
        /// On how many more it is suspended.
        suspended: usize,
        /// How many earlier times this run stands for.
        missed: u32,
    },
    /// Nothing is heard of a job any more.
    Stuck {
        /// The job.
        job: JobId,
        /// Its VM.
        vm: VmId,
        /// The VM's name.
        vm_name: String,
        /// What it waits for, and the way out.
        text: String,
    },
    /// A job that was stuck goes on, or has ended.
    GoesOn {
        /// The job.
        job: JobId,
        /// Its VM.
        vm: VmId,
        /// The VM's name.
        vm_name: String,
        /// What it does.
        operation: &'static str,
    },
    /// What somebody asked for and did not begin is kept for the next life.
    Deferred {
        /// So many jobs.
        jobs: usize,
        /// For so long.
        kept_for: SignedDuration,
    },
    /// A policy's time came, and it is suspended as a whole.
    Idle {
        /// The policy.
        policy: PolicyName,
        /// The scheduled time.
        at: Timestamp,
    },
    /// A policy is suspended from now on.
    Suspended {
        /// The policy.
        policy: PolicyName,
        /// The VM and its name; `None`: as a whole.
        on: Option<(VmId, String)>,
        /// By whom, and why.
        suspension: Suspension,
        /// The person.
        by_uid: Option<u32>,
    },
    /// A policy is not suspended any more.
    Resumed {
        /// The policy.
        policy: PolicyName,
        /// The VM and its name; `None`: as a whole.
        on: Option<(VmId, String)>,
        /// The person; `None`: it was run, and worked.
        by_uid: Option<u32>,
    },
    /// A policy's newest good snapshot of a VM is too old.
    Stale {
        /// The policy.
        policy: PolicyName,
        /// The VM.
        vm: VmId,
        /// Its name.
        vm_name: String,
        /// Of when the newest is, if there is one.
        newest: Option<Timestamp>,
        /// How old it may be.
        stale_after: SignedDuration,
    },
    /// It is not any more, or none is awaited any more.
    Fresh {
        /// The policy.
        policy: PolicyName,
        /// The VM.
        vm: VmId,
        /// Its name.
        vm_name: String,
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
        /// The snapshot that it worked on, or made.
        snapshot: Option<SnapshotName>,
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
    /// Something else has a VM, or its state is not the policy's: the run is tried again.
    PutOff {
        /// The policy.
        policy: PolicyName,
        /// The VM.
        vm: VmId,
        /// Not before this.
        until: Timestamp,
    },
    /// Who pinned a snapshot, its tags or its expiry changed.
    Labelled {
        /// The VM.
        vm: VmId,
        /// Its name.
        vm_name: String,
        /// The snapshot.
        name: SnapshotName,
        /// What of it.
        text: String,
        /// The person; `None`: its time came.
        by_uid: Option<u32>,
    },
    /// What is wrong with a VM changed.
    Health {
        /// The VM.
        vm: VmId,
        /// Its name.
        vm_name: String,
        /// How it is now.
        health: Health,
        /// What is wrong.
        text: String,
    },
    /// A policy that lists an operation does not run before it.
    NotBefore {
        /// The policy.
        policy: PolicyName,
        /// The VM.
        vm: VmId,
        /// Its name.
        vm_name: String,
        /// What was announced.
        operation: String,
        /// The state that it is in, which is none of the policy's.
        state: VmState,
    },
    /// Somebody holds what nobody asked for since long ago.
    HeldLong(Inhibitor),
    /// What nobody asked for is held from now on.
    Inhibited(Inhibitor),
    /// Somebody does not hold it any more.
    Released {
        /// Who did.
        inhibitor: Inhibitor,
        /// For how long.
        held: SignedDuration,
        /// Nobody else does: what waits begins.
        last: bool,
    },
    /// The settings say something in vain, given the VMs there are.
    Warning(String),
}

impl Note {
    /// What there is to tell of a VM's health; `None` if it is as before.
    pub(super) fn of_health(before: Option<&VmRecord>, now: &VmRecord) -> Option<Self> {
        let text = health::reason(&now.findings);
        let same = before.map_or_else(String::new, |b| health::reason(&b.findings)) == text;
        let health = health::worst(&now.findings);
        (!same).then(|| Self::Health { vm: now.id, vm_name: now.name.clone(), health, text })
    }
}
