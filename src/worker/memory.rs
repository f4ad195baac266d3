//! Whether the VM's memory is kept with a snapshot, and what is done where it cannot be.
//!
//! With the memory the VM goes on later exactly where it was, so nothing in the guest is frozen for it: what its file
//! systems have not written yet is in the memory. The file lies beside the snapshot's images, and its name follows from
//! the snapshot's own id. Of an emulated TPM the state is in that file, too: QEMU writes it there with its devices'.

use std::mem;

use uuid::Uuid;

use super::{Stop, Tools, Work, beside, hooked, redefine};
use crate::{
    core::{
        inventory::Quality,
        job::{Copied, Failure, Far},
        model::{Consistency, SnapshotName, VmId, VmState},
        policy::{How, Memory},
        room::Growth,
    },
    freeze::Called,
    hypervisor::{CreateSpec, ErrorKind, Overlay, Redefine, Result, Taken, Vm},
    rooms::Reserved,
};

/// What becomes of the memory.
#[derive(Debug)]
pub(super) enum Wish {
    /// It is not asked for, or there is none.
    None,
    /// It is kept in this file, and the room for that is reserved.
    Keep(String, #[expect(dead_code, reason = "given back when this is dropped")] Reserved),
    /// It would be, but for this.
    Without(String),
}

impl Wish {
    /// The file that is made.
    pub(super) fn path(&self) -> Option<&String> {
        if let Self::Keep(path, _) = self { Some(path) } else { None }
    }
}

/// What can be known before anything is touched.
pub(super) fn wish(
    work: &Work<'_>,
    how: &How,
    vm: &Vm,
    overlays: &[Overlay],
    id: Uuid,
) -> std::result::Result<Wish, Stop> {
    let on = matches!(vm.state, VmState::Running | VmState::Paused);
    let (Some(first), true) = (overlays.first(), on && how.memory != Memory::Never) else {
        return match how.memory {
            Memory::Require => refuse(
                "Unsupported",
                format!(
                    "VM {} is {}, and memory = \"require\" asks for the memory of one that is on. Start it, or take a \
                     snapshot of its disks alone",
                    vm.name, vm.state
                ),
            ),
            _ => Ok(Wish::None),
        };
    };
    let path = beside::path_beside(&first.backing.path, id, "memory");
    match reserve(work, vm, overlays, &path)? {
        Ok(room) => Ok(Wish::Keep(path, room)),
        Err((_, why)) if how.memory == Memory::Prefer => Ok(Wish::Without(why)),
        Err((kind, why)) => refuse(
            kind,
            format!(
                "the memory of VM {} cannot be kept, as memory = \"require\" asks: {why}. Nothing was touched",
                vm.name
            ),
        ),
    }
}

/// The room for it, or what speaks against it: the error's name, and the reason.
fn reserve(
    work: &Work<'_>,
    vm: &Vm,
    overlays: &[Overlay],
    path: &str,
) -> std::result::Result<std::result::Result<Reserved, (&'static str, String)>, Stop> {
    let covered = |target: &str| overlays.iter().any(|o| o.target == target);
    if let Some(disk) = vm.disks.iter().find(|d| d.writable && !covered(&d.target)) {
        let why = format!(
            "disk {} takes no part, and the memory, which knows its file systems as they are now, would meet it as it \
             is later",
            disk.target
        );
        return Ok(Err(("Unsupported", why)));
    }
    let file = Growth {
        image: path.to_owned(),
        format: "raw".to_owned(),
        capacity: vm.ram,
        allocation: 0,
        comes: vm.ram,
    };
    let (hypervisor, min_free) = (work.tools.hypervisor.as_ref(), work.settings.daemon.min_free);
    match work.tools.rooms.reserve(hypervisor, &[file], min_free) {
        Ok(reserved) => Ok(Ok(reserved)),
        Err(e) if e.kind == ErrorKind::NoSpace => Ok(Err(("NoSpace", e.message))),
        Err(e) => Err(e
            .context(format_args!("no snapshot of VM {} was taken, as the room for it is unknown", vm.name))
            .into()),
    }
}

/// Takes the snapshot, with the memory as it is wished; what was really taken, and how well.
pub(super) fn take(
    work: &Work<'_>,
    how: &How,
    vm: &Vm,
    spec: CreateSpec,
    wish: &Wish,
    called: Called<'_>,
) -> Result<(CreateSpec, Quality)> {
    let hypervisor = &work.tools.hypervisor;
    let mut first = true;
    let mut far = |copied| tell(work, &spec, mem::take(&mut first), copied);
    let why = match wish {
        Wish::None => None,
        Wish::Without(why) => Some(why.clone()),
        Wish::Keep(..) => match hypervisor.create_watched(vm.id, &spec, &mut far) {
            Ok(()) => {
                let unfrozen = Quality { requested: Some(how.quiesce), ..Quality::unknown(true) };
                return Ok((spec, unfrozen));
            }
            Err(e) if e.kind == ErrorKind::NotMigratable && how.memory == Memory::Prefer => Some(e.message),
            Err(e) if e.kind == ErrorKind::NotMigratable => {
                return Err(e.context("its memory cannot be kept, as memory = \"require\" asks"));
            }
            Err(e) => return Err(e),
        },
    };
    // Of the disks alone, onto the very same overlays: nothing is on them yet.
    let spec = CreateSpec { memory: None, ..spec };
    let targets: Vec<String> = spec.overlays.iter().map(|o| o.target.clone()).collect();
    let most = work.settings.daemon.max_frozen;
    let hooks = hooked::Window::of(work, &spec.name);
    let called = hooks.come_in(called);
    let taken =
        work.tools.freezer.around(vm, how, &targets, most, called, || hypervisor.create(vm.id, &spec));
    hooks.tell();
    let ((), mut quality) = taken?;
    if let Some(why) = why {
        debug_assert_ne!(quality.reached, Consistency::Memory);
        quality.also(&format!("the memory was not kept: {why}"));
    }
    Ok((spec, quality))
}

/// What libvirt says was taken, and how well, as it is.
pub(super) fn as_taken(
    work: &Work<'_>,
    vm: &Vm,
    (spec, mut quality): (CreateSpec, Quality),
) -> Result<(CreateSpec, Quality)> {
    if spec.memory.is_none() || !never_kept(work.tools, vm.id, &spec.name)? {
        return Ok((spec, quality));
    }
    quality = Quality { requested: quality.requested, ..Quality::unknown(false) };
    quality.also("the memory was not kept: the VM went off just then");
    Ok((CreateSpec { memory: None, ..spec }, quality))
}

/// Of a snapshot that was taken: that it has what was asked for.
pub(super) fn check_kept(
    how: &How,
    vm: &Vm,
    spec: &CreateSpec,
    wish: &Wish,
) -> std::result::Result<(), Stop> {
    if how.memory != Memory::Require || wish.path().is_none() || spec.memory.is_some() {
        return Ok(());
    }
    refuse(
        "Failed",
        format!(
            "VM {} went off just as snapshot {} was taken: that holds its disks, and nothing of its memory, as memory = \
             \"require\" asks. Keep it, or delete it",
            vm.name, spec.name
        ),
    )
}

/// Whether there is none of the memory that libvirt says a snapshot has; then it says so no more. Of a VM whose QEMU dies
/// just as its memory is to be kept libvirt takes the disks alone, says that all went well, and that it has the memory; and
/// forgets the snapshot when it is started again.
pub(crate) fn never_kept(tools: &Tools, id: VmId, name: &SnapshotName) -> Result<bool> {
    let records = tools.hypervisor.snapshots(id)?;
    let claims = records.iter().any(|r| r.name == *name && r.taken == Taken::Off && r.memory_file.is_some());
    if claims {
        // Any change of it makes that right.
        redefine::redefine(tools, &tools.hypervisor.vm(id)?, &records, &Redefine::new(name.clone()))?;
    }
    Ok(claims)
}

/// How far the memory is written is told at once, and then as often as of anything that copies.
#[expect(clippy::cast_precision_loss, reason = "a progress bar's precision")]
fn tell(work: &Work<'_>, spec: &CreateSpec, first: bool, copied: Copied) {
    if first || work.is_news(copied) {
        let share = copied.done as f64 / copied.total.max(1) as f64;
        work.copies("saving the memory", Far { share: Some(share), copied }, Some(&spec.name));
    }
}

fn refuse<T>(name: &'static str, message: String) -> std::result::Result<T, Stop> {
    Err(Stop::Failed(Failure::new(name, message)))
}
