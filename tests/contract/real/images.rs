//! The hand on images and definitions.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{
    contract::images::Images,
    harness::{Bare, BareDisk, quote},
};

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

    fn image_on(&mut self, image: &str) -> String {
        let path = format!("{IMAGES}/clone-{}.qcow2", self.number());
        self.tb().ok(&format!("qemu-img create -q -f qcow2 -b {} -F qcow2 {path}", quote(image)));
        path
    }

    /// Each is made without a look at those below it, which would take longer with each.
    fn images_on(&mut self, image: &str, many: usize) -> String {
        let first = format!("{IMAGES}/clone-{}", self.number());
        self.tb().ok(&format!(
            "set -e; top={}; size=$(qemu-img info -f qcow2 \"$top\" | sed -n 's/^virtual size: .*(\\([0-9]*\\) bytes)/\\1/p')
             for n in $(seq {many}); do
               qemu-img create -q -u -f qcow2 -b \"$top\" -F qcow2 {first}-$n.qcow2 $size; top={first}-$n.qcow2
             done
             echo \"$top\"",
            quote(image)
        ))
    }

    fn vm_on(&mut self, image: &str) -> VmId {
        let disk = BareDisk { image: image.to_owned(), format: "qcow2".to_owned() };
        let bare = Bare::define_on(self.tb(), &format!("clone{}", self.number()), &[disk], "", "");
        let vm = VmId(Uuid::parse_str(bare.uuid()).unwrap());
        self.vms.insert(vm, Some(bare));
        vm
    }

    fn remove_file(&mut self, path: &str) {
        self.tb().ok(&format!("rm {}", quote(path)));
    }

    fn put_bytes(&mut self, path: &str, bytes: &[u8]) {
        self.tb().push_file(path, bytes, 0o600);
    }

    fn bytes_of(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.tb().path(path)).unwrap()
    }
}
