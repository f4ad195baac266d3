//! The hand on VMs that the driver made.

use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, Nvram, sim::VmSpec},
};

use super::SimRig;
use crate::contract::branch::Branches;

impl Branches for SimRig {
    fn adopt_vm(&mut self, _vm: VmId) {}

    fn kill_qemu(&mut self, vm: VmId) {
        self.sim.stop(vm).unwrap();
    }

    fn new_firmware_vm(&mut self) -> VmId {
        let number = self.number();
        let path = format!("/nvram/vm{number}.fd");
        self.sim.put_bytes(&path, b"none yet");
        let nvram = Nvram { kind: "file".into(), path, format: "raw".into() };
        let spec = VmSpec { nvram: Some(nvram), ..VmSpec::new(&format!("vm{number}"), number.into()) };
        self.sim.add_vm(spec.in_state(VmState::ShutOff).with_agent(Agent::Absent))
    }
}
