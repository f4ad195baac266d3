//! Merging a run of snapshots away as a job: written down before the first cluster is copied, and ended by whoever
//! comes next if it was cut short.

mod cut_short;
mod watching;

use uuid::Uuid;

pub(super) use self::cut_short::{end_all, end_below, spoiled_under};
use self::watching::Watching;
use super::{Stop, Tools, Work, beside, drop, redefine, space, unsure};
use crate::{
    core::{
        job::{Failure, Operation},
        merge::{DiskPart, Recipe},
        model::{SnapshotName, VmId},
        room::{Growth, Margin},
    },
    hypervisor::{Error, ErrorKind, Hypervisor, Result, Vm},
    merging::{self, Earlier, Watcher as _, Word},
    rooms::Reserved,
    store::{Begun, Intent},
};

/// Merges these, the oldest first, away. `share`: from where to where this is in the job's progress.
pub(super) fn run(
    work: &Work<'_>,
    vm: &Vm,
    run: &[SnapshotName],
    share: (f64, f64),
) -> std::result::Result<(), Stop> {
    let Some(oldest) = run.first() else { return Ok(()) };
    if vm.confined_by.is_some() {
        work.tools.access.possible(vm.id).map_err(|e| not_deleted(vm, run, e))?;
    }
    let hypervisor = work.tools.hypervisor.as_ref();
    let mut recipe = merging::look(hypervisor, vm.id, run).map_err(|e| not_deleted(vm, run, e))?;
    unsure::check_free(work.tools, &recipe.touched()).map_err(|e| not_deleted(vm, run, e))?;
    let records = hypervisor.snapshots(vm.id)?;
    recipe
        .files
        .extend(records.iter().filter(|r| run.contains(&r.name)).flat_map(|r| beside::files_of(vm, r)));
    let room = merging::growths(hypervisor, vm, &recipe)
        .and_then(|growths| reserve(work, &growths))
        .map_err(|e| not_deleted(vm, run, Error::new(e.kind, format!("{e}. Nothing was touched"))))?;
    work.safe_point()?;
    let id = recipe.run.iter().find_map(|d| d.id).unwrap_or_else(Uuid::new_v4);
    let intent = Intent::new(id, vm.id, oldest.clone(), Begun::Merge(recipe.clone()));
    work.tools.store.begin(&intent, work.tools.clock.now())?;
    // Whoever else began it may have left anything: what is refused now is not as good as before either.
    carry_out(work, vm, &intent, (&recipe, &room), recipe.begun, share)
}

/// The room for what is still to be merged, for as long as that takes.
fn reserve(work: &Work<'_>, growths: &[Growth]) -> Result<Reserved> {
    let hypervisor = work.tools.hypervisor.as_ref();
    let reserved =
        work.tools.rooms.reserve(hypervisor, growths, Margin::tenth(work.settings.daemon.min_free));
    reserved.map_err(|e| match e.kind {
        ErrorKind::NoSpace => e.context("there is too little room for the merge"),
        _ => e,
    })
}

/// Ends the merges of the job's VM that were cut short.
pub(super) fn finish_all(work: &Work<'_>) -> std::result::Result<(), Stop> {
    finish(work, &work.tools.hypervisor.vm(work.job.vm)?).map(std::mem::drop)
}

