//! Block jobs: the merge of images under a running VM.

use std::ffi::{CString, c_int, c_uint, c_ulong};

use virt::{domain::Domain, error::Error};

/// A block job on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hypervisor) struct Job {
    /// libvirt's `virDomainBlockJobType`.
    pub(in crate::hypervisor) kind: c_uint,
    /// How far it is, in bytes.
    pub(in crate::hypervisor) done: u64,
    /// How far it goes, in bytes; more while the guest writes.
    pub(in crate::hypervisor) total: u64,
}

/// Starts to merge the images above `base`, up to `top`, into `base`. `bandwidth`: bytes per second, 0 for any.
/// `active`: `top` is what the VM writes to.
pub(in crate::hypervisor) fn commit(
    domain: &Domain,
    disk: &str,
    (base, top): (&str, &str),
    bandwidth: u64,
    active: bool,
) -> Result<(), Error> {
    let (disk, base, top) = (CString::new(disk)?, CString::new(base)?, CString::new(top)?);
    let mut flags = virt_sys::VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES;
    if active {
        flags |= virt_sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE;
    }
    // SAFETY: the domain and the strings are alive for the call.
    done(unsafe {
        virt_sys::virDomainBlockCommit(
            domain.as_ptr(),
            disk.as_ptr(),
            base.as_ptr(),
            top.as_ptr(),
            c_ulong::try_from(bandwidth).unwrap_or(c_ulong::MAX),
            flags,
        )
    })
}

/// Starts to copy what the disk lies on into the image that it is written to. `bandwidth`: bytes per second, 0 for any.
pub(in crate::hypervisor) fn pull(domain: &Domain, disk: &str, bandwidth: u64) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let flags = virt_sys::VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES;
    let bandwidth = c_ulong::try_from(bandwidth).unwrap_or(c_ulong::MAX);
    // SAFETY: the domain and the string are alive for the call.
    done(unsafe { virt_sys::virDomainBlockPull(domain.as_ptr(), disk.as_ptr(), bandwidth, flags) })
}

/// Ends a job and waits until it has: with the disk on what it was merged into if `pivot`, else as it was.
pub(in crate::hypervisor) fn end(domain: &Domain, disk: &str, pivot: bool) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let flags = if pivot { virt_sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT } else { 0 };
    // SAFETY: the domain and the string are alive for the call.
    done(unsafe { virt_sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags) })
}

/// The job on a disk, if there is one.
pub(in crate::hypervisor) fn job(domain: &Domain, disk: &str) -> Result<Option<Job>, Error> {
    let disk = CString::new(disk)?;
    let mut info = virt_sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    let flags = virt_sys::VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES;
    // SAFETY: the domain and the string are alive for the call, and libvirt writes into `info`, if anything.
    match unsafe { virt_sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &raw mut info, flags) }
    {
        ..0 => Err(Error::last_error()),
        0 => Ok(None),
        1.. => Ok(Some(Job {
            kind: c_uint::try_from(info.type_).unwrap_or_default(),
            done: info.cur,
            total: info.end,
        })),
    }
}

/// Makes a running job go slower or faster. `bandwidth`: bytes per second, 0 for any.
pub(in crate::hypervisor) fn set_speed(domain: &Domain, disk: &str, bandwidth: u64) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let flags = virt_sys::VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES;
    let bandwidth = c_ulong::try_from(bandwidth).unwrap_or(c_ulong::MAX);
    // SAFETY: the domain and the string are alive for the call.
    done(unsafe { virt_sys::virDomainBlockJobSetSpeed(domain.as_ptr(), disk.as_ptr(), bandwidth, flags) })
}

fn done(result: c_int) -> Result<(), Error> {
    if result < 0 { Err(Error::last_error()) } else { Ok(()) }
}
