//! Policies in time: which are due, for which VMs, and when next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Entry, Machine, Note, Owed, Place, debts::Debts, published::Stale};
use crate::core::{
    job::{Asker, CreateJob, JobId, JobResult, Operation},
    label::Label,
    model::{Origin, PolicyName, VmId},
    policy::Policy,
    retention::EARLIEST,
    schedule::{self, SkipReason},
    settings::Settings,
    view::PolicyView,
};

/// A timer is never exact: so late is on time.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A policy's place in time.
#[derive(Debug, Default)]
pub(super) struct PolicyRun {
    /// All of its times up to here are dealt with.
    handled: Option<Timestamp>,
    /// See [`Place::times`]; empty until it is asked for.
    times: String,
    /// See [`Place::peak`].
    peak: Option<Timestamp>,
    /// It was told that the policy pauses.
    behind: bool,
    /// What the store knows.
    stored: Option<Place>,
    next: Option<Timestamp>,
    last: Option<Timestamp>,
    last_result: Option<JobResult>,
    pub(super) debts: Debts,
}

impl PolicyRun {
    fn place(&self) -> Option<Place> {
        let Self { handled, peak, times, last, last_result, .. } = self;
        let (times, last_run, last_result) = (times.clone(), *last, *last_result);
        handled.map(|handled| Place { handled, peak: *peak, times, last_run, last_result })
    }

    fn next_turn(&self) -> Option<Timestamp> {
        self.next.into_iter().chain(self.debts.next()).min()
    }

    /// When its schedule runs it on this VM next.
    pub(super) fn turn_of(&self, vm: VmId, spread: SignedDuration) -> Option<Timestamp> {
        let fires = self.next.map(|at| at + schedule::spread_offset(vm, spread));
        self.debts.turn(vm).into_iter().chain(fires).min()
    }

    /// A run begins, by the clock or by hand.
    pub(super) fn begin(&mut self, at: Timestamp) {
        self.last = Some(at);
        self.last_result = None;
    }

    /// A run on one VM ended. One failure among many makes the run a failed one.
    pub(super) fn ended(&mut self, result: JobResult) {
        if self.last_result != Some(JobResult::Failed) {
            self.last_result = Some(result);
        }
    }
}

impl Machine {
    /// Fires what is due.
    pub(super) fn run_due(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if now < EARLIEST {
            // A machine without a clock battery, before its clock is set. What this time makes due would be wrong, and
            // what it seems to undo was done.
            if self.too_early.is_none() {
                self.too_early = Some(now);
                out.push(Effect::Log(Note::ClockTooEarly { now }));
            }
            return;
        }
        self.too_early = None;
        let settings = Arc::clone(&self.settings);
        for (name, policy) in &settings.policies {
            self.check_policy(name, policy, now, out);
        }
        if std::mem::take(&mut self.fresh_boot) {
            out.push(Effect::Booted);
        }
        for (name, policy) in &settings.policies {
            let due = self.runs.get_mut(name).map(|run| run.debts.take_due(now)).unwrap_or_default();
            for (vm, debt) in due {
                self.take_turn(policy, vm, debt, now, out);
            }
        }
    }

    /// Whether all policies, or one, wait until the clock shows another time.
    pub(super) fn waits_for_the_clock(&self) -> bool {
        self.too_early.is_some() || self.runs.values().any(|run| run.behind)
    }

    /// Goes on where an earlier life ended.
    pub(super) fn restore_runs(
        &mut self,
        places: BTreeMap<PolicyName, Place>,
        mut owed: BTreeMap<PolicyName, BTreeMap<VmId, Owed>>,
    ) {
        for (name, place) in places {
            let owed = owed.remove(&name).unwrap_or_default();
            let Some(policy) = self.settings.policies.get(&name) else {
                self.journal.push(Entry::Gone(name));
                continue;
            };
            let times = times(policy);
            // New times did not pass unused before they were written, whenever that was.
            let same = place.times.is_empty() || place.times == times;
            let run = PolicyRun {
                handled: same.then_some(place.handled),
                peak: place.peak.filter(|_| same),
                times,
                last: place.last_run,
                last_result: place.last_result,
                stored: Some(place),
                debts: Debts::restored(owed),
                ..PolicyRun::default()
            };
            self.runs.insert(name, run);
        }
        // Owed by policies that never were anywhere: nobody would ever settle it.
        self.journal.extend(owed.into_keys().map(Entry::Gone));
    }

    /// Has what changed written down.
    pub(super) fn save_runs(&mut self, out: &mut Vec<Effect>) {
        for (name, run) in &mut self.runs {
            if run.times.is_empty()
                && let Some(policy) = self.settings.policies.get(name)
            {
                run.times = times(policy);
            }
            let place = run.place();
            if place != run.stored
                && let Some(place) = place
            {
                self.journal.push(Entry::Place(name.clone(), place.clone()));
                run.stored = Some(place);
            }
        }
        if !self.journal.is_empty() {
            out.insert(0, Effect::Remember(std::mem::take(&mut self.journal)));
        }
    }

