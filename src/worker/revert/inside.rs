//! Reverting to a snapshot inside the disks' images, which the hypervisor does itself.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | preflight | nothing was touched |
//! | safety snapshot, inside the images too: the two kinds are never mixed | it is a snapshot like any other, and stays |
//! | reverted, in one call | libvirt ends it without us; what it does not end the safety snapshot brings back |

use jiff::SignedDuration;
use uuid::Uuid;

use super::{check_vm, refuse};
use crate::{
    core::{
        inventory::Quality,
        job::{CreateJob, Failure, RevertJob},
        marker::{self, Marker},
        model::{Consistency, Content, Origin, SnapshotName, Storage, VmState},
        revert::{DefinitionOf, Then},
    },
    hypervisor::{SnapshotRecord, Vm},
    logging::message,
    store::{Begun, Intent},
    worker::{Stop, Work, create},
};

pub(super) fn run(
    work: &Work<'_>,
    revert: &RevertJob,
    vm: &Vm,
    records: &[SnapshotRecord],
    record: &SnapshotRecord,
) -> Result<Option<SnapshotName>, Stop> {
    let (name, its) = (&revert.name, &vm.name);
    preflight(revert, vm, records)?;
    work.safe_point()?;
    let safety = match &revert.safety {
        None => None,
        Some(safety) => {
            work.phase("taking the safety snapshot", None, Some(name));
            Some(take(work, safety, vm, records)?)
        }
    };
    work.safe_point()?;
    work.phase("reverting", None, Some(name));
    let then = then(revert.then, vm.state, record.content);
    match work.tools.hypervisor.revert_inside(vm.id, name, then) {
        Ok(()) => {
            let now = work.tools.hypervisor.vm(vm.id)?.state;
            tracing::info!(
                MESSAGE_ID = message::REVERTED,
                VIRTSNAP_VM = %its, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
                VIRTSNAP_JOB = work.job.id, "VM {its} reverted to snapshot {name}; it is {now} now{}",
                safety.as_ref().map(|s| format!(", and snapshot {s} is the way back")).unwrap_or_default()
            );
            Ok(safety)
        }
        Err(e) => {
            let kind = e.kind.as_str();
            let state = work.tools.hypervisor.vm(vm.id).map(|vm| format!("; it is {} now", vm.state));
            let kept =
                safety.map(|s| format!("; snapshot {s} was taken before and stays")).unwrap_or_default();
            let e = e.context(format_args!("VM {its} was not reverted to snapshot {name}"));
            Err(Stop::Failed(Failure::new(kind, format!("{e}{}{kept}", state.unwrap_or_default()))))
        }
    }
}

/// With memory it goes on where it was, unless it is said otherwise; without, it is what it was before.
fn then(then: Then, before: VmState, content: Content) -> Option<VmState> {
    match (then, content) {
        (Then::AsBefore, Content::Full) => None,
        _ => Some(then.of(before)),
    }
}

fn preflight(revert: &RevertJob, vm: &Vm, records: &[SnapshotRecord]) -> Result<(), Stop> {
    check_vm(vm)?;
    let (name, its) = (&revert.name, &vm.name);
    if let Some(other) = records.iter().find(|r| r.storage == Storage::External) {
        return refuse(
            "Unsupported",
            format!(
                "VM {its} cannot be reverted to {name}, which is inside its images: it also has the external snapshot \
                 {}, and libvirt would leave behind what was written since that one. Delete the external ones first. \
                 Nothing was touched",
                other.name
            ),
        );
    }
    if revert.definition == DefinitionOf::Keep {
        return refuse(
            "Unsupported",
            format!(
                "snapshot {name} of VM {its} is inside its images, and libvirt reverts the definition with these. \
                 Nothing was touched"
            ),
        );
    }
    Ok(())
}

/// The way back, of the same kind.
fn take(
    work: &Work<'_>,
    safety: &CreateJob,
    vm: &Vm,
    records: &[SnapshotRecord],
) -> Result<SnapshotName, Stop> {
    let (store, now, id) = (&work.tools.store, work.tools.clock.now(), Uuid::new_v4());
    let name = create::choose_name(safety, vm, records, now)?;
    let marker = Marker {
        vm: vm.id,
        id,
        created: now,
        origin: Origin::Safety,
        policies: safety.policies.clone(),
        nvram: false,
        tpm: false,
    };
    let intent = Intent::new(id, vm.id, name.clone(), Begun::Create(Box::default()));
    store.begin(&intent, now)?;
    let description = marker::compose(&safety.description, &marker);
    if let Err(e) = work.tools.hypervisor.take_inside(vm.id, &name, &description) {
        // Whether it is there all the same is seen by who settles it.
        return Err(e
            .context(format_args!(
                "VM {} was not reverted, as no safety snapshot could be taken inside its images",
                vm.name
            ))
            .into());
    }
    let reached = if vm.state == VmState::ShutOff { Consistency::Offline } else { Consistency::Memory };
    let quality = Quality {
        reached,
        requested: None,
        note: String::new(),
        frozen: SignedDuration::ZERO,
        memory: false,
    };
    store.created(&intent, &quality)?;
    Ok(name)
}
