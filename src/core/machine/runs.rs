//! Policies in time: which are due, for which VMs, and when next.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Machine, Note};
use crate::core::{
    job::{Asker, CreateJob, JobId, JobResult, Operation},
    model::{Origin, PolicyName, VmId},
    policy::Policy,
    schedule::{self, SkipReason},
    settings::Settings,
    view::PolicyView,
};

/// A timer is never exact: so late is on time.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A policy's place in time.
#[derive(Debug, Default)]
pub(super) struct PolicyRun {
    /// All of its times up to here are dealt with.
    handled: Option<Timestamp>,
    /// `handled` is further than what is stored.
    unsaved: bool,
    next: Option<Timestamp>,
    last: Option<Timestamp>,
    last_result: Option<JobResult>,
    /// Runs that fired and wait for their VM's own offset.
    pending: BTreeSet<(Timestamp, VmId)>,
    booted: bool,
}

impl PolicyRun {
    pub(super) fn handled(at: Timestamp) -> Self {
        Self { handled: Some(at), ..Self::default() }
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
        let settings = Arc::clone(&self.settings);
        for (name, policy) in &settings.policies {
            self.check_policy(name, policy, now, out);
        }
        self.fresh_boot = false;
        for (name, policy) in &settings.policies {
            let Some(run) = self.runs.get_mut(name) else { continue };
            let later =
                run.pending.split_off(&(now + SignedDuration::from_nanos(1), VmId(uuid::Uuid::nil())));
            for (_, vm) in std::mem::replace(&mut run.pending, later) {
                self.enqueue_policy(policy, vm, Asker { origin: Origin::Schedule, uid: self.own_uid }, now);
            }
            // Not before the last VM's turn: a restart in between catches up, instead of losing the rest of them.
            if let Some(run) = self.runs.get_mut(name)
                && run.unsaved
                && run.pending.is_empty()
                && let Some(at) = run.handled
            {
                run.unsaved = false;
                out.push(Effect::Handled(name.clone(), at));
            }
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
        let run = self.runs.entry(name.clone()).or_default();
        if fresh_boot && !run.booted && policy.schedules.iter().any(schedule::Schedule::is_reboot) {
            run.booted = true;
            self.fire(policy, now, 0, now, out);
        }
        let run = self.runs.entry(name.clone()).or_default();
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
        if run.handled != Some(due.last) {
            run.handled = Some(due.last);
            run.unsaved = true;
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
        // Resolved now, at every run: VMs come and go.
        let vms: Vec<VmId> = self
            .vms
            .values()
            .filter(|r| self.plan_of(r).policies.iter().any(|p| p.name == policy.name))
            .map(|r| r.id)
            .collect();
        out.push(Effect::Log(Note::Fired { policy: policy.name.clone(), at, vms: vms.len(), missed }));
        let Some(run) = self.runs.get_mut(&policy.name) else { return };
        run.begin(at);
        for vm in vms {
            let offset = schedule::spread_offset(vm, policy.spread);
            // What is caught up late is spread from now on, not from when it should have been.
            run.pending.insert((at.max(now - GRACE) + offset, vm));
        }
    }

    /// Puts a policy's snapshot of one VM into the queue, unless the VM is in a state that it is not for.
    pub(super) fn enqueue_policy(
        &mut self,
        policy: &Arc<Policy>,
        vm: VmId,
        asker: Asker,
        now: Timestamp,
    ) -> Option<JobId> {
        let record = self.vms.get(&vm)?;
        let plan = self.plan_of(record);
        // The VM's own exceptions count, so it is the plan's policy, not the one that was handed in.
        let policy = plan.policies.iter().find(|p| p.name == policy.name)?;
        if !policy.how.when.contains(&record.state) {
            return None;
        }
        let create = CreateJob {
            name: None,
            description: String::new(),
            policies: BTreeSet::from([policy.name.clone()]),
            how: policy.how.clone(),
            disks: plan.disks.clone(),
        };
        if asker.origin == Origin::Schedule
            && let Some(shared) = self.jobs.shareable(vm, &create)
        {
            return Some(shared);
        }
        let operation = Operation::Create(create);
        if let Some(same) = self.jobs.same_queued(vm, &operation) {
            return Some(same);
        }
        Some(self.jobs.add(vm, operation, asker, now))
    }

    pub(super) fn on_settings(&mut self, settings: Arc<Settings>, now: Timestamp, out: &mut Vec<Effect>) {
        let old = std::mem::replace(&mut self.settings, settings);
        let settings = Arc::clone(&self.settings);
        self.runs.retain(|name, _| settings.policies.contains_key(name));
        for (name, policy) in &settings.policies {
            let same_times = old.policies.get(name).is_some_and(|o| {
                o.schedules == policy.schedules && o.retention.timezone == policy.retention.timezone
            });
            let run = self.runs.entry(name.clone()).or_default();
            if !same_times {
                // New times did not pass unused before they were written.
                run.handled = Some(now);
                run.pending.clear();
                out.push(Effect::Handled(name.clone(), now));
            }
            run.next = None;
        }
        self.stale_policies = true;
    }

    /// When any policy fires next.
    pub(super) fn next_fire(&self) -> Option<Timestamp> {
        self.runs.values().flat_map(|r| r.next.into_iter().chain(r.pending.first().map(|(at, _)| *at))).min()
    }

    /// When there is something to do without anything happening before.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        if self.stopping() || !self.complete() { None } else { self.next_fire() }
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
                timezone: policy.retention.timezone.iana_name().unwrap_or("UTC").to_owned(),
                next_run: None,
                last_run: None,
                last_result: String::new(),
                keep: policy.retention.keep.clone(),
                limits: policy.retention.limits.clone(),
                vms,
                source: policy.source.to_string(),
            };
            self.view.policies.insert(name.clone(), Arc::new(view));
        }
    }

    /// What changes from run to run.
    pub(super) fn refresh_runs(&mut self) {
        for (name, view) in &mut self.view.policies {
            let Some(run) = self.runs.get(name) else { continue };
            let next = run.next.into_iter().chain(run.pending.first().map(|(at, _)| *at)).min();
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
