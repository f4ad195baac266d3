//! A stopped VM whose QEMU runs, with its CPUs stopped, for as long as its images are merged: only QEMU merges them.

use super::{Layer, Result};
use crate::core::model::VmId;

/// Waking a stopped VM for our own work, and letting it sleep again.
pub trait Wake {
    /// Starts a stopped VM with its CPUs stopped, such that it is off again when the connection ends. Not after a
    /// restart of libvirtd, which forgets that: so whoever calls this writes it down first.
    ///
    /// One with a managed save is refused ([`ErrorKind::Unsupported`](super::ErrorKind::Unsupported)): to start it would use
    /// that up.
    ///
    /// If it fails, nothing was started.
    fn wake(&self, vm: VmId) -> Result<()>;

    /// The same, with each of these disks on these images, the one that is written to first, whatever its own header says
    /// of what it lies on. Nothing of that is left when it is off again but what is [pulled](super::Merge::pull) meanwhile.
    fn wake_on(&self, vm: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()>;

    /// Ends the QEMU of one that was woken, in good order: it writes to the disks what it still has in its memory. True
    /// where it did that; false where it had ended by itself or by somebody else, and nobody knows how. One whose CPUs run
    /// has an owner by now, and is left alone ([`ErrorKind::Busy`](super::ErrorKind::Busy)).
    fn let_sleep(&self, vm: VmId) -> Result<bool>;

    /// What tells a VM's life, from a start to its end, from those before and after it; `None` while it is off.
    fn life(&self, vm: VmId) -> Result<Option<u64>>;
}
