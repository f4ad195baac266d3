//! The hand on guests' memory.

use virtsnap::{
    core::model::VmId,
    hypervisor::{Agent, sim::VmSpec},
};

use super::SimRig;
use crate::contract::memory::Memory;

impl Memory for SimRig {
    fn new_bound_vm(&mut self) -> VmId {
        let number = self.number();
        let spec = VmSpec::new(&format!("vm{number}"), number.into());
        self.sim.add_vm(VmSpec { migratable: false, ..spec }.with_agent(Agent::Absent))
    }

    fn lived(&self, vm: VmId) -> u64 {
        self.sim.ram(vm).unwrap()
    }

    fn live(&mut self, vm: VmId) {
        assert!(self.sim.work(vm), "it does not run");
    }
}
