//! Before a merge that was cut short goes on: is the VM on what libvirt says?
//!
//! A libvirtd that is killed within milliseconds of a job's end (seen with 9.0 and 11.3) goes on with what was before it:
//! QEMU has left an image that libvirt still has in the VM's chain. Where that was the one that was written to, the next
//! start by the old definition would be without what was written since, and to merge that image once more would write
//! its old clusters over newer ones. Worse, 9.0 may forget that the VM is on at all, while its QEMU runs.

use crate::{
    clock,
    core::{
        merge::{DiskPart, Recipe},
        model::VmId,
    },
    hypervisor::{Error, ErrorKind, Hypervisor, Layer, OpenedDisk, Result, Vm},
    logging::message,
};

use super::{PAUSE, left_over::patiently};

/// So often it is looked before QEMU and libvirt are said to differ.
const LOOKS: u32 = 10;

/// What a VM's QEMU says of its disks, beside what libvirt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Off by libvirt's word, so nobody was asked.
    Off,
    /// Both say the same.
    Same,
    /// QEMU is on something else: what that is, as a sentence. The VM's next start is on that.
    Adrift(String),
}

/// Asks a VM's QEMU what it is on, and makes the VM's next start right where libvirt does not know that.
///
/// `waits`: as long as something else has the VM it is asked again, and not for ever. `mark` comes before that is put right:
/// whoever sees the definition changed has to know why.
pub fn ask_qemu(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    waits: bool,
    mark: impl FnOnce() -> Result<()>,
) -> Result<Word> {
    let mut looks = 1;
    let (vm, adrift) = loop {
        let Some((vm, adrift)) = differing(hypervisor, id, waits)? else { return Ok(Word::Off) };
        if adrift.is_empty() {
            return Ok(Word::Same);
        }
        if looks == LOOKS {
            break (vm, adrift);
        }
        looks += 1;
        // It may be about to note what QEMU has just told it.
        clock::pause(PAUSE);
    };
    let Some(first) = adrift.first() else { return Ok(Word::Same) };
    mark()?;
    // Also where the image that is written to is the same: the definition may hold the old chain below it.
    let top = |disk: &OpenedDisk| Some((disk.target.clone(), disk.chain.first()?.clone()));
    let tops: Vec<(String, Layer)> = adrift.iter().filter_map(top).collect();
    hypervisor.name_for_next_start(id, &tops)?;
    Ok(Word::Adrift(format!(
        "libvirtd ended in the middle of a merge: disk {} of VM {} is on {} by its QEMU's word, and libvirt does not know. \
         The VM's definition names that, so nothing is lost: shut the VM down and start it again, then the merge can end",
        first.target,
        vm.name,
        paths(&first.chain).join(" → ")
    )))
}

/// The disks of which QEMU and libvirt say different things; `None` while the VM is off.
fn differing(hypervisor: &dyn Hypervisor, id: VmId, waits: bool) -> Result<Option<(Vm, Vec<OpenedDisk>)>> {
    let vm = hypervisor.vm(id)?;
    let ask = || hypervisor.opened(id);
    let Some(opened) = (if waits { patiently(ask) } else { ask() })? else { return Ok(None) };
    let differs = |disk: &OpenedDisk| {
        let told = vm.disks.iter().find(|d| d.target == disk.target);
        told.is_some_and(|told| told.writable && paths(&told.chain) != paths(&disk.chain))
    };
    let adrift: Vec<OpenedDisk> = opened.into_iter().filter(differs).collect();
    Ok(Some((vm, adrift)))
}

/// The VM, with a definition that names what its disks are on: where one has left what a merge takes away and the
/// definition still names that, libvirtd ended when that was all it had left to write. It is written for it, as the next
/// start would be without what was written since.
///
/// For a VM that is on what libvirt says, by its QEMU's word.
pub fn put_right(hypervisor: &dyn Hypervisor, id: VmId, parts: &[DiskPart]) -> Result<Vm> {
    let vm = hypervisor.vm(id)?;
    let late = behind(&vm, parts);
    let Some((target, on)) = late.first() else { return Ok(vm) };
    tracing::warn!(
        MESSAGE_ID = message::INTERRUPTED,
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id,
        "the definition of VM {} still names what disk {target} has left in a merge: it names {} now", vm.name, on.path
    );
    hypervisor.name_for_next_start(id, &late)?;
    let vm = hypervisor.vm(id)?;
    match behind(&vm, parts).first() {
        None => Ok(vm),
        Some((target, on)) => Err(Error::new(
            ErrorKind::ChainMismatch,
            format!(
                "disk {target} of VM {} is on {}, and its definition names what was merged into that. It cannot be put \
                 right: let it name {} (`virsh edit`) before the VM is shut down",
                vm.name, on.path, on.path
            ),
        )),
    }
}

/// The disks that are on the base of a merge, with that, and are to be started on what was merged into it.
fn behind(vm: &Vm, parts: &[DiskPart]) -> Vec<(String, Layer)> {
    let late = |part: &&DiskPart| {
        vm.disks.iter().filter(|d| d.target == part.target).any(|d| {
            let on_base = d.chain.first().is_some_and(|layer| layer.path == part.base);
            on_base && d.configured.as_ref().is_some_and(|named| part.gone.contains(named))
        })
    };
    let base = |part: &DiskPart| Layer { path: part.base.clone(), format: part.base_format.clone() };
    parts.iter().filter(late).map(|part| (part.target.clone(), base(part))).collect()
}

fn paths(chain: &[Layer]) -> Vec<String> {
    chain.iter().map(|layer| layer.path.clone()).collect()
}

/// For a VM that is off by libvirt's word, and of which nobody knows whether QEMU had left the image that it wrote to: to
/// start it on that, or to merge that once more, is refused where the image below was written to later.
pub fn check_times(hypervisor: &dyn Hypervisor, vm: &Vm, recipe: &Recipe) -> Result<()> {
    for part in recipe.disks.iter().filter(|part| part.above.is_none()) {
        let disk = vm.disks.iter().find(|d| d.target == part.target);
        let Some(top) = disk.and_then(|d| d.chain.first()).filter(|l| l.path == part.top) else { continue };
        let images = hypervisor.chain(top)?;
        let written = |path: &str| images.iter().find(|i| i.path == path).and_then(|image| image.modified);
        let (Some(above), Some(below)) = (written(&part.top), written(&part.base)) else { continue };
        if below > above {
            return Err(Error::new(
                ErrorKind::ChainMismatch,
                format!(
                    "libvirtd or virtsnapd ended just when disk {} of VM {} was to leave {}, and whether it had is not \
                     known: {} was written to later. If the VM's QEMU runs, though libvirt calls it shut off (`pgrep -af \
                     qemu`), shut the guest down from inside. If the guest went on after that moment, let the definition \
                     name {}, without a `<backingStore>` (`virsh edit`); if it did not, start the VM once",
                    part.target, vm.name, part.top, part.base, part.base
                ),
            ));
        }
    }
    Ok(())
}
