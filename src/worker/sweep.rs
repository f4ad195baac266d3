//! Removing files that were in quarantine long enough, if they are still nobody's.
//!
//! What is in quarantine is written down, so a removal that was cut short goes on with the next look; what is gone by
//! then is found to be.

use super::{Stop, Work};
use crate::{
    core::{job::Failure, stray::QUARANTINE},
    logging::message,
    reader::ReadError,
    strays,
};

pub(super) fn run(work: &Work<'_>) -> Result<(), Stop> {
    work.phase("looking", None, None);
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    look(work)?;
    let vm = hypervisor.vm(work.job.vm)?;
    let now = work.tools.clock.now();
    let due = |since| now.duration_since(since) >= QUARANTINE;
    let strays = store.strays(vm.id)?.into_iter().filter(|s| s.quarantined.is_some_and(due));
    let paths: Vec<String> = strays.map(|stray| stray.path).collect();
    if paths.is_empty() {
        return Ok(());
    }
    if vm.busy || vm.block_jobs {
        let text = format!(
            "something is at work on VM {}, which may need what is in quarantine: it is removed another time",
            vm.name
        );
        return Err(Stop::Failed(Failure::new("Busy", text)));
    }
    work.safe_point()?;
    work.phase("removing images", None, None);
    // Together: they may lie on each other.
    hypervisor.discard(vm.id, &paths).map_err(|e| {
        e.context(format_args!("what is in quarantine on the images of VM {} stays for now", vm.name))
    })?;
    store.strays_removed(&paths)?;
    for path in paths {
        tracing::warn!(
            MESSAGE_ID = message::ORPHAN_REMOVED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_JOB = work.job.id,
            "{path}, on the images of VM {}, was nobody's for a week in quarantine, and is removed", vm.name
        );
    }
    Ok(())
}

/// Looks anew.
pub(super) fn look(work: &Work<'_>) -> Result<(), Stop> {
    match strays::look(work.tools.hypervisor.as_ref(), &work.tools.store) {
        Ok(_) => Ok(()),
        Err(ReadError::Hypervisor(e)) => Err(e.context("what belongs to nobody cannot be told").into()),
        Err(ReadError::Store(e)) => Err(e.into()),
    }
}
