//! The hand on images and definitions.

use virtsnap::core::model::VmId;

use super::SimRig;
use crate::contract::images::Images;

impl Images for SimRig {
    fn edit_definition(&mut self, vm: VmId, target: &str, image: &str) {
        self.sim.point_definition_at(vm, target, image).unwrap();
    }

    fn fill(&mut self, vm: VmId, target: &str) {
        assert!((0..64).all(|block| self.sim.write(vm, target, block, 7)), "the guest cannot write");
    }

    fn begin_block_job(&mut self, vm: VmId, _target: &str) {
        self.sim.block_job(vm, true).unwrap();
    }

    fn end_block_job(&mut self, vm: VmId, _target: &str) {
        self.sim.block_job(vm, false).unwrap();
    }
}
