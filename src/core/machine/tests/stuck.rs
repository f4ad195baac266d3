//! Jobs that nothing is heard of.

use std::time::Duration;

use super::*;
use crate::core::{
    health::{self, Health},
    job::Far,
};

const MIN: Duration = Duration::from_mins(1);

fn notes(effects: &[Effect]) -> Vec<(JobId, bool)> {
    let stuck = |e: &Effect| match e {
        Effect::Log(Note::Stuck { job, .. }) => Some((*job, true)),
        Effect::Log(Note::GoesOn { job, .. }) => Some((*job, false)),
        _ => None,
    };
    effects.iter().filter_map(stuck).collect()
}

impl Bench {
    /// So long after the start.
    fn after(&mut self, elapsed: Duration) -> Vec<Effect> {
        self.machine.passes(elapsed);
        self.send(Event::Timer)
    }

    fn hears(&mut self, job: JobId, elapsed: Duration) -> Vec<Effect> {
        self.machine.passes(elapsed);
        let phase = "merging vda".to_owned();
        self.send(Event::Progress { job, phase, far: Far::default(), snapshot: None, to_its_end: false })
    }

    fn phase(&self, job: JobId) -> String {
        self.machine.view().jobs[&job].phase.clone()
    }

    fn queued(&mut self, change: Change) -> JobId {
        match self.ask(change) {
            Ok(Reply::Job(job)) => job,
            other => panic!("{other:?}"),
        }
    }
}

fn create(n: u128, memory: Memory) -> Change {
    Change::Create {
        vm: vm(n),
        name: None,
        description: String::new(),
        quiesce: None,
        memory,
        disks: None,
        label: Label::default(),
    }
}

fn prune(n: u128) -> Change {
    Change::Prune { vm: vm(n), all: false, pace: Pace::default() }
}

fn one_at_a_time(vms: &[u128]) -> Bench {
    let mut b = Bench::new("[daemon]\nmax-jobs = 1\n", "2026-03-02T12:00:00Z", None);
    b.connect(vms);
    b
}

#[test]
fn a_job_that_nothing_is_heard_of_counts_no_more_holds_its_vm_and_goes_on_when_it_is_heard() {
    let mut b = one_at_a_time(&[1, 2]);
    let hung = b.queued(create(1, Memory::Never));
    let (same, other) = (b.queued(prune(1)), b.queued(prune(2)));
    b.hears(hung, MIN);
    // The wall clock says nothing about it.
    b.now = at("2027-03-02T12:00:00Z");
    assert_eq!(notes(&b.after(MIN * 10)), []);
    assert!(b.phase(other).contains("max-jobs"));

    let effects = b.after(MIN * 11);
    assert_eq!(notes(&effects), [(hung, true)]);
    assert_eq!(started(&effects).iter().map(|job| job.id).collect::<Vec<_>>(), [other]);
    assert_eq!(b.phase(hung), "stuck: no answer from libvirt for 10 min: merging vda");
    assert_eq!(b.phase(same), "waiting for job 1 of the same VM, which is stuck");
    let told = |b: &Bench| {
        let vm = &b.machine.view().vms[&vm(1)];
        (vm.last_error.clone(), health::worst(&vm.record.findings))
    };
    assert!(told(&b).0.starts_with("job 1 (create of VM vm1) is stuck"), "{}", told(&b).0);
    assert_eq!(told(&b).1, Health::Degraded);
    assert_eq!(notes(&b.after(MIN * 12)), [], "told once");

    let effects = b.hears(hung, MIN * 13);
    assert_eq!((notes(&effects), started(&effects)), (vec![(hung, false)], vec![]));
    assert_eq!((b.phase(hung).as_str(), told(&b)), ("merging vda", (String::new(), Health::Ok)));
    // Two run now that count, where one may.
    let effects = b.send(Event::Ended(other, Outcome::Done(None)));
    assert_eq!(started(&effects), []);
    let effects = b.send(Event::Ended(hung, Outcome::Done(None)));
    assert_eq!(started(&effects).iter().map(|job| job.id).collect::<Vec<_>>(), [same]);
}

#[test]
fn one_that_ends_while_it_is_stuck_ends_once_and_leaves_nothing() {
    let mut b = one_at_a_time(&[1]);
    let hung = b.queued(create(1, Memory::Never));
    assert_eq!(notes(&b.after(MIN * 10)), [(hung, true)]);
    let failure = Failure::new("Failed", "QEMU is gone");
    let effects = b.send(Event::Ended(hung, Outcome::Failed(failure)));
    assert_eq!(notes(&effects), [(hung, false)]);
    assert_eq!(b.machine.view().vms[&vm(1)].last_error, "QEMU is gone");
    assert!(b.machine.view().vms[&vm(1)].record.findings.is_empty());
    assert_eq!(notes(&b.after(MIN * 60)), []);
}

#[test]
fn what_copies_has_more_time_and_a_memory_most() {
    let hour = MIN * 60;
    for (change, patience) in
        [(create(1, Memory::Never), MIN * 10), (create(1, Memory::Prefer), hour * 4), (prune(1), MIN * 30)]
    {
        let mut b = one_at_a_time(&[1]);
        let job = b.queued(change);
        b.hears(job, hour + MIN);
        assert_eq!(notes(&b.after(hour + patience)), []);
        b.hears(job, hour + patience);
        assert_eq!(notes(&b.after(hour + patience + MIN)), [], "it was heard of");
        assert_eq!(notes(&b.after(hour + patience * 2)), [(job, true)]);
    }
}

#[test]
fn where_all_hang_no_more_and_more_is_begun() {
    let mut b = one_at_a_time(&[1, 2, 3, 4, 5]);
    let jobs: Vec<JobId> = (1..=5).map(|n| b.queued(create(n, Memory::Never))).collect();
    let mut running = Vec::new();
    for round in 1..=6 {
        running.extend(started(&b.after(MIN * 10 * round)).iter().map(|job| job.id));
    }
    assert_eq!(running, jobs[1..4], "after the first: libvirt answers so many questions of ours at once");
}

#[test]
fn a_daemon_that_stops_waits_for_what_goes_on_and_not_for_what_is_stuck() {
    let mut b = Bench::new("[daemon]\nmax-jobs = 2\n", "2026-03-02T12:00:00Z", None);
    b.connect(&[1, 2]);
    let (hung, other) = (b.queued(create(1, Memory::Never)), b.queued(prune(2)));
    b.hears(other, MIN);
    assert_eq!(notes(&b.after(MIN * 10)), [(hung, true)]);
    assert!(!b.send(Event::Stop).contains(&Effect::Stopped));
    assert!(b.send(Event::Ended(other, Outcome::Done(None))).contains(&Effect::Stopped));
}
