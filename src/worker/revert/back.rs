//! A revert that is not to be or was cut short: taken back, or ended, whichever is proven to lose nothing.

use super::{
    reached::{Reached, Step},
    steps::{becomes_removal, change, ended, forget, layer, place, reach, reached, start, verify},
};
use crate::{
    core::{
        model::VmState,
        revert::{Beside, Place, RevertPlan},
    },
    hypervisor::{Definition, Error, ErrorKind, Layer, Result, SnapshotXml, Vm},
    logging::message,
    store::Intent,
    worker::{Tools, beside},
};

/// As it was before: definition, metadata, running or not. From then on all that is left to do is to remove overlays.
/// Returns what is not as before all the same, empty if nothing is.
pub(super) fn back(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<String> {
    let hypervisor = &tools.hypervisor;
    let at = reached(tools, intent)?;
    if at.step() >= Step::Stopped {
        let place = place(plan, &hypervisor.vm(intent.vm)?);
        // Before it was to be defined its disks were nobody's business but others'.
        if at.step() >= Step::Defining || (at != Reached::PutBack && place == Place::After) {
            let stay = put_back(tools, intent, plan, at.step(), place)?;
            if !stay.is_empty() {
                // Whoever comes after a crash finds it on again, or puts them in: until then it is not put back.
                let kept = |path: &&String| !stay.iter().any(|(_, file)| file.before == **path);
                becomes_removal(tools, intent, intent.overlays.iter().filter(kept).cloned().collect())?;
                return Ok(told_of(intent, plan, &stay));
            }
            reach(tools, intent, Reached::PutBack)?;
        }
        if is_on(plan.was) {
            hypervisor.start(intent.vm, plan.was == VmState::Paused)?;
        }
    }
    becomes_removal(tools, intent, intent.overlays.clone())?;
    Ok(String::new())
}

/// Somebody started it before these were put back, and nothing is changed under a guest: the only copies of what it had
/// are not to go.
fn told_of(intent: &Intent, plan: &RevertPlan, stay: &[(&str, &Beside)]) -> String {
    let each = |(what, file): &(&str, &Beside)| {
        format!(
            "{what} may be the snapshot's, and what it had is kept in {} (to put it back, shut the VM down and copy that to \
             {})",
            file.before, file.original
        )
    };
    let text = format!(
        "Somebody started it before all of that was put back: {}",
        stay.iter().map(each).collect::<Vec<_>>().join("; ")
    );
    tracing::error!(
        MESSAGE_ID = message::INTERRUPTED, VIRTSNAP_VM_UUID = %intent.vm, VIRTSNAP_SNAPSHOT = %plan.snapshot,
        "the revert of VM {} to snapshot {} is taken back, but for this. {text}", intent.vm, plan.snapshot
    );
    text
}

/// Those of the files beside its disks that are not put back, because it is on.
fn put_back<'a>(
    tools: &Tools,
    intent: &Intent,
    plan: &'a RevertPlan,
    from: Step,
    at: Place,
) -> Result<Vec<(&'static str, &'a Beside)>> {
    let hypervisor = &tools.hypervisor;
    // Who comes after a crash must not take the new overlays for a reason to go on.
    reach(tools, intent, Reached::Back(from))?;
    match at {
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
    let mut stay = Vec::new();
    for (what, file) in plan.beside() {
        if is_on(hypervisor.vm(intent.vm)?.state) {
            stay.push((what, file));
        } else {
            beside::put_in(hypervisor.as_ref(), (what, file), &file.before)?;
        }
    }
    // One that somebody deleted since must not come back: it is put back only if it may have been changed by us.
    if from >= Step::Telling {
        hypervisor.put_back(intent.vm, &SnapshotXml::new(plan.metadata.clone()), plan.current.is_none())?;
        if let Some((_, xml)) = &plan.current {
            hypervisor.put_back(intent.vm, &SnapshotXml::new(xml.clone()), true)?;
        }
    }
    Ok(stay)
}

/// Ends a revert that was interrupted, or takes it back; for who holds the VM.
///
/// What a VM has written since is never given up for it: one that is on the new overlays goes on there, and one that is
/// on is not stopped.
pub(crate) fn settle(tools: &Tools, intent: &Intent, plan: &RevertPlan) -> Result<()> {
    let vm = match tools.hypervisor.vm(intent.vm) {
        Ok(vm) => vm,
        Err(e) if e.kind == ErrorKind::NoSuchVm => {
            forget(tools, intent);
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let (at, place) = (reached(tools, intent)?, place(plan, &vm));
    let undo = match (at, place) {
        (Reached::On(_), Place::After) => go_on(tools, intent, plan, &vm)?,
        // Somebody started it there.
        (Reached::Back(_), Place::After) if is_on(vm.state) => go_on(tools, intent, plan, &vm)?,
        (Reached::On(step) | Reached::Back(step), Place::Elsewhere) if step >= Step::Defining => {
            return give_up(tools, intent, plan, &vm);
        }
        _ => true,
    };
    let how = if undo {
        back(tools, intent, plan)?;
        "taken back"
    } else {
        ended(tools, intent, plan)?;
        "done now"
    };
    tracing::warn!(
        MESSAGE_ID = message::INTERRUPTED,
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %plan.snapshot,
        "the revert of VM {} to snapshot {} was interrupted, and is {how}", vm.name, plan.snapshot
    );
    Ok(())
}

/// What is left to do of one whose VM is on its new overlays. True if it must be taken back after all, and can be: the VM
/// cannot be started there, so nobody has.
fn go_on(tools: &Tools, intent: &Intent, plan: &RevertPlan, vm: &Vm) -> Result<bool> {
    let hypervisor = &tools.hypervisor;
    let records = hypervisor.snapshots(vm.id)?;
    if !records.iter().any(|r| r.name == plan.snapshot) {
        // libvirt drops from its list what it cannot write. What it was is still true: its images are looked at.
        check_state_images(plan, vm)?;
        hypervisor.put_back(vm.id, &SnapshotXml::new(plan.metadata.clone()), true)?;
    }
    hypervisor.redefine(vm.id, &change(plan))?;
    if reached(tools, intent)?.step() < Step::Started
        && let Err(e) = start(tools, intent, plan)
    {
        let off = !is_on(hypervisor.vm(vm.id)?.state);
        if e.kind.retry() || !off {
            return Err(e);
        }
        tracing::error!(
            MESSAGE_ID = message::INTERRUPTED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %plan.snapshot, error = %e,
            "the revert of VM {} to snapshot {} was interrupted and cannot be ended", vm.name, plan.snapshot
        );
        return Ok(true);
    }
    verify(tools, intent, plan)?;
    if plan.memory.is_some() && is_on(plan.then) && !is_on(hypervisor.vm(vm.id)?.state) {
        tracing::error!(
            MESSAGE_ID = message::INTERRUPTED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %plan.snapshot,
            "VM {} was about to go on from the memory of snapshot {} when that was interrupted, and is off: it may have \
             run since, so it is not done again. Start it, or revert to the snapshot once more",
            vm.name, plan.snapshot
        );
    }
    Ok(false)
}

/// Its new overlays lie on the snapshot's images still.
fn check_state_images(plan: &RevertPlan, vm: &Vm) -> Result<()> {
    let lies = |part: &crate::core::revert::Switched| {
        let disk = vm.disks.iter().find(|d| d.target == part.target);
        disk.and_then(|d| d.chain.get(1)).is_some_and(|below| below.path == part.state_image.path)
    };
    if plan.disks.iter().all(lies) {
        return Ok(());
    }
    let text = format!("snapshot {} is gone, and its images are not where they were", plan.snapshot);
    Err(Error::new(ErrorKind::ChainMismatch, text))
}

/// Somebody changed its disks since: what it is on is what they wanted, and nothing of it is touched. Only what it is not
/// on of what the revert made can go.
fn give_up(tools: &Tools, intent: &Intent, plan: &RevertPlan, vm: &Vm) -> Result<()> {
    let is_on_it = |path: &String| {
        let layers = vm.disks.iter().flat_map(|d| &d.chain).map(|layer| &layer.path);
        layers.chain(vm.disks.iter().filter_map(|d| d.configured.as_ref())).any(|layer| layer == path)
    };
    let made = plan.disks.iter().map(|d| d.overlay.clone());
    let (stay, go): (Vec<_>, Vec<_>) = made.partition(is_on_it);
    let was = plan.disks.iter().map(|d| d.was.path.as_str());
    let kept: Vec<&str> = was
        .chain(stay.iter().map(String::as_str))
        .chain(plan.beside().map(|(_, file)| file.before.as_str()))
        .collect();
    becomes_removal(tools, intent, go)?;
    tracing::error!(
        MESSAGE_ID = message::INTERRUPTED,
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %plan.snapshot,
        "the revert of VM {} to snapshot {} was interrupted, and somebody has changed its disks since: it is left as it is \
         now ({}), and these files stay, needed or not: {}",
        vm.name, plan.snapshot, vm.state, kept.join(", ")
    );
    Ok(())
}

pub(super) fn is_on(state: VmState) -> bool {
    state != VmState::ShutOff
}
