//! The hand on VMs that the driver made.

use uuid::Uuid;
use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{contract::branch::Branches, harness::Bare};

impl Branches for RealRig {
    fn adopt_vm(&mut self, vm: VmId) {
        let bare = Bare::existing(self.tb(), &vm.0.to_string());
        self.vms.insert(vm, Some(bare));
    }

    fn kill_qemu(&mut self, vm: VmId) {
        let vm = vm.0;
        self.tb().ok(&format!(
            "kill -KILL $(cat /run/libvirt/qemu/$(virsh -q domname {vm}).pid)
             until [ \"$(virsh -q domstate {vm})\" = 'shut off' ]; do sleep 0.1; done"
        ));
    }

    /// Its firmware is nothing at all: no VM needs any to be looked at.
    fn new_firmware_vm(&mut self) -> VmId {
        let name = format!("firm{}", self.number());
        self.tb().ok(&format!(
            "set -e; cd {IMAGES}; truncate -s 64K {name}-code.fd; mkdir -p {IMAGES}/nvram
             cp {name}-code.fd nvram/{name}.fd; qemu-img create -q -f qcow2 {name}-vda.qcow2 8M"
        ));
        let text = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
             <os><type arch='x86_64' machine='pc'>hvm</type>
               <loader readonly='yes' type='pflash'>{IMAGES}/{name}-code.fd</loader>
               <nvram template='{IMAGES}/{name}-code.fd'>{IMAGES}/nvram/{name}.fd</nvram></os>
             <features><acpi/></features>
             <devices>
               <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
                 <source file='{IMAGES}/{name}-vda.qcow2'/><target dev='vda' bus='virtio'/></disk>
               <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        );
        self.define("define", &text);
        let uuid = self.tb().ok(&format!("virsh -q domuuid {name}"));
        let vm = VmId(Uuid::parse_str(uuid.trim()).unwrap());
        self.adopt_vm(vm);
        vm
    }
}
