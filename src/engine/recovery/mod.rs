//! What comes before anything else, at start and after every loss of libvirt: thaw, then settle what was begun. What
//! cannot be settled then is tried again from time to time, and before the next job on its VM.
//!
//! Running it twice changes nothing: each entry is taken off the list only when it is certain what became of it.

mod begun;
mod create;
mod delete;
pub(super) mod frozen;
pub(super) mod line;
mod merge;
mod promote;
mod told;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use self::{
    begun::{awake, hooked, intents, merges, redefined, stilled, unsure},
    line::Line,
};
use super::held::Held;
use crate::{
    core::{
        job::{Failure, Operation},
        marker,
        model::VmId,
    },
    hypervisor::{Error, ErrorKind, Result, SnapshotRecord},
    store::{Begun, Intent},
    worker::{self, Tools},
};

/// What it could not end.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The VMs with merges that are to be finished by a job of their own: that can take long.
    pub(super) merges: BTreeSet<VmId>,
    /// The VMs that somebody had.
    pub(super) skipped: BTreeSet<VmId>,
}

/// Is told of each VM that libvirt did not answer of in time, when it is settled after all; true if a merge is left to be
/// finished by a job.
pub(super) type Late = Arc<dyn Fn(VmId, bool) + Send + Sync>;

/// Settles everything, on a new connection, but what is about a VM that somebody has, who does that himself.
pub(super) fn run(tools: &Tools, held: &Held, line: &Line, late: &Late) -> Left {
    let hung = thaw(tools, held, line, late);
    let begun = intents(tools).into_iter().map(|i| i.vm).chain(unsure(tools)).chain(redefined(tools));
    let mut vms: BTreeSet<VmId> =
        awake(tools).into_iter().chain(stilled(tools).into_keys()).chain(begun).collect();
    vms.retain(|vm| !hung.contains(vm));
    let skipped = Arc::new(Mutex::new(BTreeSet::new()));
    let settle = {
        let (tools, held, skipped) = (tools.clone(), held.clone(), Arc::clone(&skipped));
        move |vm| match held.try_take(vm) {
            Some(_hold) => drop(settle_vm(&tools, vm)),
            None => drop(locked(&skipped).insert(vm)),
        }
    };
    let at_last = {
        let (tools, late) = (tools.clone(), Arc::clone(late));
        move |vm| late(vm, merges(&tools).contains(&vm))
    };
    let behind = line.each(vms, settle, at_last).behind;
    worker::tidy_branches(tools);
    let skipped = std::mem::take(&mut *locked(&skipped));
    let mut merges = merges(tools);
    merges.retain(|vm| !skipped.contains(vm) && !behind.contains(vm) && !hung.contains(vm));
    Left { merges, skipped }
}

