//! Worked trees.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::*;
use crate::core::model::{Content, Origin};

/// A tree from `name<parent` words, in the order of time; `*` marks the current one. Each has 10 bytes.
fn tree(words: &str) -> Vec<Snapshot> {
    let snapshot = |(i, word): (i64, &str)| {
        let (name, parent) =
            word.trim_end_matches('*').split_once('<').map_or((word, None), |(n, p)| (n, Some(p)));
        Snapshot {
            name: SnapshotName::existing(name.trim_end_matches('*')),
            created: Timestamp::from_second(1_780_000_000 + i).unwrap(),
            parent: parent.map(SnapshotName::existing),
            current: word.ends_with('*'),
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: BTreeSet::new(),
            pinned: false,
            expires: None,
            content: Content::Disk,
            storage: Storage::External,
            size: 10,
        }
    };
    (0..).zip(words.split(' ')).map(snapshot).collect()
}

/// Plans, and shows steps (`a+b>survivor`, `-dropped`, `~internal`) and what is held.
fn planned(snapshots: &[Snapshot], doomed: &str, needed: &str) -> (Vec<String>, Vec<String>) {
    let name = |n: &str| SnapshotName::existing(n);
    let doomed: Vec<_> = doomed.split(' ').filter(|n| !n.is_empty()).map(name).collect();
    let goes: Vec<_> = snapshots.iter().map(|s| doomed.contains(&s.name)).collect();
    let need = |n: &str| (name(n), Need::OtherVm("db".to_owned()));
    let needed = needed.split(' ').filter(|n| !n.is_empty()).map(need).collect();
    let plan = plan(snapshots, &goes, &needed).owned();
    let show = |step: &Step| match step {
        Step::Merge { run, survivor, copies, frees } => {
            assert_eq!((*copies, *frees), (10 * run.len() as u64, 10 * run.len() as u64));
            let run: Vec<_> = run.iter().map(SnapshotName::as_str).collect();
            format!("{}>{}", run.join("+"), survivor.as_ref().map_or("", SnapshotName::as_str))
        }
        Step::DropBranch { snapshot, .. } => format!("-{snapshot}"),
        Step::DeleteInternal { snapshot, .. } => format!("~{snapshot}"),
    };
    let held = plan.held.iter().map(|h| format!("{}: {}", h.name, h.because));
    (plan.steps.iter().map(show).collect(), held.collect())
}

const NONE: [&str; 0] = [];

#[test]
fn consecutive_ones_become_one_merge() {
    let s = tree("a b<a c<b d<c e<d*");
    assert_eq!(planned(&s, "", ""), (vec![], vec![]));
    for (doomed, steps) in [
        ("a", vec!["a>b"]),
        ("a b c", vec!["a+b+c>d"]),
        ("a c d", vec!["a>b", "c+d>e"]),
        ("e", vec!["e>"]),
        ("b d e", vec!["b>c", "d+e>"]),
        ("a b c d e", vec!["a+b+c+d+e>"]),
    ] {
        let (planned, held) = planned(&s, doomed, "");
        assert_eq!((planned, held), (steps.iter().map(ToString::to_string).collect(), vec![]));
    }
}

#[test]
fn a_dropped_branch_frees_a_merge() {
    // Reverted from d to b, then went on with e.
    let s = tree("a b<a c<b d<c e<b*");
    let (steps, held) = planned(&s, "a b c d", "");
    assert_eq!(steps, ["-d", "-c", "a+b>e"]);
    assert_eq!(held, NONE);
    // The same, from a current one that has children.
    let s = tree("a b<a* c<b");
    assert_eq!(planned(&s, "b c", "").0, ["-c", "b>"]);
}

#[test]
fn a_branch_holds_what_it_is_based_on() {
    let mut s = tree("a b<a c<b d<c e<b*");
    s[3].pinned = true;
    let (steps, held) = planned(&s, "a b c e", "");
    assert_eq!(steps, ["e>"]);
    assert_eq!(
        held,
        [
            // Merging a away would remove the image that c reads through b.
            "a: other branches are based on \"b\", on top of it; first has to go: \"c\"",
            "b: other branches are based on it; first has to go: \"c\"",
            "c: it is on an abandoned branch, with others based on it; first has to go: \"d\" \
             (pinned: unpin it)",
        ]
    );
    let (steps, held) = planned(&tree("a b<a c<b* d<c"), "a b c", "");
    assert_eq!(steps, ["a>b"]);
    assert_eq!(held.len(), 2);
}

