//! VMs that were not there.

use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Branch, Definition, Drawn, NewVm, Result, sim::Op},
};

use super::Hooked;

impl Branch for Hooked {
    fn named(&self, name: &str) -> Result<Option<VmId>> {
        self.at(Op::Named).named(name)
    }

    fn draw(&self, vm: VmId, snapshot: &SnapshotName, new: &NewVm) -> Result<Drawn> {
        self.at(Op::Draw).draw(vm, snapshot, new)
    }

    fn define_new(&self, vm: VmId, definition: &Definition) -> Result<()> {
        self.at(Op::DefineNew).define_new(vm, definition)
    }

    fn undefine_new(&self, vm: VmId) -> Result<()> {
        self.at(Op::UndefineNew).undefine_new(vm)
    }
}
