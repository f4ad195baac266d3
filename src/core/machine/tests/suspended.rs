//! Policies that fail again and again, and those that a person suspends.

use super::{owed::Lives, *};
use crate::core::{
    suspend::{Suspender, Suspension},
    view::VmView,
};

const THREE: &str = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nsuspend-after = 3\n";

fn failed(name: &'static str) -> Outcome {
    Outcome::Failed(Failure::new(name, "no agent"))
}

/// Lets a night pass; the VMs of which a snapshot was tried, each with this end.
fn night(l: &mut Lives, outcome: impl Fn(VmId) -> Outcome) -> Vec<VmId> {
    l.bench.now += SignedDuration::from_hours(24);
    let mut jobs = started(&l.send(Event::Timer));
    let mut tried = Vec::new();
    while let Some(job) = jobs.pop() {
        let outcome = if matches!(job.operation, Operation::Create(_)) {
            tried.push(job.vm);
            outcome(job.vm)
        } else {
            Outcome::Done(None)
        };
        jobs.extend(started(&l.send(Event::Ended(job.id, outcome))));
    }
    tried.sort();
    tried
}

fn lives(toml: &str, vms: &[u128]) -> Lives {
    let mut l = Lives::new(toml, "2026-03-02T02:30:00Z");
    l.connect(vms);
    l
}

fn ask(l: &mut Lives, change: Change) -> Result<Reply, Refusal> {
    let effects = l.send(Event::Request(7, Request::Change(change, 42)));
    let answer = effects.into_iter().find_map(|e| if let Effect::Reply(7, a) = e { Some(a) } else { None });
    answer.unwrap()
}

fn suspend(l: &mut Lives, vm: Option<VmId>, reason: &str) -> Result<Reply, Refusal> {
    ask(l, Change::Suspend { policy: nightly(), vm, reason: reason.to_owned() })
}

fn resume(l: &mut Lives, vm: Option<VmId>) -> Result<Reply, Refusal> {
    ask(l, Change::Resume { policy: nightly(), vm })
}

/// Runs it by hand on a VM.
fn by_hand(l: &mut Lives, vm: VmId, outcome: Outcome) -> Vec<Note> {
    let run = Request::Change(Change::Run { policy: nightly(), vm: Some(vm) }, 0);
    let jobs = started(&l.send(Event::Request(8, run)));
    let effects = l.send(Event::Ended(jobs[0].id, outcome));
    let prune = started(&effects);
    for job in prune {
        l.send(Event::Ended(job.id, Outcome::Done(None)));
    }
    notes(effects)
}

fn notes(effects: Vec<Effect>) -> Vec<Note> {
    let all = effects.into_iter().filter_map(|e| if let Effect::Log(note) = e { Some(note) } else { None });
    all.filter(|n| matches!(n, Note::Suspended { .. } | Note::Resumed { .. })).collect()
}

/// Where it is suspended, as the policy says it and as the VMs do.
fn seen(l: &Lives) -> Vec<(VmId, Suspension)> {
    let view = l.bench.machine.view();
    let policy = &view.policies[&nightly()];
    let of_vm = |vm: &Arc<VmView>| {
        let all = vm.suspended.iter().filter(|(name, _)| *name == nightly());
        all.map(|(_, s)| (vm.record.id, s.clone())).collect::<Vec<_>>()
    };
    let vms: Vec<_> = view.vms.values().flat_map(of_vm).collect();
    if policy.suspended.is_none() {
        assert_eq!(policy.suspended_on, vms);
    }
    vms
}

fn where_seen(l: &Lives) -> Vec<VmId> {
    seen(l).into_iter().map(|(vm, _)| vm).collect()
}

#[test]
fn so_many_failures_in_a_row_suspend_it_on_that_vm_alone_for_all_lives_to_come() {
    let mut l = lives(THREE, &[1, 2]);
    let first_fails = |id| if id == vm(1) { failed("QuiesceFailed") } else { created() };
    for _ in 0..2 {
        assert_eq!(night(&mut l, first_fails), [vm(1), vm(2)]);
        l.restart();
        l.connect(&[1, 2]);
    }
    assert_eq!(seen(&l), []);
    assert_eq!(night(&mut l, first_fails), [vm(1), vm(2)]);
    let since = l.bench.now;
    let reason = "3 runs failed one after the other, the last one so: no agent".to_owned();
    let wanted = [(vm(1), Suspension { by: Suspender::Failures, since, reason })];
    assert_eq!(seen(&l), wanted);
    for _ in 0..2 {
        assert_eq!(night(&mut l, |_| created()), [vm(2)]);
        l.restart();
        l.connect(&[1, 2]);
        assert_eq!((seen(&l).as_slice(), l.owed()), (&wanted[..], vec![]), "nothing piles up");
    }
    l.send(Event::Settings(settings(&THREE.replace("30 2", "45 3"))));
    assert_eq!(seen(&l), wanted, "other times do not resume it");
}

