//! The snapshot tree, with indices for names, and what is wrong with it if anything is.

use jiff::Timestamp;

use super::{hold::Breakage, names::Names};
use crate::core::model::{Snapshot, SnapshotName, SnapshotState, Storage};

/// A tree that makes sense: every parent is there, no cycle, exactly one current.
pub(super) struct Tree<'a> {
    pub(super) snapshots: &'a [Snapshot],
    pub(super) names: Names<'a>,
    pub(super) states: Vec<SnapshotState>,
    pub(super) sizes: Vec<u64>,
    /// How many are internal.
    pub(super) internal: usize,
    parents: Vec<Option<u32>>,
    /// The live chain, from the root to the current one.
    pub(super) path: Vec<usize>,
    /// All others, children before their parents, tips oldest first.
    pub(super) abandoned: Vec<usize>,
}

/// What is looked at again and again: the snapshots themselves are far away in memory, so they are gone through once.
#[derive(Default)]
struct Columns<'a> {
    names: Vec<&'a str>,
    parents: Vec<Option<&'a str>>,
    states: Vec<SnapshotState>,
    sizes: Vec<u64>,
    current: Vec<&'a Snapshot>,
    current_at: Option<usize>,
    internal: usize,
}

impl<'a> Columns<'a> {
    fn new(snapshots: &'a [Snapshot]) -> Self {
        let count = snapshots.len();
        let mut columns = Self {
            names: Vec::with_capacity(count),
            parents: Vec::with_capacity(count),
            states: Vec::with_capacity(count),
            sizes: Vec::with_capacity(count),
            ..Self::default()
        };
        for (i, s) in snapshots.iter().enumerate() {
            columns.names.push(s.name.as_str());
            columns.parents.push(s.parent.as_ref().map(SnapshotName::as_str));
            columns.states.push(s.state);
            columns.sizes.push(s.size);
            if s.current {
                columns.current.push(s);
                columns.current_at = Some(i);
            }
            columns.internal += usize::from(s.storage == Storage::Internal);
        }
        columns
    }

    /// The current one; `None` only where there are no snapshots.
    fn current(&mut self) -> Result<Option<usize>, Breakage> {
        self.current.sort_unstable_by_key(|s| age(s));
        match self.current[..] {
            [] if self.names.is_empty() => Ok(None),
            [] => Err(Breakage::NoneCurrent),
            [_] => Ok(self.current_at),
            [a, b, ..] => Err(Breakage::TwoCurrent(a.name.clone(), b.name.clone())),
        }
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(snapshots: &'a [Snapshot]) -> Result<Self, Breakage> {
        let mut columns = Columns::new(snapshots);
        let current = columns.current();
        let Columns { names, parents, states, sizes, internal, .. } = columns;
        let names = Names::new(names)?;
        let parents = found(snapshots, names.find_all(&parents))?;
        let mut on_path = vec![false; snapshots.len()];
        let mut path = Vec::new();
        let mut at = current.as_ref().ok().copied().flatten();
        while let Some(i) = at.filter(|&i| !on_path[i]) {
            on_path[i] = true;
            path.push(i);
            at = above(&parents, i);
        }
        path.reverse();
        let abandoned = tips_first(snapshots, &parents, &on_path);
        // A path that comes round to itself has no root.
        let rootless = path.first().is_some_and(|&i| parents[i].is_some());
        if (rootless || path.len() + abandoned.len() < snapshots.len())
            && let Some(s) = first_in_a_cycle(snapshots, &parents)
        {
            return Err(Breakage::Cycle(s.name.clone()));
        }
        current?;
        Ok(Self { snapshots, names, states, sizes, internal, parents, path, abandoned })
    }

    pub(super) fn parent(&self, i: usize) -> Option<usize> {
        above(&self.parents, i)
    }
}

/// What orders snapshots: their time, and their name where that is equal.
pub(super) fn age(s: &Snapshot) -> (Timestamp, &SnapshotName) {
    (s.created, &s.name)
}

fn above(parents: &[Option<u32>], i: usize) -> Option<usize> {
    parents[i].map(|p| p as usize)
}

/// The parents that were found, if all were.
fn found(snapshots: &[Snapshot], parents: Vec<Option<u32>>) -> Result<Vec<Option<u32>>, Breakage> {
    // Of several faults always the same one is told, whatever the order of the input.
    let orphan = snapshots.iter().zip(&parents).filter(|(_, parent)| parent.is_none());
    let orphan = orphan.filter_map(|(s, _)| Some((s, s.parent.as_ref()?))).min_by_key(|(s, _)| age(s));
    match orphan {
        Some((s, parent)) => {
            Err(Breakage::MissingParent { snapshot: s.name.clone(), parent: parent.clone() })
        }
        None => Ok(parents),
    }
}

/// All but those on the path, each after its last child; those of a cycle never come.
fn tips_first(snapshots: &[Snapshot], parents: &[Option<u32>], on_path: &[bool]) -> Vec<usize> {
    let mut children = vec![0_u32; parents.len()];
    for &p in parents.iter().flatten() {
        children[p as usize] += 1;
    }
    let mut order: Vec<usize> = (0..parents.len()).filter(|&i| children[i] == 0 && !on_path[i]).collect();
    order.sort_unstable_by_key(|&i| age(&snapshots[i]));
    let mut next = 0;
    while let Some(&i) = order.get(next) {
        next += 1;
        if let Some(p) = above(parents, i).filter(|&p| !on_path[p]) {
            children[p] -= 1;
            if children[p] == 0 {
                order.push(p);
            }
        }
    }
    order
}

/// The oldest one that is its own ancestor.
fn first_in_a_cycle<'a>(snapshots: &'a [Snapshot], parents: &[Option<u32>]) -> Option<&'a Snapshot> {
    let mut left = vec![true; parents.len()];
    for i in tips_first(snapshots, parents, &vec![false; parents.len()]) {
        left[i] = false;
    }
    snapshots.iter().zip(left).filter_map(|(s, left)| left.then_some(s)).min_by_key(|s| age(s))
}
