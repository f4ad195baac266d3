//! Going on from memory that was kept: libvirt's restore, on other images of the same disks.
//!
//! The file holds the definition that the guest ran with, and libvirt takes another one only where the guest could not
//! tell the difference: so that one is what is edited, in its disks' images and in nothing else.

use super::{Connections, definition, domain, switch};
use crate::{
    core::model::VmId,
    hypervisor::{Error, ErrorKind, Layer, Result},
};

/// With the secrets: the VM runs with what it is given.
const WHOLE: u32 = virt_sys::VIR_DOMAIN_SAVE_IMAGE_XML_SECURE;
const INACTIVE: u32 = virt_sys::VIR_DOMAIN_XML_INACTIVE | virt_sys::VIR_DOMAIN_XML_SECURE;

pub(super) fn resumable(connections: &Connections, id: VmId, memory: &str) -> Result<()> {
    put_together(connections, id, memory, &[]).map(drop).map_err(|mut e| {
        if e.kind != ErrorKind::Disconnected {
            e.kind = ErrorKind::Unsupported;
        }
        e
    })
}

pub(super) fn resume(
    connections: &Connections,
    id: VmId,
    memory: &str,
    sources: &[(String, Layer)],
    paused: bool,
) -> Result<()> {
    if switch::is_on(&domain(&connections.work, id)?, paused)? {
        return Ok(());
    }
    let text = put_together(connections, id, memory, sources)?;
    let then = if paused { virt_sys::VIR_DOMAIN_SAVE_PAUSED } else { virt_sys::VIR_DOMAIN_SAVE_RUNNING };
    connections
        .work
        .restore_domain_flags(memory, Some(&text), then)
        .map_err(|e| Error::from(e).context(format_args!("going on from {memory}")))
}

/// What it would run with.
fn put_together(
    connections: &Connections,
    id: VmId,
    memory: &str,
    sources: &[(String, Layer)],
) -> Result<String> {
    let now = domain(&connections.work, id)?.xml_desc(INACTIVE)?;
    // Only the file's head is read for this.
    let then = connections
        .work
        .save_image_xml_desc(memory, WHOLE)
        .map_err(|e| Error::from(e).context(format_args!("reading {memory}")))?;
    definition::with_memory(&then, &now, sources)
}
