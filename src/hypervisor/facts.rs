//! What the hypervisor says of a VM, as the core's examination wants it.

use super::{Features, Hypervisor, Result, SnapshotRecord, Vm};
use crate::core::{
    copied::{CopiedDisk, Standing},
    health::{DiskFacts, Facts, SnapshotFacts, Written},
    model::Storage,
};

/// All that is looked at. `unfinished`: an operation of ours on it was begun and did not end.
pub fn facts<'a>(
    vm: &'a Vm,
    records: &'a [SnapshotRecord],
    features: Features,
    unfinished: bool,
) -> Facts<'a> {
    let disks = vm.disks.iter().filter(|d| d.writable).map(|disk| DiskFacts {
        target: &disk.target,
        chain: disk.chain.iter().map(|layer| layer.path.as_str()).collect(),
        configured: disk.configured.as_deref(),
        written_out: disk.written_out.as_ref().map(|written| Written {
            images: written.images.iter().map(String::as_str).collect(),
            ends: written.ends,
        }),
        lost: disk.lost.as_deref(),
    });
    let snapshots = records.iter().map(|record| SnapshotFacts {
        name: &record.name,
        parent: record.parent.as_ref(),
        current: record.current,
        internal: record.storage == Storage::Internal,
        marked: !record.delete_in_progress.is_empty(),
        disks: record
            .disks
            .iter()
            .map(|d| (d.target.as_str(), d.overlay.as_str(), d.state_image.as_str()))
            .collect(),
        reverted: record.revert_disks.iter().map(|(target, on)| (target.as_str(), on.as_str())).collect(),
        lost: record.lost.iter().map(String::as_str).collect(),
        memory_lost: record.memory_file.as_deref().filter(|_| record.memory_lost),
        xml_bytes: record.xml_bytes,
    });
    Facts {
        disks: disks.collect(),
        snapshots: snapshots.collect(),
        keeps_revert_disks: features.revert_disks,
        layer_limit: features.layer_limit as usize,
        // What is at work on it now shows its steps, whoever it is.
        unfinished: unfinished || vm.busy || vm.block_jobs,
    }
}

/// How a disk is that was copied, of this VM, which lives this life.
pub fn standing(
    hypervisor: &dyn Hypervisor,
    vm: &Vm,
    copied: &CopiedDisk,
    life: Option<u64>,
) -> Result<Standing> {
    let disk = vm.disks.iter().find(|d| d.target == copied.target);
    let Some(top) = disk.and_then(|d| d.chain.first()) else { return Ok(Standing::Past) };
    let chain = hypervisor.chain(top)?;
    Ok(copied.standing(&chain.iter().map(|image| image.path.as_str()).collect::<Vec<_>>(), life))
}
