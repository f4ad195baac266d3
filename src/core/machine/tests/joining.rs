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

/// A VM that is at work, and a run by hand that waits for it; both jobs.
fn behind_a_prune(b: &mut Bench) -> (JobId, JobId) {
    let prune = Change::Prune { vm: vm(1), all: false, pace: Pace::default() };
    let at_work = started(&b.send(Event::Request(1, Request::Change(prune, 0))));
    match b.ask(Change::Run { policy: nightly(), vm: Some(vm(1)) }) {
        Ok(Reply::Jobs(jobs)) => (at_work[0].id, jobs[0]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_schedule_owes_is_owed_on_where_a_persons_run_was_to_pay_and_found_the_vm_busy() {
    let mut b = Bench::new(NIGHTLY, "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z"));
    b.connect(&[1]);
    let (prune, run) = behind_a_prune(&mut b);
    b.now += SignedDuration::from_hours(24);
    b.send(Event::Timer);
    assert_eq!(b.machine.view().jobs.len(), 2, "the schedule's run is the same as the one that waits");
    assert_eq!(started(&b.send(Event::Ended(prune, Outcome::Done(None))))[0].id, run);
    let busy = Outcome::Failed(Failure::new("Busy", "a backup is running"));
    let effects = b.send(Event::Ended(run, busy));
    assert!(effects.iter().any(|e| matches!(e, Effect::Log(Note::PutOff { .. }))), "{effects:?}");
    b.now += SignedDuration::from_hours(1);
    assert_eq!(started(&b.send(Event::Timer)).len(), 1);
}

#[test]
fn a_snapshot_before_an_operation_is_one_of_its_own_and_says_so() {
    let before = format!("{NIGHTLY}before = \"upgrade\"\n");
    let mut b = Bench::new(&before, "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z"));
    b.connect(&[1]);
    let (_, run) = behind_a_prune(&mut b);
    let announce = || Change::Before { vm: vm(1), operation: "upgrade".to_owned() };
    let Ok(Reply::Jobs(jobs)) = b.ask(announce()) else { panic!("it is refused") };
    assert_ne!(jobs, [run]);
    assert_eq!(b.machine.view().jobs[&jobs[0]].asker.origin, Origin::Operation);
    assert_eq!(b.ask(announce()), Ok(Reply::Jobs(jobs)), "twice is once");
}

#[test]
fn a_snapshot_before_an_operation_is_not_one_from_before_a_revert() {
    let mut b = busy();
    b.send(Event::Settings(settings(&format!("{NIGHTLY}before = \"upgrade\"\n"))));
    let announce = || Change::Before { vm: vm(1), operation: "upgrade".to_owned() };
    let Ok(Reply::Jobs(first)) = b.ask(announce()) else { panic!("it is refused") };
    let reverted = asked(&mut b, revert());
    let Ok(Reply::Jobs(then)) = b.ask(announce()) else { panic!("it is refused") };
    assert!(first[0] < reverted && reverted < then[0], "{first:?}, {reverted}, {then:?}");
}

#[test]
fn a_policy_that_is_not_for_the_vm_s_state_is_told_of_where_it_was_to_run_before_something() {
    let text = format!("{NIGHTLY}before = \"upgrade\"\nwhen = \"shut-off\"\n");
    let mut b = Bench::new(&text, "2026-03-01T12:00:00Z", None);
    b.connect(&[1]);
    let announce = Change::Before { vm: vm(1), operation: "upgrade".to_owned() };
    let effects = b.send(Event::Request(5, Request::Change(announce, 0)));
    let told = |e: &Effect| matches!(e, Effect::Log(Note::NotBefore { state: VmState::Running, .. }));
    assert!(effects.iter().any(told), "{effects:?}");
    assert!(effects.contains(&Effect::Reply(5, Ok(Reply::Jobs(vec![])))), "{effects:?}");
}
