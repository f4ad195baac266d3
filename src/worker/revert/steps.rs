//! A revert's steps from the intent on, forwards and back, each of which may be done again.

use uuid::Uuid;

use crate::{
    core::{
        model::VmState,
        revert::{Image, Place, RevertPlan},
    },
    hypervisor::{
        Definition, Error, ErrorKind, Layer, Overlay, Redefine, Result, RevertDisks, SnapshotXml, Vm,
    },
    store::{Begun, Intent, StoreError},
    worker::{Tools, beside, settle_drop},
};

/// The words for how far a revert got, in the store.
const PREPARED: &str = "prepared";
const STOPPED: &str = "stopped";
const DEFINING: &str = "defining";
const BACK: &str = "back";
/// The same, and the firmware's variables may be the snapshot's.
const BACK_WITH: &str = "back with variables";

/// Why it did not happen. By now it is taken back, or the text says what is not.
pub(super) struct Failed {
    pub(super) error: Error,
}

/// All of them. The phase tells a person what goes on.
pub(super) fn all(
    tools: &Tools,
    intent: &Intent,
    plan: &RevertPlan,
    phase: &dyn Fn(&str),
) -> std::result::Result<(), Failed> {
    let done = prepare(tools, intent, plan, phase).and_then(|()| forwards(tools, intent, plan, phase));
    match done {
        Ok(()) => ended(tools, intent, plan),
        // What is there is somebody else's, and nothing of ours is.
        Err(error) if error.kind == ErrorKind::Exists && !is_prepared(tools, intent) => {
            forget(tools, intent);
            return Err(Failed { error: error.context("an overlay cannot be made") });
        }
        Err(error) => {
            phase("taking it back");
            let undone = back(tools, intent, plan);
            if undone.is_ok() {
                forget(tools, intent);
            }
            let text = if undone.is_ok() {
                format!(". It is {} on its disks as before", plan.was)
            } else {
                ". What state it is in is looked at again at the next connection to libvirt".to_owned()
            };
            let mut error = error.and_rollback(&undone, "putting it back as it was");
            error.message.push_str(&text);
            return Err(Failed { error });
        }
    }
    Ok(())
}

fn prepare(tools: &Tools, intent: &Intent, plan: &RevertPlan, phase: &dyn Fn(&str)) -> Result<()> {
    phase("preparing overlays");
    let overlays: Vec<Overlay> = plan
        .disks
        .iter()
        .map(|d| Overlay {
            target: d.target.clone(),
            path: d.overlay.clone(),
            backing: layer(&d.state_image),
        })
        .collect();
    tools.hypervisor.prepare_on(intent.vm, &overlays)?;
    if let Some(variables) = &plan.variables {
        beside::put_aside(tools.hypervisor.as_ref(), variables)?;
    }
    tools.store.reached(intent.id, PREPARED).map_err(stored)
}

fn forwards(tools: &Tools, intent: &Intent, plan: &RevertPlan, phase: &dyn Fn(&str)) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    phase("stopping");
    tools.store.reached(intent.id, STOPPED).map_err(stored)?;
    hypervisor.stop(intent.vm)?;
    // Whatever changed until it stopped is not to be lost.
    if place(plan, &hypervisor.vm(intent.vm)?) != Place::Before {
        return Err(Error::new(ErrorKind::ChainMismatch, "somebody else changed its disks meanwhile"));
    }
    if let Some(variables) = &plan.variables {
        phase("putting back the firmware's variables");
        // What the guest changed since they were put aside.
        beside::put_aside(hypervisor.as_ref(), variables)?;
        tools.store.reached(intent.id, DEFINING).map_err(stored)?;
        beside::put_in(hypervisor.as_ref(), variables, &variables.kept)?;
    }
    phase("defining");
    let sources: Vec<(String, Layer)> =
        plan.disks.iter().map(|d| (d.target.clone(), qcow2(&d.overlay))).collect();
    hypervisor.define(intent.vm, &Definition::new(plan.wanted.clone()), &sources)?;
    to_the_end(tools, intent, plan, phase)
}

