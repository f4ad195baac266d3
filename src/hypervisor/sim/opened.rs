//! What a VM's QEMU has open, where libvirt knows it and where it does not.

use super::{Asked, Op, Sim, State, snapshot::mismatch};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Event, Layer, Opened, OpenedDisk, Result},
};

impl State {
    /// The image that the guest's writes go to.
    pub(super) fn written_to(&mut self, vm: VmId, target: &str) -> Result<String> {
        let drive = self.machine(vm)?.drive(target)?;
        Ok(drive.adrift.as_ref().unwrap_or(&drive.active).clone())
    }

    fn name_for_next_start(&mut self, vm: VmId, sources: &[(String, Layer)]) -> Result<()> {
        let machine = self.machine(vm)?;
        if let Some((target, _)) = sources.iter().find(|(t, _)| machine.drives.iter().all(|d| d.target != *t))
        {
            return Err(mismatch(&format!("there is no disk {target} any more")));
        }
        for (target, layer) in sources {
            let drive = machine.drive(target)?;
            drive.configured = (drive.active != layer.path).then(|| layer.path.clone());
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }
}

impl Sim {
    /// libvirtd ended after QEMU had moved this disk of a VM that is on, and before it noted that: from now on it takes
    /// the disk to be on `path`, until the VM was off.
    pub fn lose_track(&self, vm: VmId, target: &str, path: &str) -> Result<()> {
        self.with(|s| {
            let machine = s.machine(vm)?;
            if !machine.active() {
                return Err(Error::new(ErrorKind::Failed, "it is off: there is nothing to lose track of"));
            }
            let drive = machine.drive(target)?;
            drive.adrift = Some(std::mem::replace(&mut drive.active, path.to_owned()));
            Ok(())
        })
    }
}

impl Sim {
    /// libvirtd ended when QEMU had left the image of this disk, and forgets that the VM is on at all, as 9.0 does: by its
    /// word it is off, with the disk on `path`. Its guest writes on, behind everybody's back, until it is started.
    pub fn lose_sight(&self, vm: VmId, target: &str, path: &str) -> Result<()> {
        self.lose_track(vm, target, path)?;
        self.with(|s| {
            s.set_state(vm, &[VmState::Running], VmState::ShutOff)?;
            s.machine(vm)?.merging.clear();
            Ok(())
        })
    }
}

impl Opened for Sim {
    fn opened(&self, vm: VmId) -> Result<Option<Vec<OpenedDisk>>> {
        self.call(Asked::vm(Op::Opened, vm, ""), |s| {
            if !s.machine(vm)?.active() {
                return Ok(None);
            }
            let drives: Vec<_> = s.vms[&vm].drives.iter().map(|d| d.target.clone()).collect();
            let disk = |target: String| {
                let top = s.written_to(vm, &target)?;
                Ok(OpenedDisk { chain: s.store.chain(&top), target })
            };
            drives.into_iter().map(disk).collect::<Result<_>>().map(Some)
        })
    }

    fn name_for_next_start(&self, vm: VmId, sources: &[(String, Layer)]) -> Result<()> {
        let paths: Vec<_> = sources.iter().map(|(_, layer)| layer.path.as_str()).collect();
        let asked = Asked::vm(Op::NameForNextStart, vm, paths.join(" "));
        self.call(asked, |s| s.name_for_next_start(vm, sources))
    }
}