    fn check_policy(
        &mut self,
        name: &PolicyName,
        policy: &Arc<Policy>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let fresh_boot = self.fresh_boot;
        self.runs.entry(name.clone()).or_default();
        if fresh_boot && policy.schedules.iter().any(schedule::Schedule::is_reboot) {
            self.fire(policy, now, 0, now, out);
        }
        let run = self.runs.entry(name.clone()).or_default();
        if let Some(peak) = run.peak.filter(|peak| *peak <= now) {
            run.peak = None;
            run.handled = run.handled.max(Some(peak));
            run.next = None;
        }
        let behind = run.handled.filter(|at| at.duration_since(now) > GRACE);
        let told = std::mem::replace(&mut run.behind, behind.is_some());
        if run.next.is_some_and(|next| now < next) && run.handled.is_some_and(|at| at <= now) {
            return;
        }
        let due = schedule::due(
            &policy.schedules,
            &policy.retention.timezone,
            run.handled,
            now,
            policy.catch_up,
            policy.catch_up_within,
            GRACE,
        );
        run.next = due.next;
        if let Some(handled) = behind {
            let policy = name.clone();
            if due.reset {
                run.peak = run.peak.max(Some(handled));
                out.push(Effect::Log(Note::ClockReset { policy, handled, now }));
            } else if !told {
                out.push(Effect::Log(Note::ClockBehind { policy, handled, now }));
            }
        }
        run.handled = Some(due.last);
        // What a wrong clock had fired would wait for a time that is years ahead.
        if due.reset && run.debts.clear() {
            self.journal.push(Entry::Cleared(name.clone()));
        }
        if let Some(skipped) = due.skipped {
            let why = match skipped.why {
                SkipReason::Policy => "missed, and catch-up is \"skip\"",
                SkipReason::TooLongAgo => "missed longer ago than catch-up-within",
            };
            out.push(Effect::Log(Note::Skipped { policy: name.clone(), at: skipped.at, why }));
        }
        if let Some(at) = due.fire {
            self.fire(policy, at, due.missed, now, out);
        }
    }

    fn fire(
        &mut self,
        policy: &Arc<Policy>,
        at: Timestamp,
        missed: u32,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.standings.suspended(&policy.name, None).is_some() {
            out.push(Effect::Log(Note::Idle { policy: policy.name.clone(), at }));
            return;
        }
        // Resolved now, at every run: VMs come and go.
        let vms: Vec<VmId> = self
            .vms
            .values()
            .filter(|r| self.plan_of(r).policies.iter().any(|p| p.name == policy.name))
            .map(|r| r.id)
            .collect();
        let all = vms.len();
        let runs = |vm: &VmId| self.standings.suspension(&policy.name, *vm).is_none();
        let vms: Vec<VmId> = vms.into_iter().filter(runs).collect();
        let suspended = all - vms.len();
        let name = policy.name.clone();
        out.push(Effect::Log(Note::Fired { policy: name, at, vms: vms.len(), suspended, missed }));
        // One that cannot be read now may be one of them: that is looked at when it can.
        let vms: Vec<VmId> = vms.into_iter().chain(self.unreadable.iter().copied().filter(runs)).collect();
        let Some(run) = self.runs.get_mut(&policy.name) else { return };
        run.begin(at);
        let mut rows = Vec::with_capacity(vms.len());
        for vm in vms {
            let offset = schedule::spread_offset(vm, policy.spread);
            // What is caught up late is spread from now on, not from when it should have been.
            let owed = Owed { fired: at, not_before: at.max(now - GRACE) + offset };
            if run.debts.is_put_off(vm) {
                Arc::make_mut(&mut self.view.counts).overtaken(&policy.name, vm);
            }
            rows.push((vm, run.debts.add(vm, owed)));
        }
        self.journal.push(Entry::Owed(policy.name.clone(), rows));
    }

    /// Puts a policy's snapshot of one VM into the queue, unless the VM is in a state that it is not for.
    pub(super) fn enqueue_policy(
        &mut self,
        policy: &Arc<Policy>,
        vm: VmId,
        asker: Asker,
        operation: Option<&str>,
        now: Timestamp,
    ) -> Option<JobId> {
        let create = self.takes_before(&policy.name, vm, operation)?;
        if asker.origin != Origin::Manual
            && let Some(shared) = self.jobs.shareable(vm, &create, asker)
        {
            return Some(shared);
        }
        let operation = Operation::Create(create);
        if let Some(same) = self.jobs.same_queued(vm, &operation, asker.origin) {
            return Some(same);
        }
        Some(self.jobs.add(vm, operation, asker, now))
    }

