//! Metadata changed without an image touched: read with its secrets, edited as text, given back.

use virt::{domain::Domain, domain_snapshot::DomainSnapshot, enumutil::Enum, error::ErrorNumber};

use super::{Connections, domain, edit, inspect, xml};
use crate::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Error, Redefine, Result, RevertDisks, SnapshotRecord, SnapshotXml},
};

pub(super) fn redefine(connections: &Connections, id: VmId, change: &Redefine) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let before = text(&lookup(&domain, &change.name)?)?;
    let after = edit::snapshot(&before, change)?;
    write(&domain, &change.name, Some(&before), &after, change.current)
}

pub(super) fn copy(connections: &Connections, id: VmId, name: &SnapshotName) -> Result<SnapshotXml> {
    let domain = domain(&connections.control, id)?;
    Ok(SnapshotXml::new(text(&lookup(&domain, name)?)?))
}

pub(super) fn put_back(connections: &Connections, id: VmId, copy: &SnapshotXml, current: bool) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let name = xml::snapshot(copy.as_str())?.name;
    let before = found(lookup(&domain, &name))?.as_ref().map(text).transpose()?;
    // libvirt wrote it, and yet may refuse it as it is.
    let right = edit::snapshot(copy.as_str(), &Redefine::new(name.clone()))?;
    write(&domain, &name, before.as_deref(), &right, current)
}

pub(super) fn forget(connections: &Connections, id: VmId, name: &SnapshotName) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let Some(snapshot) = found(lookup(&domain, name))? else { return Ok(()) };
    let parent = match xml::snapshot(&text(&snapshot)?)?.parent {
        Some(parent) => found(lookup(&domain, &parent))?.map(|handle| (parent, handle)),
        None => None,
    };
    let before = parent.as_ref().map(|(_, handle)| text(handle)).transpose()?;
    snapshot.delete(virt_sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)?;
    let (Some((parent, _)), Some(before)) = (parent, before) else { return Ok(()) };

    let records = inspect::without_files(connections, id)?;
    if records.iter().any(|r| r.parent.as_ref() == Some(&parent)) {
        let now = text(&lookup(&domain, &parent)?)?;
        if now != before {
            // libvirt 11 takes the overlays of a revert for the parent's own now, though other children lie on its own.
            let right = edit::snapshot(&before, &Redefine::new(parent.clone()))?;
            write(&domain, &parent, Some(&now), &right, false)?;
            return name_what_it_runs_on(connections, id);
        }
    }
    name_what_current_runs_on(connections, id, &records)
}

/// The current snapshot names what the VM writes to: a leaf as its own overlays, one with children as those of a
/// revert. Where libvirt forgets that, it later unlinks what others need.
pub(super) fn name_what_it_runs_on(connections: &Connections, id: VmId) -> Result<()> {
    name_what_current_runs_on(connections, id, &inspect::without_files(connections, id)?)
}

fn name_what_current_runs_on(connections: &Connections, id: VmId, records: &[SnapshotRecord]) -> Result<()> {
    let Some(current) = records.iter().find(|r| r.current) else { return Ok(()) };
    let vm = inspect::vm(connections, id)?;
    let mut tops = Vec::new();
    for disk in &current.disks {
        let chain = vm.disks.iter().find(|v| v.target == disk.target).map(|v| v.chain.as_slice());
        match chain {
            Some([top, below, ..]) if below.path == disk.state_image => {
                tops.push((disk.target.clone(), top.path.clone()));
            }
            // Not for us to say what it means.
            _ => return Ok(()),
        }
    }
    let own = current.disks.iter().all(|d| tops.contains(&(d.target.clone(), d.overlay.clone())));
    let has_children = records.iter().any(|r| r.parent.as_ref() == Some(&current.name));
    let change = match (own, has_children) {
        (true, _) => return Ok(()),
        (false, true) if current.revert_disks == tops => return Ok(()),
        (false, true) => Redefine { revert: RevertDisks::Set(tops), ..Redefine::new(current.name.clone()) },
        (false, false) => Redefine { overlays: tops, ..Redefine::new(current.name.clone()) },
    };
    redefine(connections, id, &change)
}

fn lookup(domain: &Domain, name: &SnapshotName) -> Result<DomainSnapshot> {
    Ok(Domain::lookup_snapshot_by_name(domain, name.as_str(), 0)?)
}

/// Absence is no error.
fn found(result: Result<DomainSnapshot>) -> Result<Option<DomainSnapshot>> {
    match result {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(e) if e.kind == crate::hypervisor::ErrorKind::NoSuchSnapshot => Ok(None),
        Err(e) => Err(e),
    }
}

/// With the secrets: libvirt stores what it is given, and one without them would lose them.
fn text(snapshot: &DomainSnapshot) -> Result<String> {
    Ok(snapshot.xml_desc(virt_sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE)?)
}

fn is_current(domain: &Domain, name: &SnapshotName) -> Result<bool> {
    match domain.current_snapshot(0) {
        Ok(current) => Ok(current.name()? == name.as_str()),
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomainSnapshot) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Gives libvirt what is not so already. To make the current one current again would cost it its `<revertDisks>`.
fn write(
    domain: &Domain,
    name: &SnapshotName,
    before: Option<&str>,
    after: &str,
    current: bool,
) -> Result<()> {
    let was_current = is_current(domain, name)?;
    let make = current && !was_current;
    if before == Some(after) && !make {
        return Ok(());
    }
    let plain = virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE;
    let with_current = plain | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT;
    let Err(e) = domain.create_snapshot_xml(after, if make { with_current } else { plain }) else {
        return Ok(());
    };
    let mut error = Error::from(e).context(format_args!("the metadata of snapshot {name}"));
    // Both 9.0 and 11.3 drop the snapshot from their list when its file cannot be written.
    if let Some(before) = before
        && found(lookup(domain, name))?.is_none()
    {
        let flags = if was_current { with_current } else { plain };
        let undone = domain.create_snapshot_xml(before, flags).map(drop).map_err(Error::from);
        error = error.and_rollback(&undone, "putting back what libvirt forgot of it");
    }
    Err(error)
}
