//! Stopping and starting a VM as a whole, as a revert has to.

use super::Result;
use crate::core::model::VmId;

/// A VM's power switch.
pub trait Power {
    /// Pulls the plug: what the guest did not write to its disks is lost. One that is off already is no error.
    fn stop(&self, vm: VmId) -> Result<()>;

    /// Starts it; `paused`: with its CPUs stopped. One that is on already is no error; if it is paused and is to run,
    /// its CPUs go on: libvirt starts all with their CPUs stopped, and leaves them so if it is killed just then.
    fn start(&self, vm: VmId, paused: bool) -> Result<()>;
}
