//! libvirt's own deletions that break off.

use std::{collections::BTreeSet, iter::successors};

use super::{Sim, guest::Machine};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Event, Result, SnapshotDisk, WaitingJob},
};

impl Machine {
    /// What libvirt marks while it deletes this one: for each disk the next older snapshot that has it.
    pub(super) fn marked_by(&self, name: &SnapshotName) -> BTreeSet<(SnapshotName, String)> {
        let older = |n: &SnapshotName| self.snapshots.get(n).and_then(|s| s.parent.clone());
        let has = |n: &SnapshotName, target: &str| {
            self.snapshots.get(n).is_some_and(|s| s.disks.iter().any(|d| d.target == target))
        };
        let disks = self.snapshots.get(name).into_iter().flat_map(|s| &s.disks);
        let marks = disks.filter_map(|d| {
            let marked = successors(older(name), older).find(|n| has(n, &d.target))?;
            Some((marked, d.target.clone()))
        });
        marks.collect()
    }

    /// Marks the older ones for the deletion of this one, for these of its disks; of all others the mark goes.
    pub(super) fn mark_older(&mut self, name: &SnapshotName, is_marked: impl Fn(&str) -> bool) {
        for (older, target) in self.marked_by(name) {
            let Some(saved) = self.snapshots.get_mut(&older) else { continue };
            if is_marked(&target) {
                saved.deleting.insert(target);
            } else {
                saved.deleting.remove(&target);
            }
        }
    }
}

impl Sim {
    /// Another program has libvirt delete a snapshot, and that breaks off when all data is copied and these disks have left
    /// their overlays, which are removed. Of all others the next older snapshot has the mark.
    pub fn break_deletion(&self, vm: VmId, name: &SnapshotName, merged: &[&str]) -> Result<()> {
        self.with(|s| {
            let disks = s.machine(vm)?.saved(name)?.disks.clone();
            for disk in &disks {
                s.store.copy_down(&disk.overlay, &disk.state_image, usize::MAX)?;
            }
            let merged: BTreeSet<&str> = merged.iter().copied().collect();
            for disk in disks.iter().filter(|d| merged.contains(d.target.as_str())) {
                s.rewire(vm, &disk.overlay, &disk.state_image)?;
            }
            s.machine(vm)?.mark_older(name, |target| !merged.contains(target));
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// Another program has libvirt delete a snapshot of a running VM, and libvirtd dies when it has copied part of the first
    /// disk's data, or, with that `merged`, when QEMU has done with it: where that was the one that is written to, libvirt
    /// does not know that QEMU has left it. It ends its jobs when it is back.
    pub fn break_off(&self, vm: VmId, name: &SnapshotName, merged: bool) -> Result<()> {
        let left = self.with(|s| -> Result<Option<SnapshotDisk>> {
            let disks = s.machine(vm)?.saved(name)?.disks.clone();
            let Some(first) = disks.into_iter().next() else { return Ok(None) };
            s.store.copy_down(&first.overlay, &first.state_image, if merged { usize::MAX } else { 1 })?;
            s.machine(vm)?.mark_older(name, |target| target == first.target);
            s.tell(Event::Changed(vm));
            let drive = s.machine(vm)?.drive(&first.target)?;
            if merged && drive.active == first.overlay {
                drive.active.clone_from(&first.state_image);
                return Ok(Some(first));
            }
            if merged {
                s.rewire(vm, &first.overlay, &first.state_image)?;
            }
            Ok(None)
        })?;
        left.map_or(Ok(()), |disk| self.lose_track(vm, &disk.target, &disk.overlay))
    }

    /// Another program has libvirt delete a snapshot of a stopped VM, and libvirtd dies when these disks have left their
    /// overlays, which are removed, and the next one's data is copied. The QEMU that was started for it stays, paused, with
    /// the job of that one, which nobody ends.
    pub fn leave_deletion(&self, vm: VmId, name: &SnapshotName, merged: &[&str]) -> Result<()> {
        self.with(|s| {
            let disks = s.machine(vm)?.saved(name)?.disks.clone();
            s.power_on(vm, VmState::Paused)?;
            let next = disks.iter().find(|d| !merged.contains(&d.target.as_str()));
            for disk in disks.iter().filter(|d| merged.contains(&d.target.as_str())) {
                s.store.copy_down(&disk.overlay, &disk.state_image, usize::MAX)?;
                s.rewire(vm, &disk.overlay, &disk.state_image)?;
            }
            if let Some(disk) = next {
                s.store.copy_down(&disk.overlay, &disk.state_image, usize::MAX)?;
                let of_deletion = s.machine(vm)?.drive(&disk.target)?.active != disk.overlay;
                s.machine(vm)?.waiting = vec![WaitingJob { target: disk.target.clone(), of_deletion }];
            }
            let machine = s.machine(vm)?;
            machine.block_job = true;
            // It is taken off when the next one is done as well.
            let begun = |target: &str| merged.contains(&target) || next.is_some_and(|d| d.target == target);
            machine.mark_older(name, begun);
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }
}
