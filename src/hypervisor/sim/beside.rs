//! What other people's tools do to a VM's snapshots and images beside us, and the oracle of their data.
//!
//! libvirt tells of none of the creations; that is why they must be looked for.

use super::{Sim, State, image::Blocks, op::Op, snapshot::mismatch};
use crate::{
    core::model::{Content, SnapshotName, Storage, VmId, VmState},
    hypervisor::{Error, ErrorKind, Event, Result, SnapshotDisk},
};

impl State {
    /// Puts a new overlay on each of these images, as libvirt names them when nobody does.
    fn make_overlays(&mut self, on: &[(String, String)], ending: &str) -> Result<Vec<SnapshotDisk>> {
        let mut disks = Vec::new();
        for (target, image) in on {
            let (stem, _) = image.rsplit_once('.').unwrap_or((image, ""));
            let overlay = format!("{stem}.{ending}");
            self.store.make(&overlay, image)?;
            let format = self.store.format(image);
            disks.push(SnapshotDisk { target: target.clone(), overlay, state_image: image.clone(), format });
        }
        Ok(disks)
    }

    fn switch(&mut self, vm: VmId, disks: &[SnapshotDisk]) -> Result<()> {
        for disk in disks {
            self.machine(vm)?.drive(&disk.target)?.active.clone_from(&disk.overlay);
        }
        Ok(())
    }

    fn add(
        &mut self,
        vm: VmId,
        name: &SnapshotName,
        kind: (Storage, Content),
        on: Vec<SnapshotDisk>,
    ) -> Result<()> {
        let saved = self.new_snapshot(vm, "", kind.0, kind.1, on)?;
        let machine = self.machine(vm)?;
        machine.snapshots.insert(name.clone(), saved);
        machine.set_current(name);
        Ok(())
    }

    fn writable(&mut self, vm: VmId) -> Result<Vec<(String, String)>> {
        let drives = self.machine(vm)?.drives.iter().filter(|d| d.writable);
        Ok(drives.map(|d| (d.target.clone(), d.active.clone())).collect())
    }

    pub(super) fn check_foreign(&mut self, vm: VmId, name: &SnapshotName) -> Result<()> {
        let machine = self.machine(vm)?;
        machine.check_changeable()?;
        if machine.snapshots.contains_key(name) {
            return Err(Error::new(ErrorKind::Exists, format!("domain snapshot {name} already exists")));
        }
        Ok(())
    }

    fn revert(&mut self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.next_id += 1;
        let ending = format!("reverted-{}", self.next_id);
        let machine = self.machine(vm)?;
        if machine.state != VmState::ShutOff {
            return Err(Error::new(ErrorKind::Failed, "the domain must be shut off for this"));
        }
        let on: Vec<_> =
            machine.saved(name)?.disks.iter().map(|d| (d.target.clone(), d.state_image.clone())).collect();
        let leaf = machine.children(name) == 0;
        let left: Vec<String> = machine.drives.iter().map(|d| d.active.clone()).collect();
        let disks = self.make_overlays(&on, &ending)?;
        self.switch(vm, &disks)?;
        let machine = self.machine(vm)?;
        machine.set_current(name);
        if let Some(saved) = machine.snapshots.get_mut(name) {
            if leaf {
                saved.disks = disks;
            } else {
                saved.revert_disks = disks.into_iter().map(|d| (d.target, d.overlay)).collect();
            }
        }
        // What the VM ran on until now is in no snapshot, and no longer under anything.
        for path in left {
            let used = self.vms.values().any(|m| m.uses(&self.store, &path) || m.refers_to(&path));
            if !used {
                self.store.files.remove(&path);
            }
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }
}

impl super::guest::Machine {
    fn refers_to(&self, path: &str) -> bool {
        self.snapshots.values().flat_map(|s| &s.disks).any(|d| d.overlay == path || d.state_image == path)
    }
}

/// What is done to snapshots and images from outside.
impl Sim {
    /// `virsh snapshot-create-as --disk-only`: an external snapshot of all writable disks, with libvirt's
    /// names for its overlays. No event.
    pub fn make_foreign_snapshot(&self, vm: VmId, name: &str) -> Result<()> {
        let name = SnapshotName::existing(name);
        self.with(|s| {
            s.check_foreign(vm, &name)?;
            let on = s.writable(vm)?;
            let disks = s.make_overlays(&on, name.as_str())?;
            // The definition that it keeps is the one from before.
            s.add(vm, &name, (Storage::External, Content::Disk), disks.clone())?;
            s.switch(vm, &disks)
        })
    }

