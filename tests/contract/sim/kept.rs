//! The hand on VMs that are kept away from, and on libvirt's own calls.

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Agent, Hypervisor as _, Tpm, sim::VmSpec},
};

use super::SimRig;
use crate::contract::{kinds::Kept, native::Native};

impl Kept for SimRig {
    fn new_raw_vm_at(&mut self, name: &str, directory: &str, file: &str) -> VmId {
        let number = self.number();
        let mut spec = VmSpec::new(name, number.into()).in_state(VmState::ShutOff);
        spec.disks[0].path = format!("/images/{directory}/{file}");
        "raw".clone_into(&mut spec.disks[0].format);
        self.sim.add_vm(spec.with_agent(Agent::Absent))
    }

    fn new_tpm_vm(&mut self) -> (VmId, String) {
        let number = self.number();
        let state = format!("/tpm/vm{number}.permall");
        self.sim.put_bytes(&state, b"first");
        let tpm = Tpm { state: Some(state.clone()) };
        let spec = VmSpec { tpm: Some(tpm), ..VmSpec::new(&format!("vm{number}"), number.into()) };
        (self.sim.add_vm(spec.in_state(VmState::ShutOff).with_agent(Agent::Absent)), state)
    }

    fn renew_tpm(&mut self, _vm: VmId, state: &str) {
        let longer = [self.sim.bytes_of(state).unwrap(), b" and on".to_vec()].concat();
        self.sim.put_bytes(state, &longer);
    }

    fn begin_backup(&mut self, vm: VmId) {
        self.sim.back_up(vm, true).unwrap();
    }

    fn end_backup(&mut self, vm: VmId) {
        self.sim.back_up(vm, false).unwrap();
    }

    fn make_transient(&mut self, vm: VmId) {
        self.sim.undefine(vm).unwrap();
    }

    fn end_transient(&mut self, vm: VmId) {
        self.sim.stop(vm).unwrap();
    }
}

impl Native for SimRig {
    fn delete_natively(&mut self, vm: VmId, name: &SnapshotName) {
        self.sim.delete(vm, name).unwrap();
    }

    fn revert_natively(&mut self, _vm: VmId, _name: &SnapshotName) {
        unreachable!("declared not to");
    }
}
