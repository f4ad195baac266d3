//! A revert's steps from the intent on, each of which may be done again.

use uuid::Uuid;

use super::{
    back::{back, is_on},
    reached::{Reached, Step},
};
use crate::{
    core::{
        model::VmState,
        revert::{Image, Place, RevertPlan},
    },
    hypervisor::{Definition, Error, ErrorKind, Layer, Overlay, Redefine, Result, RevertDisks, Vm},
    logging::message,
    store::{Begun, Intent, StoreError},
    worker::{Tools, beside, settle_drop},
};

/// Why it did not happen, or cannot be called done.
pub(super) struct Failed {
    pub(super) error: Error,
    /// It happened all the same. Else it is taken back by now, or the text says what is not.
    pub(super) happened: bool,
}

impl Failed {
    fn new(error: Error) -> Self {
        Self { error, happened: false }
    }
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
        Ok(()) => ended(tools, intent, plan).map_err(|error| Failed { error, happened: true }),
        // What is there is somebody else's, and nothing of ours is.
        Err(error) if error.kind == ErrorKind::Exists && !is_prepared(tools, intent) => {
            forget(tools, intent);
            Err(Failed::new(error.context("an overlay cannot be made")))
        }
        Err(error) => {
            phase("taking it back");
            let undone = back(tools, intent, plan);
            let text = match &undone {
                Ok(but) if but.is_empty() => format!(". It is {} on its disks as before", plan.was),
                Ok(but) => format!(". It is on its disks as before. {but}"),
                Err(_) => ". What state it is in is looked at again soon".to_owned(),
            };
            let mut error = error.and_rollback(&undone, "putting it back as it was");
            error.message.push_str(&text);
            Err(Failed::new(error))
        }
    }
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
    for file in plan.beside() {
        beside::put_aside(tools.hypervisor.as_ref(), file)?;
    }
    reach(tools, intent, Reached::On(Step::Prepared))
}

fn forwards(tools: &Tools, intent: &Intent, plan: &RevertPlan, phase: &dyn Fn(&str)) -> Result<()> {
    let hypervisor = &tools.hypervisor;
    phase("stopping");
    reach(tools, intent, Reached::On(Step::Stopped))?;
    hypervisor.stop(intent.vm)?;
    // Whatever changed until it stopped is not to be lost.
    if place(plan, &hypervisor.vm(intent.vm)?) != Place::Before {
        return Err(Error::new(ErrorKind::ChainMismatch, "somebody else changed its disks meanwhile"));
    }
    for (what, file) in plan.beside() {
        phase(&format!("putting back {what}"));
        // What the guest changed since it was put aside.
        beside::put_aside(hypervisor.as_ref(), (what, file))?;
    }
    reach(tools, intent, Reached::On(Step::Defining))?;
    for (what, file) in plan.beside() {
        beside::put_in(hypervisor.as_ref(), (what, file), &file.kept)?;
    }
    phase("defining");
    hypervisor.define(intent.vm, &Definition::new(plan.wanted.clone()), &sources(plan))?;
    reach(tools, intent, Reached::On(Step::Telling))?;
    phase("updating metadata");
    hypervisor.redefine(intent.vm, &change(plan))?;
    phase("starting");
    start(tools, intent, plan)?;
    phase("verifying");
    verify(tools, intent, plan)?;
    match (plan.then, hypervisor.vm(intent.vm)?.state) {
        (VmState::Running | VmState::Paused, VmState::ShutOff) => {
            Err(Error::new(ErrorKind::Failed, "it was started, and is off again at once"))
        }
        _ => Ok(()),
    }
}

/// Starts it, if that is wanted. It is off; or somebody has started it, and then it is theirs.
pub(super) fn start(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let (hypervisor, paused) = (&tools.hypervisor, plan.then == VmState::Paused);
    match &plan.memory {
        Some(memory) if is_on(plan.then) => {
            // Written down before: memory that goes on a second time, on disks that were written since the first, has
            // their file systems destroyed by its own caches. Rather off than that.
            reach(tools, intent, Reached::On(Step::Started))?;
            return hypervisor.resume(intent.vm, memory, &sources(plan), paused);
        }
        _ if is_on(plan.then) => hypervisor.start(intent.vm, paused)?,
        _ => {}
    }
    if let Err(e) = reach(tools, intent, Reached::On(Step::Started)) {
        tracing::warn!(
            MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM_UUID = %intent.vm, error = %e,
            "cannot store that a VM was started"
        );
    }
    Ok(())
}

