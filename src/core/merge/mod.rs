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

#[cfg(test)]
mod disk;
mod ground;
mod hold;
mod names;
#[cfg(test)]
mod props;
mod recipe;
mod step;
#[cfg(test)]
mod tables;
mod tree;

use std::collections::BTreeMap;

use self::tree::{Tree, age};
pub use self::{
    ground::Ground,
    hold::{Blocker, Breakage, Held, Hold},
    recipe::{DiskNow, DiskPart, Doomed, Obstacle, Place, Recipe, SnapshotNow, Strayed, recipe},
    step::{Plan, Step},
};
use super::{
    model::{Snapshot, SnapshotName, SnapshotState, Storage},
    retention::Need,
};

/// Plans the deletion of those that `goes` says, in the order of `snapshots`, as [`doomed`](super::retention::doomed)
/// does; one that it says nothing of stays. `needed`: the snapshots whose image something outside this tree needs, as
/// for [`judge`](super::retention::judge). Whether one may go at all (pins, foreign ones) is the verdict's business.
///
/// O(n log n) in the snapshots, whatever the tree; for one long chain O(n).
pub fn plan<'a>(
    snapshots: &'a [Snapshot],
    goes: &[bool],
    needed: &BTreeMap<SnapshotName, Need>,
) -> Plan<&'a SnapshotName> {
    if !goes.contains(&true) {
        return Plan::default();
    }
    let mut all: Vec<bool> = goes.to_vec();
    all.resize(snapshots.len(), false);
    match Tree::new(snapshots) {
        Err(breakage) => all_held(snapshots, &all, &Hold::Broken(breakage)),
        Ok(tree) => match mixed(&tree) {
            Some(mixed) => all_held(snapshots, &all, &mixed),
            None => Planner::new(&tree, all, needed).plan(),
        },
    }
}

/// Internal and external snapshots in one VM.
fn mixed(tree: &Tree<'_>) -> Option<Hold> {
    let all = tree.snapshots;
    if tree.internal == 0 || tree.internal == all.len() {
        return None;
    }
    // The first by name, not by place: the order of the input shall not matter.
    let first = |storage| all.iter().filter(|s| s.storage == storage).map(|s| &s.name).min().cloned();
    let (internal, external) = (first(Storage::Internal)?, first(Storage::External)?);
    Some(Hold::Mixed { internal, external })
}

fn all_held<'a>(snapshots: &'a [Snapshot], goes: &[bool], because: &Hold) -> Plan<&'a SnapshotName> {
    let mut held: Vec<&Snapshot> =
        snapshots.iter().zip(goes).filter_map(|(s, goes)| goes.then_some(s)).collect();
    held.sort_by_key(|s| age(s));
    let held = held.into_iter().map(|s| Held { name: &s.name, because: because.clone() });
    Plan { steps: Vec::new(), held: held.collect() }
}

/// A step is being taken with it, or was begun and not ended.
const fn busy(state: SnapshotState) -> bool {
    matches!(state, SnapshotState::Creating | SnapshotState::Reverting | SnapshotState::Deleting)
}

struct Planner<'a, 't> {
    tree: &'t Tree<'a>,
    /// Whether each is to go, and nothing found so far holds it.
    goes: Vec<bool>,
    need: BTreeMap<usize, &'t Need>,
    /// The children off the live chain that are left, of those that have any.
    left: BTreeMap<usize, Vec<usize>>,
    steps: Vec<Step<&'a SnapshotName>>,
    held: Vec<(usize, Hold)>,
}

impl<'a, 't> Planner<'a, 't> {
    fn new(tree: &'t Tree<'a>, goes: Vec<bool>, needed: &'t BTreeMap<SnapshotName, Need>) -> Self {
        let need = needed.iter().filter_map(|(name, need)| Some((tree.names.find(name.as_str())?, need)));
        Self { tree, goes, need: need.collect(), left: BTreeMap::new(), steps: Vec::new(), held: Vec::new() }
    }

