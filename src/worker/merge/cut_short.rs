//! Merges that were cut short, and what lies on their images: such a merge is ended before anything is built on what it
//! writes, and is in nobody else's way.

use std::collections::BTreeSet;

use super::finish;
use crate::{
    core::{job::Failure, marker, model::SnapshotName},
    hypervisor::{Layer, SnapshotRecord, Vm},
    reader,
    store::{Begun, HalfDeleted},
    worker::{Stop, Work},
};

/// Ends the merges that write to what this snapshot lies on, and says whether there were any. What goes with such a merge
/// stays as it is: nothing is built on that.
pub(in crate::worker) fn end_below(
    work: &Work<'_>,
    vm: &Vm,
    records: &[SnapshotRecord],
    name: &SnapshotName,
) -> Result<bool, Stop> {
    let Some(record) = stays(work, vm, records, name)? else { return Ok(false) };
    let under = under(work, vm, record)?;
    end(work, vm, name, |touched| touched.iter().any(|image| under.contains(image)))
}

/// Ends all merges of this VM before it leaves what they write to: after that they could only be given up.
pub(in crate::worker) fn end_all(
    work: &Work<'_>,
    vm: &Vm,
    records: &[SnapshotRecord],
    name: &SnapshotName,
) -> Result<bool, Stop> {
    match stays(work, vm, records, name)? {
        Some(_) => end(work, vm, name, |_| true),
        None => Ok(false),
    }
}

/// The snapshot under this one, or this one itself, at which a deletion was begun that did not end.
pub(in crate::worker) fn spoiled_under(
    work: &Work<'_>,
    vm: &Vm,
    records: &[SnapshotRecord],
    record: &SnapshotRecord,
) -> Result<Option<SnapshotName>, Stop> {
    let half = work.tools.store.half_deleted(vm.id)?;
    let spoiled = reader::spoiled(records);
    let begun = |r: &SnapshotRecord| spoiled.contains(&r.name) || is_half(&half, vm, r);
    if begun(record) {
        return Ok(Some(record.name.clone()));
    }
    let under = under(work, vm, record)?;
    let written = |r: &&SnapshotRecord| {
        r.disks.iter().any(|d| {
            // libvirt marks the one before: its overlay is what is written to.
            let marked = r.delete_in_progress.contains(&d.target) && under.contains(&d.overlay);
            marked || begun(r) && (under.contains(&d.state_image) || under.contains(&d.overlay))
        })
    };
    Ok(records.iter().find(written).map(|r| r.name.clone()))
}

/// The snapshot, if there is such a one and it does not go itself.
fn stays<'a>(
    work: &Work<'_>,
    vm: &Vm,
    records: &'a [SnapshotRecord],
    name: &SnapshotName,
) -> Result<Option<&'a SnapshotRecord>, Stop> {
    let half = work.tools.store.half_deleted(vm.id)?;
    Ok(records.iter().find(|r| r.name == *name && !is_half(&half, vm, r)))
}

fn end(
    work: &Work<'_>,
    vm: &Vm,
    name: &SnapshotName,
    in_the_way: impl Fn(&[String]) -> bool,
) -> Result<bool, Stop> {
    let begun = work.tools.store.intents()?;
    let any = begun.iter().filter(|i| i.vm == vm.id).any(|intent| match &intent.what {
        Begun::Merge(recipe) => in_the_way(&recipe.touched()),
        _ => false,
    });
    if any {
        finish(work, vm).map_err(|stop| match stop {
            Stop::Failed(f) => Stop::Failed(Failure::new(
                f.name,
                format!(
                    "nothing was done with snapshot {name} of VM {}, which has to wait for a merge that was cut short: {}",
                    vm.name, f.message
                ),
            )),
            stop @ Stop::Cancelled(_) => stop,
        })?;
    }
    Ok(any)
}

fn is_half(half: &HalfDeleted, vm: &Vm, record: &SnapshotRecord) -> bool {
    half.has(&record.name, marker::split(&record.description, vm.id).1.map(|m| m.id))
}

/// All images that this snapshot's data is in.
fn under(work: &Work<'_>, vm: &Vm, record: &SnapshotRecord) -> Result<BTreeSet<String>, Stop> {
    let mut images = BTreeSet::new();
    for disk in record.disks.iter().filter(|d| !d.state_image.is_empty() && !d.format.is_empty()) {
        let top = Layer { path: disk.state_image.clone(), format: disk.format.clone() };
        let chain = work.tools.hypervisor.chain(&top).map_err(|e| {
            e.context(format_args!(
                "what snapshot {} of VM {} lies on with disk {} cannot be told. Nothing was touched",
                record.name, vm.name, disk.target
            ))
        })?;
        images.extend(chain.into_iter().map(|image| image.path));
    }
    Ok(images)
}
