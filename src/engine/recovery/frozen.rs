//! Guests that are frozen, by nobody knows whom: where what was written down of that is lost.

use std::time::Duration;

use crate::{
    core::{model::VmState, text::for_shell},
    hypervisor::{Agent, FreezeStatus},
    logging::message,
    worker::Tools,
};

/// How long an agent may take to say whether its guest is frozen.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks for them, once. They are told and not thawed: a backup program may be at work in them.
pub(in crate::engine) fn tell(tools: &Tools) {
    if tools.store.knows_who_is_frozen() {
        return;
    }
    let vms = match tools.hypervisor.vms() {
        Ok(vms) => vms,
        Err(e) => {
            tracing::warn!(
                MESSAGE_ID = message::UNREADABLE, error = %e,
                "which guests are frozen is looked at on the next connection"
            );
            return;
        }
    };
    for vm in vms.into_iter().filter_map(|vm| tools.hypervisor.vm(vm).ok()) {
        if vm.state == VmState::Running
            && vm.agent == Agent::Connected
            && tools.hypervisor.freeze_status(vm.id, LIMIT) == Ok(FreezeStatus::Frozen)
        {
            tracing::error!(
                MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
                "the file systems of VM {0} are frozen, and whether virtsnapd froze them was in the damaged database: it is \
                 left as it is. If no other program is at work on it, thaw it by `virsh domfsthaw {1}`",
                vm.name,
                for_shell(&vm.name)
            );
        }
    }
    tools.store.looked_for_the_frozen();
}