/// The new overlays, as what its disks are on.
fn sources(plan: &RevertPlan) -> Vec<(String, Layer)> {
    plan.disks.iter().map(|d| (d.target.clone(), qcow2(&d.overlay))).collect()
}

/// A leaf has the new overlays for its own; where there are children, those lie on its own.
pub(super) fn change(plan: &RevertPlan) -> Redefine {
    let change = Redefine { current: true, ..Redefine::new(plan.snapshot.clone()) };
    if plan.leaf {
        Redefine { overlays: plan.overlays(), revert: RevertDisks::Drop, ..change }
    } else {
        Redefine { revert: RevertDisks::Set(plan.overlays()), ..change }
    }
}

/// libvirt said yes to all of it: is it so?
pub(super) fn verify(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
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

/// It happened: what it was on goes, if it is nobody's. From here on that is all that is left to do, whoever does it: the
/// VM goes on, and what it is on or whether it runs says nothing any more of where the revert was.
pub(super) fn ended(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let goes = plan.goes.iter().cloned().chain(plan.beside().map(|(_, file)| file.before.clone()));
    becomes_removal(tools, intent, goes.collect())?;
    let stay = plan.disks.iter().filter(|d| !plan.goes.contains(&d.was.path));
    for disk in stay.filter(|_| plan.safety.is_none()) {
        tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND, VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name,
            "disk {} was on {} before the revert, which no snapshot made: it is left", disk.target, disk.was.path
        );
    }
    Ok(())
}

/// In the place of a revert that is over, whichever way, there are images to remove now. What cannot be removed yet is
/// tried again.
pub(super) fn becomes_removal(tools: &Tools, intent: &Intent, images: Vec<String>) -> Result<()> {
    let rest = Intent::new(Uuid::new_v4(), intent.vm, intent.name.clone(), Begun::Drop);
    let rest = Intent { overlays: images, ..rest };
    tools.store.becomes([intent.id], &rest, tools.clock.now()).map_err(stored)?;
    if let Err(e) = settle_drop(tools, &rest) {
        tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND,
            VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %intent.name, error = %e,
            "what a revert of the VM left could not be removed yet: {}", rest.overlays.join(", ")
        );
    }
    Ok(())
}

/// How far it is, by what is stored: what is in hand was read before it began.
pub(super) fn reached(tools: &Tools, intent: &Intent) -> Result<Reached> {
    let all = tools.store.intents().map_err(stored)?;
    let found = all.into_iter().find(|i| i.id == intent.id);
    Ok(Reached::read(&found.map(|i| i.phase).unwrap_or_default()))
}

pub(super) fn reach(tools: &Tools, intent: &Intent, reached: Reached) -> Result<()> {
    tools.store.reached(intent.id, &reached.word()).map_err(stored)
}

fn is_prepared(tools: &Tools, intent: &Intent) -> bool {
    reached(tools, intent).is_ok_and(|reached| reached != Reached::On(Step::Nothing))
}

pub(super) fn forget(tools: &Tools, intent: &Intent) {
    if let Err(e) = tools.store.abandoned(intent.id) {
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM_UUID = %intent.vm, error = %e,
            "cannot take back a stored intent"
        );
    }
}

pub(super) fn place(plan: &RevertPlan, vm: &Vm) -> Place {
    plan.place(|target| {
        let disk = vm.disks.iter().find(|d| d.target == target)?;
        disk.chain.first().map(|layer| layer.path.as_str())
    })
}

pub(super) fn layer(image: &Image) -> Layer {
    Layer { path: image.path.clone(), format: image.format.clone() }
}

fn qcow2(path: &str) -> Layer {
    Layer { path: path.to_owned(), format: "qcow2".to_owned() }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn stored(e: StoreError) -> Error {
    Error::new(ErrorKind::Failed, e.to_string())
}
