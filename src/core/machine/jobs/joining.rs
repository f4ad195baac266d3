//! Requests for what waits already: asking twice does not do it twice.
//!
//! Who joins a job that waits gets what he would have got from one of his own, at the end of the queue. So nothing may
//! wait between the two that changes what the one leaves behind: of two descriptions the later one stays, also where an
//! earlier request wanted the same.

use std::collections::BTreeSet;

use super::Jobs;
use crate::core::{
    job::{Asker, CreateJob, JobId, Operation},
    model::{Origin, PolicyName, SnapshotName, VmId},
};

impl Jobs {
    /// A job that waits, does the very same and is not undone by what waits behind it. What is held begins after what
    /// somebody asks for now, and does nothing for them. A snapshot before an operation says that it is one, so that no
    /// other stands for it, nor it for others.
    pub(in crate::core::machine) fn same_queued(
        &mut self,
        vm: VmId,
        operation: &Operation,
        origin: Origin,
    ) -> Option<JobId> {
        let same = self.finds_same(vm, operation, origin)?;
        // Who inhibits what nobody asked for does not hold that one then.
        if let Some(entry) = self.table.get_mut(&same) {
            entry.wanted |= origin != Origin::Schedule;
        }
        Some(same)
    }

    /// The same, of who only asks.
    fn finds_same(&self, vm: VmId, operation: &Operation, origin: Origin) -> Option<JobId> {
        let held = if self.held && origin != Origin::Schedule { self.automatic() } else { BTreeSet::new() };
        let apart = |waiting: &Operation| match (about(waiting), about(operation)) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        let before_one = |origin| origin == Origin::Operation;
        let another =
            |id| self.get(id).is_some_and(|(job, _)| before_one(job.asker.origin) != before_one(origin));
        let before = self.queued_of(vm).filter(|(id, _)| !held.contains(id));
        let mut behind = before.rev().skip_while(|(_, waiting)| apart(waiting));
        let same = behind.next().filter(|(id, waiting)| *waiting == operation && !another(*id));
        same.map(|(id, _)| id)
    }

    /// Whether a snapshot by policy would be a job of its own, and wait for itself.
    pub(in crate::core::machine) fn is_one_more(&self, vm: VmId, create: &CreateJob, asker: Asker) -> bool {
        let shares = asker.origin != Origin::Manual && self.finds_shareable(vm, create, asker).is_some();
        !shares && self.finds_same(vm, &Operation::Create(create.clone()), asker.origin).is_none()
    }

    /// What the daemon wants done waits to be, sooner or later.
    pub(in crate::core::machine) fn waits_for(&self, vm: VmId, operation: &Operation) -> bool {
        self.queued_of(vm).any(|(_, waiting)| waiting == operation)
    }

    /// A snapshot by policy that waits on this VM and is taken the same way, of what the VM will be then: one for all of
    /// them.
    pub(in crate::core::machine) fn shareable(
        &mut self,
        vm: VmId,
        create: &CreateJob,
        asker: Asker,
    ) -> Option<JobId> {
        let shared = self.finds_shareable(vm, create, asker)?;
        let entry = self.table.get_mut(&shared)?;
        if let Operation::Create(waiting) = &mut entry.job.operation {
            waiting.policies.extend(create.policies.iter().cloned());
            waiting.how.freeze_timeout = waiting.how.freeze_timeout.max(create.how.freeze_timeout);
            entry.stale = true;
        }
        Some(shared)
    }

    fn finds_shareable(&self, vm: VmId, create: &CreateJob, asker: Asker) -> Option<JobId> {
        let same = |waiting: &CreateJob| {
            let same = waiting.disks == create.disks && waiting.how.takes_the_same(&create.how);
            same && waiting.name.is_none() && create.name.is_none()
        };
        // Each who asks it does so as one: by the schedule, or before an operation.
        let by_policy = |id: JobId| self.get(id).is_some_and(|(job, _)| job.asker == asker);
        let behind = self.queued_of(vm).rev();
        let mut behind = behind.take_while(|(_, waiting)| !matches!(waiting, Operation::Revert(_)));
        behind.find_map(|(id, waiting)| match waiting {
            Operation::Create(waiting) if by_policy(id) && same(waiting) => Some(id),
            _ => None,
        })
    }

    /// A snapshot that waits is taken for these policies and no others.
    pub(in crate::core::machine) fn take_only_for(&mut self, id: JobId, policies: BTreeSet<PolicyName>) {
        if let Some(entry) = self.table.get_mut(&id)
            && let Operation::Create(create) = &mut entry.job.operation
        {
            create.policies = policies;
            entry.stale = true;
        }
    }

    /// What waits on a VM, in the order in which it begins.
    fn queued_of(&self, vm: VmId) -> impl DoubleEndedIterator<Item = (JobId, &Operation)> {
        let entries = self.queued.iter().filter_map(|id| Some((*id, &self.table.get(id)?.job)));
        entries.filter(move |(_, job)| job.vm == vm).map(|(id, job)| (id, &job.operation))
    }
}

/// The one snapshot that it concerns, and nothing else: what is done with another one leaves it as it was.
fn about(operation: &Operation) -> Option<&SnapshotName> {
    match operation {
        Operation::Describe { name, .. } | Operation::Forget(name) | Operation::Delete { name, .. } => {
            Some(name)
        }
        _ => None,
    }
}
