//! What of the policies' runs must outlive the process: the machine says what to write, the store writes it.

use jiff::Timestamp;
use uuid::Uuid;

use super::Failed;
use crate::core::{
    awaited::Awaited,
    job::{JobId, JobResult},
    label::Label,
    model::{PolicyName, VmId},
    suspend::Standing,
};

/// How far a policy got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// All of its times up to here are dealt with: each has fired, or never will.
    pub handled: Timestamp,
    /// How far it had got before the clock was set back by so much that it began anew. When the clock gets there
    /// again, it was right before, and nothing up to here fires again.
    pub peak: Option<Timestamp>,
    /// The schedules and the zone that this is about, as text; empty if nobody wrote it down. Of others' times it says
    /// nothing.
    pub times: String,
    /// When it ran last, by the clock or by hand.
    pub last_run: Option<Timestamp>,
    /// How that ended.
    pub last_result: Option<JobResult>,
}

impl Place {
    /// A policy of whose runs nothing is known.
    pub const fn new(handled: Timestamp) -> Self {
        Self { handled, peak: None, times: String::new(), last_run: None, last_result: None }
    }
}

/// A run that fired for a VM and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// The scheduled time.
    pub fired: Timestamp,
    /// The VM's turn, which `spread` puts later.
    pub not_before: Timestamp,
}

/// One thing to write down. Those of one step are one transaction: a time that is handled and the runs that it owes
/// are both there or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A policy got so far.
    Place(PolicyName, Place),
    /// A policy fired for these VMs; an earlier run that a VM still waits for is the same one.
    Owed(PolicyName, Vec<(VmId, Owed)>),
    /// What a policy owed this VM has ended, or is not to be.
    Settled(PolicyName, VmId),
    /// A policy owes nothing any more.
    Cleared(PolicyName),
    /// There is no such policy any more.
    Gone(PolicyName),
    /// How a policy stands on this VM now, or as a whole.
    Standing(PolicyName, Option<VmId>, Standing),
    /// What a policy awaits of this VM now; `None`: nothing.
    Awaited(PolicyName, VmId, Option<Awaited>),
    /// What is attached to this snapshot of this VM now.
    Label(VmId, Uuid, Label),
    /// A job failed on this VM, which is told until the like of it works.
    Failed(VmId, Failed),
    /// That is over.
    Worked(VmId),
    /// This job, which was left for a later life, begins now, or has ended.
    Undeferred(JobId),
}
