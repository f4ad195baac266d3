//! Snapshots inside images.

use super::{Asked, Sim, State, guest::Machine, op::Op, snapshot::Saved};
use crate::{
    core::{
        model::{Content, SnapshotName, Storage, VmId, VmState},
        qcow2::Inner,
    },
    hypervisor::{Error, ErrorKind, Event, Inside, Result, Taken},
};

impl State {
    pub(super) fn take_inside(&mut self, vm: VmId, name: &SnapshotName, description: &str) -> Result<()> {
        let machine = self.machine(vm)?;
        let content = if machine.active() { Content::Full } else { Content::Disk };
        let drives = machine.drives.iter().filter(|d| d.writable);
        let on: Vec<_> = drives.map(|d| (d.target.clone(), d.active.clone())).collect();
        let inside = on.iter().map(|(target, image)| (target.clone(), self.store.read(image))).collect();
        let mut saved = self.new_snapshot(vm, description, Storage::Internal, content, Vec::new())?;
        saved.inside = inside;
        let machine = self.machine(vm)?;
        machine.snapshots.insert(name.clone(), saved);
        machine.set_current(name);
        Ok(())
    }

    fn revert_inside(&mut self, vm: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()> {
        let machine = self.machine(vm)?;
        machine.check_unmixed()?;
        let saved = machine.saved(name)?.clone();
        for (target, content) in saved.inside {
            let active = self.machine(vm)?.drive(&target)?.active.clone();
            if let Some(file) = self.store.files.get_mut(&active) {
                file.blocks = content;
            }
        }
        let machine = self.machine(vm)?;
        let was = match saved.taken {
            Taken::Running => VmState::Running,
            Taken::Paused => VmState::Paused,
            Taken::Off | Taken::DiskOnly => VmState::ShutOff,
        };
        machine.state = then.unwrap_or(was);
        machine.ran = true;
        machine.memory = saved.memory;
        machine.set_current(name);
        self.tell(Event::Changed(vm));
        Ok(())
    }
}

impl State {
    fn snapshots_inside(&self, image: &str) -> Result<Vec<Inner>> {
        if self.store.format(image) != "qcow2" {
            let text = format!("{image} is no qcow2 image");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let here = |saved: &Saved| saved.sources.iter().any(|(_, path)| path == image);
        let of = |machine: &Machine| {
            let all = machine.snapshots.iter().filter(|(_, s)| s.storage == Storage::Internal);
            let known = all.chain(machine.forgotten.iter().map(|(name, saved)| (name, saved)));
            known.filter(|(_, saved)| here(saved)).map(|(name, saved)| inner(name, saved)).collect::<Vec<_>>()
        };
        Ok(self.vms.values().flat_map(of).collect())
    }
}

fn inner(name: &SnapshotName, saved: &Saved) -> Inner {
    let memory_bytes = if saved.content == Content::Full { saved.memory << 20 } else { 0 };
    Inner { name: name.as_str().to_owned(), memory_bytes, taken: saved.created }
}

impl Machine {
    /// As libvirt forgets a snapshot of whichever kind; one inside images stays there.
    pub(super) fn forget_any(&mut self, name: &SnapshotName) {
        let inside = self.snapshots.get(name).filter(|s| s.storage == Storage::Internal);
        self.forgotten.extend(inside.map(|saved| (name.clone(), saved.clone())));
        self.forget(name);
    }

    /// A running QEMU reaches those alone that are in what it writes to.
    pub(super) fn check_inside(&self, saved: &Saved) -> Result<()> {
        let moved = |(target, image): &(String, String)| {
            self.drives.iter().any(|d| d.target == *target && d.active != *image)
        };
        if self.active() && saved.sources.iter().any(moved) {
            let text = "it is in an image that the VM is no longer on: shut the VM down first";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(())
    }

    fn check_unmixed(&self) -> Result<()> {
        match self.snapshots.iter().find(|(_, s)| s.storage == Storage::External) {
            None => Ok(()),
            Some((other, _)) => {
                let text =
                    format!("the VM also has the external snapshot {other}: the two kinds are not mixed");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }
}

impl Inside for Sim {
    fn take_inside(&self, vm: VmId, name: &SnapshotName, description: &str) -> Result<()> {
        self.call(Asked::vm(Op::TakeInside, vm, name.as_str()), |s| {
            s.check_foreign(vm, name)?;
            s.machine(vm)?.check_unmixed()?;
            s.take_inside(vm, name, description)
        })
    }

    fn revert_inside(&self, vm: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()> {
        self.call(Asked::vm(Op::RevertInside, vm, name.as_str()), |s| s.revert_inside(vm, name, then))
    }

    fn snapshots_inside(&self, image: &str) -> Result<Vec<Inner>> {
        self.call(Asked::host(Op::SnapshotsInside, image), |s| s.snapshots_inside(image))
    }
}
