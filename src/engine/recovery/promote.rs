//! A VM whose CPUs were stopped for a moment, so that what was copied is on its disk; and one with a disk of which that is
//! not known.

use super::told;
use crate::{
    core::{
        job::{Failure, Operation},
        model::{VmId, VmState},
    },
    hypervisor::{Error, ErrorKind, Result},
    worker::{Tools, unsure},
};

/// Lets it go on, if it is in the life in which that was done.
pub(super) fn let_go_on(tools: &Tools, vm: VmId, life: u64) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    match hypervisor.vm(vm) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => {}
        Err(e) => return Err(e),
        Ok(found) if found.state == VmState::Paused && hypervisor.life(vm)? == Some(life) => {
            hypervisor.go_on(vm)?;
        }
        // Off, or on its way, or somebody else's.
        Ok(_) => {}
    }
    tools.store.goes_on(vm).map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
}

/// What was copied is on the disks, or it is told on which nobody knows it.
pub(super) fn settle(tools: &Tools, vm: VmId) {
    match unsure::settle(tools, vm) {
        Ok(unknown) => {
            if unknown.is_empty() {
                return;
            }
            let name = told::name(tools, vm);
            for disk in unknown {
                told::left(&name, vm, disk.text(&name));
            }
        }
        Err(e) => {
            let name = told::name(tools, vm);
            let what = format_args!("what was copied may not be safely on the disks of VM {name} yet: {e}");
            told::left(&name, vm, what);
        }
    }
}

/// A snapshot would put an image upon one that reads as zeros, and nothing could be put under that any more.
pub(super) fn before_job(tools: &Tools, vm: VmId, operation: &Operation) -> std::result::Result<(), Failure> {
    if !matches!(operation, Operation::Create { .. }) {
        return Ok(());
    }
    match unsure::settle(tools, vm) {
        Ok(unknown) if unknown.is_empty() => Ok(()),
        Ok(unknown) => {
            let name = told::name(tools, vm);
            Err(Failure::new("ChainMismatch", format!("{} Nothing was touched now", unknown[0].text(&name))))
        }
        Err(e) => Err(Failure::new(e.kind.as_str(), format!("{e}. Nothing was touched"))),
    }
}
