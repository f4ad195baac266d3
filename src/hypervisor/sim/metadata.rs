//! Metadata alone: what libvirt writes down of snapshots, and lets others write.

use jiff::Timestamp;

use super::{
    Asked, Sim, State,
    guest::Machine,
    image::Store,
    op::Op,
    snapshot::{Saved, mismatch},
};
use crate::{
    core::model::{Content, SnapshotName, Storage, VmId},
    hypervisor::{
        Error, ErrorKind, Metadata, NewRecord, Redefine, Result, RevertDisks, SnapshotDisk, SnapshotRecord,
        SnapshotXml, Taken, glimpse,
    },
};

impl Saved {
    /// What `<disks>` and `<domain>` together say, once these are its overlays.
    pub(super) fn set_overlays(&mut self, overlays: &[(String, String)]) {
        for (target, overlay) in overlays {
            if let Some(disk) = self.disks.iter_mut().find(|d| d.target == *target) {
                disk.overlay.clone_from(overlay);
            }
        }
    }

    /// The image under one that goes, in the place of that one.
    pub(super) fn replace_image(&mut self, merged: &SnapshotDisk) {
        for disk in self.disks.iter_mut().filter(|d| d.state_image == merged.overlay) {
            disk.state_image.clone_from(&merged.state_image);
            disk.format.clone_from(&merged.format);
        }
        for (_, image) in self.sources.iter_mut().filter(|(_, image)| *image == merged.overlay) {
            image.clone_from(&merged.state_image);
        }
    }
}

impl Machine {
    /// What [`Hypervisor::glance`](crate::hypervisor::Hypervisor::glance) tells of it.
    pub(super) fn glance(&self) -> u64 {
        glimpse(
            self.snapshots.keys().map(SnapshotName::as_str),
            self.current.as_ref().map(SnapshotName::as_str),
        )
    }

    /// The one that was current loses the overlays of its revert: the VM writes to something else from now on.
    pub(super) fn set_current(&mut self, name: &SnapshotName) {
        let old = self.current.replace(name.clone()).filter(|old| old != name);
        if let Some(saved) = old.and_then(|old| self.snapshots.get_mut(&old)) {
            saved.revert_disks.clear();
        }
    }

    pub(super) fn records(&self, store: &Store) -> Vec<SnapshotRecord> {
        let making = self.making.iter().map(|(n, s)| (n, s));
        let taken = |files: &mut dyn Iterator<Item = &String>| files.map(|path| store.allocation(path)).sum();
        let record = |(name, s): (&SnapshotName, &Saved)| SnapshotRecord {
            name: name.clone(),
            description: s.description.clone(),
            created: s.created,
            parent: s.parent.clone(),
            current: self.current.as_ref() == Some(name),
            content: s.content,
            storage: s.storage,
            disks: s.disks.clone(),
            delete_in_progress: s.deleting.iter().cloned().collect(),
            revert_disks: s.revert_disks.clone(),
            memory_file: s.memory_file.clone(),
            taken: s.taken,
            sources: s.sources.clone(),
            size: taken(&mut s.disks.iter().map(|d| &d.overlay).chain(&s.memory_file)),
            held: taken(&mut s.disks.iter().map(|d| &d.state_image).chain(&s.memory_file)),
            memory_lost: s.memory_file.as_ref().is_some_and(|path| !store.files.contains_key(path)),
            lost: s
                .disks
                .iter()
                .map(|d| d.state_image.clone())
                .filter(|image| !store.files.contains_key(image))
                .collect(),
            xml_bytes: s.description.len() + 9_000,
        };
        self.snapshots.iter().chain(making).map(record).collect()
    }

    /// As libvirt takes one off its list that it cannot write: its children name it on, and nobody is current.
    fn lose(&mut self, name: &SnapshotName) {
        self.snapshots.remove(name);
        self.current.take_if(|current| current == name);
    }

    /// As libvirt forgets: a parent that was reverted to takes those overlays for its own, whatever else lies on its
    /// own ones.
    pub(super) fn forget(&mut self, name: &SnapshotName) {
        let Some(gone) = self.snapshots.remove(name) else { return };
        for other in self.snapshots.values_mut().filter(|s| s.parent.as_ref() == Some(name)) {
            other.parent.clone_from(&gone.parent);
        }
        if let Some(parent) = gone.parent.as_ref().and_then(|p| self.snapshots.get_mut(p)) {
            let reverted = std::mem::take(&mut parent.revert_disks);
            parent.set_overlays(&reverted);
        }
        if self.current.as_ref() == Some(name) {
            self.current = gone.parent;
        }
    }
}

