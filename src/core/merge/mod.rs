//! From verdicts to steps: which deletions the snapshot tree allows, and how they are cheapest.
//!
//! What a step does to the images (`S`'s *state image* is the file that holds its data; the image on top of it is
//! the state image of its child on the live chain, or the active layer if it has none):
//!
//! * A merge of a run of consecutive snapshots of the live chain writes what is on top of them down into the
//!   state image of the oldest, once, and removes the images in between, the survivor's old one included. So the
//!   oldest one's image changes, and the others' and the survivor's go: none of them may be the base of anything
//!   but the next one. The survivor itself keeps its data; its metadata has to be redefined to name the image
//!   that now holds it. That is allowed for a foreign survivor too: libvirt does the same when `virsh` deletes.
//! * The end of an abandoned branch is dropped: its image is removed, nothing is copied.
//! * An internal snapshot is deleted inside its image, whatever its place in the tree.
//!
//! Abandoned ends are dropped first, from the tip on, for they cost nothing and can free a merge; then come the
//! merges, oldest first. The plan looks at metadata only: whether the real backing chain agrees is for the
//! caller to check before each step.

mod hold;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tables;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use self::hold::{Blocker, Breakage, Held, Hold};
use self::tree::{Tree, age};
use super::{
    model::{Snapshot, SnapshotName, SnapshotState, Storage},
    retention::Need,
};

/// One legal step. Each assumes that the ones before it are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Merge consecutive snapshots of the live chain away, in one pass.
    Merge {
        /// Which, oldest first; each is the next one's parent.
        run: Vec<SnapshotName>,
        /// The child of the last one, which keeps its data in the image of the first; `None`: the active layer.
        survivor: Option<SnapshotName>,
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
        snapshot: SnapshotName,
        /// The bytes in the files that are removed.
        frees: u64,
    },
    /// Delete an internal snapshot.
    DeleteInternal {
        /// Which.
        snapshot: SnapshotName,
        /// The bytes that become free inside the image.
        frees: u64,
    },
}

/// What to do, and what cannot be done yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Oldest first; names that are not in the tree come last.
    pub held: Vec<Held>,
}

/// Plans the deletion of `doomed`. `needed`: the snapshots whose image something outside this tree needs, as for
/// [`judge`](super::retention::judge). Whether one may go at all (pins, foreign ones) is the verdict's business.
pub fn plan(
    snapshots: &[Snapshot],
    doomed: &BTreeSet<SnapshotName>,
    needed: &BTreeMap<SnapshotName, Need>,
) -> Plan {
    if doomed.is_empty() {
        return Plan::default();
    }
    match (Tree::new(snapshots), mixed(snapshots)) {
        (Err(breakage), _) => all_held(doomed, snapshots, &Hold::Broken(breakage)),
        (Ok(_), Some(mixed)) => all_held(doomed, snapshots, &mixed),
        (Ok(tree), None) => Planner::new(&tree, doomed, needed).plan(),
    }
}

/// Internal and external snapshots in one VM.
fn mixed(snapshots: &[Snapshot]) -> Option<Hold> {
    // The first by name, not by place: the order of the input shall not matter.
    let first = |storage| snapshots.iter().filter(|s| s.storage == storage).map(|s| &s.name).min().cloned();
    let (internal, external) = (first(Storage::Internal)?, first(Storage::External)?);
    Some(Hold::Mixed { internal, external })
}

fn all_held(doomed: &BTreeSet<SnapshotName>, snapshots: &[Snapshot], because: &Hold) -> Plan {
    // Of two of one name, which a broken tree may have, the older one: the order of the input shall not matter.
    let mut there: BTreeMap<&SnapshotName, Timestamp> = BTreeMap::new();
    for s in snapshots {
        there.entry(&s.name).and_modify(|at| *at = s.created.min(*at)).or_insert(s.created);
    }
    let mut held: Vec<_> = doomed.iter().map(|name| (there.get(name).copied(), name)).collect();
    held.sort_by_key(|&(created, name)| (created.is_none(), created, name));
    let held = held.into_iter().map(|(created, name)| Held {
        name: name.clone(),
        because: if created.is_some() { because.clone() } else { Hold::NotThere },
    });
    Plan { steps: Vec::new(), held: held.collect() }
}

/// A step is being taken with it, or was begun and not ended.
const fn busy(state: SnapshotState) -> bool {
    matches!(state, SnapshotState::Creating | SnapshotState::Reverting | SnapshotState::Deleting)
}

struct Planner<'a> {
    tree: &'a Tree<'a>,
    /// Whether each is to go, and nothing found so far holds it.
    doomed: Vec<bool>,
    need: Vec<Option<&'a Need>>,
    steps: Vec<Step>,
    because: Vec<Option<Hold>>,
    /// Names that are not in the tree.
    lost: Vec<SnapshotName>,
}

impl<'a> Planner<'a> {
    fn new(
        tree: &'a Tree<'a>,
        doomed: &BTreeSet<SnapshotName>,
        needed: &'a BTreeMap<SnapshotName, Need>,
    ) -> Self {
        let count = tree.snapshots.len();
        let mut planner = Self {
            tree,
            doomed: vec![false; count],
            need: vec![None; count],
            steps: Vec::new(),
            because: vec![None; count],
            lost: Vec::new(),
        };
        for name in doomed {
            match tree.by_name.get(name) {
                Some(&i) => planner.doomed[i] = true,
                None => planner.lost.push(name.clone()),
            }
        }
        for (name, need) in needed {
            if let Some(&i) = tree.by_name.get(name) {
                planner.need[i] = Some(need);
            }
        }
        planner
    }

