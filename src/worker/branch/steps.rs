//! A branch's steps from the intent on, forwards and back, each of which may be done again.

use crate::{
    core::{
        branch::{BranchPlan, Stem},
        model::{VmId, VmState},
    },
    hypervisor::{Definition, Error, ErrorKind, Layer, Overlay, Result, Vm},
    logging::message,
    store::{Begun, Branched, Intent, StoreError},
    worker::{Tools, beside},
};

/// The words for how far it got, in the store.
const PREPARED: &str = "prepared";
const DEFINED: &str = "defined";
const BACK: &str = "back";

/// All of them. If one fails, it is taken back, or the text says that it is not.
pub(super) fn all(tools: &Tools, intent: &Intent, plan: &BranchPlan, phase: &dyn Fn(&str)) -> Result<()> {
    phase("preparing overlays");
    match prepare(tools, intent, plan) {
        // What is there is somebody else's, and nothing of ours is.
        Err(e) if e.kind == ErrorKind::Exists => {
            forget(tools, intent);
            return Err(e.context("an overlay cannot be made"));
        }
        Err(e) => return Err(taken_back(tools, intent, plan, e)),
        Ok(()) => {}
    }
    let done = copy_variables(tools, plan)
        .and_then(|()| {
            phase("defining");
            tools.store.branches_off(plan.vm, &branched(intent, plan)).map_err(stored)?;
            tools.hypervisor.define_new(plan.vm, &Definition::new(plan.definition.clone()))?;
            tools.store.reached(intent.id, DEFINED).map_err(stored)
        })
        .and_then(|()| to_the_end(tools, plan, phase));
    match done {
        Ok(()) => {
            forget(tools, intent);
            Ok(())
        }
        Err(e) => {
            phase("taking it back");
            Err(taken_back(tools, intent, plan, e))
        }
    }
}

fn prepare(tools: &Tools, intent: &Intent, plan: &BranchPlan) -> Result<()> {
    let overlay = |d: &crate::core::branch::Grown| Overlay {
        target: d.target.clone(),
        path: d.overlay.clone(),
        backing: Layer { path: d.state_image.path.clone(), format: d.state_image.format.clone() },
    };
    let overlays: Vec<Overlay> = plan.disks.iter().map(overlay).collect();
    tools.hypervisor.prepare_on(intent.vm, &overlays)?;
    tools.store.reached(intent.id, PREPARED).map_err(stored)
}

fn copy_variables(tools: &Tools, plan: &BranchPlan) -> Result<()> {
    match &plan.variables {
        Some(variables) => beside::copy(tools.hypervisor.as_ref(), variables),
        None => Ok(()),
    }
}

/// What is left when it is defined.
fn to_the_end(tools: &Tools, plan: &BranchPlan, phase: &dyn Fn(&str)) -> Result<()> {
    phase("verifying");
    verify(plan, &tools.hypervisor.vm(plan.vm)?)?;
    if plan.start {
        phase("starting");
        tools.hypervisor.start(plan.vm, false)?;
    }
    Ok(())
}

/// libvirt took it: is it what was asked for?
fn verify(plan: &BranchPlan, vm: &Vm) -> Result<()> {
    let wrong = plan.disks.iter().find(|grown| {
        let disk = vm.disks.iter().find(|d| d.target == grown.target);
        let images = disk.map(|d| d.chain.iter().map(|l| l.path.as_str()).take(2).collect::<Vec<_>>());
        images.as_deref() != Some(&[grown.overlay.as_str(), grown.state_image.path.as_str()])
    });
    match wrong {
        None if vm.name == plan.name => Ok(()),
        None => Err(mismatch(&format!("it is called {}", vm.name))),
        Some(disk) => Err(mismatch(&format!(
            "its disk {} is not on {}, on {}",
            disk.target, disk.overlay, disk.state_image.path
        ))),
    }
}

fn mismatch(what: &str) -> Error {
    Error::new(ErrorKind::ChainMismatch, format!("libvirt took the definition, and yet {what}"))
}

/// As if it had never been; the error says so, or what is left.
fn taken_back(tools: &Tools, intent: &Intent, plan: &BranchPlan, error: Error) -> Error {
    let undone = back(tools, intent, plan);
    let mut error = error.and_rollback(&undone, "taking it back");
    error.message.push_str(if undone.is_ok() {
        ". Nothing of it is left"
    } else {
        ". What is there of it is looked at again at the next connection to libvirt"
    });
    error
}

fn back(tools: &Tools, intent: &Intent, plan: &BranchPlan) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    match hypervisor.vm(plan.vm) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => {}
        Err(e) => return Err(e),
        Ok(_) => {
            // Who comes after a crash must not take the missing definition for somebody's will.
            tools.store.reached(intent.id, BACK).map_err(stored)?;
            hypervisor.stop(plan.vm)?;
            hypervisor.undefine_new(plan.vm)?;
        }
    }
    remove(tools, intent, plan)
}

