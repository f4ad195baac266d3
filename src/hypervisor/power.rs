//! Stopping and starting a VM as a whole, as a revert has to: also in the middle of what it did once.

use super::{Layer, Result};
use crate::core::model::VmId;

/// A VM's power switch.
pub trait Power {
    /// Pulls the plug: what the guest did not write to its disks is lost. One that is off already is no error.
    fn stop(&self, vm: VmId) -> Result<()>;

    /// Starts it; `paused`: with its CPUs stopped. One that is on already is no error; if it is paused and is to run,
    /// its CPUs go on: libvirt starts all with their CPUs stopped, and leaves them so if it is killed just then.
    fn start(&self, vm: VmId, paused: bool) -> Result<()>;

    /// Stops the CPUs of one that runs, and with that has its QEMU write to the disks what it kept to itself. Any other is
    /// left as it is. True: it ran. Whoever calls this writes it down first.
    fn suspend(&self, vm: VmId) -> Result<bool>;

    /// Lets the CPUs of one go on that is paused. Any other is left as it is.
    fn go_on(&self, vm: VmId) -> Result<()>;

    /// Whether the VM could go on from the memory in this file, as far as that can be told without trying: the file is
    /// there, its head is whole, and what it says of the VM is what the VM is. An error of kind
    /// [`Unsupported`](super::ErrorKind::Unsupported) says why not.
    fn resumable(&self, vm: VmId, memory: &str) -> Result<()>;

    /// Starts it in the middle of what it did when its memory was kept in this file, with these images (by target) for
    /// these disks; all others are as the definition has them. The definition itself stays, for the next start.
    ///
    /// One that is on already is taken as by [`start`](Self::start).
    fn resume(&self, vm: VmId, memory: &str, sources: &[(String, Layer)], paused: bool) -> Result<()>;
}
