//! What belongs to a snapshot and is in none of its disks: the variables of the VM's firmware, and the state of its
//! emulated TPM.
//!
//! Each is kept in a file beside the snapshot's images, through the hypervisor like everything: it outlives our
//! database, and its name follows from the snapshot's own id. The definition is kept by libvirt itself, in the
//! snapshot's metadata.
//!
//! | step | if it fails |
//! |---|---|
//! | `keep`, before the freeze | nothing was taken: a snapshot that could not be reverted to is none |
//! | `keep_up`, after the switch | said in the snapshot's note: it is what it was just before |
//! | `remove`, after the snapshot is gone | a small file is left over, and said |

use uuid::Uuid;

use crate::{
    core::{branch, inventory::Quality, marker, model::Consistency, revert::Beside, stray},
    hypervisor::{Error, ErrorKind, Hypervisor, Overlay, Result, Save, SnapshotRecord, Tpm, Vm},
    logging::message,
};

/// Where libvirt keeps an emulated TPM's state is its own business in a user's session.
const TPM_ELSEWHERE: &str = "nobody knows where this libvirt keeps it";
/// Firmware's variables are some hundred KiB, a TPM's state some; a file of this size is something else.
const LARGEST: u64 = 64 << 20;
/// So often they are read anew if the guest's firmware writes them meanwhile.
const TRIES: u32 = 5;

/// What it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The variables of the VM's firmware.
    Variables,
    /// The state of its emulated TPM.
    Tpm,
}

impl What {
    /// The end of the file's name.
    const fn end(self) -> &'static str {
        match self {
            Self::Variables => "nvram",
            Self::Tpm => "tpm",
        }
    }
}

/// What is to be kept with a snapshot, or was.
#[derive(Debug, Default)]
pub(super) struct Kept {
    files: Vec<File>,
    /// Why the state of an emulated TPM is not among them.
    no_tpm: Option<String>,
}

#[derive(Debug)]
struct File {
    what: What,
    /// Where the VM has it.
    original: String,
    /// Where the snapshot has it.
    path: String,
    bytes: Vec<u8>,
}

/// Reads what is to be kept of this VM.
///
/// Without its variables it may not boot what the disks hold; a TPM without its state is one that somebody has to unlock
/// anew. So the one that cannot be read forbids the snapshot, and the other is said in its note.
pub(super) fn read(hypervisor: &dyn Hypervisor, vm: &Vm, overlays: &[Overlay], id: Uuid) -> Result<Kept> {
    let mut kept = Kept::default();
    // In the order in which libvirt will name them.
    let mut disks = vm.disks.iter().filter_map(|d| overlays.iter().find(|o| o.target == d.target));
    let Some(first) = disks.next() else { return Ok(kept) };
    let file = |what: What, original: &str, bytes| File {
        what,
        original: original.to_owned(),
        path: path_beside(&first.backing.path, id, what.end()),
        bytes,
    };
    if let Some(nvram) = &vm.nvram {
        if nvram.kind != "file" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the firmware's variables of VM {} are of type {}, and cannot be kept: without them a revert would \
                     not bring back what it boots",
                    vm.name, nvram.kind
                ),
            ));
        }
        let bytes = steady(hypervisor, &nvram.path).map_err(|e| {
            e.context(format_args!("the firmware's variables of VM {} cannot be kept", vm.name))
        })?;
        kept.files.push(file(What::Variables, &nvram.path, bytes));
    }
    match &vm.tpm {
        None => {}
        Some(Tpm { state: None }) => kept.no_tpm = Some(TPM_ELSEWHERE.to_owned()),
        Some(Tpm { state: Some(path) }) => match steady(hypervisor, path) {
            Ok(bytes) => kept.files.push(file(What::Tpm, path, bytes)),
            Err(e) if e.kind == ErrorKind::Disconnected => return Err(e),
            Err(e) => kept.no_tpm = Some(e.message),
        },
    }
    Ok(kept)
}

impl Kept {
    /// Whether it is among it.
    pub(super) fn has(&self, what: What) -> bool {
        self.files.iter().any(|file| file.what == what)
    }

    /// The files that hold it.
    pub(super) fn paths(&self) -> impl Iterator<Item = &String> {
        self.files.iter().map(|file| &file.path)
    }

