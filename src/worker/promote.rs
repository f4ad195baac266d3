//! Making a VM independent of other VMs' images: what lies under its disks is copied into what it writes to.
//!
//! Whatever ends it early, each disk reads as before: what is copied is a matter of its own image alone. So nothing is
//! written down but that the VM was woken, or that its CPUs were stopped for a moment, and to finish it is to do it again.
//!
//! But for one moment, which is QEMU's: at the end of a disk's copy it first has the image name none below it, and what was
//! copied may still be in its own memory until it is flushed, or ends. Killed in between, it leaves a disk that reads as
//! zeros there. So each disk is [written down](crate::core::copied) from before its copy until that is over; where nobody
//! knows how QEMU ended it is told, and the disk is copied once more, on the images that it was on. One moment is left, of
//! milliseconds: a QEMU that is killed just when libvirt is told to end it, which then says that it did.

pub(crate) mod unsure;

use std::ops::Range;

use super::{Stop, Work};
use crate::{
    core::{
        copied::CopiedDisk,
        job::{Failure, Far},
        model::VmState,
        room::Growth,
    },
    hypervisor::{self, Committed, Copied, Disk, Error, ErrorKind, Image, Layer, Slept, Steer, Vm},
    rooms::Reserved,
};

/// A disk that is to stand alone.
struct Part<'a> {
    disk: &'a Disk,
    /// What it is on, the image that it is written to first.
    on: Vec<Image>,
    /// By its own header it is on nothing: it was copied once, and nobody knows whether all of that is on it.
    again: bool,
}

pub(super) fn run(work: &Work<'_>) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    work.phase("checking", None, None);
    let vm = hypervisor.vm(work.job.vm)?;
    let unknown = unsure::settle(work.tools, vm.id)?;
    let disks = preflight(work, &vm, &unknown)?;
    let _room = reserve(work, &vm, &disks)?;
    work.safe_point()?;
    let done = copy_all(work, &vm, &disks);
    // Where that cannot be asked, what went wrong before it is what there is to tell.
    match unsure::settle(work.tools, vm.id) {
        Ok(unknown) if !unknown.is_empty() => {
            let mut all: Vec<String> = unknown.iter().map(|disk| disk.text(&vm.name)).collect();
            if let Err(Stop::Failed(failure)) = done {
                all.push(format!("What went wrong: {}", failure.message));
            }
            return refuse("Failed", all.join(" "));
        }
        settled => done.and(settled.map(drop).map_err(Stop::from))?,
    }
    if let Some(disk) = work.tools.store.unsure_of(vm.id)?.first() {
        let text = format!(
            "what was copied of disk {} of VM {} is not safely on it: the VM was suspended meanwhile. Once it runs again, \
             promoting it again ends this at once",
            disk.target, vm.name
        );
        return refuse("Busy", text);
    }
    verify(work, &vm)?;
    work.tools.store.branch_ended(vm.id)?;
    tracing::info!(
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_JOB = work.job.id,
        "VM {} is independent of all other VMs' images", vm.name
    );
    Ok(())
}

fn copy_all(work: &Work<'_>, vm: &Vm, disks: &[Part<'_>]) -> Result<(), Stop> {
    if vm.state != VmState::ShutOff {
        return pull_all(work, vm, disks, 0..disks.len());
    }
    // What was copied is on the disk for sure only when that QEMU has ended: nobody else flushes there. Should it be killed,
    // or the host lose power, while others are copied, the first one would read as zeros.
    for (number, part) in disks.iter().enumerate() {
        awake(work, vm, part, || pull_all(work, vm, disks, number..number + 1))?;
    }
    Ok(())
}

