use std::collections::BTreeSet;

use jiff::{SignedDuration, tz::TimeZone};
use uuid::Uuid;

use super::super::*;
use crate::{
    config::{self, Environment, FileKind, SourceFile},
    core::{
        inventory::{Quality, SnapshotRecord},
        label::{Label, Pin},
        model::{Content, Origin, Snapshot, SnapshotState, Storage, VmId, VmState},
        select::VmFacts,
    },
};

const NOON: Timestamp = Timestamp::constant(1_780_000_000, 0);

/// A VM with one snapshot an hour from `name<parent` words; the last one is current.
fn vm(words: &str) -> VmRecord {
    let count = words.split(' ').count();
    let snapshot = |(i, word): (usize, &str)| {
        let (name, parent) = word.split_once('<').map_or((word, None), |(n, p)| (n, Some(p)));
        let name = SnapshotName::existing(name);
        let hours = i64::try_from(count - i).unwrap();
        let snapshot = Snapshot {
            name: name.clone(),
            created: NOON - SignedDuration::from_hours(hours),
            parent: parent.map(SnapshotName::existing),
            current: i + 1 == count,
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: ["nightly".parse().unwrap()].into(),
            pinned: false,
            expires: None,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        };
        let (description, quality) = (String::new(), Quality::unknown(false));
        (
            name,
            SnapshotRecord {
                snapshot,
                id: None,
                label: Label::default(),
                description,
                quality,
                images: Vec::new(),
                held: 0,
                half_deleted: false,
            },
        )
    };
    VmRecord {
        id: VmId(Uuid::from_u128(1)),
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
        snapshots: words.split(' ').enumerate().map(snapshot).collect(),
    }
}

/// Each one's name, whether it stays, its rules and its text, the oldest first; then the names that the steps have.
fn decided(vm: &VmRecord) -> (Vec<String>, Vec<String>) {
    let toml = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nkeep-last = 1\n";
    let environment = Environment { timezone: TimeZone::UTC, cores: 2 };
    let loaded = config::parse(&[(FileKind::Main, SourceFile::new("test.toml", toml))], &environment);
    let settings = loaded.unwrap_or_else(|e| panic!("{}", e.render(config::Style::Plain))).settings;
    let plan = settings.for_vm(&VmFacts { id: vm.id, name: &vm.name, tags: &vm.tags });
    let at = Circumstances { max_chain: Some(30), ..Circumstances::new(NOON) };
    let decision = decide(vm, &plan, at);
    let line = |s: &Sentence| {
        let rules: Vec<_> = s.reasons.iter().map(|(rule, ..)| rule.as_str()).collect();
        format!("{} {} {}: {}", s.name, if s.keep { "stays" } else { "goes" }, rules.join("+"), s.text)
    };
    let steps = decision.plan.steps.iter().flat_map(|step| match step {
        merge::Step::Merge { run, .. } => run.iter().map(ToString::to_string).collect(),
        merge::Step::DropBranch { snapshot, .. } | merge::Step::DeleteInternal { snapshot, .. } => {
            vec![snapshot.to_string()]
        }
    });
    (decision.sentences.iter().map(line).collect(), steps.collect())
}

#[test]
fn one_that_cannot_go_yet_stays_and_says_what_has_to_happen_first() {
    let mut vm = vm("a x<a b<a c<b d<c");
    vm.snapshots.get_mut(&SnapshotName::existing("x")).unwrap().snapshot.pinned = true;
    let (lines, steps) = decided(&vm);
    assert_eq!(steps, ["b", "c"]);
    assert_eq!(
        lines,
        [
            "a stays not-wanted+held: Goes: no keep rule of policy nightly wants it. It stays for now: Cannot go \
             yet: other branches are based on it; first has to go: \"x\" (pinned: unpin it).",
            "x stays pinned: Stays: it is pinned.",
            "b goes not-wanted: Goes: no keep rule of policy nightly wants it.",
            "c goes not-wanted: Goes: no keep rule of policy nightly wants it.",
            "d stays newest-good+keep-last: Stays: it is the newest good one; keep-last of policy nightly keeps it, \
             number 1 from the newest.",
        ]
    );
}

#[test]
fn what_holds_one_is_told_with_its_owner_and_why_and_when_one_was_over() {
    let mut vm = vm("a b<a c<b d<c");
    let mut label = |name: &str, label: Label| {
        vm.snapshots.get_mut(&SnapshotName::existing(name)).unwrap().set_label(label);
    };
    let pin = Pin { owner: "alice".into(), reason: "audit".into(), expires: None };
    let expires = Some(NOON - SignedDuration::from_mins(1));
    label("a", Label { pins: vec![pin], expires, ..Label::default() });
    label("c", Label { expires, ..Label::default() });
    label("d", Label { expires, ..Label::default() });
    let (lines, steps) = decided(&vm);
    assert_eq!(steps, ["c"]);
    assert_eq!(
        lines,
        [
            "a stays pinned: Stays: it is pinned by alice (audit).",
            "b stays keep-last: Stays: keep-last of policy nightly keeps it, number 1 from the newest.",
            "c goes expired: Goes: it expired at 2026-05-28T20:25:40Z.",
            "d stays newest-good: Stays: it is the newest good one.",
        ]
    );
}

#[test]
fn a_deletion_that_was_begun_is_finished_whatever_the_policies_say() {
    let mut vm = vm("a b<a c<b");
    let b = vm.snapshots.get_mut(&SnapshotName::existing("b")).unwrap();
    (b.half_deleted, b.snapshot.state) = (true, SnapshotState::Failed);
    b.snapshot.policies.clear();
    let (lines, steps) = decided(&vm);
    assert_eq!(steps, ["a", "b"]);
    assert_eq!(
        lines[1],
        "b goes half-deleted: Goes: its deletion was begun and did not end; its data can no longer be trusted."
    );
}
