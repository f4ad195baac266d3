//! A job: one operation on one VM, from its being asked for to its end. It always ends, exactly once.

use std::{collections::BTreeSet, num::NonZeroU64};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    branch::BranchJob,
    error_name,
    label::Label,
    model::{Origin, PolicyName, SnapshotName, VmId, words},
    policy::How,
    revert::{DefinitionOf, Then},
};

/// A job's number, unique in a daemon's life.
pub type JobId = u32;

/// Who asked for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Why it is done.
    pub origin: Origin,
    /// The user who asked, or the daemon's own for what it does by itself.
    pub uid: u32,
}

/// A snapshot to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateJob {
    /// A fixed name; else one is made from `how.name`.
    pub name: Option<SnapshotName>,
    /// The description, without our marker.
    pub description: String,
    /// The policies it will count for.
    pub policies: BTreeSet<PolicyName>,
    /// How it is taken.
    pub how: How,
    /// The disks, by target; `None`: all writable ones.
    pub disks: Option<Vec<String>>,
    /// What is attached to it from its beginning.
    pub label: Label,
}

/// A VM to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertJob {
    /// To this snapshot.
    pub name: SnapshotName,
    /// What it is to be after it.
    pub then: Then,
    /// Which definition it gets.
    pub definition: DefinitionOf,
    /// The snapshot that is taken before, so that the revert can be reverted; `None`: what was written since the last
    /// one is given up.
    pub safety: Option<CreateJob>,
}

/// What others left, to be taken over. With nothing in it, what there is is looked for anew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AdoptJob {
    /// These.
    pub snapshots: Vec<SnapshotName>,
    /// The policies that they count for from then on.
    pub policies: BTreeSet<PolicyName>,
    /// Files that belong to nobody, by path: they go to quarantine.
    pub strays: Vec<String>,
    /// Layers of the disks that no snapshot names get snapshots, which count for the policies too.
    pub layers: bool,
}

/// How fast images are merged, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pace {
    /// At most so many bytes per second.
    pub bandwidth: Option<NonZeroU64>,
    /// What is not done by then stops, and is finished another time.
    pub until: Option<Timestamp>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Take a snapshot.
    Create(CreateJob),
    /// Delete one snapshot.
    Delete {
        /// This one.
        name: SnapshotName,
        /// At this pace.
        pace: Pace,
        /// A person said that it goes, though others made it.
        foreign: bool,
    },
    /// Take the metadata of a snapshot away whose images are gone.
    Forget(SnapshotName),
    /// Take over what others made.
    Adopt(AdoptJob),
    /// Give a snapshot of ours another description.
    Describe {
        /// This one.
        name: SnapshotName,
        /// The text, without our marker.
        description: String,
    },
    /// Put the VM back to a snapshot.
    Revert(Box<RevertJob>),
    /// Make another VM on a snapshot.
    Branch(BranchJob),
    /// Copy what the VM's disks lie on into their own images.
    Promote {
        /// At this pace.
        pace: Pace,
    },
    /// Delete what the VM's policies let go.
    Prune {
        /// A person said that all of it goes: also beyond `max-delete`, and the clock is right.
        all: bool,
        /// At this pace.
        pace: Pace,
    },
    /// Put right what is wrong with the VM's metadata and can be.
    Repair,
    /// End the merges that were cut short.
    Finish,
    /// Remove what was in quarantine for long enough.
    Sweep,
}

impl Operation {
    /// True if it stops at once, whatever it does, when it is told to: what it leaves half done is finished later, or
    /// harms nobody.
    pub const fn stops(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::Prune { .. } | Self::Finish | Self::Promote { .. })
    }

    /// Its name on D-Bus.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Delete { .. } => "delete",
            Self::Forget(_) => "forget",
            Self::Adopt(_) => "adopt",
            Self::Describe { .. } => "describe",
            Self::Revert(_) => "revert",
            Self::Branch(_) => "branch",
            Self::Promote { .. } => "promote",
            Self::Prune { .. } => "prune",
            Self::Repair => "repair",
            Self::Finish => "finish",
            Self::Sweep => "sweep",
        }
    }
}

/// A job as it is handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The VM it works on.
    pub vm: VmId,
    /// What it does.
    pub operation: Operation,
    /// Who asked for it.
    pub asker: Asker,
    /// When it was asked for.
    pub asked: Timestamp,
}

/// How far something is copied, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// So much is done.
    pub done: u64,
    /// Of so much, which may grow while the guest writes; 0: it has not begun.
    pub total: u64,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Far {
    /// From 0 to 1, if that can be told.
    pub share: Option<f64>,
    /// What it copies in this phase.
    pub copied: Copied,
}

words! {
    /// Where a job is.
    JobState {
        /// It waits for its turn.
        Queued = "queued",
        /// It is at work.
        Running = "running",
        /// It ended; see its result.
        Done = "done",
    }
}

words! {
    /// How a job ended.
    JobResult {
        /// It did what it was to do.
        Done = "done",
        /// It did not; the error says why.
        Failed = "failed",
        /// It was stopped before it began, or at a safe point.
        Cancelled = "cancelled",
    }
}

/// Why a job failed: the last part of the D-Bus error's name, and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Such as `QuiesceFailed`.
    pub name: &'static str,
    /// What happened, to which VM, what state it is in, what to do.
    pub message: String,
}

impl Failure {
    /// A failure. The name is one of [`error_name::ALL`].
    pub fn new(name: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(error_name::ALL.contains(&name), "{name} is documented nowhere");
        Self { name, message: message.into() }
    }
}

/// What a job made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A snapshot of its VM.
    Snapshot(SnapshotName),
    /// Another VM.
    Vm(VmId),
}

/// What a job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; with what it made, if anything.
    Done(Option<Made>),
    /// Failed.
    Failed(Failure),
    /// Stopped before it began, at a safe point, or where it is finished later: why, and what is so since.
    Cancelled(String),
}

impl Outcome {
    /// The word for it.
    pub const fn result(&self) -> JobResult {
        match self {
            Self::Done(_) => JobResult::Done,
            Self::Failed(_) => JobResult::Failed,
            Self::Cancelled(_) => JobResult::Cancelled,
        }
    }
}
