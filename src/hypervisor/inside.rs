//! Snapshots inside the disks' images: taken and reverted to by the hypervisor itself, which alone can.

use super::Result;
use crate::core::{
    model::{SnapshotName, VmId, VmState},
    qcow2::Inner,
};

/// What is done with snapshots inside images. Never beside external ones: libvirt reverts to the image that such a
/// snapshot was taken in, and leaves all that was put on top of it since behind.
pub trait Inside {
    /// Takes one of all writable disks, with the memory of a VM that runs or is paused. It is the current one.
    fn take_inside(&self, vm: VmId, name: &SnapshotName, description: &str) -> Result<()>;

    /// Puts the VM back to one, with its memory if it has any, and with the definition of then. `then`: what the VM is
    /// to be; `None`: what it was when the snapshot was taken.
    ///
    /// Refused ([`Unsupported`](super::ErrorKind::Unsupported)) where there are external ones, and where a disk is not on
    /// the image that it was taken in.
    fn revert_inside(&self, vm: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()>;

    /// Those that this qcow2 image holds by its own word, whatever libvirt knows of them.
    fn snapshots_inside(&self, image: &str) -> Result<Vec<Inner>>;
}
