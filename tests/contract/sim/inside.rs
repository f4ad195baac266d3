//! The hand on snapshots inside images, and on layers without metadata.

use virtsnap::{
    core::model::{Storage, VmId},
    hypervisor::Hypervisor as _,
};

use super::SimRig;
use crate::contract::{internal::Inside, layers::Layers};

impl Inside for SimRig {
    fn internal_snapshot(&mut self, vm: VmId, name: &str) {
        self.sim.make_internal_snapshot(vm, name).unwrap();
    }

    fn inside(&self, vm: VmId, _target: &str) -> Vec<String> {
        let records = self.sim.snapshots(vm).unwrap().into_iter();
        records.filter(|r| r.storage == Storage::Internal).map(|r| r.name.as_str().to_owned()).collect()
    }
}

impl Layers for SimRig {
    fn put_on_top(&mut self, vm: VmId, disks: &[&str]) {
        self.sim.put_on_top(vm, disks).unwrap();
    }
}
