use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use uuid::Uuid;

use super::*;
use crate::{
    config::{self, Environment, FileKind, SourceFile},
    core::{
        inventory::SnapshotRecord,
        job::{Failure, Job, JobId, JobState, Made, Operation, Outcome, Pace},
        label::Label,
        model::{Content, Origin, Snapshot, SnapshotName, SnapshotState, Storage, VmState},
        policy::Memory,
        simulate,
    },
};

mod clock;
mod crowd;
mod deferring;
mod inhibiting;
mod joining;
mod labels;
mod mend;
mod owed;
mod place;
mod published;
mod stale;
mod stuck;
mod suspended;
mod waiting;

const NIGHTLY: &str = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nkeep-last = 2\n";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn nightly() -> PolicyName {
    "nightly".parse().unwrap()
}

fn vm(n: u128) -> VmId {
    VmId(Uuid::from_u128(n))
}

fn settings(toml: &str) -> Arc<Settings> {
    let file = SourceFile::new("test.toml", toml);
    let environment = Environment { timezone: TimeZone::UTC, cores: 2 };
    match config::parse(&[(FileKind::Main, file)], &environment) {
        Ok(loaded) => Arc::new(loaded.settings),
        Err(e) => panic!("{}", e.render(config::Style::Plain)),
    }
}

fn record(n: u128, snapshots: &[(&str, bool)]) -> VmRecord {
    let snapshots = snapshots.iter().map(|(name, managed)| {
        let name = SnapshotName::existing(*name);
        let snapshot = Snapshot {
            name: name.clone(),
            created: at("2026-01-01T00:00:00Z"),
            parent: None,
            current: true,
            state: SnapshotState::Ready,
            origin: Origin::Manual,
            managed: *managed,
            policies: BTreeSet::new(),
            pinned: false,
            expires: None,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        };
        (name, simulate::record(snapshot))
    });
    VmRecord {
        id: vm(n),
        name: format!("vm{n}"),
        state: VmState::Running,
        tags: BTreeSet::new(),
        agent_connected: true,
        chain_depth: 1,
        images: BTreeSet::new(),
        ground: None,
        stem: None,
        findings: Vec::new(),
        strays: Vec::new(),
        known_since: None,
        forgotten: Vec::new(),
        snapshots: snapshots.collect(),
    }
}

/// A machine with a clock in its hand.
struct Bench {
    machine: Machine,
    now: Timestamp,
}

impl Bench {
    fn new(toml: &str, now: &str, handled: Option<&str>) -> Self {
        Self::starting(toml, now, |start| {
            start.places = handled.map(|t| (nightly(), Place::new(at(t)))).into_iter().collect();
        })
    }

    fn starting(toml: &str, now: &str, arrange: impl FnOnce(&mut Start)) -> Self {
        let mut start = Start { own_uid: 990, ..Start::first(settings(toml)) };
        arrange(&mut start);
        Self { machine: Machine::new(start), now: at(now) }
    }

    fn send(&mut self, event: Event) -> Vec<Effect> {
        self.machine.handle(event, self.now)
    }

    fn connect(&mut self, vms: &[u128]) -> Vec<Effect> {
        self.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
        let mut effects = self.send(Event::Listed(vms.iter().map(|n| vm(*n)).collect()));
        for n in vms {
            effects = self.send(Event::VmRead(Box::new(record(*n, &[]))));
        }
        effects
    }

    fn ask(&mut self, change: Change) -> Result<Reply, Refusal> {
        self.ask_as(0, change)
    }

    fn ask_as(&mut self, uid: u32, change: Change) -> Result<Reply, Refusal> {
        let effects = self.send(Event::Request(7, Request::Change(change, uid)));
        let answer = |e| if let Effect::Reply(7, answer) = e { Some(answer) } else { None };
        let mut answers = effects.into_iter().filter_map(answer);
        let first = answers.next();
        assert!(answers.next().is_none(), "one answer for one request");
        first.unwrap()
    }
}

fn wake(effects: &[Effect]) -> Option<Timestamp> {
    effects.iter().rev().find_map(|e| if let Effect::WakeAt(at) = e { *at } else { None })
}

fn remembered(effects: &[Effect]) -> Vec<Entry> {
    let entries =
        effects.iter().filter_map(|e| if let Effect::Remember(all) = e { Some(all.clone()) } else { None });
    entries.flatten().collect()
}

fn handled(effects: &[Effect]) -> Option<Timestamp> {
    let mut places = remembered(effects).into_iter();
    places.find_map(|e| if let Entry::Place(_, place) = e { Some(place.handled) } else { None })
}

