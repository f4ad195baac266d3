//! A run of snapshots that was being merged away, and the VM that was woken for it.

use std::time::Duration;

use super::told;
use crate::{
    core::{
        merge::Recipe,
        model::{VmId, VmState},
    },
    hypervisor::{Error, ErrorKind, Result, SnapshotRecord, Vm},
    logging::message,
    merging::{self, Word},
    store::{Intent, StoreError},
    worker::{self, Tools},
};

/// Between two looks at a VM that is being started, and how many.
const PAUSE: Duration = Duration::from_millis(250);
const LOOKS: u32 = 20;

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
    let vm = told::name(tools, intent.vm);
    let waits = format_args!(
        "the merge of snapshot {} of VM {vm} and what follows it was interrupted, and is still to be finished",
        intent.name
    );
    told::interrupted(&vm, intent, waits);
    Ok(Ok(()))
}

/// Lets a VM sleep that was woken only for a merge: nobody else does it.
pub(super) fn let_sleep(tools: &Tools, vm: VmId) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    // What a daemon that died was starting libvirt goes on to start, and calls it off until that has ended.
    let look = || -> Result<Option<Vm>> {
        match hypervisor.vm(vm) {
            Err(e) if e.kind == ErrorKind::NoSuchVm => Ok(None),
            Ok(now) if now.state == VmState::ShutOff && hypervisor.life(vm)?.is_some() => {
                Err(Error::new(ErrorKind::Busy, "it is being started"))
            }
            now => now.map(Some),
        }
    };
    let mut now = look();
    for _ in 0..LOOKS {
        if now.as_ref().err().is_none_or(|e| e.kind != ErrorKind::Busy) {
            break;
        }
        tools.clock.pause(PAUSE);
        now = look();
    }
    let slept = match now? {
        Some(now) if now.state == VmState::Paused && worker::is_woken(tools, vm)? => {
            // What it was doing is not wanted any more, and goes with it. To end its jobs first can crash a libvirtd that was
            // restarted meanwhile, and may wait for one that nobody hears of.
            worker::unsure::let_sleep(tools, vm).map(drop)
        }
        // Gone or off; or somebody has it, or started it anew: then it is theirs.
        _ => Ok(()),
    };
    slept?;
    if let Err(e) = tools.store.sleeps(vm) {
        let name = told::name(tools, vm);
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %vm, error = %e,
            "cannot store that VM {name} sleeps again"
        );
    }
    Ok(())
}
