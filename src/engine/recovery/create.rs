//! A snapshot that was being taken: it is there, or its overlays go.

use super::find;
use crate::{
    core::{inventory::Quality, model::Content},
    hypervisor::{ErrorKind, Result, SnapshotRecord},
    store::{Intent, StoreError},
    worker::Tools,
};

type Stored = std::result::Result<(), StoreError>;

pub(super) fn settle(tools: &Tools, intent: &Intent, records: &[SnapshotRecord]) -> Result<Stored> {
    let name = &intent.name;
    if let Some(record) = find(records, intent.vm, intent.id) {
        if intent.is_wrong() {
            tracing::warn!(
                VIRTSNAP_SNAPSHOT = %name,
                "snapshot {name} is not what libvirt said of it when it was taken; it is left for a person to look at"
            );
            return Ok(Ok(()));
        }
        tracing::warn!(VIRTSNAP_SNAPSHOT = %name, "snapshot {name} was interrupted, and is complete");
        let with_memory = record.content == Content::Full;
        let mut quality = Quality::unknown(with_memory);
        if !with_memory {
            quality.also(
                "the daemon was interrupted while it was taken, so nobody knows whether the freeze had held",
            );
        }
        return Ok(tools.store.created(intent, &quality));
    }
    match tools.hypervisor.discard(intent.vm, &intent.overlays) {
        // Its images went with the VM, or are its new owner's business.
        Err(e) if e.kind == ErrorKind::NoSuchVm => {}
        done => done?,
    }
    tracing::warn!(VIRTSNAP_SNAPSHOT = %name, "snapshot {name} was interrupted before it was taken; its overlays are removed");
    Ok(tools.store.abandoned(intent.id))
}