fn started(effects: &[Effect]) -> Vec<Job> {
    effects.iter().filter_map(|e| if let Effect::Start(job) = e { Some(job.clone()) } else { None }).collect()
}

fn created() -> Outcome {
    Outcome::Done(Some(Made::Snapshot(SnapshotName::existing("s"))))
}

#[test]
fn a_policy_fires_at_its_time_once_on_each_of_its_vms_and_says_when_to_wake() {
    let mut b = Bench::new(NIGHTLY, "2026-03-01T12:00:00Z", None);
    let effects = b.connect(&[1, 2]);
    assert_eq!(started(&effects), []);
    assert_eq!(wake(&effects), Some(at("2026-03-02T02:30:00Z")));
    b.now = at("2026-03-02T02:30:00Z");
    let effects = b.send(Event::Timer);
    assert_eq!(started(&effects).iter().map(|j| j.vm).collect::<Vec<_>>(), [vm(1), vm(2)]);
    assert_eq!(handled(&effects), Some(b.now));
    assert_eq!(wake(&effects), Some(at("2026-03-03T02:30:00Z")));
    assert_eq!(started(&b.send(Event::Timer)), []);
}

#[test]
fn nothing_is_due_before_all_vms_are_known_and_then_it_is_caught_up() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T02:40:00Z", Some("2026-03-01T02:30:00Z"));
    b.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    b.send(Event::Listed(vec![vm(1), vm(2)]));
    assert_eq!(started(&b.send(Event::VmRead(Box::new(record(1, &[]))))), []);
    assert_eq!(b.machine.view().manager.state, DaemonState::Starting);
    let effects = b.send(Event::VmRead(Box::new(record(2, &[]))));
    assert_eq!(started(&effects).len(), 2);
    assert_eq!(b.machine.view().manager.state, DaemonState::Running);
}

#[test]
fn what_falls_due_while_libvirt_is_away_waits_for_it() {
    let mut b = Bench::new(NIGHTLY, "2026-03-01T12:00:00Z", None);
    b.connect(&[1]);
    b.send(Event::Disconnected);
    b.now = at("2026-03-02T02:30:00Z");
    let effects = b.send(Event::Timer);
    assert_eq!((started(&effects), wake(&effects)), (vec![], None));
    b.now = at("2026-03-02T03:00:00Z");
    assert_eq!(started(&b.connect(&[1])).len(), 1);
}

