//! What the journal has of what was cut short: each entry with the VM's name, its number and the snapshot.

use std::fmt::Display;

use crate::{core::model::VmId, logging::message, store::Intent, worker::Tools};

/// The name of a VM, or its number where libvirt does not know it or does not say.
pub(super) fn name(tools: &Tools, vm: VmId) -> String {
    tools.hypervisor.vm(vm).map_or_else(|_| vm.to_string(), |vm| vm.name)
}

/// What became of what was begun.
pub(super) fn interrupted(vm_name: &str, intent: &Intent, what_became: impl Display) {
    tracing::warn!(
        MESSAGE_ID = message::INTERRUPTED,
        VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name,
        "{what_became}"
    );
}

/// What was begun cannot be settled yet, which is tried again.
pub(super) fn unsettled(vm_name: &str, intent: &Intent, why: impl Display) {
    tracing::error!(
        MESSAGE_ID = message::INTERRUPTED,
        VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name,
        "snapshot {} of VM {vm_name} was begun and interrupted, and cannot be settled yet: {why}", intent.name
    );
}

/// What was done to a VM for a moment is not put right yet, which is tried again.
pub(super) fn left(vm_name: &str, vm: VmId, what: impl Display) {
    tracing::error!(
        MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
        "{what}"
    );
}
