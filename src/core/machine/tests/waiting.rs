//! What jobs wait for: as people read it, and runs for a VM that something else has.

use super::{owed::Lives, *};
use crate::core::view::Runs;

#[test]
fn a_job_that_waits_says_what_for() {
    let mut b = Bench::new(&format!("[daemon]\nmax-jobs = 1\n{NIGHTLY}"), "2026-03-02T12:00:00Z", None);
    b.connect(&[1, 2]);
    let run = |b: &mut Bench| match b.ask(Change::Run { policy: nightly(), vm: None }) {
        Ok(Reply::Jobs(jobs)) => jobs,
        other => panic!("{other:?}"),
    };
    let phases = |b: &Bench| {
        let jobs = b.machine.view().jobs.values().filter(|job| job.state != JobState::Done);
        jobs.map(|job| (job.id, job.phase.clone())).collect::<Vec<_>>()
    };
    let phase = |id, phase: &str| (id, phase.to_owned());
    let one_by_one = "waiting: one job at a time (max-jobs)";
    assert_eq!(run(&mut b), [1, 2]);
    assert_eq!(phases(&b), [phase(1, "starting"), phase(2, one_by_one)]);
    assert_eq!(run(&mut b), [3, 2], "the one that runs is another");
    assert_eq!(phases(&b)[2], phase(3, "waiting for job 1 of the same VM"));
    b.send(Event::Ended(1, Outcome::Failed(Failure::new("Failed", "no agent"))));
    assert_eq!(phases(&b), [phase(2, "starting"), phase(3, one_by_one)]);
    b.send(Event::Disconnected);
    assert_eq!(phases(&b)[1], phase(3, "waiting for libvirt"));
    b.connect(&[1, 2]);
    assert_eq!(phases(&b)[1], phase(3, one_by_one));
}

/// At this time, and whatever begins finds the VM busy; how many began, and when it is looked again.
fn busy_at(l: &mut Lives, time: &str) -> (usize, Option<Timestamp>) {
    l.bench.now = at(time);
    let mut effects = l.send(Event::Timer);
    let jobs = started(&effects);
    for job in &jobs {
        let failure = Failure::new("Busy", "a backup has the VM");
        effects = l.send(Event::Ended(job.id, Outcome::Failed(failure)));
    }
    (jobs.len(), wake(&effects))
}

#[test]
fn a_run_whose_vm_is_busy_is_tried_again_with_growing_pauses_over_restarts() {
    let mut l = Lives::new(NIGHTLY, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    for (time, next) in [
        ("2026-03-02T02:30:00Z", "2026-03-02T02:31:00Z"),
        ("2026-03-02T02:31:00Z", "2026-03-02T02:32:00Z"),
        ("2026-03-02T02:32:00Z", "2026-03-02T02:34:00Z"),
        ("2026-03-02T02:34:00Z", "2026-03-02T02:38:00Z"),
        ("2026-03-02T02:38:00Z", "2026-03-02T02:46:00Z"),
        ("2026-03-02T02:46:00Z", "2026-03-02T03:01:00Z"),
    ] {
        assert_eq!(busy_at(&mut l, time), (1, Some(at(next))));
        assert_eq!(l.owed(), [vm(1)]);
    }
    assert_eq!(busy_at(&mut l, "2026-03-02T02:59:00Z").0, 0);
    l.restart();
    l.connect(&[1]);
    assert_eq!(busy_at(&mut l, "2026-03-02T03:00:00Z").0, 0, "its pause is not over");
    l.bench.now = at("2026-03-02T03:01:00Z");
    let effects = l.send(Event::Timer);
    assert_eq!((l.run_all(&effects), l.owed()), (vec![vm(1)], vec![]));
}

/// How the policy's last run ended, and how many ended on the VM.
fn told(l: &Lives) -> (String, Runs) {
    let view = l.bench.machine.view();
    let runs = view.counts.runs.get(&(nightly(), vm(1))).copied().unwrap_or_default();
    (view.policies[&nightly()].last_result.clone(), runs)
}

#[test]
fn a_run_that_is_tried_again_has_not_ended() {
    let mut l = Lives::new(NIGHTLY, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    busy_at(&mut l, "2026-03-02T02:30:00Z");
    assert_eq!(told(&l), (String::new(), Runs::default()));
    l.bench.now = at("2026-03-02T02:31:00Z");
    let effects = l.send(Event::Timer);
    l.run_all(&effects);
    assert_eq!(told(&l), ("done".to_owned(), Runs { ended: 1, failed: 0 }));
}

#[test]
fn a_run_that_was_tried_again_until_the_next_one_fired_has_failed() {
    let mut l = Lives::new(NIGHTLY, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    busy_at(&mut l, "2026-03-02T02:30:00Z");
    busy_at(&mut l, "2026-03-03T02:29:00Z");
    assert_eq!(told(&l).1, Runs::default());
    l.bench.now = at("2026-03-03T02:30:00Z");
    let effects = l.send(Event::Timer);
    assert_eq!(told(&l).1, Runs { ended: 1, failed: 1 });
    l.run_all(&effects);
    assert_eq!(told(&l), ("done".to_owned(), Runs { ended: 2, failed: 1 }));
}

#[test]
fn a_run_by_hand_that_finds_it_busy_is_over() {
    let mut l = Lives::new(NIGHTLY, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    let Ok(Reply::Jobs(jobs)) = l.bench.ask(Change::Run { policy: nightly(), vm: None }) else {
        panic!("it runs")
    };
    let effects = l.send(Event::Ended(jobs[0], Outcome::Failed(Failure::new("Busy", "a backup has the VM"))));
    assert_eq!((started(&effects).len(), l.owed()), (0, vec![]));
    assert_eq!(busy_at(&mut l, "2026-03-01T12:30:00Z").0, 0);
}
