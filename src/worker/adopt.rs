//! Taking over what others made or left. Snapshots get our marker at the end of their description, and nothing else
//! changes; files that belong to nobody go to quarantine, where they lie.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | looked: each of them can be merged and reverted to | nothing was touched |
//! | files that belong to nobody are written down | they are in quarantine |
//! | the description is [written](super::redefine) | the snapshot is ours: asked for again, it is passed over |

mod layers;

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Stop, Work, redefine, sweep};
use crate::{
    core::{
        adopt::why_not,
        job::{AdoptJob, Failure},
        marker::{self, Marker},
        model::{Origin, PolicyName, SnapshotName},
    },
    hypervisor::{self, Redefine, SnapshotRecord, Vm},
    reader,
};

pub(super) fn run(work: &Work<'_>, adopt: &AdoptJob) -> Result<(), Stop> {
    work.phase("looking", None, None);
    // Whatever else was asked for is refused with it.
    if !adopt.strays.is_empty() || (adopt.snapshots.is_empty() && !adopt.layers) {
        sweep::look(work)?;
    }
    if adopt.layers {
        layers::run(work, &adopt.policies)?;
    }
    let theirs = theirs(work, &adopt.snapshots)?;
    quarantine(work, &adopt.strays)?;
    let Some(Theirs { vm, records, names }) = theirs else { return Ok(()) };
    for record in names.iter().filter_map(|name| records.iter().find(|r| r.name == *name)) {
        work.safe_point()?;
        work.phase("writing metadata", None, Some(&record.name));
        mark(work, (&vm, &records), record, &adopt.policies)?;
        tracing::info!(
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %record.name,
            VIRTSNAP_JOB = work.job.id, "snapshot {} of VM {} taken over", record.name, vm.name
        );
    }
    Ok(())
}

/// What is to be taken over.
struct Theirs {
    vm: Vm,
    /// All its snapshots.
    records: Vec<SnapshotRecord>,
    /// Those that are.
    names: Vec<SnapshotName>,
}

/// Those of these snapshots that are not ours yet, each of which can be taken over.
fn theirs(work: &Work<'_>, names: &[SnapshotName]) -> Result<Option<Theirs>, Stop> {
    if names.is_empty() {
        return Ok(None);
    }
    let hypervisor = &work.tools.hypervisor;
    let vm = hypervisor.vm(work.job.vm)?;
    let records = hypervisor.snapshots(vm.id)?;
    let unfinished = work.tools.store.unfinished(vm.id)?;
    let facts = hypervisor::facts(&vm, &records, hypervisor.features()?, unfinished);
    let spoiled = reader::spoiled(&records);
    let now = work.tools.clock.now();
    let refuse = |kind, name: &SnapshotName, why: &str| {
        let text = format!("snapshot {name} of VM {} was not taken over. {why} Nothing was touched", vm.name);
        Err(Stop::Failed(Failure::new(kind, text)))
    };
    // All or none: the first is touched when the last was looked at.
    let mut theirs: Vec<SnapshotName> = Vec::new();
    for name in names {
        let Some(record) = records.iter().find(|r| r.name == *name) else {
            return refuse("NoSuchSnapshot", name, "It is not there any more.");
        };
        if theirs.contains(name) || marker::split(&record.description, vm.id).1.is_some() {
            continue;
        }
        if let Some(why) = why_not(&facts, &spoiled, name) {
            return refuse("Unsupported", name, &why);
        }
        if record.created > now {
            let why = format!(
                "It says that it was taken on {}, which is yet to come: with one of its own from the future nothing \
                 would be pruned.",
                record.created
            );
            return refuse("Unsupported", name, &why);
        }
        theirs.push(name.clone());
    }
    Ok(Some(Theirs { vm, records, names: theirs }))
}

/// Puts files that belong to nobody into quarantine, if that is what they are.
fn quarantine(work: &Work<'_>, paths: &[String]) -> Result<(), Stop> {
    if paths.is_empty() {
        return Ok(());
    }
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    let vm = hypervisor.vm(work.job.vm)?;
    let refuse = |kind, why: String| {
        let text = format!("{why}. Nothing was put in quarantine");
        Err(Stop::Failed(Failure::new(kind, text)))
    };
    if vm.busy || vm.block_jobs || store.unfinished(vm.id)? {
        return refuse("Busy", format!("something is at work on VM {}, which may need them", vm.name));
    }
    let known = store.strays(vm.id)?;
    if let Some(path) = paths.iter().find(|path| !known.iter().any(|s| s.path == **path)) {
        return refuse(
            "InvalidArgument",
            format!("{path} is no file that lies on the images of VM {} and belongs to nobody", vm.name),
        );
    }
    let users = hypervisor.users(paths, vm.id)?;
    if let Some((path, user)) = users.first() {
        return refuse("InUse", format!("{path} is under {user}"));
    }
    store.quarantine(vm.id, paths, work.tools.clock.now())?;
    for path in paths {
        tracing::info!(
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_JOB = work.job.id,
            "{path}, on the images of VM {}, belongs to nobody, and is in quarantine", vm.name
        );
    }
    Ok(())
}

/// Makes this one ours.
pub(super) fn mark(
    work: &Work<'_>,
    (vm, records): (&Vm, &[SnapshotRecord]),
    record: &SnapshotRecord,
    policies: &BTreeSet<PolicyName>,
) -> Result<Marker, Stop> {
    let marker = Marker {
        vm: vm.id,
        id: Uuid::new_v4(),
        created: record.created,
        origin: Origin::Foreign,
        policies: policies.clone(),
        nvram: false,
        tpm: false,
    };
    let description = marker::compose(&record.description, &marker);
    describe(work, (vm, records), &record.name, &description)?;
    Ok(marker)
}

/// Gives one of ours another text before our marker.
pub(super) fn rewrite(work: &Work<'_>, name: &SnapshotName, text: &str) -> Result<(), Stop> {
    let vm = work.tools.hypervisor.vm(work.job.vm)?;
    let records = work.tools.hypervisor.snapshots(vm.id)?;
    let fail = |kind, why: &str| {
        let text = format!("the description of snapshot {name} of VM {} stays as it is: {why}", vm.name);
        Err(Stop::Failed(Failure::new(kind, text)))
    };
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return fail("NoSuchSnapshot", "it is not there any more");
    };
    let Some(marker) = marker::split(&record.description, vm.id).1 else {
        return fail("NotManaged", "it was not made by virtsnap");
    };
    work.safe_point()?;
    work.phase("writing metadata", None, Some(name));
    describe(work, (&vm, &records), name, &marker::compose(text, &marker))
}

/// Gives it this description.
pub(super) fn describe(
    work: &Work<'_>,
    (vm, records): (&Vm, &[SnapshotRecord]),
    name: &SnapshotName,
    description: &str,
) -> Result<(), Stop> {
    let change = Redefine { description: Some(description.to_owned()), ..Redefine::new(name.clone()) };
    Ok(redefine::redefine(work.tools, vm, records, &change)?)
}
