//! Ending what libvirt's own deletion of a stopped VM's snapshot left: a paused QEMU whose block jobs nobody ends.
//!
//! The VM is off then, as it was before that deletion and would be after it; the snapshot is to be deleted as before. It is
//! ended with all of its jobs at once: to break one off can crash libvirtd. Nothing of it has to be written down: what is
//! there shows whether it was done.

use super::{Stop, Work, merge};
use crate::{core::model::VmState, hypervisor::Slept, logging::message, merging};

/// Ends it if it is certain that it is that; whether it was.
pub(super) fn end(work: &Work<'_>) -> std::result::Result<bool, Stop> {
    let (hypervisor, id) = (&work.tools.hypervisor, work.job.vm);
    let vm = hypervisor.vm(id)?;
    if vm.state != VmState::Paused || !vm.block_jobs || vm.busy || merge::is_woken(work.tools, id)? {
        return Ok(false);
    }
    if !merging::is_left_over(hypervisor.as_ref(), id)? {
        return Ok(false);
    }
    work.phase("ending what libvirt left", None, None);
    if hypervisor.let_sleep(id)? == Slept::Taken {
        return Ok(false);
    }
    tracing::warn!(
        MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id, VIRTSNAP_JOB = work.job.id,
        "VM {} was left paused by a deletion of libvirt's own that libvirtd did not live to end; it is off again", vm.name
    );
    Ok(true)
}
