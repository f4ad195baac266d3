//! The hand on images and definitions.

use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, sim::VmSpec},
};

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

    fn image_on(&mut self, image: &str) -> String {
        let path = format!("/images/clone-{}.qcow2", self.number());
        self.sim.make_image(&path, image).unwrap();
        path
    }

    fn vm_on(&mut self, image: &str) -> VmId {
        let number = self.number();
        let mut spec = VmSpec::new(&format!("vm{number}"), number.into()).in_state(VmState::ShutOff);
        image.clone_into(&mut spec.disks[0].path);
        self.sim.add_vm(spec.with_agent(Agent::Absent))
    }

    fn remove_file(&mut self, path: &str) {
        assert!(self.sim.remove_file(path), "{path} is not there");
    }

    fn put_bytes(&mut self, path: &str, bytes: &[u8]) {
        self.sim.put_bytes(path, bytes);
    }

    fn bytes_of(&self, path: &str) -> Vec<u8> {
        self.sim.bytes_of(path).unwrap()
    }
}
