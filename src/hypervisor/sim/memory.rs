//! A guest's memory: kept in a file with a snapshot, and gone with the plug.
//!
//! It is one number, which is another one after each thing that the guest does. A VM that was paused when its memory was
//! kept stands as QEMU leaves it: its images are inactive, and it can neither be kept once more nor be merged until its
//! CPUs have run.

use super::{Sim, State, guest::Machine, image::Image, snapshot::mismatch};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Layer, Result},
};

#[derive(Debug)]
pub(super) struct Ram {
    migratable: bool,
    /// What the guest did since it was started.
    value: u64,
    /// Its memory was kept while its CPUs stood still, and they have not run since.
    pub(super) inactive: bool,
}

impl Ram {
    pub(super) fn new(migratable: bool) -> Self {
        Self { migratable, value: 0, inactive: false }
    }

    /// As it is after the plug was pulled.
    pub(super) fn lose(&mut self) {
        (self.value, self.inactive) = (0, false);
    }
}

impl Machine {
    /// Whether its memory can be kept now.
    pub(super) fn check_migratable(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::NotMigratable, text));
        if self.state == VmState::ShutOff {
            let text = "XML error: memory state cannot be saved with offline or disk-only snapshot";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if !self.ram.migratable {
            return refuse(
                "Requested operation is not valid: cannot migrate domain: Migration is disabled when using feature \
                 'peer mode' in device 'ivshmem'",
            );
        }
        if self.ram.inactive {
            return refuse(
                "internal error: unable to execute QEMU command 'migrate': Can't migrate the vm that was paused due to \
                 previous migration",
            );
        }
        Ok(())
    }
}

impl State {
    /// Whether the memory can be kept in that file.
    pub(super) fn check_memory(&mut self, vm: VmId, path: &str) -> Result<()> {
        if self.store.files.contains_key(path) {
            return Err(Error::new(ErrorKind::Exists, format!("there is a file at {path} already")));
        }
        let machine = self.machine(vm)?;
        machine.check_migratable()?;
        let bytes = machine.memory << 20;
        if self.store.available() < bytes {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("operation failed: Unable to write {path}: No space left on device"),
            ));
        }
        Ok(())
    }

    /// Writes the memory there.
    pub(super) fn keep_memory(&mut self, vm: VmId, path: &str) -> Result<()> {
        let machine = self.machine(vm)?;
        machine.ram.inactive = machine.state == VmState::Paused;
        // Twice, so that what was damaged is seen.
        let bytes = [machine.ram.value.to_le_bytes(); 2].concat();
        let file = Image { bytes, ..Image::alien(machine.memory << 20) };
        self.store.files.insert(path.to_owned(), file);
        Ok(())
    }

    /// What is kept there: its value, if it is whole.
    pub(super) fn kept_memory(&self, path: &str) -> Result<Option<u64>> {
        let unusable = |why: &str| Err(Error::new(ErrorKind::Unsupported, format!("reading {path}: {why}")));
        let Some(file) = self.store.files.get(path) else {
            return unusable("Failed to open file: No such file or directory");
        };
        let half = |at: usize| file.bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        match (half(0), half(8)) {
            (Some(one), Some(two)) => Ok((one == two).then_some(one)),
            _ => unusable("operation failed: failed to read qemu header"),
        }
    }

    /// Starts it with the memory that is kept there.
    pub(super) fn go_on_from(
        &mut self,
        vm: VmId,
        path: &str,
        sources: &[(String, Layer)],
        to: VmState,
    ) -> Result<()> {
        let Some(value) = self.kept_memory(path)? else {
            let text = "internal error: QEMU unexpectedly closed the monitor: load of migration failed";
            return Err(Error::new(ErrorKind::Failed, text));
        };
        for (target, layer) in sources {
            if self.machine(vm)?.drive(target)?.active != layer.path {
                return Err(mismatch(&format!("the definition has disk {target} on something else")));
            }
        }
        self.power_on(vm, to)?;
        let machine = self.machine(vm)?;
        machine.ram.value = value;
        machine.ran = true;
        Ok(())
    }

    /// The VM's CPUs go on.
    pub(super) fn let_run(&mut self, vm: VmId, from: &[VmState]) -> Result<()> {
        self.set_state(vm, from, VmState::Running)?;
        let machine = self.machine(vm)?;
        machine.ram.inactive = false;
        machine.waiting.clear();
        Ok(())
    }
}

/// The guest's hand on its memory.
impl Sim {
    /// The guest does something, which its memory knows. False if it does not run.
    pub fn work(&self, vm: VmId) -> bool {
        self.with(|s| {
            let running = s.machine(vm).ok().filter(|m| m.state == VmState::Running);
            running.map(|machine| machine.ram.value += 1).is_some()
        })
    }

    /// What its memory knows; 0 right after a start.
    pub fn ram(&self, vm: VmId) -> Result<u64> {
        self.with(|s| Ok(s.machine(vm)?.ram.value))
    }
}
