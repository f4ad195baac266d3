//! Merging a run of snapshots away, in one pass over each disk: [`look`] first, then [`carry_out`] what it found.
//!
//! | step | done again, or after a crash |
//! |---|---|
//! | a stopped VM is woken | it was written down before; it is let sleep again whatever comes, but for one that somebody let go on |
//! | each disk's images are merged, one disk after the other | what is done is passed over; what was cut short is copied anew |
//! | who stays is told of its new image | what is told already is not written; what libvirt lost is put back |
//! | who goes is forgotten, the newest first | one that is not there is passed over |
//! | the images are removed | one that is not there is passed over |
//!
//! Nobody is told or forgotten before it is proven of every disk that its images are merged: whoever finds a merge half
//! done may find the disks on something else as well.
//!
//! From the first copied cluster until a snapshot is forgotten its image holds newer data than it should: all of the
//! run read through the image that is written to. Everything else is right at every moment: who stays reads the old
//! images until the last of them is told, and the VM reads what its QEMU knows.

mod left_over;
mod look;
mod truth;

use std::{collections::BTreeSet, time::Duration};

use self::left_over::end_left_over;
pub use self::{
    left_over::{is_left_over, jobs},
    look::{ground, growths, look},
    truth::{Word, ask_qemu, check_times, put_right},
};
use crate::{
    core::{
        marker,
        merge::{DiskPart, Doomed, Place, Recipe},
        model::{SnapshotName, VmId, VmState},
    },
    hypervisor::{
        Commit, Committed, Copied, Disk, Error, ErrorKind, Hypervisor, Layer, Redefine, Result, SnapshotDisk,
        SnapshotRecord, SnapshotXml, Steer, User, Vm,
    },
};

/// Between two looks at a job that an earlier life left.
const PAUSE: Duration = Duration::from_millis(200);
/// So often jobs are asked for while something else has the VM: for each the hypervisor waits a while by itself.
const LOCKED: u32 = 10;

/// Whoever a merge tells what it does, and asks how to go on. Each method's error ends the merge there.
pub trait Watcher {
    /// What it does now.
    fn phase(&mut self, _phase: &str) {}

    /// How far it is with the disk of this number, and how it goes on.
    fn steer(&mut self, _disk: usize, _copied: Copied) -> Steer {
        Steer::On { limit: None }
    }