#[test]
fn policies_due_at_once_share_one_snapshot_that_is_taken_the_same_way() {
    let toml = "[policy.a]\nvms=[\"*\"]\nschedule=\"0 * * * *\"\n[policy.b]\nvms=[\"*\"]\nschedule=\"0 0 * * *\"\n\
                [policy.c]\nvms=[\"*\"]\nschedule=\"@daily\"\nquiesce=\"require\"\n[daemon]\nmax-jobs=1\n";
    let mut b = Bench::new(toml, "2026-03-01T23:30:00Z", None);
    b.connect(&[1]);
    b.now = at("2026-03-02T00:00:00Z");
    let jobs = started(&b.send(Event::Timer));
    let Operation::Create(create) = &jobs[0].operation else { panic!("{jobs:?}") };
    assert_eq!(create.policies.iter().map(PolicyName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    // The stricter one waits for its own.
    let effects = b.send(Event::Ended(jobs[0].id, created()));
    let Operation::Create(create) = &started(&effects)[0].operation else { panic!("{effects:?}") };
    assert_eq!(create.policies.iter().map(PolicyName::as_str).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn policies_due_at_once_share_one_snapshot_of_a_vm_though_they_are_spread() {
    let toml = "[policy.a]\nvms=[\"*\"]\nschedule=\"0 * * * *\"\nspread=\"20min\"\n\
                [policy.b]\nvms=[\"*\"]\nschedule=\"0 0 * * *\"\nspread=\"20min\"\n";
    let mut b = Bench::new(toml, "2026-03-01T23:30:00Z", None);
    b.connect(&[1]);
    b.now = at("2026-03-02T00:00:00Z");
    b.now = wake(&b.send(Event::Timer)).unwrap();
    let jobs = started(&b.send(Event::Timer));
    let Operation::Create(create) = &jobs[0].operation else { panic!("{jobs:?}") };
    assert_eq!(create.policies.iter().map(PolicyName::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_success_is_followed_by_a_prune_and_a_failure_by_none() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T02:00:00Z", None);
    b.connect(&[1, 2]);
    b.now = at("2026-03-02T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    let failure = Failure::new("QuiesceFailed", "no agent");
    let effects = b.send(Event::Ended(jobs[0].id, Outcome::Failed(failure.clone())));
    assert_eq!(started(&effects), []);
    assert!(effects.contains(&Effect::Read(vm(1))));
    assert_eq!(b.machine.view().vms[&vm(1)].last_error, "no agent");
    // A prune that works, or has nothing to do, does not make the night a good one.
    let by_hand = Request::Change(Change::Prune { vm: vm(1), all: false, pace: Pace::default() }, 0);
    let pruned = started(&b.send(Event::Request(7, by_hand)));
    b.send(Event::Ended(pruned[0].id, Outcome::Done(None)));
    assert_eq!(b.machine.view().vms[&vm(1)].last_error, "no agent");
    let prune = started(&b.send(Event::Ended(jobs[1].id, created())));
    assert_eq!(prune.iter().map(|j| (j.vm, j.operation.as_str())).collect::<Vec<_>>(), [(vm(2), "prune")]);
    // One failure among the VMs makes the policy's run a failed one; the error goes with the next success.
    assert_eq!(b.machine.view().policies[&"nightly".parse().unwrap()].last_result, "failed");
    b.now = at("2026-03-03T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    b.send(Event::Ended(jobs.iter().find(|j| j.vm == vm(1)).unwrap().id, created()));
    assert_eq!(b.machine.view().vms[&vm(1)].last_error, "");
    // An end that comes twice is an end all the same.
    assert_eq!(started(&b.send(Event::Ended(jobs[0].id, Outcome::Failed(failure)))), []);
}

#[test]
fn a_vm_in_a_state_that_the_policy_is_not_for_is_left_out() {
    let mut b = Bench::new(&format!("{NIGHTLY}when = [\"shut-off\"]\n"), "2026-03-02T02:00:00Z", None);
    b.connect(&[1]);
    b.now = at("2026-03-02T02:30:00Z");
    assert_eq!(started(&b.send(Event::Timer)), []);
}

#[test]
fn one_job_per_vm_and_so_many_on_the_host() {
    let mut b = Bench::new(&format!("{NIGHTLY}[daemon]\nmax-jobs = 2\n"), "2026-03-02T02:00:00Z", None);
    b.connect(&[1, 2, 3]);
    b.now = at("2026-03-02T02:30:00Z");
    let jobs = started(&b.send(Event::Timer));
    assert_eq!(jobs.len(), 2);
    let more = started(&b.send(Event::Ended(jobs[0].id, Outcome::Cancelled("was told to stop".to_owned()))));
    assert_eq!(more.iter().map(|j| j.vm).collect::<Vec<_>>(), [vm(3)]);
}

#[test]
fn stopping_cancels_what_waits_lets_finish_what_runs_and_refuses_the_rest() {
    let mut b = Bench::new(&format!("{NIGHTLY}[daemon]\nmax-jobs = 1\n"), "2026-03-02T02:00:00Z", None);
    b.connect(&[1, 2]);
    b.now = at("2026-03-02T02:30:00Z");
    let running = started(&b.send(Event::Timer))[0].id;
    let effects = b.send(Event::Stop);
    assert!(effects.contains(&Effect::Cancel(running)) && !effects.contains(&Effect::Stopped));
    let results: Vec<_> =
        b.machine.view().jobs.values().map(|j| j.outcome.as_ref().map(Outcome::result)).collect();
    assert_eq!(results, [None, Some(crate::core::job::JobResult::Cancelled)]);
    let refusal = b.ask(Change::Prune { vm: vm(1), all: false, pace: Pace::default() }).unwrap_err();
    assert_eq!(refusal.name, "Stopping");
    let effects = b.send(Event::Ended(running, created()));
    assert!(effects.contains(&Effect::Stopped) && started(&effects).is_empty());
}

#[test]
fn a_vm_that_vanishes_ends_what_waits_for_it() {
    let mut b = Bench::new(&format!("{NIGHTLY}[daemon]\nmax-jobs = 1\n"), "2026-03-02T02:00:00Z", None);
    b.connect(&[1, 2]);
    b.now = at("2026-03-02T02:30:00Z");
    b.send(Event::Timer);
    b.send(Event::VmGone(vm(2)));
    let jobs = &b.machine.view().jobs;
    assert!(matches!(&jobs[&2].outcome, Some(Outcome::Failed(f)) if f.name == "NoSuchVM"));
    assert!(!b.machine.view().vms.contains_key(&vm(2)));
    assert!(
        matches!(b.ask(Change::Prune { vm: vm(2), all: false, pace: Pace::default() }), Err(r) if r.name == "NoSuchVM")
    );
}

#[test]
fn requests_are_checked_before_anything_is_queued() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    b.send(Event::VmRead(Box::new(record(1, &[("ours", true), ("theirs", false)]))));
    let name = |n: &str| SnapshotName::existing(n);
    let refused = |b: &mut Bench, change| b.ask(change).unwrap_err().name;
    assert_eq!(
        refused(
            &mut b,
            Change::Delete { vm: vm(1), name: name("theirs"), pace: Pace::default(), foreign: false }
        ),
        "NotManaged"
    );
    assert_eq!(
        refused(
            &mut b,
            Change::Delete { vm: vm(1), name: name("none"), pace: Pace::default(), foreign: false }
        ),
        "NoSuchSnapshot"
    );
    let create = |n: &str| Change::Create {
        vm: vm(1),
        name: Some(name(n)),
        description: String::new(),
        quiesce: None,
        memory: Memory::Never,
        disks: None,
        label: Label::default(),
    };
    assert_eq!(refused(&mut b, create("ours")), "Exists");
    let policy: PolicyName = "nightly".parse().unwrap();
    assert_eq!(refused(&mut b, Change::Run { policy: "x".parse().unwrap(), vm: None }), "NoSuchPolicy");
    assert_eq!(refused(&mut b, Change::Run { policy: policy.clone(), vm: Some(vm(9)) }), "NoSuchVM");
    assert_eq!(refused(&mut b, Change::Cancel(99)), "NoSuchJob");
    assert_eq!(b.ask(create("new")), Ok(Reply::Job(1)));
    assert_eq!(refused(&mut b, Change::Cancel(1)), "NotCancelable");
    // Asked twice while it waits, it is one job.
    let delete = || Change::Delete { vm: vm(1), name: name("ours"), pace: Pace::default(), foreign: false };
    assert_eq!((b.ask(delete()), b.ask(delete())), (Ok(Reply::Job(2)), Ok(Reply::Job(2))));
    assert_eq!(b.ask(Change::Cancel(2)), Ok(Reply::Done));
    assert_eq!(b.ask(Change::Run { policy, vm: Some(vm(1)) }), Ok(Reply::Jobs(vec![3])));
}

#[test]
fn only_a_prune_that_believed_the_clock_moves_the_time_that_the_preview_goes_by() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    b.send(Event::Passed(b.now));
    let passed = b.now;
    b.now = at("2036-03-02T12:00:00Z");
    let Ok(Reply::Job(id)) = b.ask(Change::Prune { vm: vm(1), all: false, pace: Pace::default() }) else {
        panic!("refused")
    };
    b.send(Event::Ended(id, Outcome::Done(None)));
    assert_eq!(b.machine.last_plausible, Some(passed));
    b.send(Event::Passed(b.now));
    assert_eq!(b.machine.last_plausible, Some(b.now));
}

#[test]
fn ended_jobs_linger_so_that_no_result_is_missed() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    for _ in 0..100 {
        let Ok(Reply::Job(id)) = b.ask(Change::Prune { vm: vm(1), all: false, pace: Pace::default() }) else {
            panic!("refused")
        };
        b.send(Event::Ended(id, Outcome::Done(None)));
    }
    assert_eq!(b.machine.view().jobs.len(), 100, "none is older than ten minutes");
    b.now += SignedDuration::from_mins(11);
    let Ok(Reply::Job(id)) = b.ask(Change::Prune { vm: vm(1), all: false, pace: Pace::default() }) else {
        panic!("refused")
    };
    b.send(Event::Ended(id, Outcome::Done(None)));
    assert_eq!(b.machine.view().jobs.len(), 64, "64 stay however old they are");
}

#[test]
fn new_settings_do_not_count_times_that_passed_before_they_were_written() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    let hourly = NIGHTLY.replace("30 2 * * *", "0 * * * *");
    b.now = at("2026-03-02T12:00:30Z");
    let effects = b.send(Event::Settings(settings(&hourly)));
    assert_eq!(started(&effects), []);
    assert_eq!(wake(&effects), Some(at("2026-03-02T13:00:00Z")));
    let none = b.send(Event::Settings(settings("")));
    assert_eq!(wake(&none), None);
    assert!(b.machine.view().policies.is_empty());
}
