//! Snapshots inside images, by libvirt's own calls.

use virt::domain::Domain;

use super::{Connections, Libvirt, domain, files, inspect, xml};
use crate::{
    core::{
        model::{SnapshotName, Storage, VmId, VmState},
        qcow2::{self, Inner, Table},
    },
    hypervisor::{Error, ErrorKind, Inside, Result, SnapshotRecord, Vm},
};

impl Inside for Libvirt {
    fn take_inside(&self, vm: VmId, name: &SnapshotName, description: &str) -> Result<()> {
        let connections = self.now()?;
        check_unmixed(&inspect::snapshots(&connections, vm)?)?;
        let domain = domain(&connections.work, vm)?;
        domain.create_snapshot_xml(&xml::snapshot_inside(name, description), 0)?;
        Ok(())
    }

    fn revert_inside(&self, vm: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()> {
        revert(&*self.now()?, vm, name, then)
    }

    fn snapshots_inside(&self, image: &str) -> Result<Vec<Inner>> {
        let connections = self.now()?;
        let part = |offset, length| files::part(&connections.work, image, offset, length);
        let table = Table::of(&part(0, qcow2::HEADER_BYTES)?)
            .ok_or_else(|| unsupported(format!("{image} is no qcow2 image")))?;
        if table.count == 0 {
            return Ok(Vec::new());
        }
        table
            .read(&part(table.offset, table.bytes())?)
            .ok_or_else(|| unsupported(format!("{image} has a table of snapshots that cannot be read")))
    }
}

fn revert(connections: &Connections, id: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()> {
    let records = inspect::snapshots(connections, id)?;
    check_unmixed(&records)?;
    let record = records
        .iter()
        .find(|r| r.name == *name)
        .ok_or_else(|| Error::new(ErrorKind::NoSuchSnapshot, format!("there is no snapshot {name}")))?;
    let vm = inspect::vm(connections, id)?;
    if let Some(target) = elsewhere(&vm, record) {
        return Err(unsupported(format!(
            "disk {target} is no longer on the image that snapshot {name} is in. Nothing was touched"
        )));
    }
    let domain = domain(&connections.work, id)?;
    let snapshot = Domain::lookup_snapshot_by_name(&domain, name.as_str(), 0)?;
    snapshot.revert(match then {
        Some(VmState::Running) => virt_sys::VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING,
        Some(VmState::Paused) => virt_sys::VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED,
        _ => 0,
    })?;
    if then == Some(VmState::ShutOff) && domain.is_active()? {
        domain.destroy()?;
    }
    Ok(())
}

/// A disk that is not on the image that this snapshot was taken in.
pub(super) fn elsewhere<'a>(vm: &'a Vm, record: &SnapshotRecord) -> Option<&'a str> {
    let moved = |(target, image): &(String, String)| {
        let disk = vm.disks.iter().find(|d| d.target == *target && d.writable)?;
        (disk.chain.first().map(|layer| &layer.path) != Some(image)).then_some(disk.target.as_str())
    };
    record.sources.iter().find_map(moved)
}

fn check_unmixed(records: &[SnapshotRecord]) -> Result<()> {
    match records.iter().find(|r| r.storage == Storage::External) {
        None => Ok(()),
        Some(other) => Err(unsupported(format!(
            "the VM also has the external snapshot {}: the two kinds are not mixed, as libvirt would leave the images on \
             top behind. Nothing was touched",
            other.name
        ))),
    }
}

fn unsupported(text: String) -> Error {
    Error::new(ErrorKind::Unsupported, text)
}
