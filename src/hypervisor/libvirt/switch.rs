//! A stopped VM on other images, and its power switch.

use virt::{
    domain::{Domain, DomainState},
    enumutil::Enum,
};

use super::{Connections, definition, domain, inspect, storage};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Definition, Error, ErrorKind, Layer, Overlay, Result},
};

/// With the secrets: one without them would lose them when it is defined again.
pub(super) const INACTIVE: u32 = virt_sys::VIR_DOMAIN_XML_INACTIVE | virt_sys::VIR_DOMAIN_XML_SECURE;

pub(super) fn definition(connections: &Connections, id: VmId) -> Result<Definition> {
    Ok(Definition::new(domain(&connections.control, id)?.xml_desc(INACTIVE)?))
}

pub(super) fn definition_at(connections: &Connections, id: VmId, name: &SnapshotName) -> Result<Definition> {
    let domain = domain(&connections.control, id)?;
    let snapshot = Domain::lookup_snapshot_by_name(&domain, name.as_str(), 0)?;
    let text = snapshot.xml_desc(virt_sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE)?;
    Ok(Definition::new(definition::of_snapshot(&text)?))
}

pub(super) fn prepare_on(connections: &Connections, id: VmId, overlays: &[Overlay]) -> Result<()> {
    domain(&connections.work, id)?;
    storage::prepare_on(&connections.work, overlays)
}

pub(super) fn define(
    connections: &Connections,
    id: VmId,
    definition: &Definition,
    sources: &[(String, Layer)],
) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    if domain.is_active()? {
        return Err(Error::new(ErrorKind::Busy, "the VM is on: its disks are changed only while it is off"));
    }
    let now = domain.xml_desc(INACTIVE)?;
    let text = definition::put_together(definition.as_str(), &now, sources)?;
    connections.work.define_domain_xml(&text)?;
    Ok(())
}

pub(super) fn stop(connections: &Connections, id: VmId) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    if !domain.is_active()? {
        return Ok(());
    }
    match domain.destroy() {
        // It went off by itself meanwhile.
        Err(_) if !domain.is_active()? => Ok(()),
        result => Ok(result?),
    }
}

pub(super) fn start(connections: &Connections, id: VmId, paused: bool) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    if is_on(&domain, paused)? {
        return Ok(());
    }
    match domain.create_with_flags(if paused { virt_sys::VIR_DOMAIN_START_PAUSED } else { 0 }) {
        Ok(()) => Ok(()),
        // Asked for by somebody who was killed since: libvirt carries that out all the same, and it came first.
        Err(_) if is_on(&domain, paused)? => Ok(()),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn suspend(connections: &Connections, id: VmId) -> Result<bool> {
    let domain = domain(&connections.work, id)?;
    let runs = || Ok::<_, Error>(inspect::state(&domain)? == VmState::Running);
    if !runs()? {
        return Ok(false);
    }
    match domain.suspend() {
        // It went off, or somebody else suspended it, meanwhile.
        Err(_) if !runs()? => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

pub(super) fn go_on(connections: &Connections, id: VmId) -> Result<()> {
    is_on(&domain(&connections.work, id)?, false).map(drop)
}

/// Whether it is on already. If it is paused and is to run, its CPUs go on.
pub(super) fn is_on(domain: &Domain, paused: bool) -> Result<bool> {
    let on = domain.is_active()?;
    let stands = || Ok::<_, Error>(domain.state()?.0 == Enum::Known(DomainState::Paused));
    if on && !paused && stands()? {
        match domain.resume() {
            Ok(()) => {}
            // It was being started, by somebody who was killed since: it goes on by itself.
            Err(_) if !stands()? => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(on)
}
