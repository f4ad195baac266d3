//! Deleting the end of a branch that the VM left when it was reverted: nothing is merged, its images go.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | looked: nobody stands on its images | nothing was touched |
//! | intent stored, with the images | the next start finds the snapshot there, and forgets the intent |
//! | metadata forgotten | the images go at the next start, where still nobody stands on them |
//! | images removed | it is over, but for what the VM or a snapshot still lies on or names: that goes when none does any more |

use std::collections::BTreeSet;

use super::{Stop, Tools, Work, beside, redefine, unsure};
use crate::{
    core::{
        chain,
        marker::{self, Marker},
        model::{SnapshotName, Storage, VmId},
    },
    hypervisor::{self, Error, ErrorKind, Layer, Result, SnapshotRecord, User, Vm},
    logging::message,
    store::{Begun, Intent, StoreError},
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
    images.extend(records.iter().find(|r| r.name == *name).into_iter().flat_map(|r| beside::files_of(vm, r)));
    work.safe_point()?;
    let intent = Intent { overlays: images, ..Intent::new(marker.id, vm.id, name.clone(), Begun::Drop) };
    tools.store.begin(&intent, tools.clock.now())?;
    work.phase("removing images", None, Some(name));
    if let Err(e) = redefine::forget(tools, vm.id, name) {
        return Err(match hypervisor.snapshots(vm.id) {
            Ok(records) if records.iter().any(|r| r.name == *name) => {
                tools.store.abandoned(intent.id)?;
                refused(e)
            }
            Ok(_) => {
                tools.store.drop_copy(vm.id, name)?;
                e.context(format_args!(
                    "snapshot {name} of VM {} is deleted, and its images go when what is beside it is as it should be again",
                    vm.name
                ))
            }
            Err(_) => e.context(format_args!(
                "whether snapshot {name} of VM {} is deleted is not known before libvirt answers again, and then that is ended",
                vm.name
            )),
        }
        .into());
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

/// Removes what a forgotten snapshot or a revert left, and takes it off the list.
///
/// What another snapshot holds is that one's to remove. What one only names, as it left that disk out, or what one or the
/// VM lies on, with an image of none between, stays for as long as that does, and on the list: nobody else would ever
/// remove it.
pub(crate) fn settle(tools: &Tools, intent: &Intent) -> Result<()> {
    let gone_with_vm = |e: &Error| e.kind == ErrorKind::NoSuchVm;
    let records = match tools.hypervisor.snapshots(intent.vm) {
        Err(e) if gone_with_vm(&e) => Vec::new(),
        // What libvirt has lost of the others may lie on them.
        Ok(_) if !stored(tools.store.redefining(intent.vm))?.is_empty() => {
            let why = "the metadata of other snapshots of the VM was being changed, and that comes first";
            return Err(Error::new(ErrorKind::Busy, why));
        }
        records => records?,
    };
    if records.iter().any(|r| marker::split(&r.description, intent.vm).1.is_some_and(|m| m.id == intent.id)) {
        // It was not even forgotten: it is as good as before.
        return stored(tools.store.abandoned(intent.id));
    }
    let mut held: BTreeSet<String> =
        records.iter().flat_map(|r| &r.disks).map(|d| d.state_image.clone()).collect();
    let mut under = under(tools, &records);
    // What a disk may have to be copied from once more.
    under
        .extend(stored(tools.store.unsure())?.into_iter().flat_map(|disk| disk.images).map(|(path, _)| path));
    match tools.hypervisor.vm(intent.vm) {
        Err(e) if gone_with_vm(&e) => {}
        vm => {
            let vm = vm?;
            under.extend(stands_on(&vm));
            if intent.is_named() {
                // Others may have put the VM on it since, by a revert to the one that names it: then it is the VM's.
                held.extend(ends(&vm));
            }
        }
    }
    let named = |path: &String| {
        records.iter().any(|r| r.sources.iter().chain(&r.revert_disks).any(|(_, image)| image == path))
    };
    let (later, now): (Vec<&String>, Vec<&String>) = intent
        .overlays
        .iter()
        .filter(|path| !held.contains(*path))
        .partition(|path| named(path) || under.contains(*path));
    // One by one: what lies on another of them comes first, and is no reason to keep that one.
    for image in now {
        match tools.hypervisor.discard(intent.vm, std::slice::from_ref(image)) {
            // Its images went with the VM, or are its new owner's business.
            Err(e) if gone_with_vm(&e) => {}
            done => done?,
        }
        stored(tools.store.discarded(std::slice::from_ref(image)))?;
    }
    if later.is_empty() {
        return stored(tools.store.gone(intent.id));
    }
    let overlays = later.into_iter().cloned().collect();
    let rest = Intent { overlays, phase: Intent::NAMED.to_owned(), ..intent.clone() };
    if rest == *intent {
        return Ok(());
    }
    stored(tools.store.becomes([intent.id], &rest, tools.clock.now()))
}

/// The images that snapshots lie on. Of one that is lost nobody can tell: but what somebody may lie on is not removed.
fn under(tools: &Tools, records: &[SnapshotRecord]) -> BTreeSet<String> {
    let tops = records.iter().flat_map(|r| &r.disks);
    let tops = tops.map(|d| Layer { path: d.state_image.clone(), format: d.format.clone() });
    let chains = tops.filter_map(|top| tools.hypervisor.chain(&top).ok());
    chains.flat_map(|chain| chain.into_iter().skip(1).map(|image| image.path)).collect()
}

/// After something was done on this VM: what only snapshots named that are gone by now goes as well.
pub(super) fn settle_named(tools: &Tools, vm: VmId) {
    match tools.store.intents() {
        Ok(begun) => {
            for intent in begun.iter().filter(|i| i.vm == vm && i.is_named()) {
                settle_or_warn(tools, intent);
            }
        }
        Err(e) => {
            tracing::error!(MESSAGE_ID = message::STORE_FAILED, error = %e, "cannot read what was begun");
        }
    }
}

/// Settles it where that is in nobody's way if it fails: it is tried again.
pub(super) fn settle_or_warn(tools: &Tools, intent: &Intent) {
    if let Err(e) = settle(tools, intent) {
        tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name, error = %e,
            "images of VM {} that nobody needs cannot be removed yet", intent.vm
        );
    }
}

/// What the VM's disks lie on, now and from its next start on.
fn stands_on(vm: &Vm) -> impl Iterator<Item = String> + '_ {
    vm.disks.iter().flat_map(|d| d.chain.iter().map(|l| l.path.clone()).chain(d.configured.clone()))
}

/// What it writes to, now and from its next start on, and the disk itself. What is between may go when it has left that.
fn ends(vm: &Vm) -> impl Iterator<Item = String> + '_ {
    vm.disks.iter().flat_map(|d| {
        let ends = [d.chain.first(), d.chain.last()].into_iter().flatten();
        ends.map(|l| l.path.clone()).chain(d.configured.clone())
    })
}

/// The images that go with it, now or when no snapshot of this VM needs them, once it is certain that nobody else does.
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
    // What the VM and its other snapshots have stays; of these, the first snapshot's image is the disk itself.
    let mut stay: BTreeSet<String> = ends(vm).collect();
    for other in records.iter().filter(|r| r.name != *name) {
        for disk in &other.disks {
            let top = Layer { path: disk.state_image.clone(), format: disk.format.clone() };
            let chain = hypervisor.chain(&top)?;
            // What is between goes later, when none lies on it any more; the last may be the disk itself.
            stay.extend([chain.first(), chain.last()].into_iter().flatten().map(|image| image.path.clone()));
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
    unsure::check_free(tools, &own)?;
    Ok(own)
}

fn stored<T>(done: std::result::Result<T, StoreError>) -> Result<T> {
    done.map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
}