    fn plan(mut self) -> Plan<&'a SnapshotName> {
        if self.tree.internal == self.tree.snapshots.len() {
            self.internal();
        } else {
            self.abandoned();
            self.live();
        }
        let all = self.tree.snapshots;
        self.held.sort_unstable_by_key(|(i, _)| age(&all[*i]));
        let held = self.held.into_iter().map(|(i, because)| Held { name: &all[i].name, because });
        Plan { held: held.collect(), steps: self.steps }
    }

    /// What stands in a snapshot's way wherever it is.
    fn own_hold(&self, i: usize) -> Option<Hold> {
        match self.tree.states[i] {
            // A delete that was begun is to be ended.
            state @ (SnapshotState::Creating | SnapshotState::Reverting) => Some(Hold::Busy(state)),
            _ => self.need.get(&i).map(|&need| Hold::Needed(need.clone())),
        }
    }

    fn internal(&mut self) {
        let all = self.tree.snapshots;
        let mut doomed: Vec<usize> = (0..all.len()).filter(|&i| self.goes[i]).collect();
        doomed.sort_unstable_by_key(|&i| age(&all[i]));
        for i in doomed {
            match self.own_hold(i) {
                Some(hold) => self.held.push((i, hold)),
                None => {
                    self.steps
                        .push(Step::DeleteInternal { snapshot: &all[i].name, frees: self.tree.sizes[i] });
                }
            }
        }
    }

    /// Drops what it can off the live chain, from the tips on.
    fn abandoned(&mut self) {
        for &i in &self.tree.abandoned {
            if self.goes[i] {
                let Some(hold) = self.abandoned_hold(i) else {
                    let snapshot = &self.tree.snapshots[i].name;
                    self.steps.push(Step::DropBranch { snapshot, frees: self.tree.sizes[i] });
                    continue;
                };
                self.held.push((i, hold));
            }
            if let Some(parent) = self.tree.parent(i) {
                self.left.entry(parent).or_default().push(i);
            }
        }
    }

    /// What stands in the way of one that is not on the live chain: only a branch's end can go.
    fn abandoned_hold(&self, i: usize) -> Option<Hold> {
        let based_on_it = || self.branches(i).map(Hold::DeadBranch);
        let root = || self.tree.parent(i).is_none().then_some(Hold::DeadRoot);
        self.own_hold(i).or_else(based_on_it).or_else(root)
    }

    /// What is left of the branches that start at one, the oldest first.
    fn branches(&self, i: usize) -> Option<Vec<Blocker>> {
        let mut of: Vec<&Snapshot> = self.left.get(&i)?.iter().map(|&i| &self.tree.snapshots[i]).collect();
        of.sort_unstable_by_key(|s| age(s));
        Some(of.into_iter().map(Blocker::from).collect())
    }

    /// Merges what it can on the live chain: maximal runs of those that nothing holds.
    fn live(&mut self) {
        // From the current one down: whether one can go may depend on whether the one on top of it does.
        let mut child = None;
        for &i in self.tree.path.iter().rev() {
            if self.goes[i]
                && let Some(hold) = self.live_hold(i, child)
            {
                self.held.push((i, hold));
                self.goes[i] = false;
            }
            child = Some(i);
        }
        let mut run = Vec::new();
        for &i in &self.tree.path {
            if self.goes[i] {
                run.push(i);
            } else {
                self.merge(&mut run, Some(i));
            }
        }
        self.merge(&mut run, None);
    }

    /// What stands in the way of one on the live chain: its own image is written, its child's removed.
    fn live_hold(&self, i: usize, child: Option<usize>) -> Option<Hold> {
        if let Some(hold) = self.own_hold(i).or_else(|| self.branches(i).map(Hold::Branches)) {
            return Some(hold);
        }
        let (child, state) = child.map(|child| (child, self.tree.states[child]))?;
        let name = || self.tree.snapshots[child].name.clone();
        // A deletion that was begun may be finished along with this one, but nothing may be built on what it left.
        if busy(state) && !(self.goes[child] && state == SnapshotState::Deleting) {
            return Some(Hold::ChildBusy { child: name(), state });
        }
        if let Some(&need) = self.need.get(&child) {
            return Some(Hold::ChildNeeded { child: name(), need: need.clone() });
        }
        self.branches(child).map(|branches| Hold::ChildBranches { child: name(), branches })
    }

    fn merge(&mut self, run: &mut Vec<usize>, survivor: Option<usize>) {
        if run.is_empty() {
            return;
        }
        let all = self.tree.snapshots;
        let bytes = run.iter().fold(0_u64, |sum, &i| sum.saturating_add(self.tree.sizes[i]));
        self.steps.push(Step::Merge {
            run: run.drain(..).map(|i| &all[i].name).collect(),
            survivor: survivor.map(|i| &all[i].name),
            copies: bytes,
            frees: bytes,
        });
    }
}
