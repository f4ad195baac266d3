//! Stopping and starting a VM as a whole, as a revert has to.

use super::Result;
use crate::core::model::VmId;

/// A VM's power switch.
pub trait Power {
    /// Pulls the plug: what the guest did not write to its disks is lost. One that is off already is no error.
    fn stop(&self, vm: VmId) -> Result<()>;

    /// Starts it; `paused`: with its CPUs stopped. One that is on already is no error, and stays as it is.
    fn start(&self, vm: VmId, paused: bool) -> Result<()>;
}
