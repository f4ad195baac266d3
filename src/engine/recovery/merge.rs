//! A run of snapshots that was being merged away.

use crate::{
    core::merge::Recipe,
    hypervisor::SnapshotRecord,
    store::{Intent, StoreError},
    worker::Tools,
};

pub(super) fn settle(
    tools: &Tools,
    intent: &Intent,
    recipe: &Recipe,
    records: &[SnapshotRecord],
) -> Result<(), StoreError> {
    if records.is_empty() {
        // The VM went, or all its snapshots with it.
        return tools.store.all_gone(recipe.run.iter().filter_map(|d| d.id).chain([intent.id]));
    }
    // The intent stays: all of the run count as failed until the next prune has ended it.
    tracing::warn!(
        VIRTSNAP_SNAPSHOT = %intent.name,
        "the merge of snapshot {} and what follows it was interrupted; the next prune finishes it", intent.name
    );
    Ok(())
}
