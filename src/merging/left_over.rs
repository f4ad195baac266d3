//! What libvirt's own deletion of a stopped VM's snapshot leaves when libvirtd dies meanwhile: a QEMU, paused, whose block
//! jobs nobody ends. As long as it is there nothing can be done to the VM's disks.

use super::PAUSE;
use crate::{
    clock,
    core::model::VmId,
    hypervisor::{Hypervisor, Result, WaitingJob},
};

/// Whether it is certain that this is what the VM's QEMU is: its CPUs have never run, so that no guest loses anything; and
/// each of its jobs is one that only such a deletion begins, or is on a disk that libvirt has marked for one, and has
/// nothing left to do at two looks.
pub fn is_left_over(hypervisor: &dyn Hypervisor, id: VmId) -> Result<bool> {
    let Some(jobs) = hypervisor.waiting_jobs(id)? else { return Ok(false) };
    let records = hypervisor.snapshots(id)?;
    let marked = |job: &WaitingJob| records.iter().any(|r| r.delete_in_progress.contains(&job.target));
    if !jobs.iter().all(|job| job.of_deletion || marked(job)) {
        return Ok(false);
    }
    // Somebody may be about to end them.
    clock::pause(PAUSE);
    Ok(hypervisor.waiting_jobs(id)? == Some(jobs))
}
