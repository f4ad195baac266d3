//! What a policy owes its VMs, over restarts, reloads and a spread.

use super::*;
use crate::{core::job::JobResult, store::Store};

/// The lives of a daemon with one store.
pub(super) struct Lives {
    pub(super) bench: Bench,
    pub(super) store: Store,
    pub(super) toml: String,
}

impl Lives {
    pub(super) fn new(toml: &str, now: &str) -> Self {
        Self { bench: Bench::new(toml, now, None), store: Store::in_memory().unwrap(), toml: toml.to_owned() }
    }

    pub(super) fn send(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.bench.send(event);
        self.keep(effects)
    }

    pub(super) fn connect(&mut self, vms: &[u128]) -> Vec<Effect> {
        self.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
        let mut effects = self.send(Event::Listed(vms.iter().map(|n| vm(*n)).collect()));
        for n in vms {
            effects = self.send(Event::VmRead(Box::new(record(*n, &[]))));
        }
        effects
    }

    fn keep(&self, effects: Vec<Effect>) -> Vec<Effect> {
        for entries in effects.iter().filter_map(|e| if let Effect::Remember(e) = e { Some(e) } else { None })
        {
            self.store.remember(entries).unwrap();
        }
        for jobs in effects.iter().filter_map(|e| if let Effect::Defer(jobs) = e { Some(jobs) } else { None })
        {
            self.store.defer(jobs).unwrap();
        }
        effects
    }

    /// The daemon is gone, and another one starts.
    pub(super) fn restart(&mut self) {
        let now = self.bench.now.to_string();
        self.bench = Bench::starting(&self.toml, &now, |start| {
            start.places = self.store.places().unwrap();
            start.owed = self.store.owed().unwrap();
            start.deferred = self.store.deferred().unwrap();
            start.standings = self.store.standings().unwrap();
            start.watched = self.store.awaited().unwrap();
        });
    }

    pub(super) fn owed(&self) -> Vec<VmId> {
        self.store.owed().unwrap().into_values().flat_map(BTreeMap::into_keys).collect()
    }

    /// Lets all jobs run to their end; the VMs of the snapshots, in order.
    pub(super) fn run_all(&mut self, effects: &[Effect]) -> Vec<VmId> {
        let mut jobs = started(effects);
        let mut all = Vec::new();
        while let Some(job) = jobs.pop() {
            if matches!(job.operation, Operation::Create(_)) {
                all.push(job.vm);
            }
            let effects = self.send(Event::Ended(job.id, created()));
            jobs.extend(started(&effects));
        }
        all.sort();
        all
    }
}

fn all(n: u128) -> Vec<VmId> {
    (1..=n).map(vm).collect()
}

pub(super) fn by_nightly(n: u128, created: &str) -> Event {
    let mut record = record(n, &[("s", true)]);
    for s in record.snapshots.values_mut() {
        s.snapshot.created = at(created);
        s.snapshot.policies.insert(nightly());
    }
    Event::VmRead(Box::new(record))
}

#[test]
fn a_crash_in_the_middle_of_the_queue_costs_no_vm_its_run_and_repeats_none() {
    let mut l = Lives::new(&format!("{NIGHTLY}[daemon]\nmax-jobs = 2\n"), "2026-03-02T02:00:00Z");
    l.connect(&[1, 2, 3, 4, 5]);
    l.bench.now = at("2026-03-02T02:30:00Z");
    let jobs = started(&l.send(Event::Timer));
    assert_eq!(l.owed(), all(5), "what is owed is stored before a job starts");
    l.send(Event::Ended(jobs[0].id, created()));
    let failure = Failure::new("QuiesceFailed", "no agent");
    l.send(Event::Ended(jobs[1].id, Outcome::Failed(failure)));
    assert_eq!(l.owed(), [vm(3), vm(4), vm(5)], "a failure is an end, too");
    l.bench.now = at("2026-03-02T02:35:00Z");
    l.restart();
    let effects = l.connect(&[1, 2, 3, 4, 5]);
    assert_eq!(l.run_all(&effects), [vm(3), vm(4), vm(5)]);
    assert_eq!(l.owed(), []);
    l.restart();
    let effects = l.connect(&[1, 2, 3, 4, 5]);
    assert_eq!(l.run_all(&effects), []);
}

