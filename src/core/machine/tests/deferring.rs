//! What somebody asked for and had not begun when the daemon stopped.

use super::{owed::Lives, *};
use crate::core::job::JobResult;

const ONE_AT_A_TIME: &str = "[daemon]\nmax-jobs = 1\n[policy.p]\nvms = [\"*\"]\nkeep-last = 2\n";

fn prune(n: u128) -> Change {
    Change::Prune { vm: vm(n), all: false, pace: Pace::default() }
}

/// One runs, two wait; and the daemon is told to stop.
fn stopped() -> Lives {
    let mut l = Lives::new(ONE_AT_A_TIME, "2026-03-02T12:00:00Z");
    l.connect(&[1, 2, 3]);
    l.bench.ask(prune(1)).unwrap();
    l.bench.ask_as(1000, prune(2)).unwrap();
    l.bench.ask(Change::Run { policy: "p".parse().unwrap(), vm: Some(vm(3)) }).unwrap();
    let effects = l.send(Event::Stop);
    assert!(!effects.contains(&Effect::Stopped));
    l.send(Event::Deferred(Ok(())));
    assert!(l.send(Event::Ended(1, Outcome::Done(None))).contains(&Effect::Stopped));
    l
}

fn open(l: &Lives) -> Vec<(JobId, JobState, &str)> {
    let jobs = l.bench.machine.view().jobs.values().filter(|job| job.state != JobState::Done);
    jobs.map(|job| (job.id, job.state, job.phase.as_str())).collect()
}

fn written(l: &Lives) -> Vec<JobId> {
    l.store.deferred().unwrap().iter().map(|deferred| deferred.job.id).collect()
}

fn ended(l: &Lives) -> Vec<(JobId, JobResult)> {
    let jobs = l.bench.machine.view().jobs.values();
    jobs.filter_map(|job| Some((job.id, job.outcome.as_ref()?.result()))).collect()
}

