//! Which of the snapshots that others made can be taken over.
//!
//! Taking one over changes no image. It is then merged, dropped and reverted to like any of ours, so it must be one of
//! which that can be done: a snapshot that is lost, spoiled or no part of what the VM runs on is better told than counted.

use std::collections::BTreeSet;

use super::{
    health::{self, Facts},
    marker,
    model::SnapshotName,
};

/// Why this snapshot cannot be taken over, and the way out; `None` if it can. `spoiled`: those whose deletion somebody
/// began and did not end.
pub fn why_not(facts: &Facts<'_>, spoiled: &BTreeSet<SnapshotName>, name: &SnapshotName) -> Option<String> {
    let snapshot = facts.snapshots.iter().find(|s| s.name == name)?;
    if let Err(text) = health::lineage(facts) {
        return Some(text);
    }
    if let Some(finding) = health::lost(snapshot).or_else(|| health::mixed(facts)) {
        return Some(finding.text);
    }
    if spoiled.contains(name) {
        return Some(
            "Its deletion was begun and did not end: what it holds is no longer what it was. `virsh snapshot-delete` \
             ends it."
                .to_owned(),
        );
    }
    if let Some(finding) = health::current(facts).filter(|_| !snapshot.internal) {
        return Some(finding.text);
    }
    let longer = snapshot.xml_bytes + marker::LONGEST;
    (longer >= health::NEAR).then(|| {
        format!(
            "Its metadata has {} KiB already, and libvirt forgets what has 1 MiB or more: shorten its description, or \
             the VM's.",
            snapshot.xml_bytes / 1024
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::{DiskFacts, SnapshotFacts};

    fn name(text: &str) -> SnapshotName {
        SnapshotName::existing(text)
    }

    fn snapshot<'a>(
        name: &'a SnapshotName,
        parent: Option<&'a SnapshotName>,
        overlay: &'a str,
        image: &'a str,
    ) -> SnapshotFacts<'a> {
        SnapshotFacts {
            name,
            parent,
            current: false,
            internal: false,
            marked: false,
            disks: vec![("vda", overlay, image)],
            reverted: Vec::new(),
            lost: Vec::new(),
            memory_lost: None,
            xml_bytes: 9_000,
        }
    }

    /// Two snapshots in a line, and what the VM runs on; then something about it is changed.
    #[track_caller]
    fn refused(change: impl for<'a> FnOnce(&mut Facts<'a>), spoiled: &[&str], words: Option<&str>) {
        let names = [name("s1"), name("s2")];
        let mut facts = Facts {
            disks: vec![DiskFacts {
                target: "vda",
                chain: vec!["/2", "/1", "/0"],
                configured: Some("/2"),
                written_out: None,
                lost: None,
            }],
            snapshots: vec![
                snapshot(&names[0], None, "/1", "/0"),
                SnapshotFacts { current: true, ..snapshot(&names[1], Some(&names[0]), "/2", "/1") },
            ],
            keeps_revert_disks: true,
            layer_limit: 25,
            unfinished: false,
        };
        change(&mut facts);
        let spoiled = spoiled.iter().map(|s| name(s)).collect();
        let why = why_not(&facts, &spoiled, &names[0]);
        match words {
            None => assert_eq!(why, None),
            Some(words) => assert!(why.as_ref().is_some_and(|why| why.contains(words)), "{why:?}"),
        }
    }

    #[test]
    fn one_on_a_tree_in_order_can_be() {
        refused(|_| {}, &[], None);
        refused(|_| {}, &["s2"], None);
    }

    #[test]
    fn what_could_not_be_merged_or_reverted_to_cannot_and_says_why() {
        refused(|f| f.snapshots[0].lost = vec!["/0"], &[], Some("/0 is not there"));
        refused(|f| f.snapshots[1].internal = true, &[], Some("mixed"));
        refused(|_| {}, &["s1"], Some("did not end"));
        refused(|f| f.disks[0].chain = vec!["/x", "/2", "/1", "/0"], &[], Some("/x → /2"));
        refused(|f| f.snapshots[1].current = false, &[], Some("No snapshot is the current one"));
        refused(|f| f.snapshots[0].xml_bytes = 1_000_000, &[], Some("976 KiB"));
    }

    #[test]
    fn on_a_broken_tree_none_can() {
        let (one, gone) = (name("s1"), name("gone"));
        let facts = Facts {
            disks: Vec::new(),
            snapshots: vec![snapshot(&one, Some(&gone), "/1", "/0")],
            keeps_revert_disks: true,
            layer_limit: 25,
            unfinished: false,
        };
        assert!(why_not(&facts, &BTreeSet::new(), &one).unwrap().contains("no tree any more"));
    }
}