fn remove(tools: &Tools, intent: &Intent, plan: &BranchPlan) -> Result<()> {
    match tools.hypervisor.discard(intent.vm, &intent.overlays) {
        // Its images went with the VM that it was to be branched off, or are its new owner's business.
        Err(e) if e.kind == ErrorKind::NoSuchVm => {}
        done => done?,
    }
    tools.store.branch_ended(plan.vm).map_err(stored)?;
    forget(tools, intent);
    Ok(())
}

/// Ends the making of a branch that was interrupted, or takes it back; for who holds the VM.
pub(crate) fn settle(tools: &Tools, intent: &Intent, plan: &BranchPlan) -> Result<()> {
    let (name, snapshot) = (&plan.name, &plan.snapshot);
    let found = match tools.hypervisor.vm(plan.vm) {
        Ok(vm) => Some(vm),
        Err(e) if e.kind == ErrorKind::NoSuchVm => None,
        Err(e) => return Err(e),
    };
    match found {
        // Somebody may have it by now, and its data: it is never taken back.
        Some(vm) => {
            tools.store.branches_off(plan.vm, &branched(intent, plan)).map_err(stored)?;
            if plan.start && vm.state == VmState::ShutOff && verify(plan, &vm).is_ok() {
                tools.hypervisor.start(plan.vm, false).or_else(|e| {
                    if e.kind.retry() {
                        Err(e)
                    } else {
                        tracing::error!(
                            MESSAGE_ID = message::INTERRUPTED, VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %plan.vm,
                            VIRTSNAP_SNAPSHOT = %plan.snapshot, error = %e,
                            "VM {name}, which is a branch, does not start"
                        );
                        Ok(())
                    }
                })?;
            }
            forget(tools, intent);
            tracing::warn!(
                MESSAGE_ID = message::INTERRUPTED,
                VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %plan.vm, VIRTSNAP_SNAPSHOT = %plan.snapshot,
                "the branching of VM {name} off snapshot {snapshot} was interrupted, and is done now"
            );
        }
        // It was there, and somebody has undefined it since: its images may hold what they want to keep.
        None if intent.phase == DEFINED => {
            told_as_orphans(tools, plan.vm, &branched(intent, plan))?;
            forget(tools, intent);
        }
        None => {
            remove(tools, intent, plan)?;
            tracing::warn!(
                MESSAGE_ID = message::INTERRUPTED,
                VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %plan.vm, VIRTSNAP_SNAPSHOT = %plan.snapshot,
                "the branching of VM {name} off snapshot {snapshot} was interrupted, and is taken back"
            );
        }
    }
    Ok(())
}

/// Strikes branches off that are no longer there. What they wrote to stays: it is nobody's but their former owner's.
pub(crate) fn tidy(tools: &Tools) {
    let gone = || -> Result<()> {
        let branched = tools.store.branched().map_err(stored)?;
        // After those: one that is being made is in the other list until it is defined.
        let begun = tools.store.intents().map_err(stored)?;
        let in_the_making =
            |vm: VmId| begun.iter().any(|i| matches!(&i.what, Begun::Branch(plan) if plan.vm == vm));
        for (vm, was) in branched.iter().filter(|(vm, _)| !in_the_making(**vm)) {
            match tools.hypervisor.vm(*vm) {
                Err(e) if e.kind == ErrorKind::NoSuchVm => told_as_orphans(tools, *vm, was)?,
                _ => {}
            }
        }
        Ok(())
    };
    if let Err(e) = gone() {
        tracing::warn!(
            MESSAGE_ID = message::UNREADABLE, error = %e,
            "whether all branches are still there cannot be told yet"
        );
    }
}

fn told_as_orphans(tools: &Tools, vm: VmId, was: &Branched) -> Result<()> {
    tools.store.branch_ended(vm).map_err(stored)?;
    let mut left = Vec::new();
    for overlay in &was.overlays {
        let there = tools.hypervisor.images_beside(overlay)?.into_iter().any(|image| image.path == *overlay);
        left.extend(there.then_some(overlay.as_str()));
    }
    let Stem { snapshot, .. } = &was.stem;
    if left.is_empty() {
        tracing::info!(VIRTSNAP_VM_UUID = %vm, "VM {vm}, a branch of snapshot {snapshot}, is gone");
    } else {
        tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM_UUID = %vm, VIRTSNAP_SNAPSHOT = %snapshot,
            "VM {vm}, a branch of snapshot {snapshot}, is gone, and its images are left: {}. As long as they are there \
             the snapshot cannot be deleted; if nobody needs them, `virtsnap adopt --orphans` of the VM that has it puts \
             them in quarantine, and `virsh vol-delete` removes each at once",
            left.join(", ")
        );
    }
    Ok(())
}

fn branched(intent: &Intent, plan: &BranchPlan) -> Branched {
    Branched {
        stem: Stem { vm: intent.vm, snapshot: plan.snapshot.clone() },
        overlays: plan.disks.iter().map(|d| d.overlay.clone()).collect(),
    }
}

fn forget(tools: &Tools, intent: &Intent) {
    if let Err(e) = tools.store.abandoned(intent.id) {
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM_UUID = %intent.vm, error = %e,
            "cannot take back a stored intent"
        );
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn stored(e: StoreError) -> Error {
    Error::new(ErrorKind::Failed, e.to_string())
}
