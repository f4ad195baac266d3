//! Room beside images, as `min-free` wants it.

use super::{Stop, Work};
use crate::{core::job::Failure, hypervisor::Vm};

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
