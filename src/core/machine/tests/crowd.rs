//! Who asks for more than can be done.

use super::*;
use crate::core::{
    job::Asker,
    queue::{SHARE, SHARE_ON_VM, WAITING, WAITING_ON_VM},
};

const ONE_VM: &str = "[daemon]\nmax-jobs = 1\n[policy.nightly]\nvms = [\"vm1\"]\nschedule = \"30 2 * * *\"\n";

fn bench() -> Bench {
    let mut b = Bench::new(ONE_VM, "2026-03-02T02:00:00Z", Some("2026-03-02T00:00:00Z"));
    b.connect(&[1, 2, 3]);
    b
}

fn create(n: u128, number: usize) -> Change {
    Change::Create {
        vm: vm(n),
        name: Some(SnapshotName::existing(format!("s{number}"))),
        description: String::new(),
        quiesce: None,
        memory: Memory::Never,
        disks: None,
        label: Label::default(),
    }
}

#[track_caller]
fn refused(b: &mut Bench, change: Change, parts: &[&str]) {
    refused_to(0, b, change, parts);
}

#[track_caller]
fn refused_to(uid: u32, b: &mut Bench, change: Change, parts: &[&str]) {
    let refusal = b.ask_as(uid, change).unwrap_err();
    assert_eq!(refusal.name, "LimitExceeded", "{}", refusal.message);
    for part in ["Nothing was begun", "virtsnap jobs"].iter().chain(parts) {
        assert!(refusal.message.contains(part), "no {part:?} in {}", refusal.message);
    }
}

#[test]
fn so_many_wait_on_a_vm_and_scheduled_runs_need_no_place() {
    let mut b = bench();
    // The first one runs.
    for number in 0..=WAITING_ON_VM {
        b.ask(create(1, number)).unwrap();
    }
    refused(&mut b, create(1, 1000), &["64 jobs", "VM vm1"]);
    refused(&mut b, Change::Run { policy: nightly(), vm: None }, &["VM vm1"]);
    b.ask(create(1, WAITING_ON_VM)).expect("that one waits already");
    b.ask(create(2, 1)).expect("another VM has room");
    b.now = at("2026-03-02T02:30:00Z");
    b.send(Event::Timer);
    let queued = |b: &Bench| {
        let jobs = b.machine.view().jobs.values().filter(|job| job.state == JobState::Queued);
        jobs.filter(|job| job.asker.origin == Origin::Schedule).map(|job| job.vm).collect::<Vec<_>>()
    };
    assert_eq!(queued(&b), [vm(1)]);
    b.send(Event::Ended(1, created()));
    b.ask(create(1, 1000)).unwrap();
}

#[test]
fn nobody_has_the_places_of_others() {
    let mut b = bench();
    let (one, other) = (1000, 1001);
    // The first one runs.
    for number in 0..=SHARE_ON_VM {
        b.ask_as(one, create(1, number)).unwrap();
    }
    refused_to(one, &mut b, create(1, 1000), &["32 jobs that user 1000 asked for", "VM vm1", "of one user"]);
    b.ask_as(one, create(2, 1)).expect("another VM has room");
    for number in 100..100 + SHARE_ON_VM {
        b.ask_as(other, create(1, number)).unwrap();
    }
    refused_to(1002, &mut b, create(1, 1000), &["64 jobs that were asked for", "VM vm1"]);
    b.ask(create(1, 1000)).expect("the superuser has places of his own");
    b.ask(Change::Run { policy: nightly(), vm: None }).unwrap();
}

#[test]
fn what_waits_already_needs_no_place() {
    let mut b = bench();
    // The first one runs.
    for number in 0..WAITING_ON_VM {
        b.ask(create(1, number)).unwrap();
    }
    let run = || Change::Run { policy: nightly(), vm: None };
    let first = b.ask(run());
    assert!(matches!(&first, Ok(Reply::Jobs(jobs)) if jobs.len() == 1), "{first:?}");
    refused(&mut b, create(1, 1000), &["64 jobs", "VM vm1"]);
    assert_eq!(b.ask(run()), first, "it is the one that waits");
}

#[test]
fn so_many_wait_in_all() {
    let mut b = bench();
    let add = |b: &mut Bench, uid, n: usize| {
        let asker = Asker { origin: Origin::Manual, uid };
        let forget = Operation::Forget(SnapshotName::existing("s"));
        b.machine.jobs.add(vm(10 + n as u128), forget, asker, b.now);
    };
    (0..SHARE).for_each(|n| add(&mut b, 1000, n));
    b.machine.jobs.add(vm(9), Operation::Sweep, Asker { origin: Origin::Safety, uid: 990 }, b.now);
    refused_to(1000, &mut b, create(2, 1), &["2048 jobs that user 1000 asked for"]);
    b.ask_as(1000, create(2, 1)).expect("one has begun meanwhile");
    let mut b = bench();
    (0..WAITING).for_each(|n| add(&mut b, 1000 + u32::from(n >= SHARE), n));
    refused_to(1002, &mut b, create(2, 1), &["4096 jobs that were asked for"]);
    b.ask(create(2, 1)).unwrap();
    let mut b = bench();
    (0..WAITING).for_each(|n| add(&mut b, 0, n));
    refused(&mut b, create(2, 1), &["4096 jobs that user 0 asked for"]);
}

#[test]
fn a_scheduled_run_waits_for_no_flood_on_other_vms() {
    let mut b = bench();
    for number in 0..20 {
        b.ask(create(2, number)).unwrap();
        b.ask(create(3, number)).unwrap();
    }
    b.now = at("2026-03-02T02:30:00Z");
    b.send(Event::Timer);
    let next = started(&b.send(Event::Ended(1, created()))).remove(0);
    assert_eq!((next.vm, next.asker.origin), (vm(1), Origin::Schedule));
}