/// Ends the merges of this VM that were cut short, and says what is gone with them. As long as one is not ended the
/// metadata does not say what is so, and nothing else can be merged.
pub(super) fn finish(work: &Work<'_>, vm: &Vm) -> std::result::Result<Vec<SnapshotName>, Stop> {
    // What its end lost of others' metadata is looked at first: all else goes by that.
    redefine::settle(work.tools, vm.id)?;
    let mut finished = Vec::new();
    // Before what is asked for: that has its own.
    let share = if work.job.operation == Operation::Finish { (0.0, 1.0) } else { (0.0, 0.0) };
    for intent in work.tools.store.intents()?.into_iter().filter(|i| i.vm == vm.id) {
        if intent.what == Begun::Drop {
            drop::settle_or_warn(work.tools, &intent);
        }
        if let Begun::Merge(recipe) = &intent.what {
            // libvirt saves a VM also when the host goes down, which is what cut the merge short.
            if vm.managed_save {
                return Err(unfinished(vm, recipe, &Error::managed_save()));
            }
            let what = "was cut short; it is finished now";
            work.told_merge(vm, &intent.name, &list(&names(recipe)), what);
            // Images that cannot be followed are for who merges to tell of.
            let growths = merging::growths(work.tools.hypervisor.as_ref(), vm, recipe).unwrap_or_default();
            let room = reserve(work, &growths).map_err(|e| unfinished(vm, recipe, &e))?;
            match carry_out(work, vm, &intent, (recipe, &room), true, share) {
                Err(Stop::Failed(e)) if e.name == ErrorKind::ChainMismatch.as_str() => {
                    if !given_up(work, vm, recipe)? {
                        return Err(Stop::Failed(e));
                    }
                    let what = format!(
                        "is given up: somebody has forgotten them, and the VM is on other images. These were to be \
                         removed, and stay: {}",
                        recipe.removed().join(", ")
                    );
                    work.told_merge(vm, &intent.name, &list(&names(recipe)), &what);
                    work.tools.store.all_gone(recipe.run.iter().filter_map(|d| d.id).chain([intent.id]))?;
                }
                done => {
                    done?;
                    finished.extend(names(recipe));
                }
            }
        }
    }
    Ok(finished)
}

/// Whether a merge that was cut short forbids every snapshot until it is ended: a block job of it goes on, or a disk
/// has left an image that snapshots say it is on, or lies on.
pub(super) fn is_in_the_way(work: &Work<'_>, vm: &Vm) -> std::result::Result<bool, Stop> {
    let begun = work.tools.store.intents()?;
    let left = |part: &DiskPart| {
        let disk = vm.disks.iter().find(|d| d.target == part.target);
        disk.is_some_and(|disk| disk.chain.iter().all(|l| l.path != part.top))
    };
    Ok(begun.iter().filter(|i| i.vm == vm.id).any(|intent| match &intent.what {
        Begun::Merge(recipe) => vm.block_jobs || recipe.disks.iter().any(left),
        _ => false,
    }))
}

/// Nothing is left of what was to be merged away but images that the VM is not on.
fn given_up(work: &Work<'_>, vm: &Vm, recipe: &Recipe) -> std::result::Result<bool, Stop> {
    let records = work.tools.hypervisor.snapshots(vm.id)?;
    Ok(!recipe.run.iter().any(|doomed| records.iter().any(|r| merging::is(r, doomed, vm.id))))
}

