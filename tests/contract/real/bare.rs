//! VMs with nothing in them: there in a moment, and their disks hold what QEMU itself is told to write.
//!
//! A marker is one byte, a whole cluster of it at the disk's beginning, written through the running QEMU (so to the
//! layer it runs on) or by `qemu-io` into the image of a stopped one, and read by another process from the image.

use std::fmt::Write as _;

use uuid::Uuid;
use virtsnap::core::model::VmId;

use super::{DISKS, GOLD, IMAGES, RealRig, RigVm};
use crate::harness::quote;

/// Where the marker is, and how long.
const MARKER: &str = "0 64k";

impl RealRig {
    /// A VM with nothing in it, which is all that libvirt needs.
    pub(super) fn new_bare(&self, spec: RigVm) -> VmId {
        let name = format!("bare{}", self.number());
        let (mut disks, mut script) = (String::new(), "set -e\n".to_owned());
        for target in &DISKS[..spec.disks] {
            let image = format!("{IMAGES}/{name}-{target}.qcow2");
            let _ = writeln!(script, "qemu-img create -q -f qcow2 {image} 8M");
            let _ = write!(
                disks,
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>
                 <target dev='{target}' bus='virtio'/></disk>"
            );
        }
        let definition = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
             <os><type arch='x86_64' machine='pc'>hvm</type></os>
             <devices>{disks}<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        );
        let file = format!("{GOLD}/{name}.xml");
        self.tb().push_file(&file, definition, 0o600);
        let _ = writeln!(script, "virsh -q define {file} >&2");
        if spec.running {
            let _ = writeln!(script, "virsh -q start {name} >&2");
        }
        let uuid = self.tb().ok(&format!("{script}virsh -q domuuid {name}"));
        VmId(Uuid::parse_str(uuid.trim()).unwrap())
    }

    pub(super) fn write_bare(&self, vm: VmId, target: &str, value: u64) {
        let value = u8::try_from(value).unwrap();
        let write = format!("write -P {value} {MARKER}");
        if self.state(vm) == "shut off" {
            let image = quote(&self.active(vm, target));
            // What it could not do it says on stderr, with the status 0 of earlier versions.
            let said = self.tb().ok(&format!("qemu-io -f qcow2 -c {} {image}", quote(&write)));
            assert!(said.contains("wrote 65536/65536 bytes"), "{said}");
            return;
        }
        let disk = DISKS.iter().position(|d| *d == target).unwrap();
        for command in [format!("\"{write}\""), "flush".to_owned()] {
            // By the device's name, which is the same whatever layer it runs on.
            let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
            let said = self.tb().ok(&format!(
                "virsh -q qemu-monitor-command {} --hmp {}",
                vm.0,
                quote(&format!("qemu-io -d {device} {command}"))
            ));
            assert_eq!(said.trim(), "", "{command}");
        }
        assert_eq!(self.bare_marker_in(&self.active(vm, target)), u64::from(value), "what was just written");
    }

    /// The marker in an image, read through its chain; 0 where none was written. The VM may run: it has flushed.
    pub(super) fn bare_marker_in(&self, image: &str) -> u64 {
        let read = format!("qemu-io -r -U -f qcow2 -c 'read -v 0 1' {}", quote(image));
        let said = self.tb().ok(&read);
        let byte = said.split_whitespace().nth(1).and_then(|byte| u64::from_str_radix(byte, 16).ok());
        byte.unwrap_or_else(|| panic!("{image}: {said}"))
    }

    /// The image that the disk is written to.
    pub(super) fn active(&self, vm: VmId, target: &str) -> String {
        let listed = self.tb().ok(&format!("virsh -q domblklist {}", vm.0));
        let path = listed.lines().find_map(|line| line.trim().strip_prefix(target)).map(str::trim);
        path.unwrap_or_else(|| panic!("no {target}: {listed}")).to_owned()
    }

    pub(super) fn state(&self, vm: VmId) -> String {
        self.tb().ok(&format!("virsh -q domstate {}", vm.0)).trim().to_owned()
    }
}
