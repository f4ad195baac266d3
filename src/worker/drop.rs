//! Deleting the end of a branch that the VM left when it was reverted: nothing is merged, its images go.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | looked: nobody stands on its images | nothing was touched |
//! | intent stored, with the images | the next start finds the snapshot there, and forgets the intent |
//! | metadata forgotten | the images go at the next start, where still nobody stands on them |
//! | images removed | it is over |

use std::collections::BTreeSet;

use super::{Stop, Tools, Work, beside};
use crate::{
    core::{
        chain,
        marker::{self, Marker},
        model::{SnapshotName, Storage},
    },
    hypervisor::{self, Error, ErrorKind, Layer, Result, SnapshotRecord, User, Vm},
    store::{Begun, Intent},
};

/// Whether this one is the end of a branch that the VM left.
pub(super) fn is_end(records: &[SnapshotRecord], name: &SnapshotName) -> bool {
    let Ok(line) = hypervisor::line_to_current(records) else { return false };
    let left = !line.iter().any(|r| r.name == *name);
    left && !records.iter().any(|r| r.parent.as_ref() == Some(name))
}

pub(super) fn run(
    work: &Work<'_>,
    vm: &Vm,
    name: &SnapshotName,
    marker: &Marker,
) -> std::result::Result<(), Stop> {
    let tools = work.tools;
    let hypervisor = tools.hypervisor.as_ref();
    let refused = |e: Error| e.context(format_args!("snapshot {name} of VM {} was not deleted", vm.name));
    work.phase("looking", None, Some(name));
    let records = hypervisor.snapshots(vm.id)?;
    let mut images = images(tools, vm, &records, name).map_err(refused)?;
    images.extend(records.iter().find(|r| r.name == *name).and_then(|r| beside::file_of(vm, r)));
    work.safe_point()?;
    let intent = Intent { overlays: images, ..Intent::new(marker.id, vm.id, name.clone(), Begun::Drop) };
    tools.store.begin(&intent, tools.clock.now())?;
    work.phase("removing images", None, Some(name));
    if let Err(e) = hypervisor.forget(vm.id, name) {
        // It may be forgotten all the same; where that is not certain, whoever settles this looks.
        let left = hypervisor.snapshots(vm.id);
        if left.is_ok_and(|records| records.iter().any(|r| r.name == *name)) {
            tools.store.abandoned(intent.id)?;
        }
        return Err(refused(e).into());
    }
    // A merge that was cut short puts back what it lost: this went because it was to go.
    tools.store.drop_copy(vm.id, name)?;
    settle(tools, &intent).map_err(|e| {
        e.context(format_args!(
            "snapshot {name} of VM {} is deleted, but its images are not all removed yet, which is tried again",
            vm.name
        ))
    })?;
    work.told_deleted(vm, name);
    Ok(())
}

/// Removes what a forgotten snapshot or a revert left, and takes it off the list. What another snapshot names stays.
pub(crate) fn settle(tools: &Tools, intent: &Intent) -> Result<()> {
    let records = match tools.hypervisor.snapshots(intent.vm) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => Vec::new(),
        records => records?,
    };
    if records.iter().any(|r| marker::split(&r.description, intent.vm).1.is_some_and(|m| m.id == intent.id)) {
        // It was not even forgotten: it is as good as before.
        return tools.store.abandoned(intent.id).map_err(|e| Error::new(ErrorKind::Failed, e.to_string()));
    }
    let needed = |path: &String| {
        records.iter().any(|r| {
            r.disks.iter().any(|d| d.state_image == *path)
                || r.sources.iter().chain(&r.revert_disks).any(|(_, image)| image == path)
        })
    };
    // One by one: what lies on another of them comes first, and is no reason to keep that one.
    for image in intent.overlays.iter().filter(|path| !needed(path)) {
        match tools.hypervisor.discard(intent.vm, std::slice::from_ref(image)) {
            // Its images went with the VM, or are its new owner's business.
            Err(e) if e.kind == ErrorKind::NoSuchVm => {}
            done => done?,
        }
    }
    tools.store.gone(intent.id).map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
}

/// The images that go with it, once it is certain that nobody needs them.
fn images(tools: &Tools, vm: &Vm, records: &[SnapshotRecord], name: &SnapshotName) -> Result<Vec<String>> {
    let hypervisor = tools.hypervisor.as_ref();
    let mismatch =
        |what: String| Error::new(ErrorKind::ChainMismatch, format!("{what}. Nothing was touched"));
    let record = records
        .iter()
        .find(|r| r.name == *name && r.storage == Storage::External)
        .ok_or_else(|| Error::new(ErrorKind::NoSuchSnapshot, "it is not there any more"))?;
    for disk in vm.disks.iter().filter(|d| d.writable) {
        let layers: Vec<&str> = disk.chain.iter().map(|l| l.path.as_str()).collect();
        chain::links(&disk.target, &layers, &hypervisor::told(records, &disk.target)?)
            .map_err(|e| mismatch(e.to_string()))?;
    }
    // What the VM and its other snapshots lie on stays; of these, the first snapshot's image is the disk itself.
    let mut stay: BTreeSet<String> = vm
        .disks
        .iter()
        .flat_map(|d| d.chain.iter().map(|l| l.path.clone()).chain(d.configured.clone()))
        .collect();
    for other in records.iter().filter(|r| r.name != *name) {
        for disk in &other.disks {
            let top = Layer { path: disk.state_image.clone(), format: disk.format.clone() };
            stay.extend(hypervisor.chain(&top)?.into_iter().map(|image| image.path));
        }
    }
    // From the top down.
    let own = record.disks.iter().map(|d| &d.overlay).chain(record.disks.iter().map(|d| &d.state_image));
    let own = own.chain(&record.memory_file).filter(|path| !stay.contains(*path));
    let own: Vec<String> = own.cloned().collect();
    let goes_too = |user: &User| matches!(user, User::Volume(path) if own.contains(path));
    let users = hypervisor.users(&own, vm.id)?;
    if let Some((path, user)) = users.into_iter().find(|(_, user)| !goes_too(user)) {
        return Err(Error::new(
            ErrorKind::InUse,
            format!("{user} stands on {path}, which would go with it. Nothing was touched"),
        ));
    }
    Ok(own)
}
