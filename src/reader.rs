//! Reading: the hypervisor's facts and the store's records of one VM, put together into what the core works on.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    core::{
        copied::{self, CopiedDisk, Standing},
        doubt, forgotten, health,
        inventory::{Quality, SnapshotRecord, VmRecord},
        label::Label,
        layer, leftover, marker,
        model::{Content, Origin, Snapshot, SnapshotName, SnapshotState, Storage, VmId, VmState},
        stray,
    },
    hypervisor::{self, Agent, Hypervisor, Vm},
    merging,
    store::{HalfDeleted, Intent, Store, StoreError},
};

/// Why a VM could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The hypervisor's fault.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One VM as it is now, with everything that is known of its snapshots.
pub fn read(hypervisor: &dyn Hypervisor, store: &Store, id: VmId) -> Result<VmRecord, ReadError> {
    let (vm, snapshots) = hypervisor.vm_and_snapshots(id)?;
    let unfinished = store.unfinished(id)?;
    let mut findings =
        health::examine(&hypervisor::facts(&vm, &snapshots, hypervisor.features()?, unfinished));
    let stands = vm.state == VmState::Paused && vm.block_jobs && !vm.busy && !unfinished;
    findings.extend(stands.then(leftover::finding));
    if !unfinished {
        findings.extend(layer::finding(&vm.name, &left(&vm, &snapshots, &store.laid(id)?)));
    }
    findings.extend(copied::findings(&vm.name, unknown(hypervisor, store, &vm)?.iter()));
    let strays = store.strays(id)?;
    findings.extend(stray::finding(&strays));
    let forgotten = store.forgotten(id)?;
    findings.extend(forgotten::finding(&forgotten));
    if let Some(intent) = store.adrift(id)? {
        // What else libvirt says is not so.
        findings = vec![match intent.phase.as_str() {
            Intent::LOST => health::lost_sight(&intent.name),
            _ => health::adrift(&intent.name),
        }];
    }
    let known = Known {
        qualities: store.qualities(id)?,
        labels: store.labels(id)?,
        half_deleted: store.half_deleted(id)?,
        wrong: store.wrong(id)?,
        creating: store.creating(id)?,
    };
    let stem = store.stem_of(id)?;
    let ground = merging::ground(hypervisor, &vm, &snapshots).map(Box::new);
    let record = join(vm, snapshots, &known);
    let known_since = doubt::since(record.snapshots.values(), store.knows_since(id)?);
    findings.extend(known_since.map(|since| doubt::finding(&record.name, since)));
    Ok(VmRecord { ground, stem, findings, strays, known_since, forgotten, ..record })
}

/// Its disks that were copied, and of which nobody knows whether all of it is on them.
fn unknown(hypervisor: &dyn Hypervisor, store: &Store, vm: &Vm) -> Result<Vec<CopiedDisk>, ReadError> {
    let mut unsure = store.unsure_of(vm.id)?;
    // While it is awake for our work, or just ends, its job or the next one settles that.
    if unsure.is_empty() || store.awake()?.contains(&vm.id) {
        return Ok(Vec::new());
    }
    let life = hypervisor.life(vm.id)?;
    let is_unknown = |disk: &CopiedDisk| {
        hypervisor::standing(hypervisor, vm, disk, life).is_ok_and(|s| s == Standing::Unknown)
    };
    unsure.retain(is_unknown);
    Ok(unsure)
}

/// What the VM is on of all that was laid for snapshots of ours, where none of those is left and no other has it.
fn left<'a>(
    vm: &'a Vm,
    records: &[hypervisor::SnapshotRecord],
    laid: &BTreeSet<String>,
) -> BTreeSet<&'a str> {
    if records.iter().any(|r| marker::split(&r.description, vm.id).1.is_some()) {
        return BTreeSet::new();
    }
    let names = |r: &hypervisor::SnapshotRecord, path: &str| {
        let own = r.disks.iter().any(|d| d.overlay == path || d.state_image == path);
        own || r.revert_disks.iter().any(|(_, on)| on == path)
    };
    let images = vm.disks.iter().flat_map(|d| &d.chain).map(|layer| layer.path.as_str());
    images.filter(|path| laid.contains(*path) && !records.iter().any(|r| names(r, path))).collect()
}

/// What the store knows of a VM's snapshots.
struct Known {
    qualities: BTreeMap<Uuid, Quality>,
    labels: BTreeMap<Uuid, Label>,
    half_deleted: HalfDeleted,
    wrong: BTreeSet<Uuid>,
    creating: BTreeSet<Uuid>,
}