impl State {
    pub(super) fn records(&mut self, vm: VmId) -> Result<Vec<SnapshotRecord>> {
        self.machine(vm)?;
        Ok(self.vms[&vm].records(&self.store))
    }

    fn redefine(&mut self, vm: VmId, change: &Redefine, half: bool) -> Result<()> {
        let machine = self.machine(vm)?;
        let mut saved = machine.saved(&change.name)?.clone();
        for (target, _) in &change.overlays {
            if !saved.disks.iter().any(|d| d.target == *target) {
                let name = &change.name;
                return Err(mismatch(&format!("snapshot {name} has no overlay of disk {target}")));
            }
        }
        if half {
            machine.lose(&change.name);
            return Ok(());
        }
        // All at once, as an editor of the text would: what one puts there is not what another looks for.
        let renamed = |path: &str| change.images.iter().find(|(from, _)| from == path).map(|(_, to)| to);
        for disk in &mut saved.disks {
            if let Some(to) = renamed(&disk.state_image) {
                disk.state_image.clone_from(&to.path);
                disk.format.clone_from(&to.format);
            }
        }
        for (_, image) in &mut saved.sources {
            if let Some(to) = renamed(image) {
                image.clone_from(&to.path);
            }
        }
        if saved.taken == Taken::Off {
            (saved.content, saved.memory_file) = (Content::Disk, None);
        }
        saved.set_overlays(&change.overlays);
        match &change.revert {
            RevertDisks::Keep => {}
            RevertDisks::Drop => saved.revert_disks.clear(),
            RevertDisks::Set(disks) => saved.revert_disks.clone_from(disks),
        }
        if change.unmark {
            saved.deleting.clear();
        }
        if let Some(description) = &change.description {
            saved.description.clone_from(description);
        }
        if change.current {
            machine.set_current(&change.name);
        }
        machine.snapshots.insert(change.name.clone(), saved);
        Ok(())
    }

    fn forget(&mut self, vm: VmId, name: &SnapshotName, half: bool) -> Result<()> {
        let machine = self.machine(vm)?;
        let Some(parent) = machine.snapshots.get(name).and_then(|s| s.parent.clone()) else {
            machine.forget_any(name);
            return Ok(());
        };
        let before = machine.saved(&parent)?.clone();
        let current = machine.current.clone();
        let its = |current: &SnapshotName| {
            machine.snapshots.get(current).is_some_and(|s| s.parent.as_ref() == Some(name))
        };
        let of_its_own = current.filter(its);
        machine.forget_any(name);
        if half {
            let has_others = machine.children(&parent) > 0;
            match of_its_own {
                // Killed before what libvirt made of the parent is put right.
                _ if has_others && !before.revert_disks.is_empty() => return Ok(()),
                // These are what is written once more.
                Some(current) => machine.lose(&current),
                None if has_others || machine.current.as_ref() == Some(&parent) => machine.lose(&parent),
                None => {}
            }
        }
        if machine.children(&parent) > 0
            && let Some(saved) = machine.snapshots.get_mut(&parent)
        {
            (saved.disks, saved.revert_disks) = (before.disks, before.revert_disks);
        }
        self.name_what_it_runs_on(vm)
    }

    /// The current snapshot names what the VM writes to: a leaf as its own overlays, one with children as those of a
    /// revert.
    pub(super) fn name_what_it_runs_on(&mut self, vm: VmId) -> Result<()> {
        let machine = self.machine(vm)?;
        let Some(current) = machine.current.clone() else { return Ok(()) };
        let disks = machine.saved(&current)?.disks.clone();
        let mut tops = Vec::new();
        for disk in &disks {
            let active = self.machine(vm)?.drive(&disk.target)?.active.clone();
            if self.store.chain(&active).get(1).is_none_or(|below| below.path != disk.state_image) {
                return Ok(());
            }
            tops.push((disk.target.clone(), active));
        }
        let own = disks.iter().all(|d| tops.contains(&(d.target.clone(), d.overlay.clone())));
        let machine = self.machine(vm)?;
        let leaf = machine.children(&current) == 0;
        if let Some(saved) = machine.snapshots.get_mut(&current).filter(|_| !own) {
            if leaf {
                saved.set_overlays(&tops);
            } else {
                saved.revert_disks = tops;
            }
        }
        Ok(())
    }

