//! A VM that was not there: its definition drawn, written, and taken back.

use virt::{enumutil::Enum, error::ErrorNumber};

use super::{Connections, domain, redraw::redraw, switch};
use crate::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Definition, Drawn, Error, ErrorKind, NewVm, Result},
};

pub(super) fn named(connections: &Connections, name: &str) -> Result<Option<VmId>> {
    match connections.control.lookup_domain_by_name(name) {
        Ok(domain) => Ok(Some(VmId(domain.uuid()?))),
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomain) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn draw(connections: &Connections, id: VmId, at: &SnapshotName, new: &NewVm) -> Result<Drawn> {
    let then = switch::definition_at(connections, id, at)?;
    let (definition, left_out) = redraw(then.as_str(), new)?;
    Ok(Drawn { definition: Definition::new(definition), left_out })
}

pub(super) fn define_new(connections: &Connections, id: VmId, definition: &Definition) -> Result<()> {
    // libvirt would put it in the place of one that has its UUID.
    match domain(&connections.work, id) {
        Ok(_) => return Err(Error::new(ErrorKind::Exists, format!("there is a VM {id} already"))),
        Err(e) if e.kind == ErrorKind::NoSuchVm => {}
        Err(e) => return Err(e),
    }
    connections.work.define_domain_xml(definition.as_str())?;
    Ok(())
}

pub(super) fn undefine_new(connections: &Connections, id: VmId) -> Result<()> {
    let domain = match domain(&connections.work, id) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => return Ok(()),
        found => found?,
    };
    if domain.is_active()? {
        return Err(Error::new(ErrorKind::Busy, "the VM is on: somebody has it"));
    }
    // Without a word about snapshots and saves, libvirt refuses if there are any.
    let keep = virt_sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | virt_sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
    Ok(domain.undefine_flags(keep)?)
}
