//! Putting right what is wrong with a VM's metadata and is proven, and ending what libvirt's own deletion left: no image is
//! touched.

use super::{Stop, Work, left_over, redefine};
use crate::{
    core::health::{self, Repair},
    hypervisor::{self, Redefine, RevertDisks, SnapshotRecord, Vm},
    logging::message,
};

pub(super) fn run(work: &Work<'_>) -> Result<(), Stop> {
    work.phase("examining", None, None);
    left_over::end(work)?;
    let hypervisor = &work.tools.hypervisor;
    let (vm, id) = (hypervisor.vm(work.job.vm)?, work.job.vm);
    let unfinished = work.tools.store.unfinished(id)?;
    let examine = |vm: &Vm, records: &[SnapshotRecord]| -> Result<_, Stop> {
        Ok(health::examine(&hypervisor::facts(vm, records, hypervisor.features()?, unfinished)))
    };
    // As it is now: what made somebody ask for this may be over.
    let findings = examine(&vm, &hypervisor.snapshots(id)?)?;
    for finding in findings.iter().filter(|f| f.repair.is_some()) {
        let Some(repair) = &finding.repair else { continue };
        let change = match repair.clone() {
            Repair::MakeCurrent(name) => Redefine { current: true, ..Redefine::new(name) },
            Repair::EndLeftOver => continue,
            Repair::SetRevertDisks(name, disks) => {
                Redefine { revert: RevertDisks::Set(disks), ..Redefine::new(name) }
            }
        };
        work.phase("writing metadata", None, Some(&change.name));
        redefine::redefine(work.tools, &vm, &hypervisor.snapshots(id)?, &change)?;
        tracing::warn!(
            MESSAGE_ID = message::METADATA_REPAIRED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id, VIRTSNAP_SNAPSHOT = %change.name,
            "the metadata of snapshot {} of VM {} was put right: {}", change.name, vm.name, finding.text
        );
    }
    Ok(())
}
