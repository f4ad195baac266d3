//! What was found wrong with a VM's snapshots and can be put right is put right, by a job like any other.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::Machine;
use crate::core::{
    health,
    inventory::VmRecord,
    job::{Asker, Operation},
    model::{Origin, VmId},
};

/// What did not help may have been refused for a reason that passes, like a full disk.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(10);

impl Machine {
    /// What is read while a job is at work on the VM shows its steps, not faults: what was known before stays until the
    /// job ends.
    pub(super) fn settle_findings(&mut self, record: &mut VmRecord) {
        if self.jobs.at_work(record.id) {
            let before = self.vms.get(&record.id).map(|old| old.findings.clone()).unwrap_or_default();
            self.withheld.insert(record.id, std::mem::replace(&mut record.findings, before));
        }
    }

    /// A job ended. It was the last thing that it did to have the VM read: that is what it has left, also where the next
    /// one begins at once.
    pub(super) fn tell_withheld(&mut self, vm: VmId) {
        if self.jobs.at_work(vm) {
            return;
        }
        let Some(findings) = self.withheld.remove(&vm) else { return };
        if let Some(record) = self.vms.get_mut(&vm).filter(|record| record.findings != findings) {
            Arc::make_mut(record).findings = findings;
            self.stale.insert(vm);
        }
    }

    /// Queues a repair, of the same faults again only after a while: what did not help is not tried all the time.
    pub(super) fn mend(&mut self, vm: VmId, now: Timestamp) {
        // What others made and look after themselves is told, and left to them.
        let ours = |record: &&Arc<VmRecord>| record.snapshots.values().any(|s| s.snapshot.managed);
        let record = self.vms.get(&vm).filter(ours);
        let wanted = record.map(|record| health::repairs(&record.findings)).unwrap_or_default();
        if wanted.is_empty() {
            self.mended.remove(&vm);
            return;
        }
        let tried = self.mended.get(&vm).is_some_and(|(what, at)| {
            *what == wanted && (SignedDuration::ZERO..AGAIN_AFTER).contains(&now.duration_since(*at))
        });
        if self.stopping() || self.jobs.at_work(vm) || tried {
            return;
        }
        self.mended.insert(vm, (wanted, now));
        if !self.jobs.waits_for(vm, &Operation::Repair) {
            let asker = Asker { origin: Origin::Safety, uid: self.own_uid };
            self.jobs.add(vm, Operation::Repair, asker, now);
        }
    }
}
