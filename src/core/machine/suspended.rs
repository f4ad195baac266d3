//! When a policy that fails on a VM is suspended there, and when it is resumed.

use jiff::Timestamp;

use super::{Effect, Entry, Machine, Note};
use crate::core::{
    job::{Job, Operation, Outcome},
    model::{Origin, PolicyName, VmId},
    suspend::{Standing, Suspender, Suspension, is_its_own},
};

impl Machine {
    /// Counts what a run of policies on a VM came to.
    pub(super) fn count_run(&mut self, job: &Job, outcome: &Outcome, now: Timestamp, out: &mut Vec<Effect>) {
        let Operation::Create(create) = &job.operation else { return };
        for policy in &create.policies {
            match outcome {
                Outcome::Done(_) => self.run_worked(policy, job.vm, out),
                // A person who tries it out is told of each failure, and decides when it was enough.
                Outcome::Failed(failure) if job.asker.origin == Origin::Schedule && is_its_own(failure) => {
                    self.run_failed(policy, job.vm, &failure.message, now, out);
                }
                Outcome::Failed(_) | Outcome::Cancelled(_) => {}
            }
        }
    }

    fn run_worked(&mut self, policy: &PolicyName, vm: VmId, out: &mut Vec<Effect>) {
        let mut standing = self.standings.get(policy, Some(vm));
        // What a person suspended may be tried by hand, and stays suspended.
        let over = standing.suspension.take_if(|s| s.by == Suspender::Failures).is_some();
        if standing.failures == 0 && !over {
            return;
        }
        standing.failures = 0;
        self.set_standing(policy, Some(vm), standing);
        if over {
            let vm_name = self.name_of(vm);
            let policy = policy.clone();
            out.push(Effect::Log(Note::Resumed { policy, on: Some((vm, vm_name)), by_uid: None }));
        }
    }

    fn run_failed(&mut self, name: &PolicyName, vm: VmId, text: &str, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(record) = self.vms.get(&vm) else { return };
        // It is not for it any more.
        let Some(policy) = self.plan_of(record).policies.into_iter().find(|p| p.name == *name) else {
            return;
        };
        let mut standing = self.standings.get(name, Some(vm));
        standing.failures = standing.failures.saturating_add(1);
        let enough = policy.suspend_after.is_some_and(|after| standing.failures >= after);
        if enough && standing.suspension.is_none() {
            let runs = match standing.failures {
                1 => "a run failed".to_owned(),
                n => format!("{n} runs failed one after the other, the last one so"),
            };
            let suspension =
                Suspension { by: Suspender::Failures, since: now, reason: format!("{runs}: {text}") };
            standing.suspension = Some(suspension.clone());
            let on = Some((vm, self.name_of(vm)));
            out.push(Effect::Log(Note::Suspended { policy: name.clone(), on, suspension, by_uid: None }));
        }
        self.set_standing(name, Some(vm), standing);
    }

    /// Has it written down, and shown.
    pub(super) fn set_standing(&mut self, policy: &PolicyName, vm: Option<VmId>, standing: Standing) {
        let same = self.standings.get(policy, vm).suspension == standing.suspension;
        self.standings.set(policy, vm, standing.clone());
        self.journal.push(Entry::Standing(policy.clone(), vm, standing));
        if same {
            return;
        }
        match vm {
            Some(vm) => {
                self.stale.insert(vm);
            }
            None => self.stale.extend(self.vms.keys()),
        }
    }

    /// Those of policies that there are no more are forgotten.
    pub(super) fn forget_standings(&mut self) {
        let settings = std::sync::Arc::clone(&self.settings);
        let gone = self.standings.keep_policies(|policy| settings.policies.contains_key(policy));
        self.journal.extend(gone.into_iter().map(Entry::Gone));
    }

    /// Those on VMs that there are no more, too.
    pub(super) fn forget_standings_on(&mut self, known: impl Fn(VmId) -> bool) {
        for (policy, vm) in self.standings.keep_vms(known) {
            self.journal.push(Entry::Standing(policy, Some(vm), Standing::default()));
        }
    }

    /// Where each policy is suspended, as clients see it: on VMs that it is for.
    pub(super) fn refresh_suspensions(&mut self) {
        for (name, view) in &mut self.view.policies {
            let whole = self.standings.suspended(name, None).cloned();
            let on: Vec<(VmId, Suspension)> = self
                .standings
                .where_suspended(name)
                .into_iter()
                .flatten()
                .filter(|vm| view.vms.contains(vm))
                .filter_map(|vm| Some((vm, self.standings.suspended(name, Some(vm))?.clone())))
                .collect();
            if view.suspended != whole || view.suspended_on != on {
                let view = std::sync::Arc::make_mut(view);
                view.suspended = whole;
                view.suspended_on = on;
            }
        }
    }
}
