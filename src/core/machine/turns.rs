//! A VM's turn: when what a policy owes it becomes a job, and what becomes of that.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Entry, Machine, Note, Owed, debts::Debt, runs::GRACE};
use crate::core::{
    awaited::SLACK,
    job::{Asker, JobId},
    model::{Origin, PolicyName, SnapshotState, VmId},
    policy::{CatchUp, Policy},
};

/// A restart in the middle of a policy's runs is not what `catch-up = "skip"` is about, if it takes no longer; a host
/// that was off is.
const RESTART: SignedDuration = SignedDuration::from_hours(1);

/// A VM that is busy is tried again after so long at least, and at most.
const PUT_OFF: (SignedDuration, SignedDuration) =
    (SignedDuration::from_mins(1), SignedDuration::from_mins(15));

impl Machine {
    /// Queues what is owed to this VM, unless there is no need.
    pub(super) fn take_turn(
        &mut self,
        policy: &Arc<Policy>,
        vm: VmId,
        debt: Debt,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.unreadable.contains(&vm) {
            // Until it is read or gone.
            return;
        }
        let needless = if debt.restored { self.needless(policy, vm, debt.owed, now) } else { None };
        if let Some(done) = needless {
            let at = debt.owed.fired;
            out.push(Effect::Log(Note::Dropped { policy: policy.name.clone(), vm, at, done }));
        }
        let asker = Asker { origin: Origin::Schedule, uid: self.own_uid };
        let suspended = self.standings.suspension(&policy.name, vm).is_some();
        let job = if needless.is_some() || suspended {
            None
        } else {
            self.enqueue_policy(policy, vm, asker, None, now)
        };
        let Some(run) = self.runs.get_mut(&policy.name) else { return };
        match job {
            Some(job) => run.debts.queued(vm, job),
            None if run.debts.settle(vm) => self.journal.push(Entry::Settled(policy.name.clone(), vm)),
            None => {}
        }
    }

    /// Whether a run from an earlier life is done already (true), or too late (false).
    fn needless(&self, policy: &Policy, vm: VmId, owed: Owed, now: Timestamp) -> Option<bool> {
        let done = self.vms.get(&vm)?.snapshots.values().map(|s| &s.snapshot).any(|s| {
            s.managed
                && s.state == SnapshotState::Ready
                && s.policies.contains(&policy.name)
                && s.created >= owed.fired
                // By a clock that was wrong.
                && s.created.duration_since(now) <= SLACK
        });
        if done {
            return Some(true);
        }
        let within = match policy.catch_up {
            CatchUp::Once => policy.catch_up_within,
            CatchUp::Skip => RESTART.min(policy.catch_up_within),
        };
        (now.duration_since(owed.not_before) > within.max(GRACE)).then_some(false)
    }

    /// Something else had the VM: what the job was to pay is owed on. By these policies: their runs have not ended.
    pub(super) fn put_off(
        &mut self,
        vm: VmId,
        job: JobId,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> BTreeSet<PolicyName> {
        let mut owed_on: BTreeSet<PolicyName> = self.runs.keys().cloned().collect();
        owed_on.retain(|name| self.put_off_by(name, vm, job, now, out));
        owed_on
    }

    /// The same for one policy; true if the job was to pay what that owes.
    pub(super) fn put_off_by(
        &mut self,
        policy: &PolicyName,
        vm: VmId,
        job: JobId,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) -> bool {
        let run = self.runs.get_mut(policy);
        let Some(owed) = run.and_then(|run| run.debts.put_off(vm, job, now, PUT_OFF)) else { return false };
        self.journal.push(Entry::Owed(policy.clone(), vec![(vm, owed)]));
        out.push(Effect::Log(Note::PutOff { policy: policy.clone(), vm, until: owed.not_before }));
        true
    }

    /// A job ended, and with it what it was to pay.
    pub(super) fn paid(&mut self, vm: VmId, job: JobId) {
        for (name, run) in &mut self.runs {
            if run.debts.ended(vm, job) {
                self.journal.push(Entry::Settled(name.clone(), vm));
            }
        }
    }

    /// This VM was read, or is gone: it can be told now whether something is owed to it.
    pub(super) fn can_tell(&mut self, vm: VmId) {
        if self.unreadable.remove(&vm) {
            for run in self.runs.values_mut() {
                run.debts.wait_again(vm);
            }
        }
    }
}
