//! The hand on VMs of other kinds.

use uuid::Uuid;
use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{
    contract::{agent::Windows, fitness::Kinds},
    harness::{Bare, BareDisk, quote},
};

impl RealRig {
    pub(super) fn new_on(&mut self, name: &str, image: String, format: &str) -> VmId {
        self.tb().ok(&format!("qemu-img create -q -f {format} {} 8M", quote(&image)));
        let disk = BareDisk { image, format: format.to_owned() };
        let bare = Bare::define_on(self.tb(), name, &[disk], "", "");
        let vm = VmId(Uuid::parse_str(bare.uuid()).unwrap());
        self.vms.insert(vm, Some(bare));
        vm
    }
}

impl Kinds for RealRig {
    fn new_raw_vm(&mut self) -> VmId {
        let name = format!("raw{}", self.number());
        self.new_on(&name, format!("{IMAGES}/{name}.img"), "raw")
    }

    fn new_strange_vm(&mut self, name: &str, directory: &str) -> VmId {
        let directory = format!("{IMAGES}/strange{}/{directory}", self.number());
        self.tb().ok(&format!("mkdir -p {}", quote(&directory)));
        self.new_on(name, format!("{directory}/vda.qcow2"), "qcow2")
    }

    fn pause_vm(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q suspend {}", vm.0));
    }

    fn resume_vm(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q resume {}", vm.0));
    }

    fn describe_vm(&mut self, vm: VmId, bytes: usize) {
        let text = self.tb().ok(&format!("virsh dumpxml --inactive --security-info {}", vm.0));
        let text = match (text.find("<description>"), text.find("</description>")) {
            (Some(from), Some(to)) => text[..from].to_owned() + &text[to + "</description>".len()..],
            _ => text,
        };
        let described = format!("</uuid><description>{}</description>", "x".repeat(bytes));
        self.define("define", &text.replacen("</uuid>", &described, 1));
    }

    fn access(&self, path: &str) -> String {
        self.tb().ok(&format!("stat -c '%U:%G %a' {}", quote(path)))
    }
}

impl Windows for RealRig {
    fn run_windows(&mut self, _vm: VmId) {
        panic!("there is no Windows here");
    }

    fn hold_for_too_long(&mut self, _vm: VmId) {
        panic!("there is no Windows here");
    }
}