    fn plan(mut self) -> Plan {
        if self.tree.snapshots.iter().all(|s| s.storage == Storage::Internal) {
            self.internal();
        } else {
            let left = self.abandoned();
            self.live(&left);
        }
        let all = self.tree.snapshots;
        let mut held: Vec<_> =
            self.because.into_iter().zip(all).filter_map(|(hold, s)| Some((s, hold?))).collect();
        held.sort_by_key(|(s, _)| age(s));
        let held = held.into_iter().map(|(s, because)| Held { name: s.name.clone(), because });
        let lost = self.lost.into_iter().map(|name| Held { name, because: Hold::NotThere });
        Plan { held: held.chain(lost).collect(), steps: self.steps }
    }

    /// What stands in a snapshot's way wherever it is.
    fn own_hold(&self, i: usize) -> Option<Hold> {
        match self.tree.snapshots[i].state {
            // A delete that was begun is to be ended.
            state @ (SnapshotState::Creating | SnapshotState::Reverting) => Some(Hold::Busy(state)),
            _ => self.need[i].map(|need| Hold::Needed(need.clone())),
        }
    }

    fn internal(&mut self) {
        let all = self.tree.snapshots;
        let mut doomed: Vec<usize> = (0..all.len()).filter(|&i| self.doomed[i]).collect();
        doomed.sort_unstable_by_key(|&i| age(&all[i]));
        for i in doomed {
            self.because[i] = self.own_hold(i);
            if self.because[i].is_none() {
                let s = &all[i];
                self.steps.push(Step::DeleteInternal { snapshot: s.name.clone(), frees: s.size });
            }
        }
    }

    /// Drops what it can off the live chain, from the tips on. Returns for each snapshot the children off the
    /// live chain that are left.
    fn abandoned(&mut self) -> Vec<Vec<usize>> {
        let mut left = vec![Vec::new(); self.tree.snapshots.len()];
        for &i in self.tree.tips_first.iter().filter(|&&i| !self.tree.on_path[i]) {
            if self.doomed[i] {
                self.because[i] = self.own_hold(i).or_else(|| {
                    if !left[i].is_empty() {
                        Some(Hold::DeadBranch(self.blockers(&left[i])))
                    } else if self.tree.parent[i].is_none() {
                        Some(Hold::DeadRoot)
                    } else {
                        None
                    }
                });
                if self.because[i].is_none() {
                    let s = &self.tree.snapshots[i];
                    self.steps.push(Step::DropBranch { snapshot: s.name.clone(), frees: s.size });
                    continue;
                }
            }
            if let Some(parent) = self.tree.parent[i] {
                left[parent].push(i);
            }
        }
        left
    }

    fn blockers(&self, of: &[usize]) -> Vec<Blocker> {
        let mut of: Vec<&Snapshot> = of.iter().map(|&i| &self.tree.snapshots[i]).collect();
        of.sort_unstable_by_key(|s| age(s));
        of.into_iter().map(Blocker::from).collect()
    }

    /// Merges what it can on the live chain: maximal runs of those that nothing holds.
    fn live(&mut self, left: &[Vec<usize>]) {
        // From the current one down: whether one can go may depend on whether the one on top of it does.
        let mut child = None;
        for &i in self.tree.path.iter().rev() {
            if self.doomed[i] {
                self.because[i] = self.live_hold(i, child, left);
                self.doomed[i] = self.because[i].is_none();
            }
            child = Some(i);
        }
        let mut run = Vec::new();
        for &i in &self.tree.path {
            if self.doomed[i] {
                run.push(i);
            } else {
                self.merge(&mut run, Some(i));
            }
        }
        self.merge(&mut run, None);
    }

    /// What stands in the way of one on the live chain: its own image is written, its child's removed.
    fn live_hold(&self, i: usize, child: Option<usize>, left: &[Vec<usize>]) -> Option<Hold> {
        let branches = |i: usize| (!left[i].is_empty()).then(|| self.blockers(&left[i]));
        if let Some(hold) = self.own_hold(i).or_else(|| branches(i).map(Hold::Branches)) {
            return Some(hold);
        }
        let child = child?;
        let s = &self.tree.snapshots[child];
        // A deletion that was begun may be finished along with this one, but nothing may be built on what it left.
        if busy(s.state) && !(self.doomed[child] && s.state == SnapshotState::Deleting) {
            return Some(Hold::ChildBusy { child: s.name.clone(), state: s.state });
        }
        if let Some(need) = self.need[child] {
            return Some(Hold::ChildNeeded { child: s.name.clone(), need: need.clone() });
        }
        branches(child).map(|branches| Hold::ChildBranches { child: s.name.clone(), branches })
    }

    fn merge(&mut self, run: &mut Vec<usize>, survivor: Option<usize>) {
        if run.is_empty() {
            return;
        }
        let all = self.tree.snapshots;
        let bytes = run.iter().fold(0_u64, |sum, &i| sum.saturating_add(all[i].size));
        self.steps.push(Step::Merge {
            run: run.drain(..).map(|i| all[i].name.clone()).collect(),
            survivor: survivor.map(|i| all[i].name.clone()),
            copies: bytes,
            frees: bytes,
        });
    }
}
