//! Definitions and power: a stopped VM on other images.

use std::collections::BTreeMap;

use super::{
    Asked, Sim, State,
    guest::Drive,
    image::Image,
    op::Op,
    snapshot::{Saved, mismatch},
    spec::DiskSpec,
};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Definition, Error, ErrorKind, Event, Layer, Overlay, Power, Result, Switch},
};

/// More than any host has, in MiB.
const MOST_MEMORY: u64 = 1 << 24;

/// What a definition says beside what is the VM's own and its disks. Its text is `memory 128`.
struct Defined {
    memory: u64,
}

impl Defined {
    fn read(definition: &Definition) -> Result<Self> {
        let memory = definition.as_str().strip_prefix("memory ").and_then(|m| m.parse().ok());
        let broken = || Error::new(ErrorKind::Failed, "XML error: this is no domain's");
        Ok(Self { memory: memory.ok_or_else(broken)? })
    }

    fn written(memory: u64) -> Definition {
        Definition::new(format!("memory {memory}"))
    }
}

impl State {
    fn prepare_on(&mut self, vm: VmId, overlays: &[Overlay], half: bool) -> Result<()> {
        self.machine(vm)?;
        let before = self.store.files.clone();
        for overlay in overlays {
            let image = self.store.files.get(&overlay.backing.path);
            if image.is_none_or(|i| i.format != overlay.backing.format) {
                let what = format!("there is no such image at {}", overlay.backing.path);
                self.store.files = before;
                return Err(mismatch(&what));
            }
            if let Err(e) = self.store.make(&overlay.path, &overlay.backing.path) {
                self.store.files = before;
                return Err(e.context(format_args!("overlay for disk {}", overlay.target)));
            }
            if half {
                break;
            }
        }
        Ok(())
    }