/// What is left when the VM is defined on its new overlays.
fn to_the_end(tools: &Tools, intent: &Intent, plan: &RevertPlan, phase: &dyn Fn(&str)) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    phase("updating metadata");
    hypervisor.redefine(intent.vm, &change(plan))?;
    match plan.then {
        VmState::Running | VmState::Paused => {
            phase("starting");
            hypervisor.start(intent.vm, plan.then == VmState::Paused)?;
        }
        _ => hypervisor.stop(intent.vm)?,
    }
    phase("verifying");
    verify(tools, intent, plan)
}

/// A leaf has the new overlays for its own; where there are children, those lie on its own.
fn change(plan: &RevertPlan) -> Redefine {
    let change = Redefine { current: true, ..Redefine::new(plan.snapshot.clone()) };
    if plan.leaf {
        Redefine { overlays: plan.overlays(), revert: RevertDisks::Drop, ..change }
    } else {
        Redefine { revert: RevertDisks::Set(plan.overlays()), ..change }
    }
}

/// libvirt said yes to all of it: is it so?
fn verify(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let vm = tools.hypervisor.vm(intent.vm)?;
    let wrong = |what: &str| {
        Err(Error::new(ErrorKind::ChainMismatch, format!("libvirt did all of it, and yet {what}")))
    };
    if place(plan, &vm) != Place::After {
        return wrong("it is not on its new overlays");
    }
    let configured = |target: &str| vm.disks.iter().find(|d| d.target == target)?.configured.as_deref();
    if plan.place(configured) != Place::After {
        return wrong("its definition does not name its new overlays");
    }
    if vm.state != plan.then {
        return wrong(&format!("it is {}", vm.state));
    }
    let records = tools.hypervisor.snapshots(intent.vm)?;
    match records.iter().find(|r| r.name == plan.snapshot) {
        Some(r) if !r.current => wrong("the snapshot is not the current one"),
        Some(r) if plan.leaf => {
            let own = |d: &crate::core::revert::Switched| {
                r.disks.iter().any(|o| o.target == d.target && o.overlay == d.overlay)
            };
            if plan.disks.iter().all(own) {
                Ok(())
            } else {
                wrong("the snapshot does not name its new overlays")
            }
        }
        Some(_) => Ok(()),
        None => wrong("the snapshot's metadata is gone"),
    }
}

/// It happened: what it was on goes, if it is nobody's. That is written down for itself, for the revert is over whatever
/// becomes of it: what cannot be removed now is tried again at the next connection.
fn ended(tools: &Tools, intent: &Intent, plan: &RevertPlan) {
    let left = plan.disks.iter().map(|d| d.was.path.clone());
    let left = left.chain(plan.variables.iter().map(|v| v.before.clone())).collect();
    let begun = Intent::new(Uuid::new_v4(), intent.vm, plan.snapshot.clone(), Begun::Drop);
    let begun = Intent { overlays: left, ..begun };
    if let Err(e) = tools.store.begin(&begun, tools.clock.now()) {
        tracing::error!(error = %e, "cannot store which images a revert leaves behind");
    }
    forget(tools, intent);
    if let Err(e) = settle_drop(tools, &begun) {
        tracing::warn!(
            VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %plan.snapshot, error = %e,
            "what the VM ran on before it was reverted could not be removed yet"
        );
    }
}

