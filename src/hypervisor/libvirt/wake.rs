//! Starting a stopped VM for a merge.
//!
//! Neither libvirt merges but with a QEMU: 9.0 cannot delete any but the newest snapshot of a stopped VM, and both leave
//! a QEMU of their own behind, paused, when libvirtd dies meanwhile. Started here, it is ended here.

use virt::domain::Domain;

use super::{Connections, definition, domain, inspect};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Layer, Result},
};

/// Off again when the connection ends.
const START: u32 = virt_sys::VIR_DOMAIN_START_PAUSED | virt_sys::VIR_DOMAIN_START_AUTODESTROY;

pub(super) fn wake(connections: &Connections, id: VmId) -> Result<()> {
    begin(&domain(&connections.work, id)?)
}

/// As a domain of its own beside the definition, which stays as it is.
pub(super) fn wake_on(connections: &Connections, id: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let flags = virt_sys::VIR_DOMAIN_XML_INACTIVE | virt_sys::VIR_DOMAIN_XML_SECURE;
    let text = definition::with_chains(&domain.xml_desc(flags)?, chains)?;
    if domain.is_active()? {
        return Err(Error::new(ErrorKind::Busy, "the VM is on: somebody has it"));
    }
    check_saved(&domain)?;
    connections.work.create_domain_xml(&text, START).map(drop).map_err(not_begun)
}

pub(super) fn let_sleep(connections: &Connections, id: VmId) -> Result<bool> {
    end(&domain(&connections.work, id)?)
}

pub(super) fn begin(domain: &Domain) -> Result<()> {
    check_saved(domain)?;
    domain.create_with_flags(START).map(drop).map_err(not_begun)
}

/// Of a VM with a managed save a start is the use of that, which is gone with it: what the guest had in its memory would end
/// with the QEMU that is started here.
fn check_saved(domain: &Domain) -> Result<()> {
    if domain.has_managed_save(0)? {
        return Err(Error::managed_save());
    }
    Ok(())
}

fn not_begun(e: virt::error::Error) -> Error {
    let mut error = Error::from(e).context("starting it, paused, to merge its images");
    if ["virtlogd", " lock"].iter().any(|sign| error.message.contains(sign)) {
        error.message += ". Somebody has its files: it may be the VM's own QEMU, if libvirtd was killed and lost sight of \
                          it (`pgrep -af qemu`)";
    }
    // Whatever kept it from starting, nothing was merged.
    if !error.kind.untouched() {
        error.kind = ErrorKind::Busy;
    }
    error
}

pub(super) fn end(domain: &Domain) -> Result<bool> {
    match inspect::state(domain)? {
        VmState::ShutOff => Ok(false),
        // Not by force after a while, as without that flag: it may have much to write.
        VmState::Paused => match domain.destroy_flags(virt_sys::VIR_DOMAIN_DESTROY_GRACEFUL) {
            Ok(()) => Ok(true),
            Err(e) if domain.is_active()? => Err(Error::from(e).context(
                "ending it, which was started to merge its images; it may still write to them, and is looked after \
                 again in a few minutes (`virsh destroy` ends it at once, and what it has not written is lost)",
            )),
            Err(_) => Ok(false),
        },
        state => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "the VM, which was started, paused, to merge its images, is {state} now: somebody has it"
            ),
        )),
    }
}