    /// What a policy takes of a VM as it is now; nothing if the VM is in a state that it is not for.
    pub(super) fn takes(&self, policy: &PolicyName, vm: VmId) -> Option<CreateJob> {
        let record = self.vms.get(&vm)?;
        let plan = self.plan_of(record);
        // The VM's own exceptions count, so it is the plan's policy, not that of the file.
        let policy = plan.policies.iter().find(|p| p.name == *policy)?;
        policy.how.when.contains(&record.state).then(|| CreateJob {
            name: None,
            description: String::new(),
            policies: BTreeSet::from([policy.name.clone()]),
            how: policy.how.clone(),
            disks: plan.disks.clone(),
            label: Label::default(),
        })
    }

    pub(super) fn on_settings(&mut self, settings: Arc<Settings>, now: Timestamp) {
        let old = std::mem::replace(&mut self.settings, settings);
        let settings = Arc::clone(&self.settings);
        let gone = self.runs.extract_if(.., |name, _| !settings.policies.contains_key(name));
        self.journal.extend(gone.map(|(name, _)| Entry::Gone(name)));
        self.forget_standings();
        for (name, policy) in &settings.policies {
            let same_times = old.policies.get(name).is_some_and(|o| {
                o.schedules == policy.schedules && o.retention.timezone == policy.retention.timezone
            });
            let run = self.runs.entry(name.clone()).or_default();
            if !same_times {
                // New times did not pass unused before they were written. What the old ones fired is owed still.
                run.handled = (now >= EARLIEST).then_some(now);
                run.peak = None;
                run.times.clear();
            }
            run.next = None;
        }
        self.stale_policies = Stale::Wholly;
    }

    /// When any policy fires next.
    pub(super) fn next_fire(&self) -> Option<Timestamp> {
        self.runs.values().filter_map(PolicyRun::next_turn).min()
    }

    /// The same as clients see it: what is suspended as a whole runs nowhere.
    pub(super) fn next_run(&self) -> Option<Timestamp> {
        let runs = self.runs.iter().filter(|(name, _)| self.standings.suspended(name, None).is_none());
        runs.filter_map(|(_, run)| run.next_turn()).min()
    }

    /// When there is something to do without anything happening before.
    pub(super) fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        if self.stopping() || !self.complete() {
            return None;
        }
        // By a clock that cannot be right these wait, and one of the past would wake us again and again.
        let others =
            [self.watch_list.next(), self.lapsing.next(), self.inhibitors.next()].into_iter().flatten();
        self.next_fire().into_iter().chain(others.filter(|_| self.believes(now))).min()
    }

    /// What does not change from run to run.
    pub(super) fn refresh_policies(&mut self) {
        let settings = Arc::clone(&self.settings);
        self.view.policies.retain(|name, _| settings.policies.contains_key(name));
        let plans: Vec<_> = self.vms.values().map(|r| (r.id, self.plan_of(r))).collect();
        for (name, policy) in &settings.policies {
            let vms = plans
                .iter()
                .filter(|(_, plan)| plan.policies.iter().any(|p| p.name == *name))
                .map(|(id, _)| *id)
                .collect();
            let view = PolicyView {
                name: name.clone(),
                schedules: policy.schedules.iter().map(ToString::to_string).collect(),
                timezone: policy.retention.timezone.iana_name().unwrap_or("system").to_owned(),
                next_run: None,
                last_run: None,
                last_result: String::new(),
                keep: policy.retention.keep.clone(),
                limits: policy.retention.limits.clone(),
                settings: Arc::clone(policy),
                vms,
                source: policy.source.to_string(),
                suspended: None,
                suspended_on: Vec::new(),
            };
            self.view.policies.insert(name.clone(), Arc::new(view));
        }
        self.refresh_suspensions();
    }

    /// What changes from run to run.
    pub(super) fn refresh_runs(&mut self) {
        for (name, view) in &mut self.view.policies {
            let Some(run) = self.runs.get(name) else { continue };
            let next = if view.suspended.is_none() { run.next_turn() } else { None };
            let result = run.last_result.map(|r| r.to_string()).unwrap_or_default();
            if view.next_run != next || view.last_run != run.last || view.last_result != result {
                let view = Arc::make_mut(view);
                view.next_run = next;
                view.last_run = run.last;
                view.last_result = result;
            }
        }
    }
}

/// What a policy's instants depend on.
fn times(policy: &Policy) -> String {
    let zone = policy.retention.timezone.iana_name().unwrap_or_default();
    policy.schedules.iter().fold(zone.to_owned(), |text, schedule| format!("{text}\n{schedule}"))
}
