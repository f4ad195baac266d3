//! What a running VM's QEMU has open, by its own word: for when libvirt may have lost track of it.
//!
//! A libvirtd that is killed between QEMU's answer and its own notes goes on, after its restart, with what it noted
//! before. Seen with 9.0 and 11.3, killed within milliseconds of a snapshot's transaction or of a merge's end.

use super::{Layer, Result};
use crate::core::model::VmId;

/// A disk, as QEMU has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedDisk {
    /// The disk's target.
    pub target: String,
    /// Its images, from the one that is written to down to the base. A format that QEMU does not tell is empty.
    pub chain: Vec<Layer>,
}

/// Asking QEMU itself, and making the next start right.
pub trait Opened {
    /// What the VM's QEMU has open; `None` while it is off. Disks without an image in them are left out.
    ///
    /// This goes past libvirt, which marks the VM as tainted by it (in its log): it is asked only when something was
    /// cut short.
    fn opened(&self, vm: VmId) -> Result<Option<Vec<OpenedDisk>>>;

    /// Lets the definition of a VM that is on name these images, by target, so that its next start is on them. What it
    /// runs on is left alone. No backing chain is left in it.
    fn name_for_next_start(&self, vm: VmId, sources: &[(String, Layer)]) -> Result<()>;
}