#[test]
fn what_a_stop_cancels_is_owed_to_the_next_life_and_what_a_person_cancels_is_not() {
    let mut l = Lives::new(&format!("{NIGHTLY}[daemon]\nmax-jobs = 1\n"), "2026-03-02T02:00:00Z");
    l.connect(&[1, 2, 3]);
    l.bench.now = at("2026-03-02T02:30:00Z");
    let running = started(&l.send(Event::Timer))[0].id;
    l.send(Event::Request(7, Request::Change(Change::Cancel(2), 0)));
    l.send(Event::Stop);
    assert_eq!(l.owed(), [vm(1), vm(3)]);
    l.send(Event::Ended(running, Outcome::Cancelled("was told to stop".to_owned())));
    assert_eq!(l.owed(), [vm(1), vm(3)]);
    l.restart();
    let effects = l.connect(&[1, 2, 3]);
    assert_eq!(l.run_all(&effects), [vm(1), vm(3)]);
}

#[test]
fn a_restart_between_the_offsets_of_a_spread_repeats_nothing() {
    let mut l = Lives::new(&format!("{NIGHTLY}spread = \"20min\"\n"), "2026-03-02T02:00:00Z");
    let vms: Vec<u128> = (1..=5).collect();
    l.connect(&vms);
    l.bench.now = at("2026-03-02T02:30:00Z");
    let mut effects = l.send(Event::Timer);
    assert_eq!(handled(&effects), Some(l.bench.now));
    let mut ran = Vec::new();
    for _ in 0..20 {
        ran.extend(l.run_all(&effects));
        if ran.len() == 5 {
            break;
        }
        l.restart();
        l.bench.now = wake(&l.connect(&vms)).unwrap();
        assert!(l.bench.now < at("2026-03-02T02:50:00Z"));
        effects = l.send(Event::Timer);
    }
    ran.sort();
    assert_eq!(ran, all(5));
    assert_eq!(l.owed(), []);
}

#[test]
fn a_run_that_was_done_before_the_crash_is_not_done_again() {
    let mut l = Lives::new(NIGHTLY, "2026-03-02T02:00:00Z");
    l.connect(&[1, 2]);
    l.bench.now = at("2026-03-02T02:30:00Z");
    l.send(Event::Timer);
    l.bench.now = at("2026-03-02T02:35:00Z");
    l.restart();
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    l.send(Event::Listed(vec![vm(1), vm(2)]));
    l.send(by_nightly(1, "2026-03-02T02:30:01Z"));
    let effects = l.send(by_nightly(2, "2026-03-01T02:30:01Z"));
    assert!(effects.iter().any(|e| matches!(e, Effect::Log(Note::Dropped { done: true, .. }))));
    assert_eq!(l.run_all(&effects), [vm(2)]);
}

#[test]
fn what_is_owed_for_too_long_is_dropped_and_told() {
    for (catch_up, now, runs) in [
        ("once", "2026-03-02T14:00:00Z", 1),
        ("once", "2026-03-02T15:00:00Z", 0),
        ("skip", "2026-03-02T03:00:00Z", 1),
        ("skip", "2026-03-02T09:00:00Z", 0),
    ] {
        let mut l = Lives::new(
            &format!("{NIGHTLY}catch-up = \"{catch_up}\"\ncatch-up-within = \"12h\"\n"),
            "2026-03-02T02:00:00Z",
        );
        l.connect(&[1]);
        l.bench.now = at("2026-03-02T02:30:00Z");
        l.send(Event::Timer);
        l.bench.now = at(now);
        l.restart();
        let effects = l.connect(&[1]);
        let told = effects.iter().any(|e| matches!(e, Effect::Log(Note::Dropped { done: false, .. })));
        assert_eq!((l.run_all(&effects).len(), told), (runs, runs == 0), "{catch_up} {now}");
        assert_eq!(l.owed(), []);
    }
}

