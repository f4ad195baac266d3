//! Making a VM independent of other VMs' images: what lies under its disks is copied into what it writes to.
//!
//! Whatever ends it early, each disk reads as before: what is copied is a matter of its own image alone. So nothing is
//! written down but that the VM was woken, or that its CPUs were stopped for a moment, and to finish it is to do it again.
//!
//! But for one moment, which is QEMU's: at the end of a disk's copy it first has the image name none below it, and what was
//! copied may still be in its own memory until it is [flushed](flush), or ends. Killed in between, it leaves a disk that
//! reads as zeros there.

use std::{ops::Range, time::Duration};

use super::{Stop, Work};
use crate::{
    core::{job::Failure, model::VmState, room::Growth},
    hypervisor::{Committed, Copied, Disk, Error, ErrorKind, Steer, Vm},
    rooms::Reserved,
};

/// Between two tries to let it go on.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) fn run(work: &Work<'_>) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    work.phase("checking", None, None);
    let vm = hypervisor.vm(work.job.vm)?;
    let disks = preflight(work, &vm)?;
    let _room = reserve(work, &vm, &disks)?;
    work.safe_point()?;
    if !disks.is_empty() {
        if vm.state == VmState::ShutOff {
            // What was copied is on the disk for sure only when that QEMU has ended: nobody else flushes there. Should it
            // be killed, or the host lose power, while others are copied, the first one would read as zeros.
            for number in 0..disks.len() {
                awake(work, &vm, || pull_all(work, &vm, &disks, number..number + 1))?;
            }
        } else {
            pull_all(work, &vm, &disks, 0..disks.len())?;
        }
    }
    verify(work, &vm)?;
    work.tools.store.branch_ended(vm.id)?;
    tracing::info!(
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_JOB = work.job.id,
        "VM {} is independent of all other VMs' images", vm.name
    );
    Ok(())
}

/// Does this while a stopped VM is on, with its CPUs stopped.
fn awake(work: &Work<'_>, vm: &Vm, pull: impl FnOnce() -> Result<(), Stop>) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    work.phase("starting it, paused", None, None);
    work.tools.store.wakes(vm.id, work.tools.clock.now())?;
    let done = wake(work, vm).and_then(|()| pull());
    let slept = hypervisor.let_sleep(vm.id);
    if slept.is_ok() {
        work.tools.store.sleeps(vm.id)?;
    }
    match &done {
        Err(Stop::Failed(failure)) => {
            let e = Error::new(ErrorKind::Failed, failure.message.clone());
            let e = e.and_rollback(&slept, "ending the QEMU that was started for it");
            return refuse(failure.name, e.message);
        }
        _ => slept?,
    }
    done
}

/// What tells this life of it from others is written down: one that somebody starts later is theirs.
fn wake(work: &Work<'_>, vm: &Vm) -> Result<(), Stop> {
    let hypervisor = &work.tools.hypervisor;
    let not = |e: Error| Stop::from(e.context(format_args!("VM {} was not made independent", vm.name)));
    hypervisor.wake(vm.id).map_err(not)?;
    if let Some(life) = hypervisor.life(vm.id).map_err(not)? {
        work.tools.store.woken(vm.id, life)?;
    }
    Ok(())
}

/// All that can be known before anything is touched; the disks that lie on something.
fn preflight<'a>(work: &Work<'_>, vm: &'a Vm) -> Result<Vec<&'a Disk>, Stop> {
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
    if !matches!(vm.state, VmState::Running | VmState::Paused | VmState::ShutOff) {
        return unsupported(format!("it is {}", vm.state));
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
        if disk.chain.len() > 1 || hypervisor.chain(top)?.len() > 1 {
            disks.push(disk);
        }
    }
    Ok(disks)
}

/// All that lies under the disks has to fit in, and what is to stay free has to stay free.
fn reserve(work: &Work<'_>, vm: &Vm, disks: &[&Disk]) -> Result<Reserved, Stop> {
    let hypervisor = &work.tools.hypervisor;
    let mut growths = Vec::new();
    for top in disks.iter().filter_map(|d| d.chain.first()) {
        let images = hypervisor.chain(top)?;
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
fn pull_all(work: &Work<'_>, vm: &Vm, disks: &[&Disk], which: Range<usize>) -> Result<(), Stop> {
    for (i, disk) in disks.iter().enumerate().take(which.end).skip(which.start) {
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
            if now - told >= 0.01 {
                told = now;
                work.phase(&phase, Some(now), None);
            }
            Steer::On { limit: work.pace().bandwidth }
        };
        match work.tools.hypervisor.pull(vm.id, &disk.target, &mut steer) {
            Ok(Committed::Before) => {}
            Ok(Committed::Now) => flush(work, vm, disk)?,
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

/// Has a running VM's QEMU write to the disk what it copied: a stop of its CPUs flushes all.
fn flush(work: &Work<'_>, vm: &Vm, disk: &Disk) -> Result<(), Stop> {
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    let not = |what: &str| {
        format!("disk {} of VM {} lies on nothing else any more, but {what}", disk.target, vm.name)
    };
    if hypervisor.vm(vm.id)?.state != VmState::Running {
        return Ok(());
    }
    let Some(life) = hypervisor.life(vm.id)? else { return Ok(()) };
    store.stills(vm.id, life)?;
    let stopped = hypervisor.suspend(vm.id).map_err(|e| e.context(not("it is not safely on its disk yet")));
    // Where it failed it may be stopped all the same.
    let went_on = match stopped {
        Ok(false) => Ok(()),
        _ => hypervisor.go_on(vm.id).or_else(|_| {
            // Whatever was in its way a moment ago may be gone.
            work.tools.clock.pause(PAUSE);
            hypervisor.go_on(vm.id)
        }),
    };
    if went_on.is_ok() {
        store.goes_on(vm.id)?;
    }
    match stopped {
        Err(e) => Err(e.and_rollback(&went_on, "letting it go on").into()),
        Ok(_) => went_on.map_err(|e| {
            e.context(not(
                "the VM, whose CPUs were stopped for a moment, does not go on yet, which is tried again",
            ))
            .into()
        }),
    }
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
