//! The hand on images and definitions.

use std::collections::BTreeMap;

use virtsnap::core::model::VmId;

use super::{DISKS, RealRig};
use crate::{contract::images::Images, harness::quote};

impl Images for RealRig {
    fn edit_definition(&mut self, vm: VmId, target: &str, image: &str) {
        self.put_on(vm, &BTreeMap::from([(target.to_owned(), image.to_owned())]));
    }

    fn fill(&mut self, vm: VmId, target: &str) {
        let disk = DISKS.iter().position(|d| *d == target).unwrap();
        for command in ["\"write -P 7 0 4M\"", "flush"] {
            let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
            let said = self.tb().ok(&format!(
                "virsh -q qemu-monitor-command {} --hmp {}",
                vm.0,
                quote(&format!("qemu-io -d {device} {command}"))
            ));
            assert_eq!(said.trim(), "", "{command}");
        }
    }

    /// A byte a second: it is not over before it is ended.
    fn begin_block_job(&mut self, vm: VmId, target: &str) {
        self.tb().ok(&format!("virsh -q blockpull {} {target} --bandwidth 1 --bytes", vm.0));
    }

    fn end_block_job(&mut self, vm: VmId, target: &str) {
        self.tb().ok(&format!("virsh -q blockjob {} {target} --abort", vm.0));
    }
}