/// Does this while a stopped VM is on, with its CPUs stopped.
fn awake(
    work: &Work<'_>,
    vm: &Vm,
    part: &Part<'_>,
    pull: impl FnOnce() -> Result<(), Stop>,
) -> Result<(), Stop> {
    work.phase("starting it, paused", None, None);
    work.tools.store.wakes(vm.id, work.tools.clock.now())?;
    if let Err(e) = wake(work, vm, part) {
        // Whoever is on then is not ours to end; but with the connection the answer is lost.
        if e.kind != ErrorKind::Disconnected {
            work.tools.store.sleeps(vm.id)?;
        }
        return Err(e.context(format_args!("VM {} was not made independent", vm.name)).into());
    }
    let done = note_life(work, vm).and_then(|()| pull());
    let slept = unsure::let_sleep(work.tools, vm.id);
    if slept.is_ok() {
        work.tools.store.sleeps(vm.id)?;
    }
    if let Err(Stop::Failed(failure)) = &done {
        let e = Error::new(ErrorKind::Failed, failure.message.clone());
        let e = e.and_rollback(&slept.map(drop), "ending the QEMU that was started for it");
        return refuse(failure.name, e.message);
    }
    // One that somebody has by now writes it as one that ran does, when that is settled.
    if slept? == Slept::WasOff && done.is_ok() {
        return refuse("Failed", "the QEMU that was started for it ended by itself".to_owned());
    }
    done
}

fn wake(work: &Work<'_>, vm: &Vm, part: &Part<'_>) -> hypervisor::Result<()> {
    let hypervisor = &work.tools.hypervisor;
    if part.again {
        let layers = part.on.iter().map(|i| Layer { path: i.path.clone(), format: i.format.clone() });
        hypervisor.wake_on(vm.id, &[(part.disk.target.clone(), layers.collect())])
    } else {
        hypervisor.wake(vm.id)
    }
}

/// What tells this life of it from others is written down: one that somebody starts later is theirs.
fn note_life(work: &Work<'_>, vm: &Vm) -> Result<(), Stop> {
    let life = work.tools.hypervisor.life(vm.id);
    let life = life.map_err(|e| e.context(format_args!("VM {} was not made independent", vm.name)))?;
    life.map_or(Ok(()), |life| work.tools.store.woken(vm.id, life)).map_err(Stop::from)
}

/// All that can be known before anything is touched; the disks that lie on something.
fn preflight<'a>(work: &Work<'_>, vm: &'a Vm, unknown: &[CopiedDisk]) -> Result<Vec<Part<'a>>, Stop> {
    let (hypervisor, its) = (&work.tools.hypervisor, &vm.name);
    let unsupported = |why: String| {
        refuse("Unsupported", format!("VM {its} was not made independent: {why}. Nothing was touched"))
    };
    if vm.managed_save {
        return unsupported(
            "it has a managed save, which belongs to its disks as they are; start it, or `virsh managedsave-remove` \
             first"
                .into(),
        );
    }
    if !matches!(vm.state, VmState::Running | VmState::ShutOff) {
        return unsupported(format!(
            "it is {}, and what is copied is safely on its disks only if it runs or is off: resume it or shut it down",
            vm.state
        ));
    }
    if let Some(disk) = unknown.first().filter(|_| vm.state != VmState::ShutOff) {
        return refuse("ChainMismatch", format!("{} Nothing was touched now", disk.text(its)));
    }
    if vm.block_jobs || vm.busy {
        return refuse(
            "Busy",
            format!(
                "a block job, a backup or something else has VM {its} now; try again when that has ended"
            ),
        );
    }
    let own = hypervisor.snapshots(vm.id)?;
    if let Some(first) = own.first() {
        return unsupported(format!(
            "it has snapshots of its own ({} and so on), which lie on what would be left; delete them first",
            first.name
        ));
    }
    let mut disks = Vec::new();
    for disk in vm.disks.iter().filter(|d| d.writable && d.kind == "file") {
        let Some(top) = disk.chain.first() else { continue };
        if disk.configured.as_ref().is_some_and(|c| *c != top.path) {
            return refuse(
                "ChainMismatch",
                format!(
                    "disk {} of VM {its} is on {}, and its definition says {}. Nothing was touched",
                    disk.target,
                    top.path,
                    disk.configured.as_deref().unwrap_or_default()
                ),
            );
        }
        let mut on = hypervisor.chain(top)?;
        let copied = unknown.iter().find(|u| u.target == disk.target);
        if let Some((path, format)) = copied.and_then(|copied| copied.images.get(1)) {
            on.extend(hypervisor.chain(&Layer { path: path.clone(), format: format.clone() })?);
        }
        if disk.chain.len() > 1 || on.len() > 1 {
            disks.push(Part { disk, on, again: copied.is_some() });
        }
    }
    Ok(disks)
}

