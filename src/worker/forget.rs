//! Taking away the metadata of a snapshot whose images are gone, so that nobody counts on it any more.
//!
//! No image is touched: where some of its disks' images are still there, they are nobody's from then on. What we kept
//! with it (memory, firmware's variables) is of no use without them, and goes.

use uuid::Uuid;

use super::{Stop, Work, beside, drop, redefine};
use crate::{
    core::{
        job::Failure,
        marker,
        model::{SnapshotName, Storage},
        stray,
    },
    hypervisor::{SnapshotRecord, Vm},
    logging::message,
    store::{Begun, Intent},
};

pub(super) fn run(work: &Work<'_>, name: &SnapshotName) -> Result<(), Stop> {
    work.phase("looking", None, Some(name));
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    let vm = hypervisor.vm(work.job.vm)?;
    let records = hypervisor.snapshots(vm.id)?;
    let fail = |kind, why: String| {
        let text =
            format!("the metadata of snapshot {name} of VM {} stays: {why}. Nothing was touched", vm.name);
        Err(Stop::Failed(Failure::new(kind, text)))
    };
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return fail("NoSuchSnapshot", "there is no such snapshot (any more)".to_owned());
    };
    if record.lost.is_empty() {
        let held = match record.storage {
            Storage::External => "its images are there",
            Storage::Internal => "what it holds is inside the VM's images",
        };
        return fail("Unsupported", format!("{held}. `virtsnap delete` takes it away with them"));
    }
    if let Some(who) = builds_on(&vm, &records, record) {
        return fail("InUse", format!("{who}; put the image back instead"));
    }
    work.safe_point()?;
    let id = marker::split(&record.description, vm.id).1.map(|m| m.id);
    let copy = hypervisor.copy(vm.id, name)?;
    store.keep_copy(vm.id, name, copy.as_str(), work.tools.clock.now())?;
    // Written down before it is forgotten: then nobody else knows of the files. Where it is not, they stay with it.
    let kept = id.map(|id| Intent {
        overlays: kept(&vm, record, id),
        ..Intent::new(id, vm.id, name.clone(), Begun::Drop)
    });
    if let Some(intent) = &kept {
        store.begin(intent, work.tools.clock.now())?;
    }
    work.phase("removing metadata", None, Some(name));
    let forgotten = redefine::forget(work.tools, vm.id, name);
    let there = |records: Vec<SnapshotRecord>| records.iter().any(|r| r.name == *name);
    if let (Err(e), Some(intent)) = (&forgotten, &kept)
        && (e.kind.untouched() || hypervisor.snapshots(vm.id).is_ok_and(there))
    {
        store.abandoned(intent.id)?;
    }
    forgotten?;
    store.drop_copy(vm.id, name)?;
    if let Some(intent) = &kept {
        drop::settle(work.tools, intent).map_err(|e| {
            e.context(format_args!(
                "the metadata of snapshot {name} of VM {} is gone, but not yet what was kept with it, which is tried again",
                vm.name
            ))
        })?;
    }
    tracing::warn!(
        MESSAGE_ID = message::SNAPSHOT_DELETED,
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name, VIRTSNAP_JOB = work.job.id,
        "snapshot {name} of VM {} is forgotten: {} is not there", vm.name, record.lost.join(", ")
    );
    Ok(())
}

/// What we kept with it.
fn kept(vm: &Vm, record: &SnapshotRecord, id: Uuid) -> Vec<String> {
    let ours = |path: &&String| stray::kept_with(path) == Some(id);
    record.memory_file.iter().filter(ours).cloned().chain(beside::files_of(vm, record)).collect()
}

/// Who else names one of the images that are not there: without them it is lost too, and with them all of it was.
fn builds_on(vm: &Vm, records: &[SnapshotRecord], lost: &SnapshotRecord) -> Option<String> {
    let is_lost = |path: &String| lost.lost.contains(path);
    let disk = vm.disks.iter().find(|d| {
        d.chain.iter().any(|layer| is_lost(&layer.path)) || d.configured.as_ref().is_some_and(is_lost)
    });
    if let Some(disk) = disk {
        return Some(format!("disk {} of the VM lies on it", disk.target));
    }
    let names = |r: &&SnapshotRecord| {
        r.name != lost.name
            && (r.disks.iter().any(|d| is_lost(&d.state_image))
                || r.sources.iter().chain(&r.revert_disks).any(|(_, path)| is_lost(path)))
    };
    records.iter().find(names).map(|other| format!("snapshot {} names the same image", other.name))
}
