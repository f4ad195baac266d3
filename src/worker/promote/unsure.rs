//! Disks that were copied, and of which it is not known yet whether all of it is on them.

use std::time::Duration;

use crate::{
    core::{
        copied::{CopiedDisk, Standing},
        model::{VmId, VmState},
    },
    hypervisor::{self, Error, ErrorKind, Result, Slept, Vm},
    store::StoreError,
    worker::Tools,
};

/// Between two tries to let it go on.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks how each of a VM's is, and has a running VM's QEMU write what it copied. Returns those of which nobody knows: their
/// QEMU ended in another way than by [`let_sleep`].
pub(crate) fn settle(tools: &Tools, id: VmId) -> Result<Vec<CopiedDisk>> {
    let unsure = tools.store.unsure_of(id).map_err(|e| of_store(&e))?;
    if unsure.is_empty() {
        return Ok(Vec::new());
    }
    let vm = match tools.hypervisor.vm(id) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => None,
        vm => Some(vm?),
    };
    let life = if vm.is_some() { tools.hypervisor.life(id)? } else { None };
    let mut unknown = Vec::new();
    for disk in unsure {
        let standing = match &vm {
            Some(vm) => hypervisor::standing(tools.hypervisor.as_ref(), vm, &disk, life)?,
            None => Standing::Past,
        };
        match (standing, &vm) {
            (Standing::Unknown, _) => unknown.push(disk),
            (Standing::Unwritten, Some(vm)) if vm.state == VmState::Running => {
                flush(tools, vm, &disk)?;
                tools.store.copied(id, &disk.target).map_err(|e| of_store(&e))?;
            }
            // Woken by us it is written when it is let sleep, and a suspended one's when it runs again.
            (Standing::Unwritten, _) => {}
            (Standing::Past, _) => tools.store.copied(id, &disk.target).map_err(|e| of_store(&e))?,
        }
    }
    Ok(unknown)
}

/// Ends the QEMU of a VM that was woken for our work, unless somebody has it. In good order it writes what it copied.
pub(crate) fn let_sleep(tools: &Tools, vm: VmId) -> Result<Slept> {
    let life = tools.hypervisor.life(vm)?;
    let slept = tools.hypervisor.let_sleep(vm)?;
    if slept == Slept::Ended && life.is_some() {
        // Not what another one copied before it.
        for disk in
            tools.store.unsure_of(vm).map_err(|e| of_store(&e))?.into_iter().filter(|disk| disk.life == life)
        {
            tools.store.copied(vm, &disk.target).map_err(|e| of_store(&e))?;
        }
    }
    Ok(slept)
}

/// Refuses what would change or remove an image that a disk may have to be copied from once more.
pub(crate) fn check_free(tools: &Tools, images: &[String]) -> Result<()> {
    for disk in tools.store.unsure().map_err(|e| of_store(&e))? {
        if let Some((image, _)) = disk.images.iter().skip(1).find(|(path, _)| images.contains(path)) {
            let vm = tools.hypervisor.vm(disk.vm).map_or_else(|_| disk.vm.to_string(), |vm| vm.name);
            let text = format!(
                "{image} may be needed for disk {} of VM {vm}, which was copied from it and is not known to be whole: \
                 promoting that VM again puts an end to that. Nothing was touched",
                disk.target
            );
            return Err(Error::new(ErrorKind::InUse, text));
        }
    }
    Ok(())
}

/// Has a running VM's QEMU write to the disk what it copied: a stop of its CPUs flushes all.
fn flush(tools: &Tools, vm: &Vm, disk: &CopiedDisk) -> Result<()> {
    let (hypervisor, store) = (&tools.hypervisor, &tools.store);
    let not = |what: &str| {
        format!("disk {} of VM {} lies on nothing else any more, but {what}", disk.target, vm.name)
    };
    let Some(life) = disk.life else { return Ok(()) };
    store.stills(vm.id, life).map_err(|e| of_store(&e))?;
    let stopped = hypervisor.suspend(vm.id).map_err(|e| e.context(not("it is not safely on its disk yet")));
    // Where it failed it may be stopped all the same.
    let went_on = match stopped {
        Ok(false) => Ok(()),
        _ => hypervisor.go_on(vm.id).or_else(|_| {
            // Whatever was in its way a moment ago may be gone.
            tools.clock.pause(PAUSE);
            hypervisor.go_on(vm.id)
        }),
    };
    if went_on.is_ok() {
        store.goes_on(vm.id).map_err(|e| of_store(&e))?;
    }
    match stopped {
        Err(e) => Err(e.and_rollback(&went_on, "letting it go on")),
        // Its owner suspended it just now, and no stop of ours had it flush.
        Ok(false) => {
            Err(Error::new(ErrorKind::Busy, not("it is not safely on its disk yet: the VM does not run")))
        }
        Ok(true) => went_on.map_err(|e| {
            e.context(not(
                "the VM, whose CPUs were stopped for a moment, does not go on yet, which is tried again",
            ))
        }),
    }
}

fn of_store(e: &StoreError) -> Error {
    Error::new(ErrorKind::Failed, e.to_string())
}