#[test]
fn a_success_begins_the_count_anew_and_what_passes_by_itself_does_not_count() {
    let mut l = lives(THREE, &[1]);
    for _ in 0..2 {
        night(&mut l, |_| failed("Denied"));
        night(&mut l, |_| failed("Denied"));
        night(&mut l, |_| created());
    }
    for name in ["NoSpace", "Disconnected", "Busy", "ClockImplausible"] {
        night(&mut l, |_| failed(name));
    }
    night(&mut l, |_| Outcome::Cancelled("was told to stop".to_owned()));
    assert_eq!(seen(&l), []);
    night(&mut l, |_| failed("Denied"));
    night(&mut l, |_| failed("Denied"));
    night(&mut l, |_| failed("NoSpace"));
    assert_eq!(seen(&l), []);
    night(&mut l, |_| failed("Denied"));
    assert_eq!(where_seen(&l), [vm(1)], "nor does it break the row");
}

#[test]
fn a_run_by_hand_that_works_resumes_it_and_one_that_fails_counts_for_nothing() {
    let mut l = lives(THREE, &[1]);
    for _ in 0..5 {
        assert_eq!(by_hand(&mut l, vm(1), failed("Denied")), []);
    }
    for _ in 0..3 {
        night(&mut l, |_| failed("Denied"));
    }
    assert_eq!(by_hand(&mut l, vm(1), failed("Denied")), []);
    assert_eq!(where_seen(&l), [vm(1)]);
    let told = by_hand(&mut l, vm(1), created());
    let on = Some((vm(1), "vm1".to_owned()));
    assert_eq!(told, [Note::Resumed { policy: nightly(), on, by_uid: None }]);
    assert_eq!(seen(&l), []);
    assert_eq!(l.store.standings().unwrap(), BTreeMap::new());
    assert_eq!(night(&mut l, |_| failed("Denied")), [vm(1)]);
    assert_eq!(seen(&l), [], "it has three tries again");
}

#[test]
fn a_person_resumes_it_and_it_has_all_tries_again() {
    let mut l = lives(THREE, &[1, 2]);
    for _ in 0..3 {
        night(&mut l, |_| failed("Denied"));
    }
    assert_eq!(where_seen(&l), [vm(1), vm(2)]);
    assert_eq!(resume(&mut l, Some(vm(2))), Ok(Reply::Done));
    assert_eq!(where_seen(&l), [vm(1)]);
    assert_eq!(night(&mut l, |_| failed("Denied")), [vm(2)]);
    assert_eq!(resume(&mut l, None), Ok(Reply::Done));
    assert_eq!(resume(&mut l, None), Ok(Reply::Done), "it is no error that there is nothing to resume");
    assert_eq!(night(&mut l, |_| failed("Denied")), [vm(1), vm(2)]);
    assert_eq!(seen(&l), []);
}

#[test]
fn what_a_person_suspends_on_a_vm_only_a_person_resumes() {
    let mut l = lives(THREE, &[1, 2]);
    assert_eq!(suspend(&mut l, Some(vm(1)), "new disks"), Ok(Reply::Done));
    assert_eq!(night(&mut l, |_| created()), [vm(2)]);
    assert_eq!(by_hand(&mut l, vm(1), created()), []);
    l.restart();
    l.connect(&[1, 2]);
    let [(on, why)] = &seen(&l)[..] else { panic!("{:?}", seen(&l)) };
    assert_eq!((*on, why.by, why.reason.as_str()), (vm(1), Suspender::Person, "new disks"));
    assert_eq!(resume(&mut l, Some(vm(1))), Ok(Reply::Done));
    assert_eq!(night(&mut l, |_| created()), [vm(1), vm(2)]);
}

