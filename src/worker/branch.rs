//! Making a VM of its own on a snapshot: look, draw its definition, then steps that can be taken back.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | preflight, definition drawn | nothing was touched |
//! | intent stored | nothing was made |
//! | overlays made, variables copied | they are removed |
//! | written down that it is a branch | the same |
//! | defined | by who fails it is undefined again; who finds it so later ends it |
//! | verified, started | the same |
//!
//! The snapshot's images are pinned by the branch's own chain, which every deletion looks at: that holds whatever
//! becomes of what is written down here.

mod steps;

use std::collections::BTreeSet;

use uuid::Uuid;

pub(crate) use self::steps::{settle, tidy};
use super::{Stop, Work, beside, merge, space};
use crate::{
    core::{
        branch::{self, BranchJob, BranchPlan, Copy, Grown},
        job::Failure,
        model::{Storage, VmId},
        revert::Image,
    },
    hypervisor::{Layer, NewVm, SnapshotRecord, Vm},
    store::{Begun, Intent},
};

pub(super) fn run(work: &Work<'_>, job: &BranchJob) -> Result<VmId, Stop> {
    let hypervisor = &work.tools.hypervisor;
    let name = &job.name;
    work.phase("checking", None, Some(name));
    let mut vm = hypervisor.vm(work.job.vm)?;
    let mut records = hypervisor.snapshots(vm.id)?;
    if merge::end_below(work, &vm, &records, name)? {
        vm = hypervisor.vm(vm.id)?;
        records = hypervisor.snapshots(vm.id)?;
    }
    let Some(record) = records.iter().find(|r| r.name == *name) else {
        return refuse("NoSuchSnapshot", format!("VM {} has no snapshot {name} (any more)", vm.name));
    };
    preflight(work, job, &vm, &records, record)?;
    let (plan, left_out) = plan(work, job, &vm, record)?;
    let id = plan.vm.0;
    let intent = Intent {
        overlays: plan.files(),
        ..Intent::new(id, vm.id, name.clone(), Begun::Branch(Box::new(plan.clone())))
    };
    work.safe_point()?;
    work.tools.store.begin(&intent, work.tools.clock.now())?;
    steps::all(work.tools, &intent, &plan, &|text| work.phase(text, None, Some(name)))
        .map_err(|e| e.context(format_args!("VM {} was not branched off as {}", vm.name, plan.name)))?;
    tracing::info!(
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name, VIRTSNAP_JOB = work.job.id,
        "VM {} was branched off snapshot {name} of VM {}{}", plan.name, vm.name,
        if left_out.is_empty() { String::new() } else { format!(", without {}", left_out.join(", ")) }
    );
    Ok(plan.vm)
}

/// All that can be known before anything is touched, but for what the definition says.
fn preflight(
    work: &Work<'_>,
    job: &BranchJob,
    vm: &Vm,
    records: &[SnapshotRecord],
    record: &SnapshotRecord,
) -> Result<(), Stop> {
    let (hypervisor, its, name) = (&work.tools.hypervisor, &vm.name, &job.name);
    branch::check_vm_name(&job.new_vm)
        .or_else(|e| refuse("InvalidArgument", format!("{:?} cannot be a VM's name: {e}", job.new_vm)))?;
    if hypervisor.named(&job.new_vm)?.is_some() {
        return refuse(
            "Exists",
            format!("there is a VM {} already; choose another name. Nothing was touched", job.new_vm),
        );
    }
    if vm.block_jobs || vm.busy {
        return refuse(
            "Busy",
            format!("a block job, a backup or something else has VM {its} now; try again later"),
        );
    }
    let unsupported = |what: String| {
        refuse("Unsupported", format!("snapshot {name} of VM {its} {what}. Nothing was touched"))
    };
    if record.storage == Storage::Internal || record.disks.is_empty() {
        return unsupported("has no images of its own that something could lie on".to_owned());
    }
    if let Some(begun) = merge::spoiled_under(work, vm, records, record)? {
        return unsupported(format!(
            "cannot be trusted: a deletion at snapshot {begun} was begun and did not end. Delete that one first, which ends it"
        ));
    }
    let written: BTreeSet<&str> = vm
        .disks
        .iter()
        .flat_map(|d| d.chain.first().map(|l| l.path.as_str()).into_iter().chain(d.configured.as_deref()))
        .collect();
    let most = (work.settings.daemon.max_chain as usize).min(hypervisor.features()?.layer_limit as usize);
    for part in &record.disks {
        let target = &part.target;
        if part.state_image.is_empty() || part.format.is_empty() {
            return unsupported(format!("does not say where disk {target} was"));
        }
        if written.contains(part.state_image.as_str()) {
            return refuse(
                "ChainMismatch",
                format!(
                    "VM {its} writes to {}, which snapshot {name} says it holds. Nothing was touched",
                    part.state_image
                ),
            );
        }
        let top = Layer { path: part.state_image.clone(), format: part.format.clone() };
        let layers = hypervisor.chain(&top).map_err(|e| {
            e.context(format_args!(
                "nothing was branched off snapshot {name} of VM {its}, as what its disk {target} lies on cannot be told"
            ))
        })?;
        if layers.len() >= most {
            return unsupported(format!(
                "has {} layers under disk {target}, and {most} is the most that may be: prune some before it first",
                layers.len()
            ));
        }
        let at = (target.as_str(), part.state_image.as_str());
        space::check(work, vm, at, "nothing was branched off, and nothing was touched")?;
    }
    Ok(())
}

fn plan(
    work: &Work<'_>,
    job: &BranchJob,
    vm: &Vm,
    record: &SnapshotRecord,
) -> Result<(BranchPlan, Vec<String>), Stop> {
    let hypervisor = &work.tools.hypervisor;
    let id = Uuid::new_v4();
    let grown = |part: &crate::hypervisor::SnapshotDisk| Grown {
        target: part.target.clone(),
        state_image: Image { path: part.state_image.clone(), format: part.format.clone() },
        overlay: branch::overlay_path(&part.state_image, &job.new_vm, &part.target, id),
    };
    let disks: Vec<Grown> = record.disks.iter().map(grown).collect();
    let variables = beside::for_branch(hypervisor.as_ref(), vm, record)?.map(|kept| {
        let directory_of = vm.nvram.as_ref().map_or(kept.as_str(), |nvram| nvram.path.as_str());
        Copy { own: branch::variables_path(directory_of, &job.new_vm, id), kept }
    });
    let layer = |d: &Grown| Layer { path: d.overlay.clone(), format: "qcow2".to_owned() };
    let new = NewVm {
        id: VmId(id),
        name: job.new_vm.clone(),
        images: disks.iter().map(|d| (d.target.clone(), layer(d))).collect(),
        nvram: variables.as_ref().map(|v| v.own.clone()),
        leave_out: job.leave_out,
    };
    let drawn = hypervisor.draw(vm.id, &job.name, &new).map_err(|e| {
        let what =
            format!("nothing was branched off snapshot {} of VM {}, and nothing touched", job.name, vm.name);
        e.context(what)
    })?;
    let plan = BranchPlan {
        snapshot: job.name.clone(),
        vm: new.id,
        name: new.name,
        disks,
        variables,
        definition: drawn.definition.as_str().to_owned(),
        start: job.start,
    };
    Ok((plan, drawn.left_out))
}

fn refuse<T>(name: &'static str, message: String) -> Result<T, Stop> {
    Err(Stop::Failed(Failure::new(name, message)))
}
