//! What is to be done: steps, and a plan of them.
//!
//! `N` is how they name snapshots. A plan comes with names borrowed from the snapshots; one that outlives them has its
//! own ([`Plan::owned`]).

use super::hold::Held;
use crate::core::model::SnapshotName;

/// One legal step. Each assumes that the ones before it are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<N = SnapshotName> {
    /// Merge consecutive snapshots of the live chain away, in one pass.
    Merge {
        /// Which, oldest first; each is the next one's parent.
        run: Vec<N>,
        /// The child of the last one, which keeps its data in the image of the first; `None`: the active layer.
        survivor: Option<N>,
        /// At most so many bytes are copied: the sum of the run's sizes. A cluster that several of the layers
        /// hold is copied once, so that it can be far less.
        copies: u64,
        /// The bytes in the files that are removed. The image that is merged into grows, by at most `copies`:
        /// its file system needs that much room before anything is freed.
        frees: u64,
    },
    /// Remove the end of an abandoned branch.
    DropBranch {
        /// Which.
        snapshot: N,
        /// The bytes in the files that are removed.
        frees: u64,
    },
    /// Delete an internal snapshot.
    DeleteInternal {
        /// Which.
        snapshot: N,
        /// The bytes that become free inside the image.
        frees: u64,
    },
}

/// What to do, and what cannot be done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<N = SnapshotName> {
    /// In this order.
    pub steps: Vec<Step<N>>,
    /// Oldest first.
    pub held: Vec<Held<N>>,
}

impl Step<&SnapshotName> {
    fn owned(self) -> Step {
        match self {
            Self::Merge { run, survivor, copies, frees } => Step::Merge {
                run: run.into_iter().cloned().collect(),
                survivor: survivor.cloned(),
                copies,
                frees,
            },
            Self::DropBranch { snapshot, frees } => Step::DropBranch { snapshot: snapshot.clone(), frees },
            Self::DeleteInternal { snapshot, frees } => {
                Step::DeleteInternal { snapshot: snapshot.clone(), frees }
            }
        }
    }
}

impl Plan<&SnapshotName> {
    /// The same with names of its own.
    pub fn owned(self) -> Plan {
        let held = self.held.into_iter().map(|h| Held { name: h.name.clone(), because: h.because });
        Plan { steps: self.steps.into_iter().map(Step::owned).collect(), held: held.collect() }
    }
}

impl<N> Default for Plan<N> {
    fn default() -> Self {
        Self { steps: Vec::new(), held: Vec::new() }
    }
}
