//! The snapshots of a VM as a tree: what was taken on top of what.

use std::collections::BTreeMap;

use super::{inventory::Object, props::Snapshot};

/// A line of the tree.
#[derive(Debug, Clone)]
pub(super) struct Branch<'a> {
    /// What stands before the name.
    pub(super) indent: String,
    /// The snapshot.
    pub(super) snapshot: &'a Object<Snapshot>,
}

/// Each snapshot once, parents before their children, siblings as they stand in the list (the oldest first). One whose
/// parent is not there stands as a root, and so does one of a ring, so that none is left out.
pub(super) fn tree(snapshots: &[Object<Snapshot>]) -> Vec<Branch<'_>> {
    let known: BTreeMap<&str, usize> =
        snapshots.iter().enumerate().map(|(i, s)| (s.path.as_str(), i)).collect();
    let parent = |i: usize| known.get(snapshots[i].parent.as_str()).copied();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); snapshots.len()];
    for i in 0..snapshots.len() {
        if let Some(parent) = parent(i) {
            children[parent].push(i);
        }
    }
    let mut shown = vec![false; snapshots.len()];
    let mut lines = Vec::new();
    let roots = (0..snapshots.len()).filter(|&i| parent(i).is_none());
    for root in roots.chain(0..snapshots.len()) {
        // Depth first, with what stands before the children of each; no recursion, for chains are long.
        let mut next = vec![(root, String::new(), String::new())];
        while let Some((i, own, under)) = next.pop() {
            if std::mem::replace(&mut shown[i], true) {
                continue;
            }
            lines.push(Branch { indent: own, snapshot: &snapshots[i] });
            for (place, &child) in children[i].iter().enumerate().rev() {
                let last = place + 1 == children[i].len();
                let (corner, beside) = if last { ("`- ", "   ") } else { ("|- ", "|  ") };
                next.push((child, format!("{under}{corner}"), format!("{under}{beside}")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inventory::tests::path;

    fn snapshot(name: &str, parent: &str) -> Object<Snapshot> {
        let at = |name: &str| path(&if name.is_empty() { "/".to_owned() } else { format!("/{name}") });
        let props = Snapshot { name: name.to_owned(), parent: at(parent), ..Snapshot::default() };
        Object::new(at(name), props)
    }

    fn shown(all: &[(&str, &str)]) -> Vec<String> {
        let all: Vec<_> = all.iter().map(|(name, parent)| snapshot(name, parent)).collect();
        tree(&all).iter().map(|b| format!("{}{}", b.indent, b.snapshot.name)).collect()
    }

    #[test]
    fn branches_stand_under_what_they_start_at() {
        let all = [("a", ""), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "d"), ("f", "b"), ("g", "")];
        assert_eq!(shown(&all), ["a", "|- b", "|  |- c", "|  `- f", "`- d", "   `- e", "g"]);
    }

    #[test]
    fn none_is_left_out_whatever_the_parents_say() {
        assert_eq!(shown(&[]), [] as [&str; 0]);
        assert_eq!(shown(&[("a", "lost"), ("b", "a")]), ["a", "`- b"]);
        let ring = [("a", "c"), ("b", "a"), ("c", "b"), ("d", "d")];
        assert_eq!(shown(&ring), ["a", "`- b", "   `- c", "d"]);
    }
}
