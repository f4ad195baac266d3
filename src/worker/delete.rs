//! Deleting one snapshot of ours.

use super::{Stop, Work};
use crate::{
    core::{job::Failure, marker, model::SnapshotName},
    store::{Begun, Intent},
};

pub(super) fn run(work: &Work<'_>, name: &SnapshotName) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    let vm = hypervisor.vm(work.job.vm)?;
    work.phase("looking", None, Some(name));
    let records = hypervisor.snapshots(vm.id)?;
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return Err(fail("NoSuchSnapshot", format!("VM {} has no snapshot {name} (any more)", vm.name)));
    };
    // Looked at again here, at the last moment: names are used again, also by others.
    let (_, Some(marker)) = marker::split(&record.description, vm.id) else {
        return Err(fail(
            "NotManaged",
            format!(
                "snapshot {name} of VM {} was not made by virtsnap, which never deletes such ones",
                vm.name
            ),
        ));
    };
    // The hypervisor's own check looks at disks; this one knows what other VMs' snapshots are built on, too.
    if let Some(need) = work.needed.get(name) {
        return Err(fail(
            "Busy",
            format!("snapshot {name} of VM {} was not deleted: {need}. Nothing was touched", vm.name),
        ));
    }
    work.safe_point()?;
    let begun_before = work.tools.store.half_deleted(vm.id)?.has(name, Some(marker.id));
    let intent = Intent::new(marker.id, vm.id, name.clone(), Begun::Delete);
    work.tools.store.begin(&intent, work.tools.clock.now())?;
    work.phase("merging", None, Some(name));
    match hypervisor.delete(vm.id, name) {
        Ok(()) => {
            work.tools.store.gone(marker.id)?;
            tracing::info!(
                VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
                VIRTSNAP_JOB = work.job.id, "snapshot {name} of VM {} deleted", vm.name
            );
            Ok(())
        }
        Err(e) => {
            // Refused before anything was touched, it is as good as before. Else its image may hold newer data by now:
            // the intent stays, the snapshot counts as failed, and the next prune finishes the deletion.
            if e.kind.untouched() && !begun_before {
                work.tools.store.abandoned(marker.id)?;
            }
            Err(e.context(format_args!("snapshot {name} of VM {} was not deleted", vm.name)).into())
        }
    }
}

fn fail(name: &'static str, message: String) -> Stop {
    Stop::Failed(Failure::new(name, message))
}
