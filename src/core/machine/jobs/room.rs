//! Whether what somebody asks for may wait. What nobody asked for always may: equal ones are one, so that there are only as
//! many as a VM has policies, and snapshots whose time is over.

use std::collections::BTreeMap;

use super::who;
use crate::core::{
    machine::{Machine, Refusal},
    model::VmId,
    queue::{WAITING, WAITING_ON_VM},
};

impl Machine {
    /// An error if one more may not wait on each of these VMs.
    pub(in crate::core::machine) fn may_wait(&self, vms: &[VmId]) -> Result<(), Refusal> {
        let entries = self.jobs.queued.iter().filter_map(|id| self.jobs.table.get(id));
        let (mut all, mut on) = (0, BTreeMap::<VmId, usize>::new());
        for entry in entries.filter(|e| who(&e.job).is_some()) {
            all += 1;
            *on.entry(entry.job.vm).or_default() += 1;
        }
        let full = |what: String| {
            let text = format!(
                "{what}. Nothing was begun. `virtsnap jobs` shows what is under way; ask again when some of it is done, or cancel \
                 what is not needed (`virtsnap cancel`). Scheduled runs go on"
            );
            Err(Refusal::new("LimitExceeded", text))
        };
        let is_full = |vm: &&VmId| on.get(*vm).is_some_and(|n| *n >= WAITING_ON_VM);
        if let Some(vm) = vms.iter().find(is_full) {
            let name = self.name_of(*vm);
            return full(format!(
                "{WAITING_ON_VM} jobs that were asked for wait on VM {name}, and no more may"
            ));
        }
        if all + vms.len() > WAITING {
            let what = format!(
                "{all} jobs that were asked for wait, and with {} more there would be more than the {WAITING} that may",
                vms.len()
            );
            return full(what);
        }
        Ok(())
    }
}
