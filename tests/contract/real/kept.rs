//! The hand on VMs that are kept away from.

use std::time::Duration;

use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{
    contract::kinds::Kept,
    harness::{quote, wait_for},
};

impl RealRig {
    fn start_once(&self, vm: VmId) {
        self.tb().ok(&format!("virsh -q start --paused {0} && virsh -q destroy {0}", vm.0));
    }
}

impl Kept for RealRig {
    fn new_raw_vm_at(&mut self, name: &str, directory: &str, file: &str) -> VmId {
        let directory = format!("{IMAGES}/strange{}/{directory}", self.number());
        self.tb().ok(&format!("mkdir -p {}", quote(&directory)));
        self.new_on(name, format!("{directory}/{file}"), "raw")
    }

    /// Whose state its first start makes.
    fn new_tpm_vm(&mut self) -> (VmId, String) {
        let name = format!("tpm{}", self.number());
        let vm = self.new_on(&name, format!("{IMAGES}/{name}.qcow2"), "qcow2");
        let text = self.tb().ok(&format!("virsh dumpxml --inactive --security-info {}", vm.0));
        let tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>";
        self.define("define", &text.replacen("</devices>", tpm, 1));
        let state = format!("/var/lib/libvirt/swtpm/{}/tpm2/tpm2-00.permall", vm.0);
        self.start_once(vm);
        (vm, state)
    }

    fn renew_tpm(&mut self, vm: VmId, state: &str) {
        self.tb().ok(&format!("rm {state}"));
        self.start_once(vm);
    }

    /// In pull mode: nobody pulls.
    fn begin_backup(&mut self, vm: VmId) {
        let scratch = format!("/var/tmp/scratch-{}", self.number());
        let backup = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{scratch}.sock'/>
             <disks><disk name='vda' backup='yes' type='file'><scratch file='{scratch}'/></disk></disks></domainbackup>"
        );
        self.define(&format!("backup-begin {}", vm.0), &backup);
    }

    fn end_backup(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q domjobabort {}", vm.0));
        // That only asks for it.
        let none = || self.tb().ok(&format!("virsh domjobinfo {}", vm.0)).contains("None").then_some(());
        wait_for(Duration::from_secs(60), "the end of a backup", none);
    }

    fn make_transient(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q undefine {}", vm.0));
    }

    fn end_transient(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q destroy {}", vm.0));
        self.vms.remove(&vm);
    }
}
