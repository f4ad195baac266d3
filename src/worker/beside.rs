//! What belongs to a snapshot and is in none of its disks: the variables of the VM's firmware.
//!
//! They are kept in a file beside the snapshot's images, through the hypervisor like everything: it outlives our
//! database, and its name follows from the snapshot's own id. The definition is kept by libvirt itself, in the
//! snapshot's metadata.
//!
//! | step | if it fails |
//! |---|---|
//! | `keep`, before the freeze | nothing was taken: a snapshot that could not be reverted to is none |
//! | `keep_up`, after the switch | said in the snapshot's note: the variables are those from just before it |
//! | `remove`, after the snapshot is gone | a small file is left over, and said |

use uuid::Uuid;

use crate::{
    core::{branch, inventory::Quality, marker, revert::Variables, stray},
    hypervisor::{Error, ErrorKind, Hypervisor, Overlay, Result, Save, SnapshotRecord, Vm},
    logging::message,
};

/// Firmware's variables are some hundred KiB; a file of this size is something else.
const LARGEST: u64 = 64 << 20;
/// So often they are read anew if the guest's firmware writes them meanwhile.
const TRIES: u32 = 5;

/// Variables that are to be kept, or were.
#[derive(Debug)]
pub(super) struct Kept {
    /// Where the VM has them.
    original: String,
    /// Where the snapshot has them.
    pub(super) path: String,
    bytes: Vec<u8>,
}

/// Reads what is to be kept of this VM; `None` if it has nothing of the kind.
pub(super) fn read(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    overlays: &[Overlay],
    id: Uuid,
) -> Result<Option<Kept>> {
    let Some(nvram) = &vm.nvram else { return Ok(None) };
    // In the order in which libvirt will name them.
    let mut disks = vm.disks.iter().filter_map(|d| overlays.iter().find(|o| o.target == d.target));
    let Some(first) = disks.next() else { return Ok(None) };
    if nvram.kind != "file" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the firmware's variables of VM {} are of type {}, and cannot be kept: without them a revert would not \
                 bring back what it boots",
                vm.name, nvram.kind
            ),
        ));
    }
    let bytes = steady(hypervisor, &nvram.path)
        .map_err(|e| e.context(format_args!("the firmware's variables of VM {} cannot be kept", vm.name)))?;
    Ok(Some(Kept {
        original: nvram.path.clone(),
        path: path_beside(&first.backing.path, id, "nvram"),
        bytes,
    }))
}

/// Makes the file.
pub(super) fn keep(hypervisor: &dyn Hypervisor, kept: &Kept) -> Result<()> {
    hypervisor.save(&kept.path, &kept.bytes, Save::New(Some(&kept.original)))
}

/// Makes the file what the variables are now, if they changed since they were read; says so in the note if it cannot.
pub(super) fn keep_up(hypervisor: &dyn Hypervisor, kept: &Kept, quality: &mut Quality) {
    let save = |now: Vec<u8>| {
        if now == kept.bytes { Ok(()) } else { hypervisor.save(&kept.path, &now, Save::Over) }
    };
    let done = steady(hypervisor, &kept.original).and_then(save);
    if let Err(e) = done {
        quality.also(&format!("the firmware's variables are those from just before it ({})", e.message));
    }
}

/// Removes what was kept of a snapshot that is gone.
pub(super) fn remove(hypervisor: &dyn Hypervisor, vm: &Vm, record: &SnapshotRecord) {
    let Some(path) = file_of(vm, record) else { return };
    if let Err(e) = hypervisor.discard(vm.id, std::slice::from_ref(&path)) {
        tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, error = %e,
            "{path}, the firmware's variables of snapshot {}, which is gone, could not be removed", record.name
        );
    }
}

/// The file that a snapshot's variables are in, if it says that it has them.
pub(super) fn file_of(vm: &Vm, record: &SnapshotRecord) -> Option<String> {
    let (_, marker) = marker::split(&record.description, vm.id);
    let marker = marker.filter(|m| m.nvram)?;
    Some(path_beside(&record.disks.first()?.state_image, marker.id, "nvram"))
}

