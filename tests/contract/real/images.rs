//! The hand on images and definitions.

use std::collections::BTreeMap;

use virtsnap::core::model::VmId;

use super::RealRig;
use crate::contract::images::Images;

impl Images for RealRig {
    fn edit_definition(&mut self, vm: VmId, target: &str, image: &str) {
        self.put_on(vm, &BTreeMap::from([(target.to_owned(), image.to_owned())]));
    }

    fn fill(&mut self, vm: VmId, target: &str) {
        let bare = self.vms[&vm].as_ref().unwrap();
        bare.qemu_io(target, "\"write -P 7 0 4M\"");
    }

    /// A byte a second: it is not over before it is ended.
    fn begin_block_job(&mut self, vm: VmId, target: &str) {
        self.tb().ok(&format!("virsh -q blockpull {} {target} --bandwidth 1 --bytes", vm.0));
    }

    fn end_block_job(&mut self, vm: VmId, target: &str) {
        self.tb().ok(&format!("virsh -q blockjob {} {target} --abort", vm.0));
    }
}
