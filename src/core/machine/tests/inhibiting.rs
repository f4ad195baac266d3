//! What nobody asked for waits while somebody inhibits it.

use super::*;
use crate::core::inhibit::InhibitorId;

fn inhibit(b: &mut Bench, who: &str) -> InhibitorId {
    match b.ask(Change::Inhibit { who: who.to_owned(), why: "copies images".to_owned() }) {
        Ok(Reply::Inhibited(id)) => id,
        other => panic!("{other:?}"),
    }
}

fn bench() -> Bench {
    let mut b = Bench::new(NIGHTLY, "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z"));
    b.connect(&[1, 2]);
    b
}

/// Lets a night pass; what begins.
fn night(b: &mut Bench) -> Vec<Job> {
    b.now += SignedDuration::from_hours(24);
    started(&b.send(Event::Timer))
}

/// All creations that begin when this happens and after it, until nothing goes on.
fn all_of(b: &mut Bench, event: Event) -> Vec<VmId> {
    let mut jobs = started(&b.send(event));
    let mut created_of = Vec::new();
    while let Some(job) = jobs.pop() {
        let create = matches!(job.operation, Operation::Create(_));
        created_of.extend(create.then_some(job.vm));
        let outcome = if create { created() } else { Outcome::Done(None) };
        jobs.extend(started(&b.send(Event::Ended(job.id, outcome))));
    }
    created_of.sort();
    created_of
}

#[test]
fn what_falls_due_waits_and_is_one_run_when_the_last_inhibitor_is_gone() {
    let mut b = bench();
    let (first, second) = (inhibit(&mut b, "backup"), inhibit(&mut b, "another"));
    assert_eq!(night(&mut b), []);
    assert_eq!(night(&mut b), []);
    let view = b.machine.view();
    assert_eq!(view.manager.inhibitors.len(), 2);
    let waiting: Vec<_> = view.jobs.values().map(|j| (j.vm, j.state, j.phase.as_str())).collect();
    let held = "held by backup of user 0: copies images";
    assert_eq!(waiting, [(vm(1), JobState::Queued, held), (vm(2), JobState::Queued, held)]);
    assert_eq!(started(&b.send(Event::Released(first))), []);
    let phases: BTreeSet<&str> = b.machine.view().jobs.values().map(|j| j.phase.as_str()).collect();
    assert_eq!(phases, ["held by another of user 0: copies images"].into());
    assert_eq!(all_of(&mut b, Event::Released(second)), [vm(1), vm(2)]);
    assert_eq!(started(&b.send(Event::Released(second))), [], "it is gone already");
    assert!(b.machine.view().manager.inhibitors.is_empty());
    b.now += SignedDuration::from_hours(24);
    assert_eq!(all_of(&mut b, Event::Timer), [vm(1), vm(2)], "the schedule goes on");
}

#[test]
fn what_somebody_asks_for_passes_the_same_that_waits() {
    let mut b = bench();
    let id = inhibit(&mut b, "backup");
    night(&mut b);
    let waits: Vec<JobId> = b.machine.view().jobs.keys().copied().collect();
    let run = Request::Change(Change::Run { policy: nightly(), vm: Some(vm(1)) }, 42);
    let jobs = started(&b.send(Event::Request(8, run)));
    assert_eq!(jobs.iter().map(|j| (j.vm, j.asker.uid)).collect::<Vec<_>>(), [(vm(1), 42)]);
    assert!(!waits.contains(&jobs[0].id));
    // The prune after it is nobody's wish: it waits, and a person's own does not wait for it.
    assert_eq!(started(&b.send(Event::Ended(jobs[0].id, created()))), []);
    let prune = Change::Prune { vm: vm(1), all: false, pace: Pace::default() };
    let pruned = started(&b.send(Event::Request(9, Request::Change(prune, 42))));
    assert_eq!(pruned.len(), 1);
    b.send(Event::Ended(pruned[0].id, Outcome::Done(None)));
    assert_eq!(all_of(&mut b, Event::Released(id)), [vm(1), vm(2)]);
}