#[test]
fn a_vm_that_the_policy_is_not_for_any_more_is_owed_nothing() {
    let mut l = Lives::new(NIGHTLY, "2026-03-02T02:00:00Z");
    l.connect(&[1, 2, 3]);
    l.bench.now = at("2026-03-02T02:30:00Z");
    l.send(Event::Timer);
    l.toml = format!("{NIGHTLY}when = [\"running\"]\n").replace("\"*\"", "\"vm1\", \"vm2\"");
    l.restart();
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    // One is off, one is not selected, one is no more.
    l.send(Event::Listed(vec![vm(1), vm(3)]));
    let off = VmRecord { state: VmState::ShutOff, ..record(1, &[]) };
    l.send(Event::VmRead(Box::new(off)));
    let effects = l.send(Event::VmRead(Box::new(record(3, &[]))));
    assert_eq!(l.run_all(&effects), []);
    assert_eq!(l.owed(), []);
}

#[test]
fn a_policy_that_is_no_more_leaves_nothing_behind() {
    let mut l = Lives::new(NIGHTLY, "2026-03-02T02:00:00Z");
    l.connect(&[1]);
    l.bench.now = at("2026-03-02T02:30:00Z");
    l.send(Event::Timer);
    assert!(!l.owed().is_empty());
    l.toml = String::new();
    l.restart();
    l.connect(&[1]);
    assert!(l.owed().is_empty() && l.store.places().unwrap().is_empty());
    // And by a reload.
    let mut l = Lives::new(NIGHTLY, "2026-03-02T02:00:00Z");
    l.connect(&[1]);
    assert!(!l.store.places().unwrap().is_empty());
    l.send(Event::Settings(settings("")));
    assert!(l.store.places().unwrap().is_empty());
}

#[test]
fn a_reload_with_other_times_leaves_what_has_fired_alone() {
    let spread = format!("{NIGHTLY}spread = \"20min\"\n");
    let mut l = Lives::new(&spread, "2026-03-02T02:00:00Z");
    let vms: Vec<u128> = (1..=5).collect();
    l.connect(&vms);
    l.bench.now = at("2026-03-02T02:30:00Z");
    let effects = l.send(Event::Timer);
    let mut ran = l.run_all(&effects);
    let effects = l.send(Event::Settings(settings(&spread.replace("30 2", "0 12"))));
    ran.extend(l.run_all(&effects));
    assert!(ran.len() < 5);
    l.bench.now = at("2026-03-02T02:50:00Z");
    let effects = l.send(Event::Timer);
    ran.extend(l.run_all(&effects));
    ran.sort();
    assert_eq!(ran, all(5));
    assert_eq!(wake(&l.send(Event::Timer)), Some(at("2026-03-02T12:00:00Z")));
}

#[test]
fn a_spread_that_is_longer_than_the_time_between_runs_puts_nobody_off_for_ever() {
    let hourly = NIGHTLY.replace("30 2", "0 *");
    let mut l = Lives::new(&format!("{hourly}spread = \"10h\"\n"), "2026-03-02T00:30:00Z");
    let vms: Vec<u128> = (1..=5).collect();
    l.connect(&vms);
    let mut ran = BTreeSet::new();
    for _ in 0..60 {
        let effects = l.send(Event::Timer);
        ran.extend(l.run_all(&effects));
        l.bench.now = wake(&l.send(Event::Timer)).unwrap();
        assert!(l.owed().len() <= 5);
    }
    assert_eq!(ran.into_iter().collect::<Vec<_>>(), all(5));
}