    fn define(&mut self, vm: VmId, definition: &Definition, sources: &[(String, Layer)]) -> Result<()> {
        let machine = self.machine(vm)?;
        if machine.active() {
            return Err(Error::new(ErrorKind::Busy, "the domain is on"));
        }
        let read = Defined::read(definition)?;
        let sources: BTreeMap<&str, &Layer> = sources.iter().map(|(t, layer)| (t.as_str(), layer)).collect();
        for target in sources.keys() {
            if !machine.drives.iter().any(|d| d.target == *target) {
                return Err(mismatch(&format!("there is no disk {target} any more")));
            }
        }
        machine.memory = read.memory;
        for drive in &mut machine.drives {
            if let Some(layer) = sources.get(drive.target.as_str()) {
                drive.active.clone_from(&layer.path);
                drive.configured = None;
            }
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }

    pub(super) fn power_on(&mut self, vm: VmId, to: VmState) -> Result<()> {
        self.check_bootable(vm)?;
        if self.machine(vm)?.memory > MOST_MEMORY {
            let text = "internal error: cannot set up guest memory 'pc.ram': Cannot allocate memory";
            return Err(Error::new(ErrorKind::Failed, text));
        }
        self.set_state(vm, &[VmState::ShutOff], to)?;
        let machine = self.machine(vm)?;
        machine.managed_save = false;
        for drive in &mut machine.drives {
            // A QEMU that libvirt had lost sight of would hold the images.
            drive.adrift = None;
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }

    pub(super) fn power_off(&mut self, vm: VmId) -> Result<()> {
        let on = [VmState::Running, VmState::Paused, VmState::PmSuspended, VmState::Crashed, VmState::Other];
        self.set_state(vm, &on, VmState::ShutOff)?;
        self.lose_unflushed(vm)?;
        let machine = self.machine(vm)?;
        machine.agent.reboot();
        machine.ram.lose();
        machine.block_job = false;
        machine.waiting.clear();
        for drive in &mut machine.drives {
            drive.adrift = None;
            drive.active = drive.configured.take().unwrap_or_else(|| drive.active.clone());
        }
        machine.merging.clear();
        machine.pulling.clear();
        if !machine.persistent {
            self.vms.remove(&vm);
        }
        Ok(())
    }
}

impl Saved {
    fn definition(&self) -> Definition {
        Defined::written(self.memory)
    }
}

impl Switch for Sim {
    fn definition(&self, vm: VmId) -> Result<Definition> {
        self.call(Asked::vm(Op::Definition, vm, ""), |s| Ok(Defined::written(s.machine(vm)?.memory)))
    }

    fn definition_at(&self, vm: VmId, snapshot: &SnapshotName) -> Result<Definition> {
        self.call(Asked::vm(Op::Definition, vm, snapshot.as_str()), |s| {
            Ok(s.machine(vm)?.saved(snapshot)?.definition())
        })
    }

    fn prepare_on(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        let paths: Vec<_> = overlays.iter().map(|o| o.path.as_str()).collect();
        let asked = Asked::vm(Op::PrepareOn, vm, paths.join(" "));
        self.call_in_two(asked, |_| Ok(()), |s, half| s.prepare_on(vm, overlays, half))
    }

    fn define(&self, vm: VmId, definition: &Definition, sources: &[(String, Layer)]) -> Result<()> {
        let paths: Vec<_> = sources.iter().map(|(_, layer)| layer.path.as_str()).collect();
        let asked = Asked::vm(Op::Define, vm, paths.join(" "));
        self.call(asked, |s| s.define(vm, definition, sources))
    }
}

impl Power for Sim {
    fn stop(&self, vm: VmId) -> Result<()> {
        self.call(
            Asked::vm(Op::Stop, vm, ""),
            |s| {
                if s.machine(vm)?.active() { s.power_off(vm) } else { Ok(()) }
            },
        )
    }

    fn start(&self, vm: VmId, paused: bool) -> Result<()> {
        let to = if paused { VmState::Paused } else { VmState::Running };
        self.call(Asked::vm(Op::Start, vm, to.as_str()), |s| match s.machine(vm)?.state {
            VmState::ShutOff => s.power_on(vm, to),
            VmState::Paused if !paused => s.let_run(vm, &[VmState::Paused]),
            _ => Ok(()),
        })
    }

    fn suspend(&self, vm: VmId) -> Result<bool> {
        self.call(Asked::vm(Op::Suspend, vm, ""), |s| {
            let runs = s.machine(vm)?.state == VmState::Running;
            if runs {
                s.flush(vm)?;
                s.set_state(vm, &[VmState::Running], VmState::Paused).map(|()| true)
            } else {
                Ok(false)
            }
        })
    }

    fn go_on(&self, vm: VmId) -> Result<()> {
        self.call(Asked::vm(Op::GoOn, vm, ""), |s| match s.machine(vm)?.state {
            VmState::Paused => s.let_run(vm, &[VmState::Paused]),
            _ => Ok(()),
        })
    }

    fn resumable(&self, vm: VmId, memory: &str) -> Result<()> {
        self.call(Asked::vm(Op::Resumable, vm, memory), |s| {
            s.machine(vm)?;
            s.kept_memory(memory).map(drop)
        })
    }

    fn resume(&self, vm: VmId, memory: &str, sources: &[(String, Layer)], paused: bool) -> Result<()> {
        let to = if paused { VmState::Paused } else { VmState::Running };
        self.call(Asked::vm(Op::Resume, vm, to.as_str()), |s| match s.machine(vm)?.state {
            VmState::ShutOff => s.go_on_from(vm, memory, sources, to),
            VmState::Paused if !paused => s.let_run(vm, &[VmState::Paused]),
            _ => Ok(()),
        })
    }
}

impl Sim {
    /// `virsh setmaxmem --config`: so much memory, in MiB, it has from the next start on.
    pub fn set_memory(&self, vm: VmId, mib: u64) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.memory = mib;
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// `virsh attach-disk --config`, of a stopped VM: with its image, made if it is not there.
    pub fn attach(&self, vm: VmId, disk: DiskSpec) -> Result<()> {
        self.with(|s| {
            let image = Image::new(&disk.format, disk.backing.clone());
            s.store.files.entry(disk.path.clone()).or_insert(image);
            s.machine(vm)?.drives.push(Drive::new(disk));
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// The memory of its definition, in MiB.
    pub fn memory(&self, vm: VmId) -> Result<u64> {
        self.with(|s| Ok(s.machine(vm)?.memory))
    }
}