#[test]
fn the_next_life_does_it_under_its_number_once_all_vms_are_known() {
    let mut l = stopped();
    let waits = crate::core::deferred::PHASE;
    assert_eq!(open(&l), [(2, JobState::Queued, waits), (3, JobState::Queued, waits)]);
    l.bench.now = at("2026-03-02T12:01:00Z");
    l.restart();
    assert_eq!(
        open(&l).iter().map(|job| job.0).collect::<Vec<_>>(),
        [2, 3],
        "they are seen before anything happens"
    );
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    l.send(Event::Listed(vec![vm(1), vm(2), vm(3)]));
    l.send(Event::VmRead(Box::new(record(2, &[]))));
    assert_eq!(open(&l)[0], (2, JobState::Queued, "waiting until all VMs are known"));
    l.send(Event::VmRead(Box::new(record(1, &[]))));
    let effects = l.send(Event::VmRead(Box::new(record(3, &[]))));
    let [job] = &started(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((job.id, job.asker.uid, job.asked), (2, 1000, at("2026-03-02T12:00:00Z")));
    assert_eq!(written(&l), [3], "what has begun is done once");
    assert_eq!(l.bench.ask(prune(1)), Ok(Reply::Job(4)), "their numbers are nobody else's");
    let effects = l.send(Event::Ended(2, Outcome::Done(None)));
    assert_eq!(started(&effects)[0].id, 3);
    l.send(Event::Ended(3, created()));
    let policy = &l.bench.machine.view().policies[&"p".parse::<PolicyName>().unwrap()];
    assert_eq!(policy.last_result, "done", "of a run that an earlier life began");
}

#[test]
fn what_nobody_expects_any_more_is_not_done_and_that_is_told() {
    for rebooted in [false, true] {
        let mut l = stopped();
        l.bench.now = at(if rebooted { "2026-03-02T12:01:00Z" } else { "2026-03-02T12:11:00Z" });
        l.store.boots("one").unwrap();
        if rebooted {
            l.store.boots("other").unwrap();
        }
        l.restart();
        let effects = l.connect(&[1, 2, 3]);
        assert_eq!(started(&effects), []);
        assert_eq!(ended(&l), [(2, JobResult::Cancelled), (3, JobResult::Cancelled)]);
        let told = effects.iter().filter(|e| matches!(e, Effect::Log(Note::Ended { .. }))).count();
        assert_eq!((told, written(&l)), (2, vec![]));
        let outcome = l.bench.machine.view().jobs[&2].outcome.clone();
        let Some(Outcome::Cancelled(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.contains("VM vm2") && text.contains("nothing was done"), "{text}");
        l.restart();
        l.connect(&[1, 2, 3]);
        assert_eq!((open(&l), ended(&l)), (vec![], vec![]), "told once");
    }
}

#[test]
fn a_vm_that_is_gone_by_then_ends_it() {
    let mut l = stopped();
    l.restart();
    let effects = l.connect(&[1, 3]);
    assert_eq!(started(&effects)[0].id, 3);
    let jobs = &l.bench.machine.view().jobs;
    assert!(matches!(&jobs[&2].outcome, Some(Outcome::Failed(f)) if f.name == "NoSuchVM"));
}

#[test]
fn a_stop_before_all_vms_are_known_keeps_it_as_old_as_it_is() {
    let mut l = stopped();
    for minute in ["2026-03-02T12:01:00Z", "2026-03-02T12:09:00Z"] {
        l.bench.now = at(minute);
        l.restart();
        assert!(l.send(Event::Stop).contains(&Effect::Stopped));
        l.send(Event::Deferred(Ok(())));
        assert_eq!(written(&l), [2, 3]);
    }
    l.restart();
    l.bench.now = at("2026-03-02T12:11:00Z");
    assert_eq!(started(&l.connect(&[1, 2, 3])), [], "libvirt came too late");
    assert_eq!(ended(&l), [(2, JobResult::Cancelled), (3, JobResult::Cancelled)]);
    assert_eq!(written(&l), [0; 0]);
}

#[test]
fn what_waits_for_its_turn_in_the_next_life_outlives_the_end_of_that_too() {
    let mut l = stopped();
    l.restart();
    assert_eq!(started(&l.connect(&[1, 2, 3])).len(), 1);
    // A crash.
    l.restart();
    let effects = l.connect(&[1, 2, 3]);
    assert_eq!(started(&effects)[0].id, 3, "the other one had begun");
    assert_eq!(written(&l), [0; 0]);
}

#[test]
fn what_was_cancelled_before_it_could_begin_is_not_done_by_a_later_life() {
    let mut l = stopped();
    l.restart();
    let effects = l.send(Event::Request(7, Request::Change(Change::Cancel(2), 0)));
    assert!(effects.contains(&Effect::Reply(7, Ok(Reply::Done))));
    l.send(Event::Timer);
    assert!(!l.bench.machine.view().jobs[&2].phase.contains("waiting"));
    l.restart();
    assert_eq!(started(&l.connect(&[1, 2, 3]))[0].id, 3);
}

#[test]
fn it_can_be_cancelled_while_the_daemon_stops() {
    let mut l = Lives::new(ONE_AT_A_TIME, "2026-03-02T12:00:00Z");
    l.connect(&[1, 2]);
    l.bench.ask(prune(1)).unwrap();
    l.bench.ask(prune(2)).unwrap();
    l.send(Event::Stop);
    l.send(Event::Deferred(Ok(())));
    l.send(Event::Request(7, Request::Change(Change::Cancel(2), 0)));
    assert_eq!((ended(&l), written(&l)), (vec![(2, JobResult::Cancelled)], vec![]));
}

#[test]
fn nothing_overtakes_it_on_its_vm() {
    let mut l = stopped();
    l.restart();
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    l.send(Event::Listed(vec![vm(1), vm(2), vm(3)]));
    l.send(Event::VmRead(Box::new(record(3, &[]))));
    let later = Change::Prune { vm: vm(3), all: true, pace: Pace::default() };
    assert_eq!(l.bench.ask(later), Ok(Reply::Job(4)));
    let waits = "waiting until all VMs are known";
    assert_eq!(
        open(&l).iter().map(|job| (job.0, job.2)).collect::<Vec<_>>(),
        [(2, waits), (3, waits), (4, waits)]
    );
}

#[test]
fn a_snapshot_before_an_operation_is_not_taken_after_it() {
    let mut l = Lives::new(&format!("{ONE_AT_A_TIME}before = [\"upgrade\"]\n"), "2026-03-02T12:00:00Z");
    l.connect(&[1, 2]);
    l.bench.ask(prune(1)).unwrap();
    l.bench.ask(Change::Before { vm: vm(2), operation: "upgrade".to_owned() }).unwrap();
    l.send(Event::Stop);
    assert_eq!((ended(&l), written(&l)), (vec![(2, JobResult::Cancelled)], vec![]));
}

#[test]
fn what_is_written_down_already_waits_on_where_nothing_more_can_be() {
    let mut l = stopped();
    l.restart();
    l.send(Event::Stop);
    l.send(Event::Deferred(Err("the disk is full".to_owned())));
    assert_eq!((ended(&l), written(&l)), (vec![], vec![2, 3]));
}

#[test]
fn what_cannot_be_written_down_ends_as_not_done() {
    let mut l = Lives::new(ONE_AT_A_TIME, "2026-03-02T12:00:00Z");
    l.connect(&[1, 2]);
    l.bench.ask(prune(1)).unwrap();
    l.bench.ask(prune(2)).unwrap();
    l.send(Event::Stop);
    l.send(Event::Deferred(Err("the disk is full".to_owned())));
    assert_eq!(ended(&l), [(2, JobResult::Cancelled)]);
    assert!(l.send(Event::Ended(1, Outcome::Done(None))).contains(&Effect::Stopped));
}
