//! What can be known before a snapshot touches anything.

use super::{join, refuse};
use crate::{
    core::{
        chain,
        fitness::{self, Limits},
        job::CreateJob,
        marker,
        model::{Origin, Storage, VmState},
        text::for_shell,
    },
    hypervisor::{Disk, Error, SnapshotRecord, Vm, told},
    worker::{Stop, Work, space},
};

/// All that can be known before anything is touched; the disks that take part.
pub(super) fn check<'a>(
    work: &Work<'_>,
    create: &CreateJob,
    origin: Origin,
    vm: &'a Vm,
    records: &[SnapshotRecord],
) -> Result<Vec<&'a Disk>, Stop> {
    let name = &vm.name;
    if !create.how.when.contains(&vm.state) {
        return refuse(
            "Unsupported",
            if create.policies.is_empty() {
                format!(
                    "VM {name} is {}, and snapshots are taken only of one that runs, is paused or is off",
                    vm.state
                )
            } else {
                format!(
                    "VM {name} is {}, and `when` of policy {} leaves that out",
                    vm.state,
                    join(&create.policies)
                )
            },
        );
    }
    let disks = choose(create, vm)?;
    let targets: Vec<&str> = disks.iter().map(|d| d.target.as_str()).collect();
    let internal = records.iter().find(|r| r.storage == Storage::Internal).map(|r| &r.name);
    let limits = Limits {
        // A safety snapshot's layer is off the VM's line as soon as the revert is done: on a full chain, where way back
        // is wanted as well, it is one too many for a moment only.
        max_chain: work.settings.daemon.max_chain as usize + usize::from(origin == Origin::Safety),
        // Which libvirt it is the driver knows, and looks once more.
        layer_limit: usize::MAX,
    };
    // Our own line in the description, with many policies, is some hundred bytes.
    let description = marker::LONGEST + create.description.len() * 5;
    fitness::check(&vm.fit_facts(&targets, internal), description, limits)
        .map_err(|unfit| Stop::from(Error::from(unfit)))?;
    for disk in &disks {
        if let Some(top) = disk.chain.first().filter(|_| vm.state == VmState::ShutOff) {
            // A running VM's chain is what QEMU has opened; a stopped one's was read as far as it could be.
            work.tools.hypervisor.chain(top).map_err(|e| {
                e.context(format_args!("what disk {} of VM {name} is on cannot be told", disk.target))
            })?;
        }
        // Something else than what the snapshots of its line say means that somebody changed the chain by hand. With none
        // that is current it is not known what this one would be on top of, and all others would count as left.
        let chain: Vec<&str> = disk.chain.iter().map(|layer| layer.path.as_str()).collect();
        let target = &disk.target;
        let told = told(records, target).map_err(|e| {
            e.context(format_args!("what snapshots of VM {name} disk {target} goes on from is not known"))
        })?;
        if let Err(mismatch) = chain::links(&disk.target, &chain, &told) {
            return refuse(
                "ChainMismatch",
                format!(
                    "VM {name}: {mismatch}: the chain was changed by other means, and a snapshot on top could not be \
                     trusted. If layers were only put on top, `virtsnap adopt {} --layers` makes snapshots of \
                     them. Nothing was touched",
                    for_shell(name)
                ),
            );
        }
        if let Some(top) = disk.chain.first() {
            space::check(work, vm, (&disk.target, &top.path), "no snapshot was taken")?;
        }
    }
    Ok(disks)
}

fn choose<'a>(create: &CreateJob, vm: &'a Vm) -> Result<Vec<&'a Disk>, Stop> {
    let name = &vm.name;
    let disks: Vec<&Disk> = match &create.disks {
        None => vm.disks.iter().filter(|d| d.writable).collect(),
        Some(wanted) => {
            let mut disks = Vec::new();
            if wanted.is_empty() {
                return refuse(
                    "InvalidArgument",
                    format!("`disks` names no disk of VM {name} to take a snapshot of"),
                );
            }
            for target in wanted {
                if disks.iter().any(|d: &&Disk| d.target == *target) {
                    return refuse("InvalidArgument", format!("disk {target} of VM {name} was named twice"));
                }
                match vm.disks.iter().find(|d| d.target == *target) {
                    Some(d) if d.writable => disks.push(d),
                    Some(_) => {
                        return refuse("InvalidArgument", format!("disk {target} of VM {name} is read-only"));
                    }
                    None => {
                        let known: Vec<_> = vm.disks.iter().map(|d| d.target.as_str()).collect();
                        return refuse(
                            "InvalidArgument",
                            format!("VM {name} has no disk {target}; it has {}", known.join(", ")),
                        );
                    }
                }
            }
            disks
        }
    };
    if disks.is_empty() {
        return refuse("Unsupported", format!("VM {name} has no writable disk to take a snapshot of"));
    }
    Ok(disks)
}