    fn saved(&mut self, vm: VmId, name: &SnapshotName) -> Result<Saved> {
        Ok(self.machine(vm)?.saved(name)?.clone())
    }

    fn copy(&mut self, name: &SnapshotName, saved: Saved) -> SnapshotXml {
        self.copies.push((name.clone(), saved));
        SnapshotXml::new(format!("copy {}", self.copies.len() - 1))
    }

    fn put_back(&mut self, vm: VmId, copy: &SnapshotXml, current: bool) -> Result<()> {
        let number = copy.as_str().strip_prefix("copy ").and_then(|n| n.parse::<usize>().ok());
        let Some((name, saved)) = number.and_then(|n| self.copies.get(n).cloned()) else {
            return Err(Error::new(ErrorKind::Failed, "XML error: this is no snapshot's"));
        };
        let machine = self.machine(vm)?;
        if let Some(parent) = saved.parent.as_ref().filter(|p| !machine.snapshots.contains_key(p)) {
            let text = format!("invalid argument: parent {parent} for snapshot {name} not found");
            return Err(Error::new(ErrorKind::Failed, text));
        }
        if current {
            machine.set_current(&name);
        }
        machine.snapshots.insert(name, saved);
        Ok(())
    }
}

impl State {
    fn name_layer(&mut self, vm: VmId, new: &NewRecord) -> Result<()> {
        self.check_foreign(vm, &new.name)?;
        for disk in &new.disks {
            let active = self.machine(vm)?.drive(&disk.target)?.active.clone();
            let chain = self.store.chain(&active);
            if !chain.windows(2).any(|w| w[0].path == disk.overlay && w[1].path == disk.state_image) {
                return Err(mismatch(&format!("disk {} does not have {}", disk.target, disk.overlay)));
            }
        }
        let mut saved =
            self.new_snapshot(vm, &new.description, Storage::External, Content::Disk, new.disks.clone())?;
        for (target, image) in &mut saved.sources {
            if let Some(disk) = new.disks.iter().find(|d| d.target == *target) {
                image.clone_from(&disk.state_image);
            }
        }
        saved.created = Timestamp::from_second(new.created.as_second()).unwrap_or(new.created);
        saved.parent.clone_from(&new.parent);
        saved.taken = Taken::DiskOnly;
        let machine = self.machine(vm)?;
        machine.snapshots.insert(new.name.clone(), saved);
        machine.set_current(&new.name);
        Ok(())
    }
}

impl Metadata for Sim {
    fn name_layer(&self, vm: VmId, new: &NewRecord) -> Result<()> {
        self.call(Asked::vm(Op::NameLayer, vm, new.name.as_str()), |s| s.name_layer(vm, new))
    }

    fn redefine(&self, vm: VmId, change: &Redefine) -> Result<()> {
        let asked = Asked::vm(Op::Redefine, vm, change.name.as_str());
        self.call_in_two(asked, |_| Ok(()), |s, half| s.redefine(vm, change, half))
    }

    fn forget(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        let asked = Asked::vm(Op::Forget, vm, name.as_str());
        self.call_in_two(asked, |_| Ok(()), |s, half| s.forget(vm, name, half))
    }

    fn copy(&self, vm: VmId, name: &SnapshotName) -> Result<SnapshotXml> {
        self.call(Asked::vm(Op::Copy, vm, name.as_str()), |s| {
            let saved = s.saved(vm, name)?;
            Ok(s.copy(name, saved))
        })
    }

    fn copy_under(
        &self,
        vm: VmId,
        name: &SnapshotName,
        parent: Option<&SnapshotName>,
    ) -> Result<SnapshotXml> {
        self.call(Asked::vm(Op::Copy, vm, name.as_str()), |s| {
            let saved = s.saved(vm, name)?;
            Ok(s.copy(name, Saved { parent: parent.cloned(), ..saved }))
        })
    }

    fn put_back(&self, vm: VmId, copy: &SnapshotXml, current: bool) -> Result<()> {
        self.call(Asked::vm(Op::PutBack, vm, copy.as_str()), |s| s.put_back(vm, copy, current))
    }
}
