//! How a VM is after something was not done with it, as a sentence for who reads of that.

use crate::{
    core::model::VmState,
    hypervisor::{Hypervisor, Vm},
};

/// Of one whose new snapshot may or may not have happened.
pub(super) const NOT_KNOWN: &str = "Whether the VM runs on its new overlays is not known: that is looked at again at \
     the next connection to libvirt";

/// `before`: as it was found.
pub(super) fn it_is(hypervisor: &dyn Hypervisor, before: &Vm) -> String {
    match hypervisor.vm(before.id).map(|vm| vm.state) {
        Ok(VmState::Running) => "The VM runs on as before".to_owned(),
        Ok(VmState::ShutOff) if before.state == VmState::ShutOff => "The VM is off as before".to_owned(),
        Ok(VmState::ShutOff) => {
            "The VM has gone off meanwhile: its log says more (/var/log/libvirt/qemu)".to_owned()
        }
        Ok(state) if state == before.state => format!("The VM is {state} as before"),
        Ok(state) => format!("The VM is {state} now, and was {}", before.state),
        Err(_) => "The VM was left as it was".to_owned(),
    }
}
