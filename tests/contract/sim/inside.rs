//! The hand on snapshots inside images.

use virtsnap::{
    core::model::{Storage, VmId},
    hypervisor::Hypervisor as _,
};

use super::SimRig;
use crate::contract::internal::Inside;

impl Inside for SimRig {
    fn internal_snapshot(&mut self, vm: VmId, name: &str) {
        self.sim.make_internal_snapshot(vm, name).unwrap();
    }

    fn inside(&self, vm: VmId, _target: &str) -> Vec<String> {
        let records = self.sim.snapshots(vm).unwrap().into_iter();
        records.filter(|r| r.storage == Storage::Internal).map(|r| r.name.as_str().to_owned()).collect()
    }
}
