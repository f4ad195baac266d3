//! Putting a VM back to a snapshot: look, refuse or take a safety snapshot, then the steps that can be taken back.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | preflight | nothing was touched |
//! | safety snapshot | it is a snapshot like any other, and stays |
//! | intent stored | the overlays that were made are removed, and the VM runs on |
//! | overlays prepared | the same |
//! | stopped | the same, and it is started again if it ran |
//! | defined | the old definition and metadata are put back, by who fails; who finds it so later ends it |
//! | metadata, started, verified | the same, and who finds it so later never stops it |
//! | the intent is now to remove the left overlays | they are there, and nobody's, until somebody removes them |
//!
//! libvirt's own revert is not used: libvirt 9 has none, that of libvirt 11 rolls back disks that take no part, puts an
//! overlay on a CD-ROM, removes what was on top, and crashes on a tree without a current snapshot.

mod back;
mod inside;
mod reached;
mod steps;

use uuid::Uuid;

pub(crate) use self::back::settle;
use super::{Stop, Work, beside, create, merge, space};
use crate::{
    core::{
        chain,
        job::{CreateJob, Failure, RevertJob},
        model::{Origin, SnapshotName, Storage, VmState},
        naming,
        revert::{DefinitionOf, Image, RevertPlan, Switched, Then},
    },
    hypervisor::{Layer, SnapshotRecord, Taken, Vm, line_to_current, told},
    logging::message,
    reader,
    store::{Begun, Intent},
};

pub(super) fn run(work: &Work<'_>, revert: &RevertJob) -> Result<Option<SnapshotName>, Stop> {
    let hypervisor = &work.tools.hypervisor;
    let name = &revert.name;
    work.phase("checking", None, Some(name));
    let mut vm = hypervisor.vm(work.job.vm)?;
    let mut records = hypervisor.snapshots(vm.id)?;
    if merge::end_all(work, &vm, &records, name)? {
        vm = hypervisor.vm(vm.id)?;
        records = hypervisor.snapshots(vm.id)?;
    }
    let was = vm.state;
    if let Some(record) = records.iter().find(|r| r.name == *name && r.storage == Storage::Internal) {
        return inside::run(work, revert, &vm, &records, record);
    }
    preflight(work, revert, &vm, &records)?;
    work.safe_point()?;

    let safety = match &revert.safety {
        Some(safety) => {
            work.phase("taking the safety snapshot", None, Some(name));
            // What never has snapshots no revert changes either.
            let all = vm.disks.iter().filter(|d| d.has_snapshots());
            let disks = all.map(|d| d.target.clone()).collect();
            let create = CreateJob { disks: Some(disks), ..safety.clone() };
            Some(create::take(work, &create, Origin::Safety).map_err(|stop| because(stop, &vm.name, name))?)
        }
        None => None,
    };

    // What the safety snapshot changed, and whatever else did meanwhile.
    let vm = hypervisor.vm(vm.id)?;
    let records = hypervisor.snapshots(vm.id)?;
    preflight(work, revert, &vm, &records)?;
    let id = Uuid::new_v4();
    let plan = plan(work, revert, &vm, &records, (was, safety.clone(), id))?;
    let intent = Intent {
        overlays: plan.files(),
        ..Intent::new(id, vm.id, name.clone(), Begun::Revert(Box::new(plan.clone())))
    };
    work.safe_point()?;
    work.tools.store.begin(&intent, work.tools.clock.now())?;
    let phase = |text: &str| work.phase(text, None, Some(name));
    match steps::all(work.tools, &intent, &plan, &phase) {
        Ok(()) => {
            tracing::info!(
                MESSAGE_ID = message::REVERTED,
                VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
                VIRTSNAP_JOB = work.job.id, "VM {} reverted to snapshot {name}; it is {} now{}", vm.name, plan.then,
                safety.as_ref().map(|s| format!(", and snapshot {s} is the way back")).unwrap_or_default()
            );
            Ok(safety)
        }
        Err(e) => {
            let kept =
                safety.map(|s| format!("; snapshot {s} was taken before and stays")).unwrap_or_default();
            let kind = e.error.kind.as_str();
            let what = if e.happened {
                format!("VM {} is reverted to snapshot {name}, and that cannot be written down yet", vm.name)
            } else {
                format!("VM {} was not reverted to snapshot {name}", vm.name)
            };
            let e = e.error.context(what);
            Err(Stop::Failed(Failure::new(kind, format!("{e}{kept}"))))
        }
    }
}

