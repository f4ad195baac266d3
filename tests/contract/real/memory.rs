//! The hand on guests' memory: a bare VM's firmware counts the ticks of its clock there, 18 in a second, for as long as
//! it looks for something to boot.

use std::time::Instant;

use uuid::Uuid;
use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig};
use crate::{
    contract::{DEADLINE, memory::Memory},
    harness::{Bare, BareDisk},
};

/// Where a PC's firmware has them.
const TICKS: u32 = 0x46c;

impl Memory for RealRig {
    /// The memory that it shares is another's.
    fn new_bound_vm(&mut self) -> VmId {
        let name = format!("bound{}", self.number());
        let image = format!("{IMAGES}/{name}-vda.qcow2");
        self.tb().ok(&format!("qemu-img create -q -f qcow2 {image} 8M"));
        let shared = format!(
            "<shmem name='{name}' role='peer'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>"
        );
        let disk = BareDisk { image, format: "qcow2".to_owned() };
        let bare = Bare::define_on(self.tb(), &name, &[disk], "", &shared);
        self.tb().ok(&format!("virsh -q start {}", bare.uuid()));
        let vm = VmId(Uuid::parse_str(bare.uuid()).unwrap());
        self.vms.insert(vm, Some(bare));
        vm
    }

    fn lived(&self, vm: VmId) -> u64 {
        let said = self.tb().ok(&format!("virsh -q qemu-monitor-command {} --hmp 'xp /1wx {TICKS}'", vm.0));
        let ticks = said.split_whitespace().nth(1).and_then(|t| t.strip_prefix("0x"));
        ticks.and_then(|t| u64::from_str_radix(t, 16).ok()).unwrap_or_else(|| panic!("{said}"))
    }

    fn live(&mut self, vm: VmId) {
        let (before, began) = (self.lived(vm), Instant::now());
        while [0, before].contains(&self.lived(vm)) {
            assert!(began.elapsed() < DEADLINE, "the guest does nothing");
        }
    }
}