    /// Makes them.
    pub(super) fn keep(&self, hypervisor: &dyn Hypervisor) -> Result<()> {
        let save = |f: &File| hypervisor.save(&f.path, &f.bytes, Save::New(Some(&f.original)));
        self.files.iter().try_for_each(save)
    }

    /// Makes them what they are now, if they changed since they were read; says so in the note if it cannot, and what is
    /// not kept.
    pub(super) fn keep_up(&self, hypervisor: &dyn Hypervisor, quality: &mut Quality) {
        let with_memory = quality.reached == Consistency::Memory;
        for file in &self.files {
            let save = |now: Vec<u8>| {
                if now == file.bytes { Ok(()) } else { hypervisor.save(&file.path, &now, Save::Over) }
            };
            let Err(e) = steady(hypervisor, &file.original).and_then(save) else { continue };
            let back = file
                .as_it_was(hypervisor)
                .map_err(|lost| e.clone().and_rollback::<()>(&Err(lost), "putting the earlier one back"));
            match (back, file.what) {
                (Ok(()), What::Variables) => quality
                    .also(&format!("the firmware's variables are those from just before it ({})", e.message)),
                // It is with the memory, too.
                (_, What::Tpm) if with_memory => {}
                (Ok(()), What::Tpm) => quality.also(&format!(
                    "the state of its emulated TPM is the one from just before it ({})",
                    e.message
                )),
                (Err(e), What::Variables) => quality.also(&format!(
                    "the firmware's variables that were kept with it are lost or damaged, and a revert to it may be refused: \
                     take another one ({})",
                    e.message
                )),
                (Err(e), What::Tpm) => quality.also(&format!(
                    "the state of its emulated TPM that was kept with it is lost or damaged, and a revert may leave that as \
                     it is: take another one ({})",
                    e.message
                )),
            }
        }
        if let Some(why) = self.no_tpm.as_ref().filter(|_| !with_memory) {
            quality.also(&format!(
                "the state of its emulated TPM was not kept ({why}), and a revert leaves that as it is"
            ));
        }
    }
}

impl File {
    /// After one that could not be replaced: one of another length is removed and made anew, and between the two there is
    /// none.
    fn as_it_was(&self, hypervisor: &dyn Hypervisor) -> Result<()> {
        match hypervisor.load(&self.path, LARGEST) {
            Ok(there) if there == self.bytes => Ok(()),
            Ok(_) => hypervisor.save(&self.path, &self.bytes, Save::Over),
            Err(e) if e.kind == ErrorKind::Disconnected => Err(e),
            Err(_) => hypervisor.save(&self.path, &self.bytes, Save::New(Some(&self.original))),
        }
    }
}

/// Removes what was kept of a snapshot that is gone.
pub(super) fn remove(hypervisor: &dyn Hypervisor, vm: &Vm, record: &SnapshotRecord) {
    for path in files_of(vm, record) {
        if let Err(e) = hypervisor.discard(vm.id, std::slice::from_ref(&path)) {
            tracing::warn!(
                MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, error = %e,
                "{path}, which was kept with snapshot {}, which is gone, could not be removed", record.name
            );
        }
    }
}

/// The files with what was kept with a snapshot, as it says.
pub(super) fn files_of(vm: &Vm, record: &SnapshotRecord) -> impl Iterator<Item = String> {
    [What::Variables, What::Tpm].into_iter().filter_map(|what| file_of(vm, record, what))
}

/// The file with one of it, if the snapshot says that it has that.
fn file_of(vm: &Vm, record: &SnapshotRecord, what: What) -> Option<String> {
    let (_, marker) = marker::split(&record.description, vm.id);
    let marker = marker.filter(|marker| match what {
        What::Variables => marker.nvram,
        What::Tpm => marker.tpm,
    })?;
    Some(path_beside(&record.disks.first()?.state_image, marker.id, what.end()))
}

/// What a revert puts back.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) variables: Option<Beside>,
    pub(super) tpm: Option<Beside>,
    /// Why the state of the emulated TPM that the VM has, or had, is not put back.
    pub(super) tpm_stays: Option<String>,
}

/// What a revert to this snapshot has to put back, looked at before anything is touched.
pub(super) fn for_revert(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
    id: Uuid,
) -> Result<Back> {
    let variables = variables_for_revert(hypervisor, vm, record, id)?;
    let tpm = tpm_for_revert(hypervisor, vm, record, id)?;
    let tpm_stays = tpm.as_ref().err().filter(|why| !why.is_empty()).cloned();
    Ok(Back { variables, tpm: tpm.ok(), tpm_stays })
}