fn because(stop: Stop, vm: &str, name: &SnapshotName) -> Stop {
    match stop {
        Stop::Failed(f) => Stop::Failed(Failure::new(
            f.name,
            format!(
                "VM {vm} was not reverted to snapshot {name}, as no safety snapshot could be taken: {}",
                f.message
            ),
        )),
        stop @ Stop::Cancelled(_) => stop,
    }
}

/// All that can be known before anything is touched.
fn preflight(work: &Work<'_>, revert: &RevertJob, vm: &Vm, records: &[SnapshotRecord]) -> Result<(), Stop> {
    let (name, its) = (&revert.name, &vm.name);
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return refuse("NoSuchSnapshot", format!("VM {its} has no snapshot {name} (any more)"));
    };
    check_vm(vm)?;
    if let Some(other) = records.iter().find(|r| r.storage == Storage::Internal) {
        return refuse(
            "Unsupported",
            format!(
                "VM {its} cannot be reverted to {name}: it also has the internal snapshot {}, and the two kinds are \
                 never mixed. Delete the internal ones first, while it is off. Nothing was touched",
                other.name
            ),
        );
    }
    if let Some(memory) = memory(revert, record) {
        work.tools.hypervisor.resumable(vm.id, memory).map_err(|mut e| {
            e = e.context(format_args!("VM {its} cannot go on from the memory of snapshot {name}"));
            e.message += ". Nothing was touched; its disks alone can be reverted to, if the VM is to be off afterwards \
                          (`--off`)";
            e
        })?;
    }
    beside::for_revert(work.tools.hypervisor.as_ref(), vm, record, Uuid::nil())?;
    line_to_current(records).map_err(|e| e.context(format_args!("VM {its} was not reverted to {name}")))?;
    check_spoiled(work, vm, records, name)?;
    check_disks(vm, record, records)?;
    check_left_out(vm, record, records)?;
    for part in &record.disks {
        let at = (part.target.as_str(), part.state_image.as_str());
        space::check(work, vm, at, "the VM was not reverted, and nothing was touched")?;
        // Each image down to the base: one that is missing is found now, not when the VM is off.
        let top = Layer { path: part.state_image.clone(), format: part.format.clone() };
        let layers = work.tools.hypervisor.chain(&top).map_err(|e| {
            e.context(format_args!("VM {its} was not reverted to {name}, as disk {} cannot be", part.target))
        })?;
        let limit = work.settings.daemon.max_chain as usize;
        if layers.len() >= limit {
            return refuse(
                "Unsupported",
                format!(
                    "disk {} of VM {its} would have {} layers at snapshot {name}, and max-chain is {limit}: prune some \
                     snapshots before it first",
                    part.target,
                    layers.len() + 1
                ),
            );
        }
    }
    Ok(())
}

/// The memory that the VM goes on from, if that was kept and it is to be on.
fn memory<'a>(revert: &RevertJob, record: &'a SnapshotRecord) -> Option<&'a String> {
    record.memory_file.as_ref().filter(|_| revert.then != Then::ShutOff)
}

fn check_vm(vm: &Vm) -> Result<(), Stop> {
    let its = &vm.name;
    let unsupported = |why: String| refuse("Unsupported", format!("VM {its} {why}. Nothing was touched"));
    if !vm.persistent {
        return unsupported("is transient: once stopped for a revert it would be gone".into());
    }
    if vm.managed_save {
        return unsupported(
            "has a managed save, which belongs to its disks as they are; start it, or `virsh managedsave-remove` first"
                .into(),
        );
    }
    if !matches!(vm.state, VmState::Running | VmState::Paused | VmState::ShutOff) {
        return unsupported(format!(
            "is {}, and is reverted only when it runs, is paused or is off",
            vm.state
        ));
    }
    if vm.block_jobs || vm.busy {
        return refuse(
            "Busy",
            format!("a block job, a backup or something else has VM {its} now; try again later"),
        );
    }
    Ok(())
}