/// A night's runs wait behind what is at work, and somebody joins one of them before another one inhibits.
#[test]
fn what_somebody_has_joined_already_is_not_held() {
    let mut b = bench();
    let prune = |vm| Change::Prune { vm, all: false, pace: Pace::default() };
    let at_work: Vec<JobId> = [1, 2]
        .into_iter()
        .flat_map(|n| started(&b.send(Event::Request(n, Request::Change(prune(vm(u128::from(n))), 0)))))
        .map(|job| job.id)
        .collect();
    assert_eq!(at_work.len(), 2);
    assert_eq!(night(&mut b), []);
    let run = Request::Change(Change::Run { policy: nightly(), vm: Some(vm(1)) }, 42);
    b.send(Event::Request(8, run));
    assert_eq!(b.machine.view().jobs.len(), 4, "it joins what waits");
    let id = inhibit(&mut b, "backup");
    let begun = at_work.iter().flat_map(|job| started(&b.send(Event::Ended(*job, Outcome::Done(None)))));
    let begun: Vec<Job> = begun.collect();
    assert_eq!(begun.iter().map(|j| j.vm).collect::<Vec<_>>(), [vm(1)], "whoever asked for it is served");
    b.send(Event::Ended(begun[0].id, created()));
    assert_eq!(all_of(&mut b, Event::Released(id)), [vm(2)]);
}

/// What a merge left that was cut short is no run of a policy's.
#[test]
fn what_was_cut_short_is_finished_all_the_same() {
    let mut b = bench();
    inhibit(&mut b, "backup");
    let now = b.now;
    b.machine.finish_merges(vm(1), now);
    let begun = started(&b.send(Event::Timer));
    assert_eq!(begun.iter().map(|j| &j.operation).collect::<Vec<_>>(), [&Operation::Finish]);
}

/// One job at a time: who waits since before the inhibitor went does not wait for all that was held.
#[test]
fn what_was_held_begins_after_what_somebody_asked_for() {
    let mut b = bench();
    let id = inhibit(&mut b, "backup");
    night(&mut b);
    let prune = |all| Change::Prune { vm: vm(1), all, pace: Pace::default() };
    let first = started(&b.send(Event::Request(8, Request::Change(prune(false), 42))));
    b.send(Event::Request(9, Request::Change(prune(true), 42)));
    let other = started(&b.send(Event::Released(id)));
    assert_eq!(other.iter().map(|j| j.vm).collect::<Vec<_>>(), [vm(2)]);
    let next = started(&b.send(Event::Ended(first[0].id, Outcome::Done(None))));
    assert_eq!(next.iter().map(|j| j.operation.as_str()).collect::<Vec<_>>(), ["prune"]);
}

#[test]
fn what_runs_already_goes_on_and_a_stop_does_not_wait_for_inhibitors() {
    let mut b = bench();
    let jobs = night(&mut b);
    assert_eq!(jobs.len(), 2);
    inhibit(&mut b, "backup");
    for job in jobs {
        assert_eq!(started(&b.send(Event::Ended(job.id, created()))), []);
    }
    assert!(b.send(Event::Stop).contains(&Effect::Stopped));
}

#[test]
fn who_inhibits_and_lets_go_is_told_to_the_log() {
    let mut b = bench();
    let ask = Request::Change(Change::Inhibit { who: "backup".into(), why: String::new() }, 42);
    let effects = b.send(Event::Request(7, ask));
    let inhibited =
        |e: &Effect| matches!(e, Effect::Log(Note::Inhibited(i)) if i.uid == 42 && i.who == "backup");
    assert!(effects.iter().any(inhibited), "{effects:?}");
    b.now += SignedDuration::from_secs(90);
    let effects = b.send(Event::Released(1));
    let released = |e: &Effect| matches!(e, Effect::Log(Note::Released { held, last: true, .. }) if held.as_secs() == 90);
    assert!(effects.iter().any(released), "{effects:?}");
}

