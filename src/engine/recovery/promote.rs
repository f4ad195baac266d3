//! A VM whose CPUs were stopped for a moment, so that what was copied is on its disk.

use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Result},
    worker::Tools,
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