    /// The images of one of this running VM's disks are about to be merged. Where something forbids its QEMU to write
    /// them, this gets it the right to, or the merge would fail or crash it.
    fn allow(&mut self, vm: &Vm) -> Result<()> {
        match &vm.confined_by {
            None => Ok(()),
            Some(model) => {
                let text = format!("the VM is confined by {model}, which denies writing to backing images");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        }
    }

    /// The VM is about to be woken (true), or sleeps again (false).
    fn awake(&mut self, _awake: bool) -> Result<()> {
        Ok(())
    }

    /// The VM's QEMU is on images that libvirt does not know of.
    fn adrift(&mut self) -> Result<()> {
        Ok(())
    }

    /// A disk has left its images.
    fn merged(&mut self, _part: &DiskPart) -> Result<()> {
        Ok(())
    }

    /// This metadata is about to be changed.
    fn keep(&mut self, _name: &SnapshotName, _xml: &SnapshotXml) -> Result<()> {
        Ok(())
    }

    /// It is changed: nobody will ask for how it was.
    fn changed(&mut self, _name: &SnapshotName) -> Result<()> {
        Ok(())
    }

    /// How metadata was before a change that may have lost it.
    fn kept(&mut self, _name: &SnapshotName) -> Result<Option<SnapshotXml>> {
        Ok(None)
    }

    /// Takes metadata away, which has libvirt write that of others anew.
    fn forget(&mut self, hypervisor: &dyn Hypervisor, vm: VmId, name: &SnapshotName) -> Result<()> {
        hypervisor.forget(vm, name)
    }

    /// Everybody knows: what is left is to remove images that nobody names.
    fn known(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What an earlier try left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Earlier {
    /// There was one: a block job on its disks may be its own.
    pub begun: bool,
    /// It woke the VM.
    pub woken: bool,
}

/// Does it, or the rest of it. An error whose kind is [`untouched`](ErrorKind::untouched) left everything as it was found.
pub fn carry_out(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    recipe: &Recipe,
    earlier: Earlier,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let vm = hypervisor.vm(id)?;
    let records = hypervisor.snapshots(id)?;
    let mut awake = earlier.woken && vm.state == VmState::Paused;
    let mut to_do = false;
    for part in &recipe.disks {
        to_do |= place(&vm, recipe, part, &records)? == Place::ToDo;
    }
    let merged = if to_do {
        if earlier.begun {
            check_users(hypervisor, &vm, recipe)?;
        }
        if vm.state == VmState::ShutOff {
            wake(hypervisor, id, watcher)?;
            awake = true;
        }
        // What QEMU has really opened is looked at once more before each disk.
        merge(hypervisor, id, (recipe, &records), earlier, watcher)
    } else {
        Ok(())
    };
    if awake {
        // Whoever has let it go on meanwhile has it, on the images that it is on now: as with one that ran.
        let slept = hypervisor.let_sleep(id).and_then(|_whichever| watcher.awake(false));
        match &merged {
            // The disks are merged, whatever the kind of this is.
            Ok(()) => slept.map_err(touched)?,
            Err(e) => return Err(e.clone().and_rollback(&slept, "ending the QEMU that was started for it")),
        }
    }
    merged?;
    tell(hypervisor, id, recipe, watcher).and_then(|()| watcher.known()).map_err(touched)?;
    watcher.phase("removing images");
    hypervisor.discard(id, &recipe.removed()).map_err(touched)
}

/// If that fails, whoever is on is not ours to end.
fn wake(hypervisor: &dyn Hypervisor, id: VmId, watcher: &mut dyn Watcher) -> Result<()> {
    watcher.phase("starting it, paused");
    watcher.awake(true)?;
    let woken = hypervisor.wake(id);
    if let Err(e) = &woken
        && e.kind != ErrorKind::Disconnected
    {
        watcher.awake(false)?;
    }
    woken
}

fn merge(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    (recipe, records): (&Recipe, &[SnapshotRecord]),
    earlier: Earlier,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let mut any = false;
    let all = recipe.disks.len();
    for (i, part) in recipe.disks.iter().enumerate() {
        watcher.phase(&format!("merging {} ({}/{all})", part.target, i + 1));
        let place = |vm: &Vm| place(vm, recipe, part, records);
        let done = one(hypervisor, id, (i, part), &place, earlier, watcher);
        any |= done.as_ref().is_ok_and(|done| *done == Committed::Now);
        done.and_then(|_| watcher.merged(part)).map_err(|e| if any { touched(e) } else { e })?;
    }
    Ok(())
}

/// One disk's images.
fn one(
    hypervisor: &dyn Hypervisor,
    id: VmId,
    (i, part): (usize, &DiskPart),
    place: &dyn Fn(&Vm) -> Result<Place>,
    earlier: Earlier,
    watcher: &mut dyn Watcher,
) -> Result<Committed> {
    if earlier.begun {
        end_left_over(hypervisor, id, (i, part), watcher)?;
        if let Word::Adrift(text) = ask_qemu(hypervisor, id, true, || watcher.adrift())? {
            return Err(Error::new(ErrorKind::ChainMismatch, text));
        }
    }
    let vm = hypervisor.vm(id)?;
    let done = match place(&vm)? {
        Place::Done => Committed::Before,
        Place::ToDo => {
            // For each disk anew: at the end of one's merge libvirt writes the profile again.
            watcher.allow(&vm)?;
            let commit =
                Commit { target: part.target.clone(), base: part.base.clone(), top: part.top.clone() };
            hypervisor.commit(id, &commit, &mut |copied| watcher.steer(i, copied))?
        }
    };
    // libvirt writes the definition after the pivot: should it not have, the next start would be on what goes now.
    let vm = put_right(hypervisor, id, std::slice::from_ref(part)).map_err(touched)?;
    let disk = disk(&vm, part).map_err(touched)?;
    let active = disk.chain.first().map(|l| &l.path);
    if part.gone.iter().any(|gone| has(&vm, part, gone))
        || disk.configured.as_ref().is_some_and(|c| Some(c) != active)
    {
        return Err(Error::new(
            ErrorKind::Failed,
            format!(
                "disk {} is merged, but libvirt says that the VM runs on {} and starts on {} (`virsh dumpxml`, with and \
                 without --inactive): nothing was removed",
                part.target,
                chain(disk),
                disk.configured.as_deref().unwrap_or("nothing"),
            ),
        ));
    }
    Ok(done)
}

/// Those who stay name other images, and those who go are forgotten.
fn tell(hypervisor: &dyn Hypervisor, id: VmId, recipe: &Recipe, watcher: &mut dyn Watcher) -> Result<()> {
    watcher.phase("updating metadata");
    let mut records = hypervisor.snapshots(id)?;
    for name in recipe.told.iter().chain(&recipe.marked) {
        // A libvirt that cannot write a snapshot's file takes the snapshot off its list.
        if !records.iter().any(|r| r.name == *name)
            && let Some(copy) = watcher.kept(name)?
        {
            let current = recipe.current.as_ref() == Some(name) && !records.iter().any(|r| r.current);
            hypervisor.put_back(id, &copy, current)?;
            records = hypervisor.snapshots(id)?;
        }
    }
    let moved = |part: &DiskPart| {
        (part.top.clone(), Layer { path: part.base.clone(), format: part.base_format.clone() })
    };
    let images: Vec<(String, Layer)> = recipe.disks.iter().map(moved).collect();
    for name in concerned(recipe, &records, id) {
        watcher.keep(name, &hypervisor.copy(id, name)?)?;
        hypervisor.redefine(id, &Redefine { images: images.clone(), ..Redefine::new(name.clone()) })?;
        watcher.changed(name)?;
    }
    for record in records.iter().filter(|r| recipe.marked.contains(&r.name)) {
        let name = &record.name;
        watcher.keep(name, &hypervisor.copy(id, name)?)?;
        hypervisor.redefine(id, &Redefine { unmark: true, ..Redefine::new(name.clone()) })?;
        watcher.changed(name)?;
    }
    for doomed in recipe.run.iter().rev() {
        if records.iter().any(|r| is(r, doomed, id)) {
            watcher.forget(hypervisor, id, &doomed.name)?;
        }
    }
    Ok(())
}

/// Who stays and has to be told: also of what was taken after the merge was worked out.
fn concerned<'a>(recipe: &Recipe, records: &'a [SnapshotRecord], id: VmId) -> Vec<&'a SnapshotName> {
    let goes = |r: &SnapshotRecord| recipe.run.iter().any(|doomed| is(r, doomed, id));
    let mut after: BTreeSet<&SnapshotName> = records.iter().filter(|r| goes(r)).map(|r| &r.name).collect();
    let going = after.clone();
    let mut known = 0;
    while after.len() > known {
        known = after.len();
        let children = records.iter().filter(|r| r.parent.as_ref().is_some_and(|p| after.contains(p)));
        let children: Vec<_> = children.map(|r| &r.name).collect();
        after.extend(children);
    }
    let names_one = |r: &SnapshotRecord| {
        let images = r.sources.iter().map(|(_, path)| path).chain(r.disks.iter().map(|d| &d.state_image));
        images.into_iter().any(|path| recipe.disks.iter().any(|part| part.top == *path))
    };
    let told = |r: &&SnapshotRecord| {
        !going.contains(&r.name) && (recipe.told.contains(&r.name) || after.contains(&r.name) || names_one(r))
    };
    let mut all: Vec<&SnapshotName> = records.iter().filter(told).map(|r| &r.name).collect();
    // In the recipe's order; what came later last.
    all.sort_by_key(|name| recipe.told.iter().position(|t| t == *name).unwrap_or(usize::MAX));
    all
}

/// One that has the name and not the identity is another one.
pub(crate) fn is(record: &SnapshotRecord, doomed: &Doomed, vm: VmId) -> bool {
    record.name == doomed.name && marker::split(&record.description, vm).1.map(|m| m.id) == doomed.id
}

/// What is left to do with a disk, as the VM is now.
fn place(vm: &Vm, recipe: &Recipe, part: &DiskPart, records: &[SnapshotRecord]) -> Result<Place> {
    let chain: Vec<&str> = disk(vm, part)?.chain.iter().map(|l| l.path.as_str()).collect();
    let staying = records.iter().filter(|r| !recipe.run.iter().any(|doomed| is(r, doomed, vm.id)));
    let on_it = |d: &&SnapshotDisk| {
        d.target == part.target && (d.state_image == part.base || d.state_image == part.top)
    };
    let overlays: Vec<&str> =
        staying.flat_map(|r| &r.disks).filter(on_it).map(|d| d.overlay.as_str()).collect();
    part.place(&chain, &overlays).map_err(|e| Error::new(ErrorKind::ChainMismatch, e.to_string()))
}

fn disk<'a>(vm: &'a Vm, part: &DiskPart) -> Result<&'a Disk> {
    vm.disks.iter().find(|d| d.target == part.target).ok_or_else(|| {
        Error::new(ErrorKind::ChainMismatch, format!("the VM has no disk {} any more", part.target))
    })
}

