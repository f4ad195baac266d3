//! What a decision is: room in the chain, the clock, and (in `sentences`) what people and scripts are told.

mod sentences;

use std::{collections::BTreeSet, sync::Arc};

use jiff::tz::TimeZone;

use super::*;
use crate::{
    config::{Environment, SourceFile, parse_policy},
    core::{
        inventory::{Quality, SnapshotRecord},
        label::Label,
        model::{Content, Origin, Snapshot, SnapshotState, VmId, VmState},
        simulate::record,
    },
};

/// A VM with a chain of daily snapshots over `below` images.
fn vm(snapshots: u32, below: u32) -> VmRecord {
    let name = |i: u32| SnapshotName::existing(format!("s{i:02}"));
    let snapshot = |i: u32| Snapshot {
        name: name(i),
        created: format!("2026-11-{:02}T02:00:00Z", i + 1).parse().unwrap(),
        parent: i.checked_sub(1).map(name),
        current: i + 1 == snapshots,
        state: SnapshotState::Ready,
        origin: Origin::Schedule,
        managed: true,
        policies: BTreeSet::from(["p".parse().unwrap()]),
        pinned: false,
        expires: None,
        content: Content::Disk,
        storage: Storage::External,
        size: 1,
    };
    VmRecord {
        id: VmId(uuid::Uuid::nil()),
        name: "vm".to_owned(),
        state: VmState::Running,
        tags: BTreeSet::new(),
        agent_connected: false,
        chain_depth: snapshots + below,
        images: BTreeSet::new(),
        ground: None,
        stem: None,
        findings: Vec::new(),
        strays: Vec::new(),
        known_since: None,
        forgotten: Vec::new(),
        snapshots: (0..snapshots).map(|i| (name(i), record(snapshot(i)))).collect(),
    }
}

fn kept(vm: &VmRecord) -> usize {
    let environment = Environment { timezone: TimeZone::UTC, cores: 1 };
    let file = SourceFile::new("policy", "keep-last = 20\nmax-delete = 99");
    let (policy, _) = parse_policy("p".parse().unwrap(), &file, &environment).unwrap();
    let plan = VmPlan { policies: vec![Arc::new(policy)], disks: None, max_size: None, why: vec![] };
    let at =
        Circumstances { max_chain: Some(16), ..Circumstances::new("2026-11-29T00:00:00Z".parse().unwrap()) };
    decide(vm, &plan, at).sentences.iter().filter(|s| s.keep).count()
}

#[test]
fn room_is_left_for_the_next_snapshot() {
    assert_eq!(kept(&vm(20, 1)), 14, "a base, these and the next make sixteen");
    assert_eq!(kept(&vm(14, 1)), 14);
}

#[test]
fn what_lies_below_the_first_snapshot_takes_room_too() {
    assert_eq!(kept(&vm(20, 3)), 12);
    assert_eq!(kept(&vm(20, 30)), 1, "the newest stays, whatever is below");
}

#[test]
fn no_good_snapshot_gives_way_to_one_that_goes_anyway() {
    let mut vm = vm(15, 1);
    let oldest = SnapshotName::existing("s00");
    let record = vm.snapshots.get_mut(&oldest).unwrap();
    (record.half_deleted, record.snapshot.state) = (true, SnapshotState::Failed);
    assert_eq!(kept(&vm), 14);
}

#[test]
fn by_a_wrong_clock_not_even_a_deletion_that_was_begun_is_finished() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let name = SnapshotName::existing("begun");
    let snapshot = Snapshot {
        name: name.clone(),
        created: at("2026-01-01T00:00:00Z"),
        parent: None,
        current: true,
        state: SnapshotState::Failed,
        origin: Origin::Manual,
        managed: true,
        policies: BTreeSet::new(),
        pinned: false,
        expires: None,
        content: Content::Disk,
        storage: Storage::External,
        size: 1,
    };
    let record = SnapshotRecord {
        snapshot,
        id: None,
        label: Label::default(),
        description: String::new(),
        quality: Quality::unknown(false),
        images: Vec::new(),
        held: 0,
        half_deleted: true,
    };
    let vm = VmRecord {
        id: VmId(uuid::Uuid::from_u128(1)),
        name: "web".to_owned(),
        state: VmState::Running,
        tags: BTreeSet::new(),
        agent_connected: true,
        chain_depth: 1,
        images: BTreeSet::new(),
        ground: None,
        stem: None,
        findings: Vec::new(),
        strays: Vec::new(),
        known_since: None,
        forgotten: Vec::new(),
        snapshots: [(name.clone(), record)].into(),
    };
    let plan = VmPlan { policies: vec![], max_size: None, disks: None, why: vec![] };
    let decided = |now: &str, all| {
        let last_plausible = Some(at("2026-01-02T00:00:00Z"));
        decide(&vm, &plan, Circumstances { last_plausible, all, ..Circumstances::new(at(now)) })
    };
    let right = decided("2026-01-03T00:00:00Z", false);
    assert!(right.clock.is_none() && right.plan.steps.len() == 1 && !right.sentences[0].keep);
    for (now, all) in [("2036-01-01T00:00:00Z", false), ("1970-01-01T00:00:00Z", true)] {
        let wrong = decided(now, all);
        assert!(wrong.clock.is_some() && wrong.plan.steps.is_empty() && wrong.sentences[0].keep, "{now}");
    }
    // A person knows the time; but it is not 1970.
    assert_eq!(decided("2036-01-01T00:00:00Z", true), right);
}