/// All that lies under the disks has to fit in, and what is to stay free has to stay free.
fn reserve(work: &Work<'_>, vm: &Vm, disks: &[Part<'_>]) -> Result<Reserved, Stop> {
    let hypervisor = &work.tools.hypervisor;
    let mut growths = Vec::new();
    for Part { disk, on: images, .. } in disks {
        let Some(top) = disk.chain.first() else { continue };
        let own = images.first().map_or(0, |i| i.allocation);
        let capacity = images.iter().map(|i| i.capacity).max().unwrap_or(0);
        let below = images.iter().skip(1).fold(0_u64, |sum, i| sum.saturating_add(i.allocation));
        let (image, format) = (top.path.clone(), top.format.clone());
        growths.push(Growth { image, format, capacity, allocation: own, comes: below.min(capacity) });
    }
    let min_free = work.settings.daemon.min_free;
    work.tools.rooms.reserve(hypervisor.as_ref(), &growths, min_free).or_else(|e| {
        let what = format!("VM {} was not made independent", vm.name);
        match e.kind {
            ErrorKind::NoSpace => {
                refuse("NoSpace", format!("{what}: there is too little room: {e}. Nothing was touched"))
            }
            _ => Err(e.context(what).into()),
        }
    })
}

#[expect(clippy::cast_precision_loss, reason = "a progress bar's precision")]
fn pull_all(work: &Work<'_>, vm: &Vm, disks: &[Part<'_>], which: Range<usize>) -> Result<(), Stop> {
    let store = &work.tools.store;
    for (i, part) in disks.iter().enumerate().take(which.end).skip(which.start) {
        let disk = part.disk;
        let phase = format!("copying {} ({}/{})", disk.target, i + 1, disks.len());
        let mut told = i as f64 / disks.len() as f64;
        work.phase(&phase, Some(told), None);
        let mut steer = |copied: Copied| {
            if work.stopped() {
                return Steer::Stop;
            }
            let of_disk = if copied.total == 0 { 0.0 } else { copied.done as f64 / copied.total as f64 };
            let now = (i as f64 + of_disk) / disks.len() as f64;
            // Not each look is news.
            if now - told >= 0.01 || work.is_news(copied) {
                told = now;
                work.copies(&phase, Far { share: Some(now), copied }, None);
            }
            Steer::On { limit: work.pace().bandwidth }
        };
        let images = part.on.iter().map(|i| (i.path.clone(), i.format.clone())).collect();
        let life = work.tools.hypervisor.life(vm.id)?;
        store.copying(&CopiedDisk { vm: vm.id, target: disk.target.clone(), images, life })?;
        match work.tools.hypervisor.pull(vm.id, &disk.target, &mut steer) {
            Ok(Committed::Before) => store.copied(vm.id, &disk.target)?,
            // One that was woken for it writes it when it ends.
            Ok(Committed::Now) if vm.state == VmState::ShutOff => {}
            Ok(Committed::Now) => drop(unsure::settle(work.tools, vm.id)?),
            Err(e) if e.kind == ErrorKind::Cancelled => {
                return Err(work.cancelled(format_args!(
                    "the disks of VM {} read as before, and promoting it again goes on with it",
                    vm.name
                )));
            }
            Err(e) => {
                let kind = e.kind.as_str();
                let text = format!("VM {} was not made independent: {e}. Its disks read as before", vm.name);
                return refuse(kind, text);
            }
        }
    }
    Ok(())
}

/// libvirt did it: is it so, also for the next start?
fn verify(work: &Work<'_>, vm: &Vm) -> Result<(), Stop> {
    work.phase("verifying", Some(1.0), None);
    let after = work.tools.hypervisor.vm(vm.id)?;
    for disk in after.disks.iter().filter(|d| d.writable && d.kind == "file") {
        let Some(top) = disk.chain.first() else { continue };
        let images = work.tools.hypervisor.chain(top)?;
        if let Some(below) = images.get(1) {
            return refuse(
                "ChainMismatch",
                format!(
                    "libvirt did it, and yet disk {} of VM {} lies on {}",
                    disk.target, vm.name, below.path
                ),
            );
        }
    }
    Ok(())
}

fn refuse<T>(name: &'static str, message: String) -> Result<T, Stop> {
    Err(Stop::Failed(Failure::new(name, message)))
}
