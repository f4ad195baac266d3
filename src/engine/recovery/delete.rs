//! A snapshot that the hypervisor was deleting.

use super::{find, told};
use crate::{
    hypervisor::{ErrorKind, Result, SnapshotRecord},
    store::{Begun, Intent, StoreError},
    worker::Tools,
};

type Stored = std::result::Result<(), StoreError>;

/// Whether the hypervisor did it: then only its end is to be written down, and what is left of it cleared up.
pub(super) fn is_done(tools: &Tools, intent: &Intent) -> bool {
    intent.what == Begun::Delete
        && match tools.hypervisor.snapshots(intent.vm) {
            Ok(records) => find(&records, intent.vm, intent.id).is_none(),
            Err(e) => e.kind == ErrorKind::NoSuchVm,
        }
}

pub(super) fn settle(tools: &Tools, intent: &Intent, records: &[SnapshotRecord]) -> Result<Stored> {
    let name = &intent.name;
    if find(records, intent.vm, intent.id).is_none() {
        match tools.hypervisor.discard(intent.vm, &intent.overlays) {
            Err(e) if e.kind == ErrorKind::NoSuchVm => {}
            done => done?,
        }
        let vm = told::name(tools, intent.vm);
        let ended =
            format_args!("the deletion of snapshot {name} of VM {vm} was interrupted, and is complete");
        told::interrupted(&vm, intent, ended);
        return Ok(tools.store.gone(intent.id));
    }
    // The intent stays: it says that the image may hold newer data, and the next prune finishes it.
    let vm = told::name(tools, intent.vm);
    let waits = format_args!(
        "the deletion of snapshot {name} of VM {vm} was interrupted; the next prune finishes it, and until then it counts as \
         failed"
    );
    told::interrupted(&vm, intent, waits);
    Ok(Ok(()))
}