/// A VM whose firmware has variables must not be reverted without: it may not boot what the disks then hold.
fn variables_for_revert(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
    id: Uuid,
) -> Result<Option<Beside>> {
    let refuse = |why: &str| {
        let name = &record.name;
        let text = format!(
            "the firmware's variables of snapshot {name} of VM {} {why}. Nothing was touched",
            vm.name
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    };
    match (file_of(vm, record, What::Variables), &vm.nvram) {
        (None, None) => Ok(None),
        (None, Some(_)) => refuse("were not kept with it: with newer ones it might not boot"),
        (Some(_), None) => refuse("have no place any more: the VM has no such firmware now"),
        (Some(kept), Some(nvram)) => match hypervisor.load(&kept, LARGEST) {
            Ok(_) => {
                let before = path_beside(&kept, id, What::Variables.end());
                Ok(Some(Beside { original: nvram.path.clone(), kept, before }))
            }
            Err(e) if e.kind == ErrorKind::Disconnected => Err(e),
            Err(e) => refuse(&format!("are lost: {}", e.message)),
        },
    }
}

/// The inner error is why that is not put back; empty where there is none.
fn tpm_for_revert(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
    id: Uuid,
) -> Result<std::result::Result<Beside, String>> {
    let (kept, original) = match (file_of(vm, record, What::Tpm), &vm.tpm) {
        (None, None) => return Ok(Err(String::new())),
        (None, Some(_)) => return Ok(Err("none was kept with the snapshot".to_owned())),
        (Some(_), None) => return Ok(Err("the VM has no such TPM now".to_owned())),
        (Some(_), Some(Tpm { state: None })) => return Ok(Err(TPM_ELSEWHERE.to_owned())),
        (Some(kept), Some(Tpm { state: Some(original) })) => (kept, original.clone()),
    };
    match hypervisor.load(&kept, LARGEST) {
        Ok(_) => {}
        Err(e) if e.kind == ErrorKind::Disconnected => return Err(e),
        Err(e) => return Ok(Err(format!("what was kept is lost: {}", e.message))),
    }
    hypervisor.load(&original, LARGEST).map_err(|e| {
        let text = format!(
            "the state of the emulated TPM of VM {} cannot be put back, as it has none now ({}). Start the VM once, which \
             makes one, and revert it then. Nothing was touched",
            vm.name, e.message
        );
        if e.kind == ErrorKind::Disconnected { e } else { Error::new(ErrorKind::Unsupported, text) }
    })?;
    let before = path_beside(&kept, id, What::Tpm.end());
    Ok(Ok(Beside { original, kept, before }))
}

/// The file with the variables that a branch of this snapshot gets a copy of; `None` if nothing of the kind was kept.
pub(super) fn for_branch(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    record: &SnapshotRecord,
) -> Result<Option<String>> {
    let Some(kept) = file_of(vm, record, What::Variables) else { return Ok(None) };
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
pub(super) fn put_aside(hypervisor: &dyn Hypervisor, (what, file): (&str, &Beside)) -> Result<()> {
    let save = |now: Vec<u8>| match hypervisor.save(&file.before, &now, Save::New(Some(&file.original))) {
        Err(e) if e.kind == ErrorKind::Exists => hypervisor.save(&file.before, &now, Save::Over),
        done => done,
    };
    let saved = steady(hypervisor, &file.original).and_then(save);
    saved.map_err(|e| e.context(format_args!("{what} cannot be put aside")))
}

/// Gives the VM, which is off, what is in the file `from`.
pub(super) fn put_in(hypervisor: &dyn Hypervisor, (what, file): (&str, &Beside), from: &str) -> Result<()> {
    let (path, bytes) = (&file.original, hypervisor.load(from, LARGEST)?);
    let saved = match hypervisor.save(path, &bytes, Save::Over) {
        // One of another length is removed and made anew: who was killed between the two has left none.
        Err(e) if !e.kind.retry() => match hypervisor.save(path, &bytes, Save::New(Some(from))) {
            Err(new) if new.kind == ErrorKind::Exists => Err(e),
            saved => saved,
        },
        saved => saved,
    };
    saved.map_err(|e| e.context(format_args!("{what} cannot be put back")))
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
