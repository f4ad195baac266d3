//! What a policy would do now: told by what runs it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{Machine, Refusal};
use crate::core::{
    inventory::VmRecord,
    model::{PolicyName, SnapshotName, VmId},
    policy::Policy,
    preview::{Foreseen, Outlook},
    prune::Sentence,
    simulate::Scene,
    suspend::Suspender,
};

impl Machine {
    /// What a run of this policy would come to on each of its VMs, or on one of them, if it were due now, or when it is
    /// due next.
    pub(super) fn foresee(
        &self,
        name: &PolicyName,
        vm: Option<VmId>,
        next: bool,
        now: Timestamp,
    ) -> Result<Vec<Foreseen>, Refusal> {
        let policy = self.policy(name)?;
        let vms = self.those_of(&policy, vm)?;
        Ok(vms.into_iter().filter_map(|vm| self.foresee_on(&policy, vm, next, now)).collect())
    }

    fn foresee_on(&self, policy: &Policy, vm: VmId, next: bool, now: Timestamp) -> Option<Foreseen> {
        let record = self.vms.get(&vm)?;
        let plan = self.plan_of(record);
        // With the VM's own exceptions.
        let policy = plan.policies.iter().find(|p| p.name == policy.name)?;
        let run = self.runs.get(&policy.name);
        let job = run.and_then(|run| run.debts.job(vm));
        let suspension = self.standings.suspension(&policy.name, vm);
        let turn = run.filter(|_| suspension.is_none()).and_then(|run| run.turn_of(vm, policy.spread));
        let (outlook, text) = if let Some(job) = job {
            (Outlook::Queued, format!("job {job} is for it already"))
        } else if let Some(why) = suspension {
            let by = match why.by {
                Suspender::Failures => "after failures",
                Suspender::Person => "by hand",
            };
            let reason = if why.reason.is_empty() { String::new() } else { format!(": {}", why.reason) };
            (
                Outlook::Suspended,
                format!("takes nothing, as it is suspended {by} since {:.0}{reason}", why.since),
            )
        } else if self.takes(&policy.name, vm).is_none() {
            let when: Vec<&str> = policy.how.when.iter().map(|state| state.as_str()).collect();
            let (when, state) = (when.join(" or "), record.state);
            (
                Outlook::WrongState,
                format!("takes nothing, as the VM is {state}, and the policy is for one that is {when}"),
            )
        } else if let Some(first) = self.inhibitors.first() {
            let text = format!(
                "takes a snapshot when {} of user {} does not hold it any more",
                first.who, first.uid
            );
            (Outlook::Held, text)
        } else {
            (Outlook::Take, "takes a snapshot".to_owned())
        };
        let taken = matches!(outlook, Outlook::Take | Outlook::Held | Outlook::Queued);
        // Days and hours count by when it is: a run tomorrow takes the place of none of today's.
        let at = turn.filter(|_| next).map_or(now, |turn| turn.max(now));
        let (name, verdicts) = self.after_it(record, policy, taken, at);
        Some(Foreseen { vm, outlook, text, turn, name, job, verdicts })
    }

    /// What its snapshot would be called, and what becomes of the others.
    fn after_it(
        &self,
        record: &Arc<VmRecord>,
        policy: &Arc<Policy>,
        taken: bool,
        at: Timestamp,
    ) -> (Option<SnapshotName>, Vec<Sentence>) {
        let plan = self.plan_of(record);
        let mut scene =
            Scene { vm: (**record).clone(), plan, max_chain: None, needed: BTreeMap::new(), all: false };
        let taken =
            if taken { scene.take(&[policy], at, 0).ok().and_then(|mut names| names.pop()) } else { None };
        // Its overlay is one layer more.
        scene.vm.chain_depth += u32::from(taken.is_some());
        let mut verdicts = self.sentences(&scene.vm, &scene.plan, false, at);
        verdicts.retain(|verdict| Some(&verdict.name) != taken.as_ref());
        (taken, verdicts)
    }
}
