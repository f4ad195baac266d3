//! What a policy would do on a VM, now or when it is due next: what is in its way, what it would take, and what the prune after that would do.

use jiff::Timestamp;

use super::{
    job::JobId,
    model::{SnapshotName, VmId, words},
    prune::Sentence,
};

words! {
    /// What a run by the schedule would come to on a VM, if it were due now.
    Outlook {
        /// A snapshot is taken.
        Take = "take",
        /// One is taken when nobody inhibits scheduled runs any more.
        Held = "held",
        /// A job that waits or runs does it already.
        Queued = "queued",
        /// Nothing: the policy is suspended there.
        Suspended = "suspended",
        /// Nothing: the VM is in a state that the policy is not for.
        WrongState = "wrong-state",
    }
}

/// That on one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The VM.
    pub vm: VmId,
    /// What a run would come to.
    pub outlook: Outlook,
    /// The same, for people.
    pub text: String,
    /// When its schedule runs it there next, `spread` included; `None`: not before something else happens.
    pub turn: Option<Timestamp>,
    /// What the snapshot would be called, were it taken that second.
    pub name: Option<SnapshotName>,
    /// The job that does it already.
    pub job: Option<JobId>,
    /// What becomes of the snapshots there are in the prune after it, or in one without it where nothing is taken.
    pub verdicts: Vec<Sentence>,
}
