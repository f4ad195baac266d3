//! Clocks that jump.

use super::*;
use crate::core::job::AdoptJob;

fn notes(effects: &[Effect]) -> Vec<&Note> {
    effects.iter().filter_map(|e| if let Effect::Log(note) = e { Some(note) } else { None }).collect()
}

#[test]
fn a_host_that_starts_in_1970_neither_runs_nor_forgets_anything() {
    let mut b = Bench::new(NIGHTLY, "1970-01-01T00:00:10Z", Some("2026-03-02T02:30:00Z"));
    b.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    b.send(Event::Listed(vec![vm(1)]));
    let effects = b.send(Event::VmRead(Box::new(record(1, &[]))));
    assert!(matches!(notes(&effects)[..], [Note::ClockTooEarly { .. }]), "{effects:?}");
    assert_eq!((started(&effects), remembered(&effects)), (vec![], vec![]));
    b.now = at("1970-01-02T02:30:00Z");
    let effects = b.send(Event::Timer);
    assert_eq!((started(&effects), notes(&effects)), (vec![], vec![]), "told once");
    // The clock is set: the night's run was done, the next night's is due in its time.
    b.now = at("2026-03-02T03:00:00Z");
    let effects = b.send(Event::Timer);
    assert_eq!(started(&effects), []);
    assert_eq!(wake(&effects), Some(at("2026-03-03T02:30:00Z")));
}

#[test]
fn a_clock_that_was_back_and_is_right_again_repeats_nothing() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T02:00:00Z", None);
    b.connect(&[1]);
    b.now = at("2026-03-02T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    b.send(Event::Ended(jobs[0].id, Outcome::Cancelled("was told to stop".to_owned())));
    b.now = at("2025-06-01T00:00:00Z");
    let effects = b.send(Event::Timer);
    assert!(matches!(notes(&effects)[..], [Note::ClockReset { .. }]), "{effects:?}");
    assert_eq!(handled(&effects), Some(b.now));
    let stored = remembered(&effects);
    b.now = at("2026-03-02T02:45:00Z");
    let effects = b.send(Event::Timer);
    assert_eq!((started(&effects), handled(&effects)), (vec![], Some(at("2026-03-02T02:30:00Z"))));
    assert_eq!(wake(&effects), Some(at("2026-03-03T02:30:00Z")));

    // And if the daemon starts between the two.
    let Some(Entry::Place(name, place)) = stored.into_iter().next() else { panic!("nothing stored") };
    let mut b = Bench::starting(NIGHTLY, "2026-03-02T02:45:00Z", |s| s.places = [(name, place)].into());
    assert_eq!(started(&b.connect(&[1])), []);
}

#[test]
fn a_clock_that_was_ahead_and_is_right_again_runs_what_is_due() {
    let mut b = Bench::new(NIGHTLY, "2036-03-02T02:00:00Z", None);
    b.connect(&[1]);
    b.now = at("2036-03-02T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    b.send(Event::Ended(jobs[0].id, Outcome::Cancelled("was told to stop".to_owned())));
    b.now = at("2026-03-02T02:00:00Z");
    b.send(Event::Timer);
    for day in 2..6 {
        b.now = at(&format!("2026-03-0{day}T02:30:00Z"));
        let jobs = started(&b.send(Event::Timer));
        assert_eq!(jobs.len(), 1, "day {day}");
        b.send(Event::Ended(jobs[0].id, Outcome::Cancelled("was told to stop".to_owned())));
    }
}

#[test]
fn a_policy_that_pauses_because_the_clock_is_behind_says_so_once() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T01:00:00Z", Some("2026-03-02T02:30:00Z"));
    let effects = b.connect(&[1]);
    assert!(matches!(notes(&effects)[..], [Note::ClockBehind { .. }]), "{effects:?}");
    b.now = at("2026-03-02T01:30:00Z");
    assert_eq!(notes(&b.send(Event::Timer)), [] as [&Note; 0]);
    // A second or two are no matter.
    b.now = at("2026-03-02T02:29:58Z");
    assert_eq!(notes(&b.send(Event::Timer)), [] as [&Note; 0]);
    b.now = at("2026-03-02T01:30:00Z");
    assert_eq!(notes(&b.send(Event::Timer)).len(), 1, "another time");
}

#[test]
fn by_a_clock_that_cannot_be_right_nothing_is_put_in_quarantine_or_removed_from_it() {
    let sweeps = |b: &mut Bench| {
        let effects = b.send(Event::QuarantineOver(vm(1)));
        let job = started(&effects).into_iter().find(|job| job.operation == Operation::Sweep);
        job.map(|job| b.send(Event::Ended(job.id, Outcome::Done(None)))).is_some()
    };
    let adopts = |b: &mut Bench| {
        let adopt = AdoptJob {
            snapshots: Vec::new(),
            policies: BTreeSet::new(),
            strays: vec!["/i/left".to_owned()],
            layers: false,
        };
        let effects = b.send(Event::Request(7, Request::Change(Change::Adopt { vm: vm(1), adopt }, 0)));
        let job = started(&effects).into_iter().find(|job| matches!(job.operation, Operation::Adopt(_)));
        job.map(|job| b.send(Event::Ended(job.id, Outcome::Done(None)))).is_some()
    };
    let mut b = Bench::new("", "2026-03-02T02:00:00Z", None);
    b.connect(&[1]);
    b.send(Event::Passed(b.now));
    for (now, believed) in [
        ("2026-03-02T02:01:00Z", true),
        ("1970-01-01T00:00:10Z", false),
        ("2028-03-02T02:00:00Z", false),
        ("2026-03-02T02:02:00Z", true),
    ] {
        b.now = at(now);
        b.send(Event::Timer);
        assert_eq!((sweeps(&mut b), adopts(&mut b)), (believed, believed), "{now}");
    }
}