fn join(vm: Vm, snapshots: Vec<hypervisor::SnapshotRecord>, known: &Known) -> VmRecord {
    let images = vm.disks.iter().flat_map(|d| &d.chain).map(|image| image.path.clone()).collect();
    let depth = vm.disks.iter().filter(|d| d.writable).map(|d| d.chain.len()).max().unwrap_or(0);
    VmRecord {
        id: vm.id,
        name: vm.name,
        state: vm.state,
        tags: vm.tags,
        agent_connected: vm.agent == Agent::Connected,
        chain_depth: u32::try_from(depth).unwrap_or(u32::MAX),
        images,
        ground: None,
        stem: None,
        findings: Vec::new(),
        strays: Vec::new(),
        known_since: None,
        forgotten: Vec::new(),
        snapshots: {
            let (spoiled, live) = (spoiled(&snapshots), live(&snapshots));
            let of = |mut s: hypervisor::SnapshotRecord| {
                // One that the VM left takes its own images with it; what was put on them is no longer there.
                if !live.contains(&s.name) && s.storage == Storage::External {
                    s.size = s.held;
                }
                (s.name.clone(), snapshot(vm.id, spoiled.contains(&s.name), s, known))
            };
            snapshots.into_iter().map(of).collect()
        },
    }
}

/// Those that what the VM runs on lies on: the current one and all before it.
fn live(records: &[hypervisor::SnapshotRecord]) -> BTreeSet<SnapshotName> {
    let by_name: BTreeMap<_, _> = records.iter().map(|r| (&r.name, r)).collect();
    let current = records.iter().find(|r| r.current);
    let older = |r: &&hypervisor::SnapshotRecord| r.parent.as_ref().and_then(|p| by_name.get(p).copied());
    std::iter::successors(current, older).take(records.len()).map(|r| r.name.clone()).collect()
}

/// Those whose deletion libvirt began and did not end: their images may hold newer data.
///
/// libvirt does not mark these but, for each disk, the next older snapshot that has it. Where branches start at a marked
/// one nobody can tell which of them was meant, so none of them is trusted.
pub(crate) fn spoiled(records: &[hypervisor::SnapshotRecord]) -> BTreeSet<SnapshotName> {
    let by_name: BTreeMap<_, _> = records.iter().map(|r| (&r.name, r)).collect();
    let older = |r: &hypervisor::SnapshotRecord| r.parent.as_ref().and_then(|p| by_name.get(p).copied());
    let is_spoiled = |record: &hypervisor::SnapshotRecord| {
        record.disks.iter().any(|disk| {
            // No more steps than snapshots: parents that form a ring must not hang us.
            let mut line = std::iter::successors(older(record), |r| older(r)).take(records.len());
            line.find(|r| r.disks.iter().any(|d| d.target == disk.target))
                .is_some_and(|r| r.delete_in_progress.contains(&disk.target))
        })
    };
    records.iter().filter(|r| is_spoiled(r)).map(|r| r.name.clone()).collect()
}

fn snapshot(vm: VmId, spoiled: bool, s: hypervisor::SnapshotRecord, known: &Known) -> SnapshotRecord {
    let (description, marker) = marker::split(&s.description, vm);
    let description = description.to_owned();
    let half_deleted = known.half_deleted.has(&s.name, marker.as_ref().map(|m| m.id));
    let wrong = marker.as_ref().is_some_and(|m| known.wrong.contains(&m.id));
    // libvirt lists one from its first moment on.
    let creating = marker.as_ref().is_some_and(|m| known.creating.contains(&m.id));
    let state = match (spoiled || half_deleted || wrong, creating) {
        (true, _) => SnapshotState::Failed,
        (false, true) => SnapshotState::Creating,
        (false, false) => SnapshotState::Ready,
    };
    let quality = marker
        .as_ref()
        .and_then(|m| known.qualities.get(&m.id).cloned())
        .unwrap_or_else(|| Quality::unknown(s.content == Content::Full));
    let (created, origin, policies) = match marker.clone() {
        Some(m) => (m.created, m.origin, m.policies),
        None => (s.created, Origin::Foreign, BTreeSet::new()),
    };
    let id = marker.as_ref().map(|m| m.id);
    let mut record = SnapshotRecord {
        snapshot: Snapshot {
            name: s.name,
            created,
            parent: s.parent,
            current: s.current,
            state,
            origin,
            managed: marker.is_some(),
            policies,
            pinned: false,
            expires: None,
            content: s.content,
            storage: s.storage,
            size: s.size,
        },
        id,
        label: Label::default(),
        description,
        quality,
        images: s.disks.into_iter().map(|disk| disk.state_image).collect(),
        held: s.held,
        half_deleted,
    };
    record.set_label(id.and_then(|id| known.labels.get(&id)).cloned().unwrap_or_default());
    record
}
