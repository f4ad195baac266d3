//! VMs that were not there: drawn, defined and taken back.

use serde::{Deserialize, Serialize};

use super::{
    Asked, Sim, State,
    guest::{Drive, Machine},
    op::Op,
    snapshot::mismatch,
    spec::{DiskSpec, VmSpec},
};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Agent, Branch, Definition, Drawn, Error, ErrorKind, Event, NewVm, Nvram, Result},
};

/// What the definition of a new VM says.
#[derive(Debug, Serialize, Deserialize)]
struct Sketch {
    id: VmId,
    name: String,
    memory: u64,
    drives: Vec<(String, String, bool)>,
    nvram: Option<String>,
}

impl State {
    fn draw(&mut self, vm: VmId, snapshot: &SnapshotName, new: &NewVm) -> Result<Drawn> {
        let machine = self.machine(vm)?;
        let saved = machine.saved(snapshot)?;
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        let (mut drives, mut left_out) = (Vec::new(), Vec::new());
        for (target, then) in &saved.sources {
            let writable = machine.drives.iter().find(|d| d.target == *target).is_none_or(|d| d.writable);
            match new.images.iter().find(|(t, _)| t == target) {
                Some((_, layer)) => drives.push((target.clone(), layer.path.clone(), writable)),
                None if !writable => drives.push((target.clone(), then.clone(), false)),
                None if new.leave_out => left_out.push(format!("disk {target}")),
                None => {
                    return unsupported(format!(
                        "what has no part in the snapshot would be written to by both: disk {target} ({then})"
                    ));
                }
            }
        }
        if let Some((lost, _)) = new.images.iter().find(|(t, _)| !drives.iter().any(|(d, ..)| d == t)) {
            return Err(mismatch(&format!("the VM's definition of then has no disk {lost}")));
        }
        if machine.nvram.is_some() != new.nvram.is_some() {
            return unsupported("the firmware's variables were not kept with the snapshot".to_owned());
        }
        let (name, nvram) = (new.name.clone(), new.nvram.clone());
        let sketch = Sketch { id: new.id, name, memory: saved.memory, drives, nvram };
        let text = serde_json::to_string(&sketch).map_err(|e| mismatch(&e.to_string()))?;
        Ok(Drawn { definition: Definition::new(text), left_out })
    }

    fn define_new(&mut self, vm: VmId, definition: &Definition) -> Result<()> {
        let sketch: Sketch = serde_json::from_str(definition.as_str())
            .map_err(|e| Error::new(ErrorKind::Failed, format!("XML error: {e}")))?;
        let taken = |id: &VmId, machine: &Machine| *id == vm || machine.name == sketch.name;
        if self.vms.iter().any(|(id, machine)| taken(id, machine)) {
            let text = format!("operation failed: domain '{}' already exists", sketch.name);
            return Err(Error::new(ErrorKind::Exists, text));
        }
        let drive = |(target, path, writable): (String, String, bool)| {
            Drive::new(DiskSpec { writable, ..DiskSpec::new(&target, &path) })
        };
        let spec = VmSpec { nvram: sketch.nvram.map(nvram), ..VmSpec::new(&sketch.name, 0) };
        let spec = spec.in_state(VmState::ShutOff).with_agent(Agent::Connected);
        let mut machine = Machine::new(spec);
        machine.drives = sketch.drives.into_iter().map(drive).collect();
        machine.memory = sketch.memory;
        self.vms.insert(vm, machine);
        self.tell(Event::Changed(vm));
        Ok(())
    }

    fn undefine_new(&mut self, vm: VmId) -> Result<()> {
        let Some(machine) = self.vms.get(&vm) else { return Ok(()) };
        if machine.active() {
            return Err(Error::new(ErrorKind::Busy, "the VM is on: somebody has it"));
        }
        if !machine.snapshots.is_empty() || machine.managed_save {
            let text = "cannot undefine a domain with snapshots or a managed save";
            return Err(Error::new(ErrorKind::Failed, text));
        }
        self.vms.remove(&vm);
        self.tell(Event::Gone(vm));
        Ok(())
    }
}

fn nvram(path: String) -> Nvram {
    Nvram { kind: "file".to_owned(), path, format: "raw".to_owned() }
}

impl Branch for Sim {
    fn named(&self, name: &str) -> Result<Option<VmId>> {
        self.call(Asked::host(Op::Named, name), |s| {
            Ok(s.vms.iter().find(|(_, machine)| machine.name == name).map(|(id, _)| *id))
        })
    }

    fn draw(&self, vm: VmId, snapshot: &SnapshotName, new: &NewVm) -> Result<Drawn> {
        self.call(Asked::vm(Op::Draw, vm, snapshot.as_str()), |s| s.draw(vm, snapshot, new))
    }

    fn define_new(&self, vm: VmId, definition: &Definition) -> Result<()> {
        self.call(Asked::vm(Op::DefineNew, vm, ""), |s| s.define_new(vm, definition))
    }

    fn undefine_new(&self, vm: VmId) -> Result<()> {
        self.call(Asked::vm(Op::UndefineNew, vm, ""), |s| s.undefine_new(vm))
    }
}
