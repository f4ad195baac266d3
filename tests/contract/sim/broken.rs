//! The hand on deletions.

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::Hypervisor as _,
};

use super::SimRig;
use crate::contract::broken::Broken;

impl Broken for SimRig {
    fn break_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: &[&str]) {
        self.sim.break_deletion(vm, name, merged).unwrap();
    }

    fn leave_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: bool) {
        self.sim.disconnect("libvirtd dies");
        self.sim.connect();
        if self.sim.vm(vm).unwrap().state != VmState::ShutOff {
            return self.sim.break_off(vm, name, merged).unwrap();
        }
        self.sim.leave_deletion(vm, name, if merged { &["vda"] } else { &[] }).unwrap();
    }
}
