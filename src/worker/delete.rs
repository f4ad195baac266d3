//! Deleting snapshots: external ones are merged away, a run of them at once; an internal one libvirt deletes inside its
//! image. Where libvirt's own deletion of an external one did not end, to end it is a merge as well: libvirt's would crash
//! a VM that AppArmor confines, and fail where it had come to its end on one of several disks.
//!
//! Only ours are, or one that a person named though others made it. That one is taken over first: what is written down
//! of a deletion goes by our own identity of a snapshot, and whatever cuts it short, its rest is ours to end.

use super::{Stop, Work, adopt, beside, drop, merge};
use std::collections::BTreeSet;

use crate::{
    core::{
        job::Failure,
        label::Label,
        marker::{self, Marker},
        model::{SnapshotName, Storage, VmId, VmState},
    },
    hypervisor::{self, ErrorKind, SnapshotRecord, Vm},
    reader,
    store::{Begun, Intent, StoreError},
};

/// Deletes one.
pub(super) fn run(work: &Work<'_>, name: &SnapshotName, foreign: bool) -> Result<(), Stop> {
    let vm = work.tools.hypervisor.vm(work.job.vm)?;
    work.phase("looking", None, Some(name));
    if merge::finish(work, &vm)?.contains(name) {
        return Ok(());
    }
    let records = work.tools.hypervisor.snapshots(vm.id)?;
    let theirs = records.iter().find(|r| r.name == *name && marker::split(&r.description, vm.id).1.is_none());
    let Some(record) = theirs.filter(|_| foreign) else {
        return all(work, std::slice::from_ref(name), (0.0, 1.0));
    };
    let marker = adopt::mark(work, (&vm, &records), record, &BTreeSet::new())?;
    let deleted = all(work, std::slice::from_ref(name), (0.0, 1.0));
    // What was refused stays theirs. Also what follows a deletion can fail.
    if deleted.is_err() && !work.tools.store.half_deleted(vm.id)?.has(name, Some(marker.id)) {
        let records = work.tools.hypervisor.snapshots(vm.id)?;
        if records.iter().any(|r| r.name == *name) {
            adopt::describe(work, (&vm, &records), name, &record.description)?;
        }
    }
    deleted
}

/// Deletes these, which follow each other, the oldest first. `share`: from where to where this is in the job's progress.
pub(super) fn all(work: &Work<'_>, run: &[SnapshotName], share: (f64, f64)) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    let vm = hypervisor.vm(work.job.vm)?;
    let records = hypervisor.snapshots(vm.id)?;
    let mut marked = Vec::new();
    for name in run {
        marked.push(ours(work, &vm, &records, name)?);
    }
    work.safe_point()?;
    let spoiled = reader::spoiled(&records);
    let (half, rest): (Vec<_>, Vec<_>) = run.iter().cloned().partition(|name| spoiled.contains(name));
    if records.iter().any(|r| r.storage == Storage::Internal) {
        run.iter()
            .zip(marked)
            .try_for_each(|(name, marker)| natively(work, &vm, &records, (name, &marker)))?;
        for record in records.iter().filter(|r| run.contains(&r.name)) {
            beside::remove(hypervisor.as_ref(), &vm, record);
        }
    } else if let ([name], [marker]) = (run, marked.as_slice())
        && drop::is_end(&records, name)
    {
        drop::run(work, &vm, name, marker)?;
    } else {
        // What libvirt's own deletion left half done is ended for itself, and first.
        for name in half {
            merge::run(work, &vm, &[name], (share.0, share.0))?;
        }
        merge::run(work, &vm, &rest, share)?;
    }
    // What goes next may be under it.
    drop::settle_named(work.tools, vm.id);
    Ok(())
}

/// Looked at again here, at the last moment: names are used again, also by others.
fn ours(work: &Work<'_>, vm: &Vm, records: &[SnapshotRecord], name: &SnapshotName) -> Result<Marker, Stop> {
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return Err(fail("NoSuchSnapshot", format!("VM {} has no snapshot {name} (any more)", vm.name)));
    };
    let (_, Some(marker)) = marker::split(&record.description, vm.id) else {
        return Err(fail(
            "NotManaged",
            format!(
                "snapshot {name} of VM {} was not made by virtsnap, which never deletes such ones",
                vm.name
            ),
        ));
    };
    if let Some(by) = work.tools.store.labels(vm.id)?.get(&marker.id).and_then(Label::held_by) {
        return Err(fail(
            "Pinned",
            format!(
                "snapshot {name} of VM {} was not deleted: it is pinned by {by}. Nothing was touched",
                vm.name
            ),
        ));
    }
    // The hypervisor's own check looks at disks; this one knows what other VMs' snapshots are built on, too.
    if let Some(need) = work.needed.get(name) {
        return Err(fail(
            "InUse",
            format!("snapshot {name} of VM {} was not deleted: {need}. Nothing was touched", vm.name),
        ));
    }
    Ok(marker)
}

