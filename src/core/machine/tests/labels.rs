//! Pins, tags and expiries: stored before they are told, and over at their time.

use super::*;
use crate::core::label::{Expiry, Pin};

const MORNING: &str = "2026-03-01T06:00:00Z";

/// Of VM 1, each a day after the one before, the last one three days before the morning.
fn with(names: &[&str]) -> VmRecord {
    let all: Vec<_> = names.iter().map(|name| (*name, true)).collect();
    let mut record = record(1, &all);
    for (i, name) in names.iter().enumerate() {
        let snapshot = record.snapshots.get_mut(&SnapshotName::existing(*name)).unwrap();
        snapshot.id = Some(Uuid::from_u128(i as u128 + 1));
        let hours = 24 * i64::try_from(names.len() - i + 2).unwrap();
        snapshot.snapshot.created = at(MORNING) - SignedDuration::from_hours(hours);
    }
    record
}

fn bench(names: &[&str]) -> Bench {
    let mut b = Bench::new("", MORNING, None);
    b.connect(&[1]);
    b.send(Event::VmRead(Box::new(with(names))));
    b
}

fn name(name: &str) -> SnapshotName {
    SnapshotName::existing(name)
}

fn pin(until: Option<&str>) -> Edit {
    Edit::Pin(Pin { owner: "alice".into(), reason: "audit".into(), expires: until.map(at) })
}

fn expires(time: &str) -> Edit {
    Edit::Set { tags: None, expires: Some(Expiry::At(at(time))) }
}

/// What is to be stored, and the refusal if there is one.
fn wanted(b: &mut Bench, snapshot: &str, edit: Edit) -> Result<Box<Labelled>, Refusal> {
    let change = Change::Label { vm: vm(1), name: name(snapshot), edit };
    let effects = b.send(Event::Request(7, Request::Change(change, 0)));
    let found = effects.into_iter().find_map(|effect| match effect {
        Effect::Label(7, labelled) => Some(Ok(labelled)),
        Effect::Reply(7, answer) => Some(Err(answer.unwrap_err())),
        _ => None,
    });
    found.expect("one of both")
}

fn reply(effects: Vec<Effect>) -> Result<Reply, Refusal> {
    let reply = effects.into_iter().find_map(|e| if let Effect::Reply(7, r) = e { Some(r) } else { None });
    reply.expect("an answer")
}

/// Stored, as it is on a good day.
fn edit(b: &mut Bench, snapshot: &str, edit: Edit) -> Vec<Effect> {
    let labelled = wanted(b, snapshot, edit).unwrap();
    b.send(Event::Labelled(7, labelled, Ok(true)))
}

fn seen(b: &Bench, snapshot: &str) -> SnapshotRecord {
    b.machine.view().vms[&vm(1)].record.snapshots[&name(snapshot)].clone()
}

fn tick(b: &mut Bench, time: &str) -> Vec<Effect> {
    b.now = at(time);
    b.send(Event::Timer)
}

/// How many prunes begin; they end at once, and do nothing.
fn prunes(b: &mut Bench, effects: &[Effect]) -> usize {
    let jobs = started(effects);
    assert!(jobs.iter().all(|job| matches!(job.operation, Operation::Prune { all: false, .. })), "{jobs:?}");
    for job in &jobs {
        b.send(Event::Ended(job.id, Outcome::Done(None)));
    }
    jobs.len()
}

#[test]
fn it_is_stored_before_anybody_is_told() {
    let mut b = bench(&["a", "b"]);
    let labelled = wanted(&mut b, "a", pin(None)).unwrap();
    assert!(!seen(&b, "a").snapshot.pinned, "not before it is stored");
    let refused =
        |b: &mut Bench, stored| reply(b.send(Event::Labelled(7, labelled.clone(), stored))).unwrap_err();
    let full = refused(&mut b, Err("disk full".into()));
    assert!(full.name == "Failed" && full.message.contains("disk full"), "{full:?}");
    let going = refused(&mut b, Ok(false));
    assert!(going.name == "Busy" && going.message.contains("being deleted"), "{going:?}");
    assert!(!seen(&b, "a").snapshot.pinned);
    assert_eq!(reply(b.send(Event::Labelled(7, labelled, Ok(true)))), Ok(Reply::Done));
    assert!(seen(&b, "a").snapshot.pinned);

    // A reader that began before that.
    b.send(Event::VmRead(Box::new(with(&["a", "b"]))));
    assert_eq!(seen(&b, "a").label.held_by().as_deref(), Some("alice (audit)"));
    // Another one of the same name has nothing of it.
    let mut other = with(&["a", "b"]);
    other.snapshots.get_mut(&name("a")).unwrap().id = Some(Uuid::from_u128(9));
    b.send(Event::VmRead(Box::new(other)));
    assert!(!seen(&b, "a").snapshot.pinned);
}

#[test]
fn what_is_pinned_is_not_deleted_by_hand_and_what_is_going_is_not_pinned() {
    let mut b = bench(&["a", "b"]);
    edit(&mut b, "a", pin(None));
    let delete = || Change::Delete { vm: vm(1), name: name("a"), pace: Pace::default(), foreign: false };
    for change in [delete(), Change::Forget { vm: vm(1), name: name("a") }] {
        let refused = b.ask(change).unwrap_err();
        assert_eq!(refused.name, "Pinned");
        for part in ["alice (audit)", "virtsnap unpin vm1 a"] {
            assert!(refused.message.contains(part), "{part}: {}", refused.message);
        }
    }
    let none = wanted(&mut b, "a", Edit::Unpin(Whose::Owner("bob".into()))).unwrap_err();
    assert!(none.name == "NotPinned" && none.message.contains("by alice (audit)"), "{none:?}");
    edit(&mut b, "a", Edit::Unpin(Whose::Owner("alice".into())));
    assert_eq!(wanted(&mut b, "a", Edit::Unpin(Whose::All)).unwrap_err().name, "NotPinned");
    assert_eq!(b.ask(delete()), Ok(Reply::Job(1)));
    assert_eq!(wanted(&mut b, "a", pin(None)).unwrap_err().name, "Busy");
    assert!(wanted(&mut b, "a", Edit::Set { tags: Some([].into()), expires: None }).is_ok());
}

