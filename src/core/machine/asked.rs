//! What clients may ask for, and what they get.

use super::{Edit, Labelled};
use crate::core::{
    branch::BranchJob,
    inhibit::InhibitorId,
    job::{AdoptJob, Failure, JobId, Pace},
    label::Label,
    model::{PolicyName, SnapshotName, VmId},
    policy::{Memory, Quiesce},
    preview::Foreseen,
    prune::Sentence,
    revert::{DefinitionOf, Then},
    settings::Explanation,
};

/// A request's number, by which its answer finds the way back.
pub type RequestId = u64;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To be told something.
    Query(Query),
    /// To have something changed, and the user who asks. Whether it may was settled before.
    Change(Change, u32),
}

/// What changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// What a prune would do.
    PreviewPrune {
        /// This VM.
        vm: VmId,
        /// Beyond `max-delete`.
        all: bool,
    },
    /// What holds for this VM, and why.
    Explain(VmId),
    /// What a policy would do.
    PreviewPolicy {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
        /// When its schedule runs it there next, instead of now.
        next: bool,
    },
}

/// What changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A snapshot by hand.
    Create {
        /// Of this VM.
        vm: VmId,
        /// With this name, or one that is made up.
        name: Option<SnapshotName>,
        /// With this description.
        description: String,
        /// Whether to freeze; `None`: as usual (`prefer`).
        quiesce: Option<Quiesce>,
        /// Whether the memory is part of it.
        memory: Memory,
        /// Of these disks only.
        disks: Option<Vec<String>>,
        /// With this attached to it.
        label: Label,
    },
    /// The end of a snapshot.
    Delete {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// At this pace.
        pace: Pace,
        /// Also one that others made.
        foreign: bool,
    },
    /// The end of a snapshot's metadata, where its images are gone.
    Forget {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
    },
    /// Something else attached to a snapshot.
    Label {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// What changes.
        edit: Edit,
    },
    /// Another description of a snapshot.
    Describe {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// The text.
        description: String,
    },
    /// What others made is ours from then on.
    Adopt {
        /// On this VM.
        vm: VmId,
        /// What, and for whom.
        adopt: AdoptJob,
    },
    /// A VM put back to a snapshot.
    Revert {
        /// This VM.
        vm: VmId,
        /// To this one.
        name: SnapshotName,
        /// What it is to be after it.
        then: Then,
        /// Which definition it gets.
        definition: DefinitionOf,
        /// Whether a snapshot is taken before.
        safety: bool,
    },
    /// Another VM on a snapshot.
    Branch {
        /// Of this VM.
        vm: VmId,
        /// What it is.
        job: BranchJob,
    },
    /// A VM made independent of other VMs' images.
    Promote {
        /// This VM.
        vm: VmId,
        /// At this pace.
        pace: Pace,
    },
    /// A prune of a VM.
    Prune {
        /// This VM.
        vm: VmId,
        /// Beyond `max-delete`, and by the clock whatever is known of the time.
        all: bool,
        /// At this pace.
        pace: Pace,
    },
    /// A run of a policy, now.
    Run {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
    },
    /// A policy's schedule runs it no more, until somebody resumes it.
    Suspend {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
        /// Why; may be empty.
        reason: String,
    },
    /// It does so again.
    Resume {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
    },
    /// The end of a job that waits.
    Cancel(JobId),
    /// The runs of all policies that are to run before such an operation.
    Before {
        /// On this VM.
        vm: VmId,
        /// The operation, as the policies' `before` names it.
        operation: String,
    },
    /// What nobody asks for is held until that is released.
    Inhibit {
        /// The program that wants it so.
        who: String,
        /// Why; may be empty.
        why: String,
    },
}

impl Change {
    /// It needs nothing of libvirt.
    pub(super) const fn is_ours_alone(&self) -> bool {
        matches!(
            self,
            Self::Cancel(_)
                | Self::Suspend { .. }
                | Self::Resume { .. }
                | Self::Label { .. }
                | Self::Inhibit { .. }
        )
    }
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One job was queued, or is already there for the same.
    Job(JobId),
    /// These jobs were.
    Jobs(Vec<JobId>),
    /// This is what a prune would do.
    Preview(Vec<Sentence>),
    /// This is what a policy would do.
    Foreseen(Vec<Foreseen>),
    /// This holds, and why.
    Explained(Vec<Explanation>),
    /// It is done when this is stored: the machine's own, which no client gets.
    Stored(Box<Labelled>),
    /// Held from now on.
    Inhibited(InhibitorId),
    /// It is done.
    Done,
}

/// Why a request was refused; the same shape as a job's failure.
pub type Refusal = Failure;