/// What a deletion that did not end has spoiled, or would be kept from being ended.
fn check_spoiled(
    work: &Work<'_>,
    vm: &Vm,
    records: &[SnapshotRecord],
    name: &SnapshotName,
) -> Result<(), Stop> {
    match spoiled_by(work, vm, records)? {
        Some(begun) => refuse(
            "Unsupported",
            format!(
                "VM {} cannot be reverted to {name}: a deletion at snapshot {begun} was begun and did not end, and \
                 images may hold newer data than their snapshots say. Nothing was touched; delete that one first, which \
                 ends it",
                vm.name
            ),
        ),
        None => Ok(()),
    }
}

/// The snapshot at which a deletion was begun that did not end: what it left may be under any of them.
fn spoiled_by(work: &Work<'_>, vm: &Vm, records: &[SnapshotRecord]) -> Result<Option<SnapshotName>, Stop> {
    let half = work.tools.store.half_deleted(vm.id)?;
    let id = |r: &SnapshotRecord| crate::core::marker::split(&r.description, vm.id).1.map(|m| m.id);
    let spoiled = reader::spoiled(records);
    // Whose deletion that was, sooner than what libvirt has marked for it.
    let begun = |r: &&SnapshotRecord| spoiled.contains(&r.name) || half.has(&r.name, id(r));
    let marked = |r: &&SnapshotRecord| !r.delete_in_progress.is_empty();
    let found = records.iter().find(begun).or_else(|| records.iter().find(marked));
    Ok(found.map(|r| r.name.clone()))
}

/// A disk that the snapshot does not have stays on what it is on. With that snapshot as the current one, those before it
/// must still say what that is: else nothing of the VM could be merged, deleted or reverted any more.
fn check_left_out(vm: &Vm, record: &SnapshotRecord, records: &[SnapshotRecord]) -> Result<(), Stop> {
    let mut then = records.to_vec();
    for other in &mut then {
        other.current = other.name == record.name;
    }
    let has = |r: &SnapshotRecord, target: &str| r.disks.iter().any(|d| d.target == target);
    for disk in vm.disks.iter().filter(|d| d.writable && d.kind == "file" && !has(record, &d.target)) {
        let images: Vec<&str> = disk.chain.iter().map(|layer| layer.path.as_str()).collect();
        let target = &disk.target;
        if chain::links(target, &images, &told(&then, target)?).is_ok() {
            continue;
        }
        let line = line_to_current(&then)?;
        let with_it = line.into_iter().find(|r| has(r, target));
        let first = with_it.map_or(String::new(), |r| format!(" Revert to {} first, which has it.", r.name));
        return refuse(
            "Unsupported",
            format!(
                "VM {} cannot be reverted to {}, which does not have disk {target}: it would stay on {}, which the \
                 snapshots before {} do not stand on, so that none of them could say any more what it is on.{first} \
                 Nothing was touched",
                vm.name,
                record.name,
                images.first().unwrap_or(&"nothing"),
                record.name
            ),
        );
    }
    Ok(())
}

/// The disks must be what the metadata says: else nobody knows what would be left behind.
fn check_disks(vm: &Vm, record: &SnapshotRecord, records: &[SnapshotRecord]) -> Result<(), Stop> {
    let mismatch =
        |why: String| refuse("ChainMismatch", format!("VM {}: {why}. Nothing was touched", vm.name));
    for part in &record.disks {
        match vm.disks.iter().find(|d| d.target == part.target) {
            None => return mismatch(format!("it has no disk {} any more", part.target)),
            Some(disk) if !disk.has_snapshots() => {
                return mismatch(format!("disk {} is no writable file of this VM alone now", part.target));
            }
            Some(_) if part.state_image.is_empty() || part.format.is_empty() => {
                return mismatch(format!("nothing says where disk {} was", part.target));
            }
            Some(_) => {}
        }
    }
    for disk in vm.disks.iter().filter(|d| d.writable && d.kind == "file") {
        let images: Vec<&str> = disk.chain.iter().map(|layer| layer.path.as_str()).collect();
        if let Err(e) = chain::check_top(&disk.target, &images, &told(records, &disk.target)?) {
            return mismatch(e.to_string());
        }
        if disk.configured.as_deref() != images.first().copied() {
            return mismatch(format!(
                "disk {} runs on {}, and its definition says {}",
                disk.target,
                images.first().unwrap_or(&"nothing"),
                disk.configured.as_deref().unwrap_or("nothing")
            ));
        }
    }
    Ok(())
}

