//! Branches: which VM was branched off which snapshot, and who asks for another one.

use std::collections::BTreeMap;

use super::{Machine, Refusal};
use crate::core::{
    branch::{self, BranchJob, Stem},
    job::Operation,
    model::{SnapshotName, SnapshotState, Storage, VmId},
};

impl Machine {
    /// The branches of each of this VM's snapshots, by the names of the VMs that they are.
    pub(super) fn branches_of(&self, vm: VmId) -> BTreeMap<SnapshotName, Vec<String>> {
        let mut branches: BTreeMap<SnapshotName, Vec<String>> = BTreeMap::new();
        let records = self.branched.iter().filter_map(|id| self.vms.get(id));
        for (record, stem) in records.filter_map(|r| Some((r, r.stem.as_ref()?))) {
            if stem.vm == vm {
                branches.entry(stem.snapshot.clone()).or_default().push(record.name.clone());
            }
        }
        for names in branches.values_mut() {
            names.sort_unstable();
        }
        branches
    }

    /// This VM is there, branched off that, or is gone: what it was branched off before shows it no longer.
    pub(super) fn branched_off(&mut self, vm: VmId, stem: Option<&Stem>) {
        let before = self.vms.get(&vm).and_then(|r| r.stem.as_ref()).map(|stem| stem.vm);
        self.stale.extend(before.into_iter().chain(stem.map(|stem| stem.vm)));
        if stem.is_some() {
            self.branched.insert(vm);
        } else {
            self.branched.remove(&vm);
        }
    }

    /// The operation, unless something is known already that forbids it. Who has which name the hypervisor knows best.
    pub(super) fn branch(&self, vm: VmId, job: BranchJob) -> Result<Operation, Refusal> {
        let record = self.known(vm)?;
        let (name, new_vm) = (&job.name, &job.new_vm);
        let found = record.snapshots.get(name).ok_or_else(|| {
            Refusal::new("NoSuchSnapshot", format!("VM {} has no snapshot {name}", record.name))
        })?;
        branch::check_vm_name(new_vm)
            .map_err(|e| Refusal::new("InvalidArgument", format!("{new_vm:?} cannot be a VM's name: {e}")))?;
        if found.snapshot.state == SnapshotState::Failed {
            return Err(Refusal::new(
                "Unsupported",
                format!(
                    "the data of snapshot {name} of VM {} cannot be trusted: its deletion was begun and did not end. \
                     Nothing was touched; a prune ends it",
                    record.name
                ),
            ));
        }
        if found.snapshot.storage == Storage::Internal {
            return Err(Refusal::new(
                "Unsupported",
                format!(
                    "snapshot {name} of VM {} is inside the VM's image, and nothing can lie on it. Nothing was touched",
                    record.name
                ),
            ));
        }
        Ok(Operation::Branch(job))
    }
}