#[test]
fn what_a_wrong_clock_fired_is_forgotten_when_the_clock_is_right_again() {
    let mut l = Lives::new(&format!("{NIGHTLY}spread = \"20min\"\n"), "2036-03-02T02:00:00Z");
    l.connect(&[1, 2, 3]);
    l.bench.now = at("2036-03-02T02:30:00Z");
    l.send(Event::Timer);
    assert!(!l.owed().is_empty());
    l.bench.now = at("2026-03-02T12:00:00Z");
    let effects = l.send(Event::Timer);
    assert_eq!(l.owed(), []);
    assert_eq!(wake(&effects), Some(at("2026-03-03T02:30:00Z")));
}

#[test]
fn a_vm_that_cannot_be_read_when_its_policy_fires_has_its_run_when_it_can() {
    let mut l = Lives::new(&NIGHTLY.replace("\"*\"", "\"vm1\", \"vm2\""), "2026-03-02T02:00:00Z");
    l.connect(&[1]);
    l.send(Event::Listed(all(4)));
    for n in 2..=4 {
        l.send(Event::VmUnreadable(vm(n), "on request".into()));
    }
    l.bench.now = at("2026-03-02T02:30:00Z");
    let effects = l.send(Event::Timer);
    assert_eq!(wake(&effects), Some(at("2026-03-03T02:30:00Z")), "nothing to do till then");
    assert_eq!(l.run_all(&effects), [vm(1)]);
    // A restart meanwhile does not change that.
    l.bench.now = at("2026-03-02T03:00:00Z");
    l.restart();
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    l.send(Event::Listed(all(4)));
    l.send(by_nightly(1, "2026-03-02T02:30:01Z"));
    for n in 2..=4 {
        l.send(Event::VmUnreadable(vm(n), "on request".into()));
    }
    let effects = l.send(Event::VmRead(Box::new(record(2, &[]))));
    assert_eq!(l.run_all(&effects), [vm(2)]);
    // One that the policy is not for, and one that is gone.
    let effects = l.send(Event::VmRead(Box::new(record(3, &[]))));
    assert_eq!(l.run_all(&effects), []);
    l.send(Event::VmGone(vm(4)));
    assert_eq!(l.owed(), []);
}

#[test]
fn a_run_that_fires_while_the_one_before_is_at_work_is_one_of_its_own() {
    let mut l = Lives::new(&NIGHTLY.replace("30 2", "0 *"), "2026-03-02T00:30:00Z");
    l.connect(&[1]);
    l.bench.now = at("2026-03-02T01:00:00Z");
    let first = started(&l.send(Event::Timer));
    l.bench.now = at("2026-03-02T02:00:00Z");
    l.send(Event::Timer);
    let effects = l.send(Event::Ended(first[0].id, created()));
    assert_eq!(l.owed(), [vm(1)], "the first one paid for itself");
    assert_eq!(l.run_all(&effects), [vm(1)]);
    assert_eq!(l.owed(), []);
    let results: Vec<_> = l.bench.machine.view().jobs.values().filter_map(|j| j.outcome.as_ref()).collect();
    assert!(results.iter().all(|o| o.result() == JobResult::Done));
}

#[test]
fn a_run_after_boot_is_not_lost_by_a_restart_before_the_vms_are_known() {
    let toml = NIGHTLY.replace("30 2 * * *", "@reboot");
    let mut b = Bench::starting(&toml, "2026-03-02T02:00:00Z", |start| start.fresh_boot = true);
    let effects = b.send(Event::Disconnected);
    assert!(!effects.contains(&Effect::Booted), "the next start is still the first one that counts");
    let effects = b.connect(&[1]);
    assert_eq!(started(&effects).len(), 1);
    let place = |wanted: fn(&Effect) -> bool| effects.iter().position(wanted).unwrap();
    assert!(
        place(|e| matches!(e, Effect::Remember(_))) < place(|e| *e == Effect::Booted),
        "what it owes is stored first"
    );
    assert!(!b.send(Event::Timer).contains(&Effect::Booted));
}