/// What was left frozen comes before all else. The VMs that libvirt does not answer of.
fn thaw(tools: &Tools, held: &Held, line: &Line, late: &Late) -> BTreeSet<VmId> {
    let thaw = {
        let (tools, held) = (tools.clone(), held.clone());
        move |vm| {
            if let Some(_hold) = held.try_take(vm) {
                for vm in tools.freezer.thaw_left_over(&[vm].into()) {
                    tools.freezer.keep_thawing(vm);
                }
            }
        }
    };
    // What else was begun on it has waited for this.
    let at_last = {
        let (tools, held, late) = (tools.clone(), held.clone(), Arc::clone(late));
        move |vm| {
            if let Some(_hold) = held.try_take(vm) {
                settle_vm(&tools, vm);
            }
            late(vm, merges(&tools).contains(&vm));
        }
    };
    let left = line.each(begun::frozen(tools), thaw, at_last);
    for vm in left.unreached {
        if let Some(_hold) = held.try_take(vm) {
            tools.freezer.keep_thawing(vm);
        }
    }
    left.behind
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Settles what is about VMs that somebody had, when nobody has them any more. Those that it does not come to are told as
/// those that are late: what else was begun on them is settled from time to time.
pub(super) fn the_skipped(
    tools: &Tools,
    line: &Line,
    vms: BTreeSet<VmId>,
    settle: impl Fn(VmId) + Send + Sync + 'static,
    late: &Late,
) {
    let at_last = Arc::clone(late);
    let left = line.each(vms, settle, move |vm| at_last(vm, false));
    for vm in left.unreached {
        late(vm, merges(tools).contains(&vm));
    }
}

/// Settles what could not be until now. Merges and deletions that did not come to their end are not among it: jobs end
/// those. The VMs with merges of
/// which there is nothing left to be asked for once more: all of their snapshots are gone already, and nobody sees them.
pub(super) fn again(tools: &Tools, held: &Held, line: &Line) -> BTreeSet<VmId> {
    for vm in tools.freezer.thawed_unnoted() {
        if let Some(_hold) = held.try_take(vm) {
            tools.freezer.note_thawed(vm);
        }
    }
    let again = |i: &Intent| {
        i.is_adrift() || i.is_unsure() || !matches!(i.what, Begun::Merge(_) | Begun::Delete) && !i.is_wrong()
    };
    // Whether a deletion came to its end is asked with the VM in hand: libvirt may not answer of this one.
    let perhaps = |i: &Intent| again(i) || i.what == Begun::Delete;
    let begun = intents(tools).into_iter().filter(perhaps).map(|i| i.vm);
    let begun = begun.chain(unsure(tools)).chain(redefined(tools));
    let vms = awake(tools).into_iter().chain(stilled(tools).into_keys()).chain(begun).collect();
    let settle = {
        let (tools, held) = (tools.clone(), held.clone());
        move |vm| {
            if let Some(_hold) = held.try_take(vm) {
                let_go_on(&tools, vm);
                let_sleep(&tools, vm);
                promote::settle(&tools, vm);
                put_back(&tools, vm);
                settle_those(&tools, |i| i.vm == vm && (again(i) || delete::is_done(&tools, i)));
            }
        }
    };
    line.each(vms, settle, |_| {});
    let unseen = Arc::new(Mutex::new(BTreeSet::new()));
    let look = {
        let (tools, held, unseen) = (tools.clone(), held.clone(), Arc::clone(&unseen));
        move |vm| {
            let Some(_hold) = held.try_take(vm) else { return };
            if intents(&tools).iter().any(|i| i.vm == vm && is_unseen(&tools, i)) {
                locked(&unseen).insert(vm);
            }
        }
    };
    line.each(merges(tools), look, |_| {});
    std::mem::take(&mut *locked(&unseen))
}

/// Whether it is a merge whose snapshots are all gone, so that only its end is to be written down and cleared up.
fn is_unseen(tools: &Tools, intent: &Intent) -> bool {
    let Begun::Merge(recipe) = &intent.what else { return false };
    let gone = |records: Vec<SnapshotRecord>| {
        recipe.run.iter().all(|doomed| match doomed.id {
            Some(id) => find(&records, intent.vm, id).is_none(),
            None => records.iter().all(|r| r.name != doomed.name),
        })
    };
    tools.hypervisor.snapshots(intent.vm).is_ok_and(gone)
}

/// Settles what was begun on this VM, for who holds it. True if a merge is left to be finished by a job.
pub(super) fn settle_vm(tools: &Tools, vm: VmId) -> bool {
    let_go_on(tools, vm);
    let_sleep(tools, vm);
    promote::settle(tools, vm);
    // What else was begun is settled by what libvirt lists.
    put_back(tools, vm);
    settle_those(tools, |i| i.vm == vm);
    merges(tools).contains(&vm)
}

/// Tells the hooks of jobs that an earlier life ended in the middle of. Nobody waits for it but the next job of the VM.
pub(super) fn hooks(tools: &Tools, held: &Held) {
    for hold in hooked(tools).into_iter().filter_map(|vm| held.try_take(vm)) {
        worker::settle_hooks(tools, hold.vm);
    }
}

/// Before a job, for who holds its VM: what was begun must not be ended or taken back on top of what the job does.
pub(super) fn before_job(tools: &Tools, vm: VmId, operation: &Operation) -> std::result::Result<(), Failure> {
    worker::settle_hooks(tools, vm);
    promote::before_job(tools, vm, operation)?;
    // To do something on top of it could lose what it protects.
    match tools.store.not_understood(vm) {
        Ok(None) => {}
        Ok(Some(kind)) => {
            return Err(Failure::new(
                "Busy",
                format!(
                    "another version of virtsnapd began something on VM {vm} (\"{kind}\") that this one does not know, and \
                     it did not end: start that version once, which ends it. Nothing was touched"
                ),
            ));
        }
        Err(e) => return Err(Failure::new("Failed", e.to_string())),
    }
    worker::settle_redefined(tools, vm).map_err(|e| {
        let text = format!("{e}. That comes first; nothing was touched now");
        Failure::new("Busy", text)
    })?;
    let kind =
        |what: &Begun| matches!(what, Begun::Create(_) | Begun::Drop | Begun::Revert(_) | Begun::Branch(_));
    let now = |i: &Intent| kind(&i.what) && !i.is_wrong() || i.is_adrift() || i.is_unsure();
    let failed = settle_those(tools, |i| i.vm == vm && (now(i) || delete::is_done(tools, i)));
    // Images that still wait for their removal are in nobody's way, or are found to be: it is looked who stands on what.
    let adrift = |(i, e): &&(Intent, Error)| {
        matches!(i.what, Begun::Create(_) | Begun::Merge(_)) && e.kind == ErrorKind::ChainMismatch
    };
    if let Some((_, e)) = failed.iter().find(adrift) {
        return Err(Failure::new(e.kind.as_str(), format!("{e}. Nothing was touched now")));
    }
    match failed.into_iter().find(|(i, _)| matches!(i.what, Begun::Revert(_))) {
        None => Ok(()),
        Some((intent, e)) => Err(Failure::new(
            "Busy",
            format!(
                "a revert of VM {vm} to snapshot {} was begun and interrupted, and can neither be ended nor taken back \
                 yet: {e}. That comes first, and is tried again every few minutes; nothing was touched now",
                intent.name
            ),
        )),
    }
}

fn let_go_on(tools: &Tools, vm: VmId) {
    if let Some(life) = stilled(tools).get(&vm)
        && let Err(e) = promote::let_go_on(tools, vm, *life)
    {
        let name = told::name(tools, vm);
        let what = format_args!("the CPUs of VM {name} were stopped for a moment, and do not go on yet: {e}");
        told::left(&name, vm, what);
    }
}

fn put_back(tools: &Tools, vm: VmId) {
    if let Err(e) = worker::settle_redefined(tools, vm) {
        told::left(&told::name(tools, vm), vm, e);
    }
}

fn let_sleep(tools: &Tools, vm: VmId) {
    if awake(tools).contains(&vm)
        && let Err(e) = merge::let_sleep(tools, vm)
    {
        let name = told::name(tools, vm);
        let what = format_args!(
            "VM {name} was started, paused, to merge its images, and cannot be stopped yet: {e}"
        );
        told::left(&name, vm, what);
    }
}

/// Those that cannot be settled yet, and why.
fn settle_those(tools: &Tools, which: impl Fn(&Intent) -> bool) -> Vec<(Intent, Error)> {
    let mut failed = Vec::new();
    for intent in intents(tools).into_iter().filter(which) {
        tools.cut_short.found(&intent);
        if let Err(e) = settle(tools, &intent) {
            told::unsettled(&told::name(tools, intent.vm), &intent, &e);
            failed.push((intent, e));
        }
    }
    failed
}

fn settle(tools: &Tools, intent: &Intent) -> Result<()> {
    let records = match tools.hypervisor.snapshots(intent.vm) {
        Ok(records) => records,
        Err(e) if e.kind == ErrorKind::NoSuchVm => Vec::new(),
        Err(e) => return Err(e),
    };
    let stored = match &intent.what {
        Begun::Create(plan) => create::settle(tools, intent, plan, &records)?,
        Begun::Delete => delete::settle(tools, intent, &records)?,
        Begun::Drop => return worker::settle_drop(tools, intent),
        Begun::Merge(recipe) => merge::settle(tools, intent, recipe, &records)?,
        Begun::Revert(plan) => return worker::settle_revert(tools, intent, plan),
        Begun::Branch(plan) => return worker::settle_branch(tools, intent, plan),
    };
    stored.map_err(|e| {
        let why = format!("what became of it is certain, and cannot be written down: {e}");
        Error::new(ErrorKind::Failed, why)
    })
}

/// Writes down that the VM's QEMU is on images of which libvirt does not know. Where that cannot be, it is so all the
/// same: no job may take the VM for what libvirt says of it.
fn note_adrift(tools: &Tools, intent: &Intent) -> Result<()> {
    tools.store.reached(intent.id, Intent::ADRIFT).map_err(|e| {
        let why = format!(
            "libvirtd ended in the middle of snapshot {}, and the QEMU of VM {} is on images of which libvirt does not \
             know. That cannot be written down ({e}), so its definition stays as it is for now: do not stop the VM before \
             the state database can be written to",
            intent.name, intent.vm
        );
        Error::new(ErrorKind::ChainMismatch, why)
    })
}

/// The snapshot with this identity: a name may be somebody else's by now.
fn find(records: &[SnapshotRecord], vm: VmId, id: Uuid) -> Option<&SnapshotRecord> {
    records.iter().find(|r| marker::split(&r.description, vm).1.is_some_and(|m| m.id == id))
}

#[cfg(test)]
mod tests;
