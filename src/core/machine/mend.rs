//! What was found wrong with a VM's snapshots and can be put right is put right, by a job like any other.

use std::sync::Arc;

use jiff::Timestamp;

use super::Machine;
use crate::core::{
    health,
    inventory::VmRecord,
    job::{Asker, Operation},
    model::{Origin, VmId},
};

impl Machine {
    /// What is read while a job is at work on the VM shows its steps, not faults: what was known before stays, and the
    /// job's end has it read again.
    pub(super) fn settle_findings(&self, record: &mut VmRecord) {
        if self.jobs.at_work(record.id) {
            record.findings = self.vms.get(&record.id).map(|old| old.findings.clone()).unwrap_or_default();
        }
    }

    /// Queues a repair, once for the same faults: what did not help is not tried again and again.
    pub(super) fn mend(&mut self, vm: VmId, now: Timestamp) {
        // What others made and look after themselves is told, and left to them.
        let ours = |record: &&Arc<VmRecord>| record.snapshots.values().any(|s| s.snapshot.managed);
        let record = self.vms.get(&vm).filter(ours);
        let wanted = record.map(|record| health::repairs(&record.findings)).unwrap_or_default();
        if wanted.is_empty() {
            self.mended.remove(&vm);
            return;
        }
        if self.stopping() || self.jobs.at_work(vm) || self.mended.get(&vm) == Some(&wanted) {
            return;
        }
        self.mended.insert(vm, wanted);
        if self.jobs.same_queued(vm, &Operation::Repair).is_none() {
            let asker = Asker { origin: Origin::Safety, uid: self.own_uid };
            self.jobs.add(vm, Operation::Repair, asker, now);
        }
    }
}
