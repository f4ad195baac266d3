//! What comes before anything else, at start and after every loss of libvirt: thaw, then settle what was begun.
//!
//! Running it twice changes nothing: each entry is taken off the list only when it is certain what became of it.

mod create;
mod delete;
mod merge;

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    core::{marker, model::VmId},
    hypervisor::{ErrorKind, Result, SnapshotRecord},
    store::{Begun, Intent},
    worker::{self, Tools},
};

/// Settles everything but what is about a VM in `busy`, whose job does that itself. The VMs with merges that are to be
/// finished by a job of their own: that can take long.
pub(super) fn run(tools: &Tools, busy: &BTreeSet<VmId>) -> BTreeSet<VmId> {
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
    let begun = tools.store.intents().unwrap_or_default();
    let merges = begun.into_iter().filter(|i| matches!(i.what, Begun::Merge(_)));
    merges.map(|i| i.vm).filter(|vm| !busy.contains(vm)).collect()
}

/// Settles what was begun on this VM. For who holds the VM.
pub(super) fn settle_vm(tools: &Tools, vm: VmId) {
    settle_all(tools, |v| v == vm);
}

fn settle_all(tools: &Tools, whose: impl Fn(VmId) -> bool) {
    match tools.store.awake() {
        Ok(awake) => {
            for vm in awake.into_iter().filter(|vm| whose(*vm)) {
                if let Err(e) = merge::let_sleep(tools, vm) {
                    tracing::error!(
                        VIRTSNAP_VM_UUID = %vm,
                        "VM {vm} was started, paused, to merge its images, and cannot be stopped yet: {e}"
                    );
                }
            }
        }
        Err(e) => tracing::error!(error = %e, "cannot read which VMs may be awake"),
    }
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
    let stored = match &intent.what {
        Begun::Create => create::settle(tools, intent, &records)?,
        Begun::Delete => delete::settle(tools, intent, &records)?,
        Begun::Drop => return worker::settle_drop(tools, intent),
        Begun::Merge(recipe) => merge::settle(tools, intent, recipe, &records),
        Begun::Revert(plan) => return worker::settle_revert(tools, intent, plan),
    };
    if let Err(e) = stored {
        tracing::error!(error = %e, "cannot store what became of snapshot {}", intent.name);
    }
    Ok(())
}

/// The snapshot with this identity: a name may be somebody else's by now.
fn find(records: &[SnapshotRecord], vm: VmId, id: Uuid) -> Option<&SnapshotRecord> {
    records.iter().find(|r| marker::split(&r.description, vm).1.is_some_and(|m| m.id == id))
}
