//! What nobody asked for is held while somebody inhibits it. It falls due as ever, waits as a job, and begins when all
//! inhibitors are gone: nothing is missed, and what falls due again meanwhile is one run.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{Effect, Entry, Machine, Note, Refusal, Reply};
use crate::core::{
    inhibit::{Inhibitor, InhibitorId},
    job::{Job, JobId, Operation, Outcome},
    model::{PolicyName, VmId},
};

impl Machine {
    pub(super) fn inhibit(
        &mut self,
        who: String,
        why: String,
        (uid, since): (u32, Timestamp),
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let inhibitor = Inhibitor { who, why, uid, since };
        let id = self.inhibitors.add(inhibitor.clone())?;
        out.push(Effect::Log(Note::Inhibited(inhibitor)));
        self.show_inhibitors();
        Ok(Reply::Inhibited(id))
    }

    pub(super) fn release(&mut self, id: InhibitorId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(inhibitor) = self.inhibitors.remove(id) else { return };
        self.show_inhibitors();
        let (held, last) = (now.duration_since(inhibitor.since), !self.jobs.held);
        if last {
            for job in self.jobs.automatic() {
                self.judge_again(job, now, out);
            }
            self.jobs.automatic_last();
        }
        out.push(Effect::Log(Note::Released { inhibitor, held, last }));
    }

    /// What was held for long may not be wanted as it was: a policy that is gone meanwhile, or is not for this VM any more,
    /// takes nothing. As after any other wait for its turn, one that was suspended does. Where the VM is in another state
    /// the policy owes it on: the VM may have changed that without having been read again yet.
    fn judge_again(&mut self, id: JobId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some((Job { vm, operation: Operation::Create(create), .. }, _)) = self.jobs.get(id) else {
            return;
        };
        let (vm, before) = (*vm, create.policies.clone());
        let (still, not_now): (BTreeSet<_>, BTreeSet<_>) =
            before.into_iter().partition(|policy| self.takes(policy, vm).is_some());
        if not_now.is_empty() {
            return;
        }
        for policy in not_now {
            if self.is_selected_by(&policy, vm) {
                self.put_off_by(&policy, vm, id, now, out);
            } else if self.runs.get_mut(&policy).is_some_and(|run| run.debts.ended(vm, id)) {
                self.journal.push(Entry::Settled(policy, vm));
            }
        }
        if still.is_empty() {
            let why = "did not begin: when it was not held any more, its policies were not for this VM or its state. Nothing was \
                       done";
            return self.on_ended(id, Outcome::Cancelled(why.to_owned()), now, out);
        }
        self.jobs.take_only_for(id, still);
    }

    /// Whether a policy is for this VM, whatever state that is in.
    fn is_selected_by(&self, policy: &PolicyName, vm: VmId) -> bool {
        let record = self.vms.get(&vm);
        record.is_some_and(|record| self.plan_of(record).policies.iter().any(|p| p.name == *policy))
    }

    /// Tells of each who holds it for so long that they may have been forgotten.
    pub(super) fn remind(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if self.believes(now) {
            let forgotten = self.inhibitors.take_forgotten(now).into_iter();
            out.extend(forgotten.map(|inhibitor| Effect::Log(Note::HeldLong(inhibitor))));
        }
    }

    /// The jobs that wait for the inhibitors' end, which each is told.
    pub(super) fn held_jobs(&mut self) -> BTreeSet<JobId> {
        let Some(Inhibitor { who, why, uid, .. }) = self.inhibitors.first() else { return BTreeSet::new() };
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        let phase = format!("held by {who} of user {uid}{because}");
        let held = self.jobs.automatic();
        for id in &held {
            self.jobs.waits(*id, &phase);
        }
        held
    }

    fn show_inhibitors(&mut self) {
        let all: Arc<[Inhibitor]> = self.inhibitors.all().cloned().collect();
        self.jobs.held = !all.is_empty();
        self.manager(|m| m.inhibitors = all);
    }
}
