//! What the journal hears of guests that are frozen for longer than they should be.

use std::{fmt::Display, time::Duration};

use crate::{core::model::VmId, logging::message, store::StoreError};

/// The transaction of a frozen guest has taken too long.
pub(super) fn overdue(vm: VmId, limit: Duration) {
    tracing::error!(
        MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM_UUID = %vm,
        "the snapshot of the frozen guest has not ended within {} s: it is thawed now, and the snapshot is not consistent",
        limit.as_secs()
    );
}

/// A thaw failed. `then`: what is done now.
pub(super) fn frozen(vm: VmId, error: &dyn Display, then: &dyn Display) {
    tracing::error!(
        MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM_UUID = %vm, %error,
        "the guest may be frozen and cannot be thawed yet; {then}"
    );
}

/// It is thawed, after tries that failed.
pub(super) fn thawed_late(vm: VmId, count: u32) {
    tracing::warn!(
        MESSAGE_ID = message::GUEST_THAWED, VIRTSNAP_VM_UUID = %vm, count,
        "the guest is thawed at last: {count} file systems were frozen until then"
    );
}

/// An earlier life had left it frozen, perhaps.
pub(super) fn thawed_left_over(vm: VmId, count: u32) {
    tracing::warn!(
        MESSAGE_ID = message::GUEST_THAWED, VIRTSNAP_VM_UUID = %vm, count,
        "thawed file systems that were left frozen"
    );
}

/// It is thawed, and that could not be stored: a needless thaw at the next start is all that comes of it.
pub(super) fn not_noted(vm: VmId, error: &StoreError) {
    tracing::warn!(
        MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM_UUID = %vm, %error,
        "cannot note that the VM is thawed"
    );
}

/// Nothing would end a freeze whose snapshot hangs.
pub(super) fn no_fuse(error: &impl Display) {
    tracing::warn!(MESSAGE_ID = message::INTERNAL_ERROR, %error, "nothing ends the freeze should the snapshot hang");
}

/// Nobody outside watches a freeze.
pub(super) fn alone(why: &dyn Display) {
    tracing::warn!(
        MESSAGE_ID = message::UNWATCHED, error = %why,
        "no helper watches frozen guests: if virtsnapd hung, nobody would thaw them before its watchdog ends it"
    );
}

/// The daemon is gone, with a freeze begun.
pub(super) fn abandoned(vm: VmId) {
    tracing::error!(
        MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM_UUID = %vm,
        "virtsnapd ended while the guest was frozen, or about to be: it is thawed now"
    );
}

/// The daemon does not say that the freeze is over.
pub(super) fn unheard(vm: VmId) {
    tracing::error!(
        MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM_UUID = %vm,
        "virtsnapd has not said in time that the frozen guest is thawed: it is thawed now"
    );
}

/// It is thawed in the daemon's stead.
pub(super) fn thawed_outside(vm: VmId, count: u32) {
    tracing::warn!(
        MESSAGE_ID = message::GUEST_THAWED, VIRTSNAP_VM_UUID = %vm, count,
        "the guest is thawed in virtsnapd's stead: {count} file systems were frozen until then"
    );
}
