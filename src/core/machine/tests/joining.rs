//! Who asks for what waits already.

use super::*;
use crate::core::revert::{DefinitionOf, Then};

/// A VM with two snapshots, on which a job runs, so that all others wait.
fn busy() -> Bench {
    let two = format!("{NIGHTLY}[policy.later]\nvms = [\"*\"]\nschedule = \"40 2 * * *\"\n");
    let mut b = Bench::new(&two, "2026-01-01T00:00:00Z", Some("2026-01-01T00:00:00Z"));
    b.connect(&[1]);
    let mut web = record(1, &[("s1", true), ("s2", true)]);
    for (number, snapshot) in (1..).zip(web.snapshots.values_mut()) {
        snapshot.id = Some(Uuid::from_u128(number));
    }
    b.send(Event::VmRead(Box::new(web)));
    asked(&mut b, describe("s1", "first"));
    b
}

#[track_caller]
fn asked(b: &mut Bench, change: Change) -> JobId {
    match b.ask(change) {
        Ok(Reply::Job(job)) => job,
        other => panic!("{other:?}"),
    }
}

fn describe(name: &str, text: &str) -> Change {
    Change::Describe { vm: vm(1), name: SnapshotName::existing(name), description: text.to_owned() }
}

fn revert() -> Change {
    let (then, definition) = (Then::AsBefore, DefinitionOf::Snapshot);
    Change::Revert { vm: vm(1), name: SnapshotName::existing("s1"), then, definition, safety: true }
}

#[test]
fn the_last_of_several_descriptions_stays() {
    let mut b = busy();
    let [a, other] = [describe("s1", "a"), describe("s1", "b")];
    let first = asked(&mut b, a.clone());
    assert_eq!(asked(&mut b, a.clone()), first, "it waits, and nothing waits behind it");
    asked(&mut b, other);
    let last = asked(&mut b, a.clone());
    assert_ne!(last, first, "else b would stay");
    assert_eq!(asked(&mut b, a), last);
}

#[test]
fn what_concerns_another_snapshot_of_the_vm_or_another_vm_is_between_nobody() {
    let mut b = busy();
    let first = asked(&mut b, describe("s1", "a"));
    let delete = |name: &str| Change::Delete {
        vm: vm(1),
        name: SnapshotName::existing(name),
        pace: Pace::default(),
        foreign: false,
    };
    let second = asked(&mut b, delete("s2"));
    assert_eq!(asked(&mut b, describe("s1", "a")), first);
    assert_eq!(asked(&mut b, delete("s2")), second);
    asked(&mut b, delete("s1"));
    assert_ne!(asked(&mut b, describe("s1", "a")), first);
}

#[test]
fn a_snapshot_that_is_asked_for_after_a_revert_is_taken_after_it() {
    let mut b = busy();
    let run = || Change::Run { policy: nightly(), vm: Some(vm(1)) };
    let Ok(Reply::Jobs(first)) = b.ask(run()) else { panic!("no jobs") };
    let Ok(Reply::Jobs(same)) = b.ask(run()) else { panic!("no jobs") };
    assert_eq!(first, same);
    let reverted = asked(&mut b, revert());
    let Ok(Reply::Jobs(then)) = b.ask(run()) else { panic!("no jobs") };
    assert!(then[0] > reverted, "{then:?}");
}

#[test]
fn policies_share_no_snapshot_over_a_revert() {
    for reverts in [false, true] {
        let mut b = busy();
        let run = |b: &mut Bench, time: &str| {
            b.now = at(time);
            b.send(Event::Timer);
        };
        run(&mut b, "2026-01-01T02:30:00Z");
        asked(&mut b, if reverts { revert() } else { describe("s1", "other") });
        run(&mut b, "2026-01-01T02:40:00Z");
        let creates = b.machine.view().jobs.values().filter(|j| j.operation == "create").count();
        assert_eq!(creates, if reverts { 2 } else { 1 });
    }
}
