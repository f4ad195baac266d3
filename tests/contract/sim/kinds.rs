//! The hand on VMs of other kinds.

use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, sim::VmSpec},
};

use super::SimRig;
use crate::contract::fitness::Kinds;

impl Kinds for SimRig {
    fn new_raw_vm(&mut self) -> VmId {
        let number = self.number();
        let mut spec = VmSpec::new(&format!("vm{number}"), number.into()).in_state(VmState::ShutOff);
        "raw".clone_into(&mut spec.disks[0].format);
        self.sim.add_vm(spec.with_agent(Agent::Absent))
    }

    fn new_strange_vm(&mut self, name: &str, directory: &str) -> VmId {
        let number = self.number();
        let mut spec = VmSpec::new(name, number.into()).in_state(VmState::ShutOff);
        spec.disks[0].path = format!("/images/{directory}/vda.qcow2");
        self.sim.add_vm(spec.with_agent(Agent::Absent))
    }

    fn pause_vm(&mut self, vm: VmId) {
        self.sim.pause(vm).unwrap();
    }

    fn resume_vm(&mut self, vm: VmId) {
        self.sim.resume(vm).unwrap();
    }

    fn describe_vm(&mut self, vm: VmId, bytes: usize) {
        self.sim.set_xml_bytes(vm, bytes + 4096).unwrap();
    }

    fn access(&self, _path: &str) -> String {
        "root:root 600".to_owned()
    }
}
