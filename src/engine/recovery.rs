//! What comes before anything else, at start and after every loss of libvirt: thaw, then settle what was begun.
//!
//! Running it twice changes nothing: each entry is taken off the list only when it is certain what became of it.

use std::collections::BTreeSet;

use crate::{
    core::{
        inventory::Quality,
        marker,
        model::{Content, VmId},
    },
    hypervisor::{ErrorKind, Result},
    store::Intent,
    worker::Tools,
};

/// Settles everything but what is about a VM in `busy`, whose job does that itself.
pub(super) fn run(tools: &Tools, busy: &BTreeSet<VmId>) {
    match tools.store.frozen() {
        Ok(mut frozen) => {
            frozen.retain(|vm| !busy.contains(vm));
            for vm in tools.freezer.thaw_left_over(&frozen) {
                tools.freezer.keep_thawing(vm);
            }
        }
        Err(e) => tracing::error!(error = %e, "cannot read which VMs may be frozen"),
    }
    settle_all(tools, |vm| !busy.contains(&vm));
}

/// Settles what was begun on this VM. For who holds the VM.
pub(super) fn settle_vm(tools: &Tools, vm: VmId) {
    settle_all(tools, |v| v == vm);
}

fn settle_all(tools: &Tools, whose: impl Fn(VmId) -> bool) {
    let intents = match tools.store.intents() {
        Ok(intents) => intents,
        Err(e) => {
            tracing::error!(error = %e, "cannot read what was begun");
            return;
        }
    };
    for intent in intents.into_iter().filter(|i| whose(i.vm)) {
        if let Err(e) = settle(tools, &intent) {
            tracing::error!(
                VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name,
                "snapshot {} was begun and interrupted, and cannot be settled yet: {e}", intent.name
            );
        }
    }
}

fn settle(tools: &Tools, intent: &Intent) -> Result<()> {
    let records = match tools.hypervisor.snapshots(intent.vm) {
        Ok(records) => records,
        Err(e) if e.kind == ErrorKind::NoSuchVm => Vec::new(),
        Err(e) => return Err(e),
    };
    let found = records
        .iter()
        .find(|r| marker::split(&r.description, intent.vm).1.is_some_and(|m| m.id == intent.id));
    let name = &intent.name;
    let stored = match (intent.create, found) {
        (true, Some(record)) => {
            tracing::warn!(VIRTSNAP_SNAPSHOT = %name, "snapshot {name} was interrupted, and is complete");
            let mut quality = Quality::unknown(record.content == Content::Full);
            "the daemon was interrupted while it was taken, so nobody knows whether the freeze had held"
                .clone_into(&mut quality.note);
            tools.store.created(intent, &quality)
        }
        (true, None) => {
            match tools.hypervisor.discard(intent.vm, &intent.overlays) {
                // Its images went with the VM, or are its new owner's business.
                Err(e) if e.kind == ErrorKind::NoSuchVm => {}
                done => done?,
            }
            tracing::warn!(VIRTSNAP_SNAPSHOT = %name, "snapshot {name} was interrupted before it was taken; its overlays are removed");
            tools.store.abandoned(intent.id)
        }
        (false, Some(_)) => {
            // The intent stays: it says that the image may hold newer data, and the next prune finishes it.
            tracing::warn!(VIRTSNAP_SNAPSHOT = %name, "the deletion of snapshot {name} was interrupted; the next prune finishes it");
            Ok(())
        }
        (false, None) => tools.store.gone(intent.id),
    };
    if let Err(e) = stored {
        tracing::error!(error = %e, "cannot store what became of snapshot {name}");
    }
    Ok(())
}
