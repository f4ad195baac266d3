//! Why a snapshot that is to go cannot go yet, and what would have to happen first.

use std::fmt;

use super::Obstacle;
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
            (true, true) => " (pinned, and not made by virtsnap: unpin it and delete it by hand)",
            (true, false) => " (pinned: unpin it)",
            (false, true) => " (not made by virtsnap: delete it by hand)",
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
            Self::TwoOfOneName(name) => {
                write!(f, "two snapshots are named {:?}; first one of them has to be renamed", name.as_str())
            }
            Self::MissingParent { snapshot, parent } => write!(
                f,
                "{1:?}, the parent of {0:?}, is missing; first {0:?} has to be redefined with the parent that it really \
                 has, or be removed by hand",
                snapshot.as_str(),
                parent.as_str()
            ),
            Self::Cycle(name) => write!(
                f,
                "{0:?} is its own ancestor; first {0:?} has to be redefined with the parent that it really has",
                name.as_str()
            ),
            Self::TwoCurrent(a, b) => write!(
                f,
                "{:?} and {:?} are both current; first the one that the VM's disks are based on has to be made the only \
                 current one",
                a.as_str(),
                b.as_str()
            ),
            Self::NoneCurrent => f.write_str(
                "no snapshot is current; first the one that the VM's disks are based on has to be made current \
                 (`virsh snapshot-current`)",
            ),
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
    /// Its images forbid it, where snapshots do not all have the same disks.
    Images(Obstacle),
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

/// What is being done with a snapshot of this state, and what has to come first.
const fn doing(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Creating => "is being made; first that has to end",
        SnapshotState::Reverting => "is being reverted to; first that has to end",
        SnapshotState::Deleting => "is half deleted; first its deletion has to be finished",
        SnapshotState::Ready | SnapshotState::Failed => "is in use; first that has to end",
    }
}

/// What has to come before an image that is needed may be touched.
struct Release<'a>(&'a Need);

impl fmt::Display for Release<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Need::OtherVm(vm) => {
                write!(f, "first the VM {vm:?} has to get disks that are not based on it, or to be deleted")
            }
            Need::Branch(vm) => {
                write!(f, "first the VM {vm:?} has to get a full copy of its disks, or to be deleted")
            }
            Need::Unmerged(name) => {
                write!(f, "first the deletion of {:?} has to be finished", name.as_str())
            }
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(breakage) => breakage.fmt(f),
            Self::Mixed { internal, external } => write!(
                f,
                "the VM has internal ({:?}) and external ({:?}) snapshots; first all of one kind have to be deleted by \
                 hand",
                internal.as_str(),
                external.as_str()
            ),
            Self::Busy(state) => write!(f, "it {}", doing(*state)),
            Self::ChildBusy { child, state } => {
                write!(f, "{:?}, on top of it, {}", child.as_str(), doing(*state))
            }
            Self::Needed(need) => write!(f, "{need}; {}", Release(need)),
            Self::ChildNeeded { child, need } => {
                write!(f, "its deletion would remove the image of {:?}, ", child.as_str())?;
                write!(f, "on top of it, but {need}; {}", Release(need))
            }
            Self::Branches(blockers) => {
                f.write_str("other branches are based on it; first has to go: ")?;
                list(f, blockers)
            }
            Self::ChildBranches { child, branches } => {
                write!(
                    f,
                    "other branches are based on {:?}, on top of it; first has to go: ",
                    child.as_str()
                )?;
                list(f, branches)
            }
            Self::DeadBranch(blockers) => {
                f.write_str("it is on an abandoned branch, with others based on it; first has to go: ")?;
                list(f, blockers)
            }
            Self::Images(obstacle) => obstacle.fmt(f),
            Self::DeadRoot => f.write_str(
                "it is not on the live chain and has no parent, so its image may be the disk's own base; \
                 first somebody has to make sure that no disk needs the image, and then delete it by hand",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> SnapshotName {
        SnapshotName::existing(name)
    }

    #[test]
    fn each_says_in_one_sentence_what_has_to_happen_first() {
        let blocker = |n, pinned, foreign| Blocker { name: name(n), pinned, foreign };
        let several = vec![
            blocker("a", false, false),
            blocker("b", true, false),
            blocker("c", false, true),
            blocker("d", true, true),
            blocker("e", false, false),
        ];
        let (db, branch) = (Need::OtherVm("db".to_owned()), Need::Branch("trial".to_owned()));
        for (hold, text) in [
            (
                Hold::Mixed { internal: name("i"), external: name("e") },
                "the VM has internal (\"i\") and external (\"e\") snapshots; first all of one kind have to be deleted \
                 by hand",
            ),
            (Hold::Busy(SnapshotState::Creating), "it is being made; first that has to end"),
            (Hold::Busy(SnapshotState::Reverting), "it is being reverted to; first that has to end"),
            (
                Hold::ChildBusy { child: name("c"), state: SnapshotState::Deleting },
                "\"c\", on top of it, is half deleted; first its deletion has to be finished",
            ),
            (
                Hold::Needed(branch.clone()),
                "the VM \"trial\" was branched off it; first the VM \"trial\" has to get a full copy of its disks, or to \
                 be deleted",
            ),
            (
                Hold::Needed(Need::Unmerged(name("u"))),
                "the merge of \"u\" is unfinished and needs its image; first the deletion of \"u\" has to be finished",
            ),
            (
                Hold::ChildNeeded { child: name("c"), need: db },
                "its deletion would remove the image of \"c\", on top of it, but the VM \"db\" uses its image; first \
                 the VM \"db\" has to get disks that are not based on it, or to be deleted",
            ),
            (
                Hold::Branches(several),
                "other branches are based on it; first has to go: \"a\", \"b\" (pinned: unpin it), \"c\" (not made by \
                 virtsnap: delete it by hand) and 2 more",
            ),
            (
                Hold::DeadBranch(vec![blocker("d", true, true)]),
                "it is on an abandoned branch, with others based on it; first has to go: \"d\" (pinned, and not made \
                 by virtsnap: unpin it and delete it by hand)",
            ),
        ] {
            let held = Held { name: name("x"), because: hold };
            assert_eq!(held.text(), format!("Cannot go yet: {text}."));
        }
    }
}
