//! A run of snapshots that was being merged away, and the VM that was woken for it.

use crate::{
    core::{
        merge::Recipe,
        model::{VmId, VmState},
    },
    hypervisor::{Error, ErrorKind, Result, SnapshotRecord},
    merging::{self, Word},
    store::{Intent, StoreError},
    worker::{self, Tools},
};

pub(super) fn settle(
    tools: &Tools,
    intent: &Intent,
    recipe: &Recipe,
    records: &[SnapshotRecord],
) -> Result<std::result::Result<(), StoreError>> {
    // That there are no snapshots any more is no sign: they may all have been merged.
    let went = || tools.hypervisor.vm(intent.vm).is_err_and(|e| e.kind == ErrorKind::NoSuchVm);
    if records.is_empty() && went() {
        return Ok(tools.store.all_gone(recipe.run.iter().filter_map(|d| d.id).chain([intent.id])));
    }
    let reached = |phase: &str| {
        let stored = tools.store.reached(intent.id, phase);
        stored.map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
    };
    let adrift = || super::note_adrift(tools, intent);
    match merging::ask_qemu(tools.hypervisor.as_ref(), intent.vm, false, adrift)? {
        Word::Adrift(text) => return Err(Error::new(ErrorKind::ChainMismatch, text)),
        // Nothing was missed, or it was off meanwhile: what happens from here on is known.
        Word::Same => {
            merging::put_right(tools.hypervisor.as_ref(), intent.vm, &recipe.disks)?;
            if intent.is_unsure() || intent.is_adrift() {
                reached("")?;
            }
        }
        // 9.0 says that also of a VM that it has lost sight of, and not at once: it is said after QEMU was looked for.
        Word::Off => {
            let vm = tools.hypervisor.vm(intent.vm)?;
            if intent.is_unsure()
                && let Err(e) = merging::check_times(tools.hypervisor.as_ref(), &vm, recipe)
            {
                reached(Intent::LOST)?;
                return Err(e);
            }
            if intent.is_adrift() {
                reached("")?;
            }
        }
    }
    // The intent stays: all of the run count as failed until somebody has ended it.
    tracing::warn!(
        VIRTSNAP_SNAPSHOT = %intent.name,
        "the merge of snapshot {} and what follows it was interrupted, and is still to be finished", intent.name
    );
    Ok(Ok(()))
}

/// Lets a VM sleep that was woken only for a merge. A libvirtd that was restarted meanwhile does not do it.
pub(super) fn let_sleep(tools: &Tools, vm: VmId) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    let slept = match hypervisor.vm(vm) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => Ok(()),
        Err(e) => return Err(e),
        Ok(vm_now) if vm_now.state == VmState::Paused && worker::is_woken(tools, vm)? => {
            // What it was doing is not wanted any more, and goes with it. To end its jobs first can crash a libvirtd that was
            // restarted meanwhile, and may wait for one that nobody hears of.
            worker::unsure::let_sleep(tools, vm).map(drop)
        }
        // Off, or somebody has resumed it, or started it anew: then it is theirs.
        Ok(_) => Ok(()),
    };
    slept?;
    if let Err(e) = tools.store.sleeps(vm) {
        tracing::error!(VIRTSNAP_VM_UUID = %vm, error = %e, "cannot store that a VM sleeps again");
    }
    Ok(())
}