/// What a revert to this snapshot has to put back, looked at before anything is touched.
///
/// A VM whose firmware has variables must not be reverted without: it may not boot what the disks then hold.
pub(super) fn for_revert(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
    id: Uuid,
) -> Result<Option<Variables>> {
    let refuse = |why: &str| {
        let name = &record.name;
        let text = format!(
            "the firmware's variables of snapshot {name} of VM {} {why}. Nothing was touched",
            vm.name
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    };
    match (file_of(vm, record), &vm.nvram) {
        (None, None) => Ok(None),
        (None, Some(_)) => refuse("were not kept with it: with newer ones it might not boot"),
        (Some(_), None) => refuse("have no place any more: the VM has no such firmware now"),
        (Some(kept), Some(nvram)) => match hypervisor.load(&kept, LARGEST) {
            Ok(_) => {
                let before = path_beside(&kept, id, "nvram");
                Ok(Some(Variables { original: nvram.path.clone(), kept, before }))
            }
            Err(e) if e.kind == ErrorKind::Disconnected => Err(e),
            Err(e) => refuse(&format!("are lost: {}", e.message)),
        },
    }
}

/// The file with what a branch of this snapshot gets a copy of; `None` if nothing of the kind was kept.
pub(super) fn for_branch(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
) -> Result<Option<String>> {
    let Some(kept) = file_of(vm, record) else { return Ok(None) };
    hypervisor.load(&kept, LARGEST).map_err(|e| {
        let what =
            format!("the firmware's variables of snapshot {} of VM {} cannot be read", record.name, vm.name);
        e.context(what)
    })?;
    Ok(Some(kept))
}

/// Gives a branch its own.
pub(super) fn copy(hypervisor: &dyn Hypervisor, copy: &branch::Copy) -> Result<()> {
    let bytes = hypervisor.load(&copy.kept, LARGEST)?;
    hypervisor
        .save(&copy.own, &bytes, Save::New(Some(&copy.kept)))
        .map_err(|e| e.context("the firmware's variables cannot be copied"))
}

/// Puts aside what the VM has now; may be done again.
pub(super) fn put_aside(hypervisor: &dyn Hypervisor, variables: &Variables) -> Result<()> {
    let now = steady(hypervisor, &variables.original)?;
    match hypervisor.save(&variables.before, &now, Save::New(Some(&variables.original))) {
        Err(e) if e.kind == ErrorKind::Exists => hypervisor.save(&variables.before, &now, Save::Over),
        done => done,
    }
}

/// Gives the VM, which is off, the variables in this file.
pub(super) fn put_in(hypervisor: &dyn Hypervisor, variables: &Variables, from: &str) -> Result<()> {
    let (path, bytes) = (&variables.original, hypervisor.load(from, LARGEST)?);
    let saved = match hypervisor.save(path, &bytes, Save::Over) {
        // Those of another length are removed and made anew: who was killed between the two has left none.
        Err(e) if !e.kind.retry() => match hypervisor.save(path, &bytes, Save::New(Some(from))) {
            Err(new) if new.kind == ErrorKind::Exists => Err(e),
            saved => saved,
        },
        saved => saved,
    };
    saved.map_err(|e| e.context("the firmware's variables cannot be put back"))
}

/// Reads a file that somebody may be writing, until it was twice the same.
fn steady(hypervisor: &dyn Hypervisor, path: &str) -> Result<Vec<u8>> {
    let mut last = hypervisor.load(path, LARGEST)?;
    for _ in 0..TRIES {
        let next = hypervisor.load(path, LARGEST)?;
        if next == last {
            return Ok(next);
        }
        last = next;
    }
    Err(Error::new(ErrorKind::Busy, format!("{path} changes all the time")))
}

/// Where beside this image what belongs to the snapshot with that identity is kept.
pub(super) fn path_beside(image: &str, id: Uuid, what: &str) -> String {
    let directory = image.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{directory}/{}", stray::kept_name(id, what))
}