#[test]
fn a_policy_that_is_suspended_as_a_whole_runs_nowhere_nor_on_new_vms_nor_is_it_due() {
    let mut l = lives(THREE, &[1]);
    suspend(&mut l, None, "the storage moves").unwrap();
    l.send(Event::Listed(vec![vm(1), vm(2)]));
    l.send(Event::VmRead(Box::new(record(2, &[]))));
    let next = |l: &Lives| {
        let view = l.bench.machine.view();
        (view.policies[&nightly()].next_run, view.manager.next_run)
    };
    assert_eq!(next(&l), (None, None));
    assert_eq!(night(&mut l, |_| created()), []);
    assert_eq!((where_seen(&l), l.owed()), (vec![vm(1), vm(2)], vec![]));
    assert_eq!(l.bench.machine.view().policies[&nightly()].last_run, None);
    let refused = resume(&mut l, Some(vm(2))).unwrap_err();
    assert!(refused.name == "InvalidArgument" && refused.message.contains("all of its VMs"), "{refused:?}");
    l.restart();
    l.connect(&[1, 2]);
    assert_eq!(where_seen(&l), [vm(1), vm(2)]);
    // Without libvirt, too: that may be why.
    l.send(Event::Disconnected);
    assert_eq!(resume(&mut l, None), Ok(Reply::Done));
    assert_eq!(suspend(&mut l, Some(vm(1)), ""), Ok(Reply::Done));
    assert_eq!(resume(&mut l, None), Ok(Reply::Done));
    l.connect(&[1, 2]);
    assert_eq!(next(&l).0, Some(at("2026-03-04T02:30:00Z")));
    assert_eq!(night(&mut l, |_| created()), [vm(1), vm(2)], "and what fell due meanwhile is not caught up");
}

#[test]
fn what_waits_for_its_turn_when_it_is_suspended_does_not_run_any_more() {
    let mut l = lives(&format!("{THREE}spread = \"20min\"\n"), &[1, 2, 3, 4, 5]);
    l.bench.now = at("2026-03-03T02:30:00Z");
    l.send(Event::Timer);
    assert_eq!(l.owed().len(), 5);
    suspend(&mut l, None, "").unwrap();
    l.bench.now = at("2026-03-03T03:00:00Z");
    assert_eq!((started(&l.send(Event::Timer)), l.owed()), (vec![], vec![]));
}

#[test]
fn a_vm_has_its_own_number_and_never_is_one() {
    let toml = format!(
        "{THREE}[vm.vm1]\npolicy.nightly.suspend-after = 1\n[vm.vm2]\npolicy.nightly.suspend-after = \"never\"\n"
    );
    let mut l = lives(&toml, &[1, 2]);
    night(&mut l, |_| failed("Denied"));
    assert_eq!(seen(&l)[0].1.reason, "a run failed: no agent");
    for _ in 0..9 {
        assert_eq!(night(&mut l, |_| failed("Denied")), [vm(2)]);
    }
    assert_eq!(where_seen(&l), [vm(1)]);
}

#[test]
fn who_is_gone_is_forgotten_and_nonsense_is_refused() {
    let mut l = lives(THREE, &[1, 2]);
    for _ in 0..3 {
        night(&mut l, |_| failed("Denied"));
    }
    l.send(Event::VmGone(vm(1)));
    assert_eq!(l.store.standings().unwrap()[&nightly()].keys().copied().collect::<Vec<_>>(), [Some(vm(2))]);
    l.restart();
    l.connect(&[3]);
    assert_eq!(l.store.standings().unwrap(), BTreeMap::new());
    suspend(&mut l, None, "").unwrap();
    l.send(Event::Settings(settings("")));
    assert_eq!(l.store.standings().unwrap(), BTreeMap::new());
    l.send(Event::Settings(settings(THREE)));
    assert_eq!(seen(&l), []);
    // Also where it went while the daemon was off.
    suspend(&mut l, None, "").unwrap();
    l.toml = String::new();
    l.restart();
    l.connect(&[3]);
    assert_eq!(l.store.standings().unwrap(), BTreeMap::new());

    assert_eq!(suspend(&mut l, None, "").unwrap_err().name, "NoSuchPolicy");
    l.send(Event::Settings(settings(&THREE.replace("\"*\"", "\"other\""))));
    assert_eq!(suspend(&mut l, Some(vm(3)), "").unwrap_err().name, "InvalidArgument");
    assert_eq!(resume(&mut l, Some(vm(3))).unwrap_err().name, "InvalidArgument");
    assert_eq!(resume(&mut l, Some(vm(9))).unwrap_err().name, "NoSuchVM");
    assert_eq!(suspend(&mut l, None, &"x".repeat(1025)).unwrap_err().name, "InvalidArgument");
}