#[test]
fn what_was_held_is_judged_again_when_it_may_begin() {
    let mut b = bench();
    let id = inhibit(&mut b, "backup");
    night(&mut b);
    let waiting = b.machine.view().jobs.len();
    assert_eq!(waiting, 2);
    // The one is not in a state that the policy is for, and of the other it is gone.
    let settings = settings("[policy.nightly]\nvms = [\"vm2\"]\nschedule = \"30 2 * * *\"\n");
    b.send(Event::Settings(settings));
    assert_eq!(all_of(&mut b, Event::Released(id)), [vm(2)]);
    let cancelled = |j: &&Arc<crate::core::view::JobView>| matches!(j.outcome, Some(Outcome::Cancelled(_)));
    let cancelled: Vec<VmId> = b.machine.view().jobs.values().filter(cancelled).map(|j| j.vm).collect();
    assert_eq!(cancelled, [vm(1)]);
    b.now += SignedDuration::from_hours(24);
    assert_eq!(all_of(&mut b, Event::Timer), [vm(2)], "and nothing is owed to the other");
}

/// Whoever holds it may stop a VM, copy, start it and let go, all of it before the VM is read again.
#[test]
fn what_was_held_is_owed_on_where_the_vm_seems_to_be_in_another_state() {
    let text =
        format!("{NIGHTLY}when = \"running\"\n[policy.any]\nvms = [\"vm2\"]\nschedule = \"30 2 * * *\"\n");
    let mut b = Bench::new(&text, "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z"));
    b.connect(&[1, 2]);
    let id = inhibit(&mut b, "backup");
    night(&mut b);
    for n in [1, 2] {
        let off = VmRecord { state: VmState::ShutOff, ..record(n, &[]) };
        b.send(Event::VmRead(Box::new(off)));
    }
    let effects = b.send(Event::Released(id));
    let begun = started(&effects);
    assert_eq!(
        begun.iter().map(|job| job.vm).collect::<Vec<_>>(),
        [vm(2)],
        "one of its policies is for that state"
    );
    let again = wake(&effects).expect("it is tried again");
    assert!(again <= b.now + SignedDuration::from_mins(15), "{again}");
    for job in begun {
        all_of(&mut b, Event::Ended(job.id, created()));
    }
    for n in [1, 2] {
        b.send(Event::VmRead(Box::new(record(n, &[]))));
    }
    b.now = again;
    assert_eq!(all_of(&mut b, Event::Timer), [vm(1), vm(2)]);
    // Where the state is what it seemed to be, it is owed no more.
    let mut b = Bench::new(&text, "2026-03-01T12:00:00Z", Some("2026-03-01T12:00:00Z"));
    b.connect(&[1]);
    let id = inhibit(&mut b, "backup");
    night(&mut b);
    b.send(Event::VmRead(Box::new(VmRecord { state: VmState::ShutOff, ..record(1, &[]) })));
    b.now = wake(&b.send(Event::Released(id))).expect("it is tried again");
    b.send(Event::Timer);
    b.send(Event::VmRead(Box::new(record(1, &[]))));
    b.now += SignedDuration::from_mins(20);
    assert_eq!(all_of(&mut b, Event::Timer), []);
}

#[test]
fn who_holds_for_a_day_is_told_of_once() {
    let mut b = bench();
    let id = inhibit(&mut b, "backup");
    let told =
        |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::Log(Note::HeldLong(_)))).count();
    b.now += SignedDuration::from_hours(23);
    let effects = b.send(Event::Timer);
    assert_eq!(told(&effects), 0);
    let wake = effects.iter().find_map(|e| if let Effect::WakeAt(at) = e { *at } else { None }).unwrap();
    assert!(wake <= b.now + SignedDuration::from_hours(1), "{wake}: it is woken for that");
    b.now += SignedDuration::from_hours(1);
    assert_eq!(told(&b.send(Event::Timer)), 1);
    b.now += SignedDuration::from_hours(1);
    assert_eq!(told(&b.send(Event::Timer)), 0);
    b.send(Event::Released(id));
    inhibit(&mut b, "another");
    b.now += SignedDuration::from_hours(25);
    assert_eq!(told(&b.send(Event::Timer)), 1, "each counts for itself");
}
