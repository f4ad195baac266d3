//! A stopped VM whose QEMU runs, with its CPUs stopped, for as long as its images are merged: only QEMU merges them.

use super::{Layer, Result};
use crate::core::model::VmId;

/// What became of a VM that was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Its QEMU was ended.
    Ended,
    /// It had ended before, by itself or by somebody else, and nobody knows how.
    WasOff,
    /// Its CPUs run, or ran since it was started, whatever they do now: it has an owner, and is left alone.
    Taken,
}

/// Waking a stopped VM for our own work, and letting it sleep again.
pub trait Wake {
    /// Starts a stopped VM with its CPUs stopped. It stays so whatever becomes of us: so whoever calls this writes it down
    /// first.
    ///
    /// One with a managed save is refused ([`ErrorKind::Unsupported`](super::ErrorKind::Unsupported)): to start it would use
    /// that up.
    ///
    /// If it fails, nothing was started by it, and whoever is on is somebody else's; but where the connection was lost
    /// nobody knows.
    fn wake(&self, vm: VmId) -> Result<()>;

    /// The same, with each of these disks on these images, the one that is written to first, whatever its own header says
    /// of what it lies on. Nothing of that is left when it is off again but what is [pulled](super::Merge::pull) meanwhile.
    fn wake_on(&self, vm: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()>;

    /// Ends the QEMU of one that was woken, in good order: it writes to the disks what it still has in its memory.
    fn let_sleep(&self, vm: VmId) -> Result<Slept>;

    /// What tells a VM's life, from a start to its end, from those before and after it, for as long as its host runs: it
    /// begins anew with each boot. `None` while it is off.
    fn life(&self, vm: VmId) -> Result<Option<u64>>;
}
