//! Starting a stopped VM for a merge.
//!
//! Neither libvirt merges but with a QEMU: 9.0 cannot delete any but the newest snapshot of a stopped VM, and both leave
//! a QEMU of their own behind, paused, when libvirtd dies meanwhile. Started here, it is ended here.

use virt::domain::Domain;

use super::{Connections, definition, domain, inspect, waiting};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Layer, Result, Slept},
};

/// Not such that it ends with our connection: whoever lets it go on would lose it with that.
const START: u32 = virt_sys::VIR_DOMAIN_START_PAUSED;

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

pub(super) fn let_sleep(connections: &Connections, id: VmId) -> Result<Slept> {
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
    // Whatever kept it from starting, nothing was merged; but with the connection the answer is lost.
    if !error.kind.untouched() && error.kind != ErrorKind::Disconnected {
        error.kind = ErrorKind::Busy;
    }
    error
}

pub(super) fn end(domain: &Domain) -> Result<Slept> {
    match inspect::state(domain)? {
        // So it calls one that it is starting.
        VmState::ShutOff if domain.is_active()? => Err(Error::new(ErrorKind::Busy, "it is being started")),
        VmState::ShutOff => Ok(Slept::WasOff),
        // Paused is also one that somebody let go on and suspended since, or restored, or is receiving.
        VmState::Paused if waiting::never_ran(domain)? => {
            // Not by force after a while, as without that flag: it may have much to write.
            match domain.destroy_flags(virt_sys::VIR_DOMAIN_DESTROY_GRACEFUL) {
                Ok(()) => Ok(Slept::Ended),
                Err(e) if domain.is_active()? => Err(Error::from(e).context(
                    "ending it, which was started to merge its images; it may still write to them, and is looked after \
                     again in a few minutes (`virsh destroy` ends it at once, and what it has not written is lost)",
                )),
                Err(_) => Ok(Slept::WasOff),
            }
        }
        _ if domain.is_active()? => Ok(Slept::Taken),
        _ => Ok(Slept::WasOff),
    }
}
