//! The hand on VMs that are kept away from.

use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{contract::kinds::Kept, harness::quote};

impl Kept for RealRig {
    fn new_raw_vm_at(&mut self, name: &str, directory: &str, file: &str) -> VmId {
        let directory = format!("{IMAGES}/strange{}/{directory}", self.number());
        self.tb().ok(&format!("mkdir -p {}", quote(&directory)));
        self.new_on(name, format!("{directory}/{file}"), "raw")
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
    }

    fn make_transient(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q undefine {}", vm.0));
    }

    fn end_transient(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q destroy {}", vm.0));
        self.vms.remove(&vm);
    }
}
