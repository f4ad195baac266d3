//! Room beside images, as `min-free` wants it, and the lack of it as the reason why a merge ended early.

use super::{Stop, Work};
use crate::{
    core::{
        job::Failure,
        merge::Recipe,
        room::{NoRoom, Room, room_for},
        settings::MinFree,
    },
    hypervisor::{Error, ErrorKind, Result as Told, Vm},
    logging::message,
    merging,
};

/// Whether beside this image of a disk there is as much room as is to stay free.
/// `so`: what was not done where there is too little.
pub(super) fn check(work: &Work<'_>, vm: &Vm, (target, image): (&str, &str), so: &str) -> Result<(), Stop> {
    let space = work.tools.hypervisor.space(image).map_err(|e| {
        e.context(format_args!("VM {}: {so}, as the room beside disk {target} is unknown", vm.name))
    })?;
    let least = work.settings.daemon.min_free.bytes_of(space.capacity);
    if space.available < least {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        return Err(Stop::Failed(Failure::new(
            "NoSpace",
            format!(
                "the file system of disk {target} of VM {} has {} MiB free, and min-free wants {} MiB: {so}. Free some \
                 space, or prune",
                vm.name,
                mib(space.available),
                mib(least)
            ),
        )));
    }
    Ok(())
}

/// A merge that failed, and nobody says why: where what is still to come does not fit, that is it. Of a full file system
/// libvirt 9.0 and 11.3 tell nothing, nor do their journals or QEMU's log.
pub(super) fn explain(work: &Work<'_>, recipe: &Recipe, e: Error) -> Error {
    if e.kind != ErrorKind::Failed {
        return e;
    }
    match lacking(work, recipe) {
        Ok(None) => e,
        Ok(Some(no)) => {
            let text = format!(
                "{e}. There is no room left for it: {} may still grow by {} MiB, and {} MiB are free there. Make room",
                no.images.join(", "),
                no.needed.div_ceil(1024 * 1024),
                no.available / (1024 * 1024)
            );
            Error::new(ErrorKind::NoSpace, text)
        }
        Err(unknown) => {
            tracing::warn!(
                MESSAGE_ID = message::UNREADABLE,
                VIRTSNAP_VM_UUID = %work.job.vm, VIRTSNAP_JOB = work.job.id, error = %unknown,
                "whether a merge had no room left cannot be told"
            );
            e
        }
    }
}

fn lacking(work: &Work<'_>, recipe: &Recipe) -> Told<Option<NoRoom>> {
    let hypervisor = work.tools.hypervisor.as_ref();
    let vm = hypervisor.vm(work.job.vm)?;
    let growths = merging::growths(hypervisor, &vm, recipe)?;
    let mut rooms = Vec::new();
    for growth in &growths {
        let space = hypervisor.space(&growth.image)?;
        rooms.push((growth, Room { capacity: space.capacity, available: space.available }));
    }
    Ok(room_for(rooms, &[], MinFree::Bytes(0)).err())
}