/// As it was before: definition, metadata, running or not, and no overlay left.
fn back(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    let begun = reached(tools, intent).map_err(stored)?;
    let changed = matches!(begun.as_str(), DEFINING | BACK_WITH);
    if changed || matches!(begun.as_str(), STOPPED | BACK) {
        // Who comes after a crash must not take the new overlays for a reason to go on.
        tools.store.reached(intent.id, if changed { BACK_WITH } else { BACK }).map_err(stored)?;
        match place(plan, &hypervisor.vm(intent.vm)?) {
            Place::Before => {}
            Place::After => {
                hypervisor.stop(intent.vm)?;
                let sources: Vec<(String, Layer)> =
                    plan.disks.iter().map(|d| (d.target.clone(), layer(&d.was))).collect();
                hypervisor.define(intent.vm, &Definition::new(plan.definition.clone()), &sources)?;
            }
            Place::Elsewhere => {
                return Err(Error::new(
                    ErrorKind::ChainMismatch,
                    "its disks are neither on what they were on nor on the new overlays",
                ));
            }
        }
        if let Some(variables) = plan.variables.as_ref().filter(|_| changed)
            && !matches!(hypervisor.vm(intent.vm)?.state, VmState::Running | VmState::Paused)
        {
            beside::put_in(hypervisor.as_ref(), variables, &variables.before)?;
        }
        hypervisor.put_back(intent.vm, &SnapshotXml::new(plan.metadata.clone()), plan.current.is_none())?;
        if let Some((_, xml)) = &plan.current {
            hypervisor.put_back(intent.vm, &SnapshotXml::new(xml.clone()), true)?;
        }
        if matches!(plan.was, VmState::Running | VmState::Paused) {
            hypervisor.start(intent.vm, plan.was == VmState::Paused)?;
        }
    }
    hypervisor.discard(intent.vm, &intent.overlays)
}

/// Ends a revert that was interrupted, or takes it back; for who holds the VM.
pub(crate) fn settle(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let (name, vm) = (&plan.snapshot, tools.hypervisor.vm(intent.vm));
    let vm = match vm {
        Ok(vm) => vm,
        Err(e) if e.kind == ErrorKind::NoSuchVm => {
            forget(tools, intent);
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    if !matches!(intent.phase.as_str(), BACK | BACK_WITH) && place(plan, &vm) == Place::After {
        match to_the_end(tools, intent, plan, &|_| {}) {
            Ok(()) => {
                ended(tools, intent, plan);
                tracing::warn!(
                    VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
                    "the revert of VM {} to snapshot {name} was interrupted, and is done now", vm.name
                );
                return Ok(());
            }
            Err(e) if e.kind.retry() => return Err(e),
            Err(e) => tracing::error!(
                VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name, error = %e,
                "the revert of VM {} to snapshot {name} was interrupted and cannot be ended", vm.name
            ),
        }
    }
    back(tools, intent, plan)?;
    forget(tools, intent);
    tracing::warn!(
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
        "the revert of VM {} to snapshot {name} was interrupted, and is taken back", vm.name
    );
    Ok(())
}

/// The last step that is stored: what is in hand was read before it began.
fn reached(tools: &Tools, intent: &Intent) -> std::result::Result<String, StoreError> {
    let stored = tools.store.intents()?.into_iter().find(|i| i.id == intent.id);
    Ok(stored.map(|i| i.phase).unwrap_or_default())
}

fn is_prepared(tools: &Tools, intent: &Intent) -> bool {
    reached(tools, intent).is_ok_and(|phase| !phase.is_empty())
}

fn forget(tools: &Tools, intent: &Intent) {
    if let Err(e) = tools.store.abandoned(intent.id) {
        tracing::error!(VIRTSNAP_VM_UUID = %intent.vm, error = %e, "cannot take back a stored intent");
    }
}

fn place(plan: &RevertPlan, vm: &Vm) -> Place {
    plan.place(|target| {
        let disk = vm.disks.iter().find(|d| d.target == target)?;
        disk.chain.first().map(|layer| layer.path.as_str())
    })
}

fn layer(image: &Image) -> Layer {
    Layer { path: image.path.clone(), format: image.format.clone() }
}

fn qcow2(path: &str) -> Layer {
    Layer { path: path.to_owned(), format: "qcow2".to_owned() }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn stored(e: StoreError) -> Error {
    Error::new(ErrorKind::Failed, e.to_string())
}