#[test]
fn a_pin_is_over_at_its_time() {
    let mut b = bench(&["a", "b"]);
    let effects = edit(&mut b, "a", pin(Some("2026-03-01T08:00:00Z")));
    assert_eq!(wake(&effects), Some(at("2026-03-01T08:00:00Z")));
    tick(&mut b, "2026-03-01T07:59:59Z");
    assert!(seen(&b, "a").snapshot.pinned);
    let effects = tick(&mut b, "2026-03-01T08:00:00Z");
    assert!(!seen(&b, "a").snapshot.pinned);
    let label = seen(&b, "a").label;
    assert!(effects.contains(&Effect::Remember(vec![Entry::Label(vm(1), Uuid::from_u128(1), label)])));
    assert_eq!((wake(&effects), prunes(&mut b, &effects)), (None, 0));
    assert_eq!(wanted(&mut b, "a", pin(Some("2026-03-01T08:00:00Z"))).unwrap_err().name, "InvalidArgument");
}

#[test]
fn what_is_over_is_pruned_unless_it_is_pinned_or_the_newest_good_one() {
    let mut b = bench(&["a", "b", "c"]);
    for (snapshot, time) in [("a", "2026-03-01T08:00:00Z"), ("c", "2026-03-01T07:00:00Z")] {
        edit(&mut b, snapshot, expires(time));
    }
    edit(&mut b, "a", pin(Some("2026-03-01T09:00:00Z")));
    for time in ["2026-03-01T07:00:00Z", "2026-03-01T08:00:00Z"] {
        let effects = tick(&mut b, time);
        assert_eq!(prunes(&mut b, &effects), 0, "{time}");
    }
    let effects = tick(&mut b, "2026-03-01T09:00:00Z");
    assert_eq!(prunes(&mut b, &effects), 1);
    // It is still there: another prune today would do no better.
    let effects = tick(&mut b, "2026-03-01T10:00:00Z");
    assert_eq!((wake(&effects), prunes(&mut b, &effects)), (Some(at("2026-03-02T09:00:00Z")), 0));
    let effects = tick(&mut b, "2026-03-02T09:00:00Z");
    assert_eq!(prunes(&mut b, &effects), 1);
    // A newer one is taken, so that this one may go, too.
    let mut record = (*b.machine.view().vms[&vm(1)].record).clone();
    let newer = with(&["a", "b", "c", "d"]).snapshots.remove(&name("d")).unwrap();
    record.snapshots.insert(name("d"), SnapshotRecord { id: Some(Uuid::from_u128(4)), ..newer });
    let effects = b.send(Event::VmRead(Box::new(record)));
    assert_eq!(prunes(&mut b, &effects), 1);
}

#[test]
fn what_was_read_before_all_vms_were_is_not_forgotten() {
    let mut b = Bench::new("", MORNING, None);
    b.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    b.send(Event::Listed(vec![vm(1), vm(2)]));
    let mut record = with(&["a", "b"]);
    let label = Label { expires: Some(at("2026-03-01T05:00:00Z")), ..Label::default() };
    record.snapshots.get_mut(&name("a")).unwrap().set_label(label);
    assert_eq!(started(&b.send(Event::VmRead(Box::new(record)))), []);
    let effects = b.send(Event::VmRead(Box::new(super::record(2, &[]))));
    assert_eq!(prunes(&mut b, &effects), 1);
}

#[test]
fn by_a_clock_that_cannot_be_right_nothing_is_over_and_nobody_is_woken() {
    let mut b = bench(&["a", "b"]);
    b.send(Event::Passed(at(MORNING)));
    edit(&mut b, "a", pin(Some("2026-03-01T08:00:00Z")));
    edit(&mut b, "a", expires("2026-03-01T08:00:00Z"));
    let effects = tick(&mut b, "2028-01-01T00:00:00Z");
    assert!(seen(&b, "a").snapshot.pinned);
    assert_eq!((wake(&effects), prunes(&mut b, &effects)), (None, 0));
    let effects = b.send(Event::Passed(at("2028-01-01T00:00:00Z")));
    assert!(!seen(&b, "a").snapshot.pinned);
    assert_eq!(prunes(&mut b, &effects), 1);
}

#[test]
fn others_snapshots_are_theirs_to_name() {
    let mut b = Bench::new("", MORNING, None);
    b.connect(&[1]);
    b.send(Event::VmRead(Box::new(record(1, &[("theirs", false)]))));
    for edit in [pin(None), Edit::Unpin(Whose::All), expires("2026-03-02T00:00:00Z")] {
        let refused = wanted(&mut b, "theirs", edit).unwrap_err();
        assert_eq!(refused.name, "NotManaged");
        assert!(refused.message.contains("virtsnap adopt vm1 theirs"), "{}", refused.message);
    }
    let describe = Change::Describe { vm: vm(1), name: name("theirs"), description: "x".into() };
    assert_eq!(b.ask(describe).unwrap_err().name, "NotManaged");
    assert_eq!(wanted(&mut b, "none", pin(None)).unwrap_err().name, "NoSuchSnapshot");
}
