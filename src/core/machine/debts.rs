//! The runs that a policy owes its VMs: fired, and not ended yet.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::Owed;
use crate::core::{job::JobId, model::VmId};

/// One run, and how far it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debt {
    pub(super) owed: Owed,
    /// The job that pays it; `None` before the VM's turn.
    job: Option<JobId>,
    /// A job was to pay it, and found the VM busy or in another state.
    put_off: bool,
    /// It is from an earlier life of the daemon, which may have done it without having been able to say so.
    pub(super) restored: bool,
}

/// At most one for each VM: what fires again before it ended is one run.
#[derive(Debug, Default)]
pub(super) struct Debts {
    by_vm: BTreeMap<VmId, Debt>,
    /// Those without a job, by their turn.
    waiting: BTreeSet<(Timestamp, VmId)>,
}

impl Debts {
    /// Takes over what an earlier life left.
    pub(super) fn restored(owed: impl IntoIterator<Item = (VmId, Owed)>) -> Self {
        let mut debts = Self::default();
        for (vm, owed) in owed {
            debts.put(vm, Debt { owed, job: None, put_off: false, restored: true });
        }
        debts
    }

    /// A policy fired for this VM; what is owed now. A VM that waits goes on waiting for its turn of before, or a
    /// `spread` longer than the time between two runs would put it off for ever.
    pub(super) fn add(&mut self, vm: VmId, mut owed: Owed) -> Owed {
        if let Some(before) = self.by_vm.get(&vm).filter(|d| d.job.is_none()) {
            owed.not_before = owed.not_before.min(before.owed.not_before);
        }
        self.put(vm, Debt { owed, job: None, put_off: false, restored: false });
        owed
    }

    /// Whether a run on this VM found it busy and is still to be tried again.
    pub(super) fn is_put_off(&self, vm: VmId) -> bool {
        self.by_vm.get(&vm).is_some_and(|d| d.put_off && d.job.is_none())
    }

    /// The job that pays what is owed to this VM.
    pub(super) fn job(&self, vm: VmId) -> Option<JobId> {
        self.by_vm.get(&vm)?.job
    }

    /// When it is this VM's turn, if it waits for it.
    pub(super) fn turn(&self, vm: VmId) -> Option<Timestamp> {
        self.by_vm.get(&vm).filter(|d| d.job.is_none()).map(|d| d.owed.not_before)
    }

    /// The next turn.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Those whose turn has come; each is then [queued](Self::queued), [settled](Self::settle) or
    /// [put back](Self::wait_again).
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<(VmId, Debt)> {
        let later = self.waiting.split_off(&(now + SignedDuration::from_nanos(1), VmId(uuid::Uuid::nil())));
        let due = std::mem::replace(&mut self.waiting, later);
        due.into_iter().filter_map(|(_, vm)| self.by_vm.get(&vm).map(|d| (vm, *d))).collect()
    }

    /// This job pays it.
    pub(super) fn queued(&mut self, vm: VmId, job: JobId) {
        if let Some(debt) = self.by_vm.get_mut(&vm) {
            debt.job = Some(job);
        }
    }

    /// Looks at it again at the next occasion.
    pub(super) fn wait_again(&mut self, vm: VmId) {
        if let Some(debt) = self.by_vm.get(&vm).filter(|d| d.job.is_none()) {
            self.waiting.insert((debt.owed.not_before, vm));
        }
    }

    /// The job that was to pay could not: it is owed on, until `now` and as long again as it has been owed, within these
    /// pauses. What is owed, if that was the job.
    pub(super) fn put_off(
        &mut self,
        vm: VmId,
        job: JobId,
        now: Timestamp,
        (least, most): (SignedDuration, SignedDuration),
    ) -> Option<Owed> {
        let mut debt = *self.by_vm.get(&vm).filter(|d| d.job == Some(job))?;
        debt.job = None;
        debt.put_off = true;
        debt.owed.not_before = now + now.duration_since(debt.owed.fired).clamp(least, most);
        self.put(vm, debt);
        Some(debt.owed)
    }

    /// A job ended; true if it was the one that was to pay.
    pub(super) fn ended(&mut self, vm: VmId, job: JobId) -> bool {
        self.by_vm.get(&vm).is_some_and(|d| d.job == Some(job)) && self.settle(vm)
    }

    /// Nothing is owed to this VM any more; true if something was.
    pub(super) fn settle(&mut self, vm: VmId) -> bool {
        let Some(debt) = self.by_vm.remove(&vm) else { return false };
        self.waiting.remove(&(debt.owed.not_before, vm));
        true
    }

    /// Nothing is owed to anybody any more; true if something was.
    pub(super) fn clear(&mut self) -> bool {
        self.waiting.clear();
        !std::mem::take(&mut self.by_vm).is_empty()
    }

    fn put(&mut self, vm: VmId, debt: Debt) {
        self.settle(vm);
        self.waiting.insert((debt.owed.not_before, vm));
        self.by_vm.insert(vm, debt);
    }
}