#[test]
fn what_another_vm_needs_is_neither_written_nor_removed() {
    let s = tree("a b<a c<b d<c*");
    let (steps, held) = planned(&s, "a b c d", "c");
    assert_eq!(steps, ["a>b", "d>"]);
    assert_eq!(
        held,
        [
            "b: its deletion would remove the image of \"c\", on top of it, but the VM \"db\" uses its image; first the VM \
             \"db\" has to get disks that are not based on it, or to be deleted",
            "c: the VM \"db\" uses its image; first the VM \"db\" has to get disks that are not based on it, or to be \
             deleted"
        ]
    );
}

#[test]
fn what_is_being_worked_on_is_left_alone() {
    let mut s = tree("a b<a c<b d<c*");
    s[2].state = SnapshotState::Deleting;
    // A delete that was begun may be ended together with its neighbours, but not be built on.
    assert_eq!(planned(&s, "b c", ""), (vec!["b+c>d".to_owned()], vec![]));
    let (steps, held) = planned(&s, "b", "");
    assert_eq!(steps, NONE);
    assert_eq!(held, ["b: \"c\", on top of it, is half deleted; first its deletion has to be finished"]);
    // Nor is it built on when it is to go itself and cannot.
    let (steps, held) = planned(&s, "b c", "d");
    assert_eq!(steps, NONE);
    assert_eq!(held[0], "b: \"c\", on top of it, is half deleted; first its deletion has to be finished");
    s[2].state = SnapshotState::Creating;
    assert_eq!(planned(&s, "a b c", "").0, ["a>b"]);
}

#[test]
fn internal_ones_go_one_by_one_and_kinds_never_mix() {
    let mut s = tree("a b<a c<b* d<b");
    s.iter_mut().take(3).for_each(|s| s.storage = Storage::Internal);
    let (steps, held) = planned(&s, "a b", "");
    assert_eq!((steps.len(), held.len()), (0, 2));
    assert!(held[0].contains("internal (\"a\") and external (\"d\")"), "{held:?}");
    s[3].storage = Storage::Internal;
    assert_eq!(planned(&s, "a b", ""), (vec!["~a".to_owned(), "~b".to_owned()], vec![]));
}

#[test]
fn a_tree_without_sense_gets_no_step() {
    for (words, why) in [
        (
            "a b<a c<x d<c*",
            "\"x\", the parent of \"c\", is missing; first \"c\" has to be redefined with the parent that it really has, \
             or be removed by hand",
        ),
        ("a b<c c<b d<a*", CYCLE),
        ("a b<b c<a*", CYCLE),
        ("a b<c* c<b", CYCLE),
        // The live chain itself, with a tail that leads into it.
        ("a b<c c<b d<c*", CYCLE),
        (
            "a b<a* c<b*",
            "\"b\" and \"c\" are both current; first the one that the VM's disks are based on has to be made the only \
             current one",
        ),
        (
            "a b<a c<b",
            "no snapshot is current; first the one that the VM's disks are based on has to be made current \
             (`virsh snapshot-current`)",
        ),
        ("a a b<a*", "two snapshots are named \"a\"; first one of them has to be renamed"),
    ] {
        let (steps, held) = planned(&tree(words), "a b", "");
        assert_eq!(steps, NONE);
        assert_eq!(held[0], format!("a: {why}"));
        assert!(held.len() >= 2, "{held:?}");
    }
    // Of two of one name it does not matter which comes first.
    let mut twice = tree("a b a*");
    let orders = [planned(&twice, "a b", "").1, {
        twice.reverse();
        planned(&twice, "a b", "").1
    }];
    assert!(orders.iter().all(|held| held[0].starts_with("a: ")), "{orders:?}");
    assert_eq!(planned(&[], "x", ""), (vec![], vec![]));
}

const CYCLE: &str =
    "\"b\" is its own ancestor; first \"b\" has to be redefined with the parent that it really has";

#[test]
fn what_may_be_the_disks_own_base_is_left_to_people() {
    let (steps, held) = planned(&tree("a b<a* c"), "a c", "");
    assert_eq!(steps, ["a>b"]);
    assert_eq!(
        held,
        [
            "c: it is not on the live chain and has no parent, so its image may be the disk's own base; first somebody \
          has to make sure that no disk needs the image, and then delete it by hand"
        ]
    );
}

#[test]
fn a_long_chain_is_no_problem() {
    let words: Vec<_> =
        (0..100_000).map(|i| if i == 0 { "0".to_owned() } else { format!("{i}<{}", i - 1) }).collect();
    let s = tree(&(words.join(" ") + "*"));
    let goes: Vec<_> = s.iter().map(|s| s.name.as_str() != "50000").collect();
    let plan = plan(&s, &goes, &BTreeMap::new());
    assert_eq!((plan.steps.len(), plan.held.len()), (2, 0));
}