fn natively(
    work: &Work<'_>,
    vm: &Vm,
    records: &[SnapshotRecord],
    (name, marker): (&SnapshotName, &Marker),
) -> Result<(), Stop> {
    let begun_before = work.tools.store.half_deleted(vm.id)?.has(name, Some(marker.id));
    // libvirt 9.0 leaves the memory where it is.
    let memory = records.iter().find(|r| r.name == *name).and_then(|r| r.memory_file.clone());
    let intent = Intent {
        overlays: memory.into_iter().collect(),
        ..Intent::new(marker.id, vm.id, name.clone(), Begun::Delete)
    };
    work.tools.store.begin(&intent, work.tools.clock.now())?;
    work.phase_to_its_end("merging", name);
    // libvirt's own deletion may have to start it, and a libvirtd that dies meanwhile leaves that QEMU behind, paused.
    let off = vm.state == VmState::ShutOff;
    if off {
        work.tools.store.wakes(vm.id, work.tools.clock.now())?;
    }
    let inside = records.iter().all(|r| r.storage == Storage::Internal);
    let (deleted, slept) = if off && inside {
        awake(work, vm.id, name)
    } else {
        (work.tools.hypervisor.delete(vm.id, name), Ok(()))
    };
    if off && !inside && work.tools.hypervisor.vm(vm.id).is_ok_and(|vm| vm.state == VmState::ShutOff) {
        work.tools.store.sleeps(vm.id)?;
    }
    match deleted {
        Ok(()) => {
            work.tools.hypervisor.discard(vm.id, &intent.overlays).map_err(|e| {
                e.context(format_args!(
                    "snapshot {name} of VM {} is deleted, but its memory is not removed yet, which is tried again",
                    vm.name
                ))
            })?;
            work.tools.store.gone(marker.id)?;
            work.told_deleted(vm, name);
            Ok(slept.map_err(|e| {
                e.context(format_args!(
                    "snapshot {name} of VM {} is deleted, but the VM, which was off and was started for that, paused, is \
                     not off again yet, which is tried again",
                    vm.name
                ))
            })?)
        }
        Err(e) => {
            // Refused before anything was touched, it is as good as before. Else its image may hold newer data by now:
            // the intent stays, the snapshot counts as failed, and the next prune finishes the deletion.
            if e.kind.untouched() && !begun_before {
                work.tools.store.abandoned(marker.id)?;
            }
            let e = e.and_rollback(&slept, "ending the QEMU that was started for it");
            Err(e.context(format_args!("snapshot {name} of VM {} was not deleted", vm.name)).into())
        }
    }
}

/// Deletes one inside the images of a stopped VM with its QEMU awake: what cannot be deleted in the images of a stopped
/// one libvirt only logs, and forgets the snapshot all the same. Also says whether the VM is off again, or somebody's.
fn awake(work: &Work<'_>, vm: VmId, name: &SnapshotName) -> (hypervisor::Result<()>, hypervisor::Result<()>) {
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    let written = |stored: Result<(), StoreError>| {
        stored.map_err(|e| hypervisor::Error::new(ErrorKind::Failed, e.to_string()))
    };
    if let Err(e) = hypervisor.wake(vm) {
        // Whoever is on then is not ours to end; but with the connection the answer is lost.
        let lost = e.kind == ErrorKind::Disconnected;
        return (Err(e), if lost { Ok(()) } else { written(store.sleeps(vm)) });
    }
    let noted =
        hypervisor.life(vm).and_then(|life| life.map_or(Ok(()), |life| written(store.woken(vm, life))));
    let deleted = noted.and_then(|()| hypervisor.delete(vm, name));
    (deleted, hypervisor.let_sleep(vm).and_then(|_whichever| written(store.sleeps(vm))))
}

fn fail(name: &'static str, message: String) -> Stop {
    Stop::Failed(Failure::new(name, message))
}