    /// `virsh snapshot-create-as --disk-only --no-metadata`: overlays on these disks, and nobody says so. No event.
    pub fn put_on_top(&self, vm: VmId, disks: &[&str]) -> Result<()> {
        self.with(|s| {
            s.next_id += 1;
            let ending = format!("layer{}", s.next_id);
            let on: Vec<_> =
                s.writable(vm)?.into_iter().filter(|(target, _)| disks.contains(&target.as_str())).collect();
            let made = s.make_overlays(&on, &ending)?;
            s.switch(vm, &made)
        })
    }

    /// `virsh snapshot-create-as`: an internal snapshot, with the memory if the VM runs. No event.
    pub fn make_internal_snapshot(&self, vm: VmId, name: &str) -> Result<()> {
        self.make_described_snapshot(vm, name, "")
    }

    /// The same with a description. No event.
    pub fn make_described_snapshot(&self, vm: VmId, name: &str, description: &str) -> Result<()> {
        let name = SnapshotName::existing(name);
        self.with(|s| {
            s.check_foreign(vm, &name)?;
            s.take_inside(vm, &name, description)
        })
    }

    /// `virsh snapshot-delete --metadata`: its children become its parent's, all files stay. No event.
    pub fn forget_snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.with(|s| {
            let machine = s.machine(vm)?;
            machine.saved(name)?;
            machine.forget_any(name);
            Ok(())
        })
    }

    /// No snapshot is the current one any more: the state in which libvirt 11.3 crashes on a deletion.
    pub fn forget_current(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.current = None;
            Ok(())
        })
    }

    /// A revert done by hand, of a stopped VM: new overlays on the snapshot's state images, and it is the
    /// current one. A leaf gets them as its own; one with children keeps those that its children lie on.
    pub fn revert(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.with(|s| s.revert(vm, name))
    }

    /// `virsh blockcommit --active --pivot` without `--base`: the whole chain goes into the lowest image, its
    /// files stay, and the snapshots' metadata names images that the disk no longer runs on. Changed.
    pub fn merge_chain_behind(&self, vm: VmId, target: &str) -> Result<()> {
        self.with(|s| {
            let active = s.machine(vm)?.drive(target)?.active.clone();
            let content = s.store.read(&active);
            let Some(base) = s.store.chain(&active).pop() else {
                return Err(mismatch("a disk without images"));
            };
            content.into_iter().try_for_each(|(block, value)| s.store.write(&base.path, block, value))?;
            s.machine(vm)?.drive(target)?.active = base.path;
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// `virsh edit`: the definition names this image for the disk, which a running VM is on from its next start.
    pub fn point_definition_at(&self, vm: VmId, target: &str, path: &str) -> Result<()> {
        self.with(|s| {
            let active = s.machine(vm)?.active();
            let drive = s.machine(vm)?.drive(target)?;
            if active {
                drive.configured = Some(path.to_owned());
            } else {
                path.clone_into(&mut drive.active);
            }
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// Somebody else's block job runs on the VM, or no longer. Changed.
    pub fn block_job(&self, vm: VmId, runs: bool) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.block_job = runs;
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// Somebody else's backup of the VM runs, or no longer. Changed.
    pub fn back_up(&self, vm: VmId, runs: bool) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.job = runs.then_some(Op::Create);
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// What a disk was when this snapshot was taken, as the snapshot has it now.
    pub fn content_of_snapshot(&self, vm: VmId, name: &SnapshotName, target: &str) -> Result<Blocks> {
        self.with(|s| {
            let saved = s.machine(vm)?.saved(name)?.clone();
            if let Some(inside) = saved.inside.get(target) {
                return Ok(inside.clone());
            }
            let disk = saved.disks.iter().find(|d| d.target == target);
            let none = || Error::new(ErrorKind::Failed, format!("snapshot {name} has no disk {target}"));
            disk.map(|d| s.store.read(&d.state_image)).ok_or_else(none)
        })
    }
}
