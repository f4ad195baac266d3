//! The snapshot tree, with indices for names, and what is wrong with it if anything is.

use std::collections::HashMap;

use jiff::Timestamp;

use super::hold::Breakage;
use crate::core::model::{Snapshot, SnapshotName};

/// A tree that makes sense: every parent is there, no cycle, exactly one current.
pub(super) struct Tree<'a> {
    pub(super) snapshots: &'a [Snapshot],
    pub(super) by_name: HashMap<&'a SnapshotName, usize>,
    pub(super) parent: Vec<Option<usize>>,
    /// Indices of all, children before their parents, tips oldest first.
    pub(super) tips_first: Vec<usize>,
    /// The live chain, from the root to the current one.
    pub(super) path: Vec<usize>,
    pub(super) on_path: Vec<bool>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(snapshots: &'a [Snapshot]) -> Result<Self, Breakage> {
        let by_name = index(snapshots)?;
        let parent = parents(snapshots, &by_name)?;
        let tips_first = tips_first(snapshots, &parent)?;
        let mut at = current(snapshots)?;
        let mut on_path = vec![false; snapshots.len()];
        let mut path = Vec::new();
        while let Some(i) = at {
            on_path[i] = true;
            path.push(i);
            at = parent[i];
        }
        path.reverse();
        Ok(Self { snapshots, by_name, parent, tips_first, path, on_path })
    }
}

/// What orders snapshots: their time, and their name where that is equal.
pub(super) fn age(s: &Snapshot) -> (Timestamp, &SnapshotName) {
    (s.created, &s.name)
}

fn index(snapshots: &[Snapshot]) -> Result<HashMap<&SnapshotName, usize>, Breakage> {
    let mut by_name = HashMap::with_capacity(snapshots.len());
    let twice =
        snapshots.iter().enumerate().filter(|(i, s)| by_name.insert(&s.name, *i).is_some()).map(|(_, s)| s);
    // Of several faults always the same one is told, whatever the order of the input.
    match twice.map(|s| &s.name).min() {
        Some(name) => Err(Breakage::TwoOfOneName(name.clone())),
        None => Ok(by_name),
    }
}

fn parents(
    snapshots: &[Snapshot],
    by_name: &HashMap<&SnapshotName, usize>,
) -> Result<Vec<Option<usize>>, Breakage> {
    let parents: Vec<_> =
        snapshots.iter().map(|s| s.parent.as_ref().and_then(|p| by_name.get(p).copied())).collect();
    let orphan = snapshots.iter().zip(&parents).filter(|(_, parent)| parent.is_none());
    let orphan = orphan.filter_map(|(s, _)| Some((s, s.parent.as_ref()?))).min_by_key(|(s, _)| age(s));
    match orphan {
        Some((s, parent)) => {
            Err(Breakage::MissingParent { snapshot: s.name.clone(), parent: parent.clone() })
        }
        None => Ok(parents),
    }
}

/// All of them, each after its last child. A cycle has no tip to begin with.
fn tips_first(snapshots: &[Snapshot], parent: &[Option<usize>]) -> Result<Vec<usize>, Breakage> {
    let mut children = vec![0_usize; parent.len()];
    for &p in parent.iter().flatten() {
        children[p] += 1;
    }
    let mut order: Vec<usize> = (0..parent.len()).filter(|&i| children[i] == 0).collect();
    order.sort_unstable_by_key(|&i| age(&snapshots[i]));
    let mut next = 0;
    while let Some(&i) = order.get(next) {
        next += 1;
        if let Some(p) = parent[i] {
            children[p] -= 1;
            if children[p] == 0 {
                order.push(p);
            }
        }
    }
    match (0..parent.len()).filter(|&i| children[i] > 0).map(|i| &snapshots[i]).min_by_key(|s| age(s)) {
        Some(s) => Err(Breakage::Cycle(s.name.clone())),
        None => Ok(order),
    }
}

/// The current one; `None` only where there are no snapshots.
fn current(snapshots: &[Snapshot]) -> Result<Option<usize>, Breakage> {
    let mut current: Vec<usize> = (0..snapshots.len()).filter(|&i| snapshots[i].current).collect();
    current.sort_unstable_by_key(|&i| age(&snapshots[i]));
    match current[..] {
        [] if snapshots.is_empty() => Ok(None),
        [] => Err(Breakage::NoneCurrent),
        [i] => Ok(Some(i)),
        [a, b, ..] => Err(Breakage::TwoCurrent(snapshots[a].name.clone(), snapshots[b].name.clone())),
    }
}
