//! Starting a stopped VM for a merge.
//!
//! Neither libvirt merges but with a QEMU: 9.0 cannot delete any but the newest snapshot of a stopped VM, and both leave
//! a QEMU of their own behind, paused, when libvirtd dies meanwhile. Started here, it is ended here.

use virt::domain::Domain;

use super::{Connections, domain, inspect};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Result},
};

pub(super) fn wake(connections: &Connections, id: VmId) -> Result<()> {
    begin(&domain(&connections.work, id)?)
}

pub(super) fn let_sleep(connections: &Connections, id: VmId) -> Result<()> {
    end(&domain(&connections.work, id)?)
}

pub(super) fn begin(domain: &Domain) -> Result<()> {
    let flags = virt_sys::VIR_DOMAIN_START_PAUSED | virt_sys::VIR_DOMAIN_START_AUTODESTROY;
    domain.create_with_flags(flags).map(drop).map_err(|e| {
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
    })
}

pub(super) fn end(domain: &Domain) -> Result<()> {
    match inspect::state(domain)? {
        VmState::ShutOff => Ok(()),
        VmState::Paused => match domain.destroy() {
            Err(e) if domain.is_active()? => {
                Err(Error::from(e).context("ending it, which was started to merge its images"))
            }
            _ => Ok(()),
        },
        state => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "the VM, which was started, paused, to merge its images, is {state} now: somebody has it"
            ),
        )),
    }
}