fn carry_out(
    work: &Work<'_>,
    vm: &Vm,
    intent: &Intent,
    (recipe, room): (&Recipe, &Reserved),
    begun: bool,
    share: (f64, f64),
) -> std::result::Result<(), Stop> {
    let earlier = Earlier { begun, woken: is_woken(work.tools, vm.id)? };
    let mut watcher = Watching {
        work,
        vm,
        intent,
        disks: recipe.disks.len(),
        phase: String::new(),
        told: share.0,
        share,
        recipe,
        room,
        going: begun,
        known: false,
        woken: false,
        pivoting: false,
        adrift: false,
    };
    let hypervisor = work.tools.hypervisor.as_ref();
    let done = merging::carry_out(hypervisor, vm.id, recipe, earlier, &mut watcher)
        .map_err(|e| if watcher.adrift { e } else { unknown_images(hypervisor, e, &mut watcher) });
    let (going, known, adrift) = (watcher.going, watcher.known, watcher.adrift);
    if let Err(e) = &done
        && watcher.pivoting
        && !adrift
        && e.kind != ErrorKind::Disconnected
        && merging::put_right(work.tools.hypervisor.as_ref(), vm.id, &recipe.disks).is_ok()
    {
        // libvirt told how that ended.
        work.tools.store.reached(intent.id, "")?;
    }
    let names = names(recipe);
    match done {
        Ok(()) => {
            work.tools.store.discarded(&recipe.removed())?;
            work.tools.store.gone(intent.id)?;
            for name in &names {
                work.told_deleted(vm, name);
            }
            Ok(())
        }
        Err(e) if known => Err(e
            .context(format_args!(
                "{} of VM {} {} deleted, but the images are not all removed yet, which is tried again",
                list(&names),
                vm.name,
                if names.len() == 1 { "is" } else { "are" }
            ))
            .into()),
        // Refused before anything was copied, they are as good as before.
        Err(e) if !adrift && (!going || (e.kind.untouched() && !begun)) => {
            work.tools.store.abandoned(intent.id)?;
            if e.kind == ErrorKind::Cancelled {
                Err(work.cancelled(format_args!(
                    "{} of VM {} {} as good as before",
                    list(&names),
                    vm.name,
                    if names.len() == 1 { "is" } else { "are" }
                )))
            } else {
                Err(not_deleted(vm, &names, e))
            }
        }
        Err(e) => {
            let count = "count as failed from now on, as their images may hold newer data; the VM and all other \
                         snapshots are as they were, and the next prune finishes it";
            if e.kind == ErrorKind::Cancelled {
                let what = format!("was stopped: its snapshots {count}");
                work.told_merge(vm, &intent.name, &list(&names), &what);
                let (list, vm) = (list(&names), &vm.name);
                return Err(
                    work.cancelled(format_args!("{list} of VM {vm}, whose merge was cut short, {count}"))
                );
            }
            let e = space::explain(work, recipe, e);
            let kind = e.kind.as_str();
            let begun = format!("the merge of {} of VM {} did not end: {e}", list(&names), vm.name);
            let text = if adrift {
                begun
            } else if e.kind == ErrorKind::ChainMismatch {
                format!(
                    "{begun}. They count as failed, as their images may hold newer data, and nothing of the VM can be \
                     merged until the disks are on what was merged again, or the snapshots are given up: \
                     `virsh snapshot-delete --metadata` forgets them and leaves all images where they are"
                )
            } else {
                format!("{begun}. They {count}")
            };
            Err(Stop::Failed(Failure::new(kind, text)))
        }
    }
}

/// Where QEMU refuses to begin it may be on other images than libvirt says: a libvirtd that ended in the middle of a
/// deletion of its own leaves that, and of the oldest snapshot not even a mark.
fn unknown_images(hypervisor: &dyn Hypervisor, e: Error, watcher: &mut Watching<'_>) -> Error {
    if !e.message.contains("QEMU command 'block-commit'") {
        return e;
    }
    match merging::ask_qemu(hypervisor, watcher.vm.id, true, || watcher.adrift()) {
        Ok(Word::Adrift(text)) => Error::new(ErrorKind::ChainMismatch, text),
        // What was said first is what matters.
        _ => e,
    }
}

/// Whether this VM, which is paused, was started for our work, and nobody has started it since.
pub(crate) fn is_woken(tools: &Tools, vm: VmId) -> Result<bool> {
    let woken = tools.store.is_awake(vm, tools.hypervisor.life(vm)?);
    woken.map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
}

fn names(recipe: &Recipe) -> Vec<SnapshotName> {
    recipe.run.iter().map(|d| d.name.clone()).collect()
}

fn list(names: &[SnapshotName]) -> String {
    let all = names.iter().map(SnapshotName::as_str).collect::<Vec<_>>().join(", ");
    format!("{} {all}", if names.len() == 1 { "snapshot" } else { "snapshots" })
}

/// One that was cut short is not finished now, and nothing was done.
fn unfinished(vm: &Vm, recipe: &Recipe, e: &Error) -> Stop {
    let text = format!(
        "the merge of {} of VM {}, which was cut short, is not finished: {e}. They still count as failed, as their images \
         may hold newer data; nothing was touched now, and the next prune tries again",
        list(&names(recipe)),
        vm.name
    );
    Stop::Failed(Failure::new(e.kind.as_str(), text))
}

fn not_deleted(vm: &Vm, run: &[SnapshotName], e: Error) -> Stop {
    let were = if run.len() == 1 { "was" } else { "were" };
    e.context(format_args!("{} of VM {} {were} not deleted", list(run), vm.name)).into()
}
