//! Block jobs that outlived whoever began them: those of a merge of ours, and what libvirt's own deletion of a stopped
//! VM's snapshot leaves when libvirtd dies meanwhile, a QEMU, paused, whose jobs nobody ends. As long as they are there
//! nothing can be done to the VM's disks.

use super::{LOCKED, PAUSE, Watcher};
use crate::{
    clock,
    core::{merge::DiskPart, model::VmId},
    hypervisor::{BlockJob, Error, ErrorKind, Hypervisor, JobKind, Result, Steer, WaitingJob},
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

/// A job that outlived whoever began it: an inner one ends by itself, one of the active layer when it is told to.
///
/// A libvirtd that was killed when QEMU said that one is ready never learns it (seen with 9.0): such a one is ended, and
/// the merge begun anew. One whose target it does not know any more is never broken off, not on request either: that
/// crashes it.
pub(super) fn end_left_over(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    (i, part): (usize, &DiskPart),
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let of_disk = |jobs: Vec<BlockJob>| jobs.into_iter().find(|job| job.target == part.target);
    let (mut waited, mut stopped) = (0, false);
    while let Some(job) = of_disk(jobs(hypervisor, id)?) {
        if !may_be_ours(&job, part) {
            let text = format!(
                "disk {} has another block job now, which is not ours to end: wait for its end, or end it with `virsh \
                 blockjob`",
                part.target
            );
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let stop = watcher.steer(i, job.copied) == Steer::Stop;
        let breaks_off = stop && !job.only_completes();
        stopped |= stop;
        let copied = job.copied.total > 0 && job.copied.done == job.copied.total;
        waited = if copied { waited + 1 } else { 0 };
        if job.ready || breaks_off || waited > LOCKED {
            hypervisor.end_block_job(id, &part.target)?;
        }
        if breaks_off {
            break;
        }
        clock::pause(PAUSE);
    }
    if stopped {
        let text = format!("the merge of disk {} was stopped", part.target);
        return Err(Error::new(ErrorKind::Cancelled, text));
    }
    Ok(())
}

/// Whether an earlier life may have begun it: of the layer that is written to only what writes into our base, of others
/// any, as nobody can tell what those write to.
pub(super) fn may_be_ours(job: &BlockJob, part: &DiskPart) -> bool {
    match job.kind {
        JobKind::ActiveCommit => {
            part.above.is_none() && job.into.as_ref().is_none_or(|into| *into == part.base)
        }
        JobKind::Commit => part.above.is_some(),
        JobKind::Other => false,
    }
}

/// The VM's block jobs. What the hypervisor does at the end of one, a profile written anew for each image, has to be over
/// before it can tell, and may take longer than it waits for that.
pub fn jobs(hypervisor: &dyn Hypervisor, id: VmId) -> Result<Vec<BlockJob>> {
    patiently(|| hypervisor.block_jobs(id))
}

/// Asks again while something else has the VM: each time the hypervisor waits by itself, and not for ever.
pub(super) fn patiently<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 1..LOCKED {
        match ask() {
            Err(e) if e.kind == ErrorKind::Busy => {}
            told => return told,
        }
    }
    ask()
}