fn plan(
    work: &Work<'_>,
    revert: &RevertJob,
    vm: &Vm,
    records: &[SnapshotRecord],
    (was, safety, id): (VmState, Option<SnapshotName>, Uuid),
) -> Result<RevertPlan, Stop> {
    let (hypervisor, name) = (&work.tools.hypervisor, &revert.name);
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return refuse("NoSuchSnapshot", format!("VM {} has no snapshot {name} (any more)", vm.name));
    };
    let mut disks = Vec::new();
    for part in &record.disks {
        let disk = vm.disks.iter().find(|d| d.target == part.target);
        let (Some(top), Some(base)) = (disk.and_then(|d| d.chain.first()), disk.and_then(|d| d.chain.last()))
        else {
            return refuse("ChainMismatch", format!("VM {} has no disk {} any more", vm.name, part.target));
        };
        disks.push(Switched {
            target: part.target.clone(),
            was: Image { path: top.path.clone(), format: top.format.clone() },
            overlay: naming::overlay_path(&part.state_image, &base.path, name, id),
            state_image: Image { path: part.state_image.clone(), format: part.format.clone() },
        });
    }
    let mut goes = Vec::new();
    for disk in &disks {
        if is_made(records, disk)? {
            goes.push(disk.was.path.clone());
        }
    }
    let definition = hypervisor.definition(vm.id)?.as_str().to_owned();
    let wanted = match revert.definition {
        DefinitionOf::Keep => definition.clone(),
        DefinitionOf::Snapshot => hypervisor.definition_at(vm.id, name)?.as_str().to_owned(),
    };
    let current = match records.iter().find(|r| r.current && r.name != *name) {
        Some(r) => Some((r.name.clone(), hypervisor.copy(vm.id, &r.name)?.as_str().to_owned())),
        None => None,
    };
    let memory = memory(revert, record);
    let beside = beside::for_revert(hypervisor.as_ref(), vm, record, id)?;
    if let Some(why) = beside.tpm_stays.filter(|_| memory.is_none()) {
        tracing::warn!(
            MESSAGE_ID = message::REVERTED_IN_PART,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
            "the state of VM {}'s emulated TPM stays as it is now: {why}", vm.name
        );
    }
    let before = match (memory, record.taken) {
        (None, _) => was,
        (Some(_), Taken::Paused) => VmState::Paused,
        (Some(_), _) => VmState::Running,
    };
    Ok(RevertPlan {
        snapshot: name.clone(),
        safety,
        disks,
        goes,
        memory: memory.cloned(),
        variables: beside.variables,
        tpm: beside.tpm,
        definition,
        wanted,
        metadata: hypervisor.copy(vm.id, name)?.as_str().to_owned(),
        current,
        leaf: !records.iter().any(|r| r.parent.as_ref() == Some(name)),
        was,
        then: revert.then.of(before),
    })
}

/// Whether a snapshot or a revert of ours made what this disk is on. What else a VM was put on is somebody's.
fn is_made(records: &[SnapshotRecord], disk: &Switched) -> Result<bool, Stop> {
    let was = &disk.was.path;
    let named = |r: &SnapshotRecord| {
        r.disks.iter().any(|d| d.overlay == *was) || r.revert_disks.iter().any(|(_, overlay)| overlay == was)
    };
    // Not every libvirt keeps what a revert to a snapshot with children made.
    let reverted = |part: &chain::Part<'_>| naming::is_overlay_of(was, part.snapshot);
    Ok(records.iter().any(named) || told(records, &disk.target)?.line.first().is_some_and(reverted))
}

fn refuse<T>(name: &'static str, message: String) -> Result<T, Stop> {
    Err(Stop::Failed(Failure::new(name, message)))
}
