//! Why a snapshot that is to go cannot go yet, and what would have to happen first.

use std::fmt;

use crate::core::{
    model::{Snapshot, SnapshotName, SnapshotState},
    retention::Need,
};

/// A snapshot that was to go and cannot yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<N = SnapshotName> {
    /// Which.
    pub name: N,
    /// What stands in its way.
    pub because: Hold,
}

impl<N> Held<N> {
    /// One sentence for people: why, and what has to happen first.
    pub fn text(&self) -> String {
        format!("Cannot go yet: {}.", self.because)
    }
}

/// A snapshot in the way of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Which.
    pub name: SnapshotName,
    /// It is pinned.
    pub pinned: bool,
    /// It is not ours.
    pub foreign: bool,
}

impl From<&Snapshot> for Blocker {
    fn from(s: &Snapshot) -> Self {
        Self { name: s.name.clone(), pinned: s.pinned, foreign: !s.managed }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = match (self.pinned, self.foreign) {
            (true, true) => " (pinned, foreign)",
            (true, false) => " (pinned)",
            (false, true) => " (foreign)",
            (false, false) => "",
        };
        write!(f, "{:?}{note}", self.name.as_str())
    }
}

/// What makes a tree senseless. Then no step is proposed at all: a snapshot whose parent is unknown may hang
/// below any other one, so that nothing in the tree is known to be unused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breakage {
    /// Two snapshots have one name.
    TwoOfOneName(SnapshotName),
    /// A parent that is not there.
    MissingParent {
        /// Whose parent.
        snapshot: SnapshotName,
        /// The parent.
        parent: SnapshotName,
    },
    /// A snapshot that is its own ancestor.
    Cycle(SnapshotName),
    /// There can be only one current snapshot.
    TwoCurrent(SnapshotName, SnapshotName),
    /// There are snapshots, but none is current: the live chain is unknown, and libvirt 11.3 crashes or unlinks
    /// a live layer on a delete.
    NoneCurrent,
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoOfOneName(name) => write!(f, "two snapshots are named {:?}", name.as_str()),
            Self::MissingParent { snapshot, parent } => {
                write!(f, "{:?}, the parent of {:?}, is missing", parent.as_str(), snapshot.as_str())
            }
            Self::Cycle(name) => write!(f, "{:?} is its own ancestor", name.as_str()),
            Self::TwoCurrent(a, b) => write!(f, "{:?} and {:?} are both current", a.as_str(), b.as_str()),
            Self::NoneCurrent => f.write_str("no snapshot is current"),
        }
    }
}

/// What stands in a snapshot's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The tree makes no sense.
    Broken(Breakage),
    /// The VM has internal and external snapshots: deleting one kind can destroy the other.
    Mixed {
        /// One of each kind.
        internal: SnapshotName,
        /// One of each kind.
        external: SnapshotName,
    },
    /// Something is being done with it.
    Busy(SnapshotState),
    /// Something is being done with the one on top of it, or was left undone.
    ChildBusy {
        /// The one on top.
        child: SnapshotName,
        /// Its state.
        state: SnapshotState,
    },
    /// Its image would be written or removed, and something else needs it.
    Needed(Need),
    /// The image on top of it would be removed, and something else needs that.
    ChildNeeded {
        /// The one on top.
        child: SnapshotName,
        /// Who needs its image.
        need: Need,
    },
    /// Other branches hang on its image, which a merge would change under them.
    Branches(Vec<Blocker>),
    /// Other branches hang on the image on top of it, which a merge would remove under them.
    ChildBranches {
        /// The one on top.
        child: SnapshotName,
        /// What hangs on it besides the live chain.
        branches: Vec<Blocker>,
    },
    /// It is not on the live chain, and others are based on it: only from the branch's end on can it go.
    DeadBranch(Vec<Blocker>),
    /// It is not on the live chain and has no parent: its image may be the disk's own base.
    DeadRoot,
}

/// `"a", "b" (pinned) and 3 more`
fn list(f: &mut fmt::Formatter<'_>, blockers: &[Blocker]) -> fmt::Result {
    const SHOWN: usize = 3;
    for (i, blocker) in blockers.iter().take(SHOWN).enumerate() {
        write!(f, "{}{blocker}", if i == 0 { "" } else { ", " })?;
    }
    match blockers.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(breakage) => {
                write!(f, "{breakage}; the snapshot tree has to be repaired first")
            }
            Self::Mixed { internal, external } => write!(
                f,
                "the VM has internal ({:?}) and external ({:?}) snapshots; one kind has to be removed by hand first",
                internal.as_str(),
                external.as_str()
            ),
            Self::Busy(state) => write!(f, "it is {state}; that has to end first"),
            Self::ChildBusy { child, state } => {
                write!(f, "{:?} on top of it is {state}; that has to end first", child.as_str())
            }
            Self::Needed(need) => write!(f, "{need}; that has to end first"),
            Self::ChildNeeded { child, need } => {
                write!(
                    f,
                    "it would take the image of {:?} along, but {need}; that has to end first",
                    child.as_str()
                )
            }
            Self::Branches(blockers) => {
                f.write_str("other branches are based on it; first has to go: ")?;
                list(f, blockers)
            }
            Self::ChildBranches { child, branches } => {
                write!(
                    f,
                    "other branches are based on {:?} on top of it; first has to go: ",
                    child.as_str()
                )?;
                list(f, branches)
            }
            Self::DeadBranch(blockers) => {
                f.write_str("it is on an abandoned branch, with others based on it; first has to go: ")?;
                list(f, blockers)
            }
            Self::DeadRoot => f.write_str(
                "it is not on the live chain and has no parent, so its image may be the disk's own base; \
                 it has to be looked at by hand first",
            ),
        }
    }
}
