//! Whether what somebody asks for may wait. What nobody asked for always may: equal ones are one, so that there are only as
//! many as a VM has policies, and snapshots whose time is over.

use std::collections::BTreeMap;

use super::who;
use crate::core::{
    machine::{Machine, Refusal},
    model::VmId,
    queue::{SHARE, SHARE_ON_VM, WAITING, WAITING_ON_VM},
};

/// Jobs that wait.
#[derive(Default)]
struct Count {
    all: usize,
    on: BTreeMap<VmId, usize>,
}

impl Count {
    fn add(&mut self, vm: VmId) {
        self.all += 1;
        *self.on.entry(vm).or_default() += 1;
    }

    /// One of these VMs on which so many wait.
    fn full(&self, vms: &[VmId], most: usize) -> Option<VmId> {
        vms.iter().copied().find(|vm| self.on.get(vm).is_some_and(|n| *n >= most))
    }
}

impl Machine {
    /// An error if one more of this user's may not wait on each of these VMs. Nobody has the superuser's places.
    pub(in crate::core::machine) fn may_wait(&self, vms: &[VmId], uid: u32) -> Result<(), Refusal> {
        let root = uid == 0;
        let entries = self.jobs.queued.iter().filter_map(|id| self.jobs.table.get(id));
        let (mut own, mut all) = (Count::default(), Count::default());
        for (vm, by) in entries.filter_map(|e| Some((e.job.vm, who(&e.job)?))) {
            if by == uid {
                own.add(vm);
            }
            if (by == 0) == root {
                all.add(vm);
            }
        }
        let full = |what: String| {
            let text = format!(
                "{what}. Nothing was begun. `virtsnap jobs` shows what is under way; ask again when some of it is done, or cancel \
                 what is not needed (`virtsnap cancel`). Scheduled runs go on"
            );
            Err(Refusal::new("LimitExceeded", text))
        };
        let (on_vm, in_all) = if root { (WAITING_ON_VM, WAITING) } else { (SHARE_ON_VM, SHARE) };
        let counts = [
            (own, on_vm, in_all, format!("that user {uid} asked for "), " of one user"),
            (all, WAITING_ON_VM, WAITING, "that were asked for ".to_owned(), ""),
        ];
        for (count, on_vm, in_all, which, of) in counts {
            if let Some(vm) = count.full(vms, on_vm) {
                let name = self.name_of(vm);
                return full(format!("{on_vm} jobs {which}wait on VM {name}, and no more{of} may"));
            }
            if count.all + vms.len() > in_all {
                let (waits, more) = (count.all, vms.len());
                return full(format!(
                    "{waits} jobs {which}wait, and with {more} more there would be more than the {in_all}{of} that may"
                ));
            }
        }
        Ok(())
    }
}