/// The images that are still to be written, of all disks, but for those that the VM writes to anyway.
pub fn written(vm: &Vm, recipe: &Recipe) -> Vec<String> {
    let of = |part: &DiskPart| {
        let disk = vm.disks.iter().find(|d| d.target == part.target);
        disk.map_or_else(Vec::new, |d| {
            part.written(&d.chain.iter().map(|l| l.path.as_str()).collect::<Vec<_>>())
        })
    };
    recipe.disks.iter().flat_map(of).collect()
}

/// It was certain that nobody else has these images when the merge began, and anybody may have come since.
fn check_users(hypervisor: &dyn Hypervisor, vm: &Vm, recipe: &Recipe) -> Result<()> {
    let goes = recipe.removed();
    let still = |part: &&DiskPart| has(vm, part, &part.top);
    let parts = recipe.disks.iter().filter(still);
    let touched: Vec<String> = parts.flat_map(|p| std::iter::once(&p.base).chain(&p.gone)).cloned().collect();
    let users = hypervisor.users(&touched, vm.id)?;
    let other = |(_, user): &&(String, User)| !matches!(user, User::Volume(path) if goes.contains(path));
    match users.iter().find(other) {
        Some((image, user)) => Err(Error::new(
            ErrorKind::InUse,
            format!(
                "{image} is under {user} by now, whose data a merge would destroy: the merge can go on when nobody else has \
                 that image"
            ),
        )),
        None => Ok(()),
    }
}

fn has(vm: &Vm, part: &DiskPart, image: &str) -> bool {
    vm.disks.iter().any(|d| d.target == part.target && d.chain.iter().any(|l| l.path == image))
}

fn chain(disk: &Disk) -> String {
    disk.chain.iter().map(|l| l.path.as_str()).collect::<Vec<_>>().join(" → ")
}

/// An error after something was merged.
fn touched(mut e: Error) -> Error {
    if e.kind.untouched() {
        e.kind = ErrorKind::Failed;
    }
    e
}

#[cfg(test)]
mod tests;
