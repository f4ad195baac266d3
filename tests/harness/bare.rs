//! VMs with nothing in them: there in a moment, and their disks hold what QEMU itself is told to write.

use std::fmt::Write as _;

use super::{Testbed, quote};

/// Where its images are.
const IMAGES: &str = "/var/lib/libvirt/images";

/// A VM without a guest: 16 MiB, disks of 8 MiB. Dropping it leaves it.
#[derive(Debug, Clone)]
pub struct Bare {
    testbed: Testbed,
    name: String,
    uuid: String,
    disks: Vec<String>,
}

/// A disk of such a VM.
#[derive(Debug, Clone)]
pub struct BareDisk {
    /// Its image, which is there.
    pub image: String,
    /// `qcow2` or `raw`.
    pub format: String,
}

impl Bare {
    /// Defines one with so many disks, `vda`, `vdb` and so on; it is shut off.
    pub fn define(testbed: &Testbed, name: &str, disks: usize) -> Self {
        let mut script = "set -e\n".to_owned();
        let mut made = Vec::new();
        for letter in ('a'..='z').take(disks) {
            let image = format!("{IMAGES}/{name}-vd{letter}.qcow2");
            let _ = writeln!(script, "qemu-img create -q -f qcow2 {image} 8M");
            made.push(BareDisk { image, format: "qcow2".to_owned() });
        }
        testbed.ok(&script);
        Self::define_on(testbed, name, &made, "", "")
    }

    /// Defines one on images that are there, with more elements in `<os>` and in `<devices>`. Its name may be anything.
    pub fn define_on(testbed: &Testbed, name: &str, disks: &[BareDisk], os: &str, more: &str) -> Self {
        let targets: Vec<String> = ('a'..='z').take(disks.len()).map(|c| format!("vd{c}")).collect();
        let mut devices = more.to_owned();
        for (target, disk) in targets.iter().zip(disks) {
            let _ = write!(
                devices,
                "<disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{}'/>
                 <target dev='{target}' bus='virtio'/></disk>",
                disk.format,
                escaped(&disk.image)
            );
        }
        let definition = format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory>
             <os><type arch='x86_64' machine='pc'>hvm</type>{os}</os>
             <devices>{devices}<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
            escaped(name)
        );
        let file = "/var/tmp/bare.xml";
        testbed.push_file(file, definition, 0o600);
        let uuid =
            testbed.ok(&format!("set -e; virsh -q define {file} >&2; virsh -q domuuid {}", quote(name)));
        Self { testbed: testbed.clone(), name: name.to_owned(), uuid: uuid.trim().to_owned(), disks: targets }
    }

    /// One that is there already.
    pub fn existing(testbed: &Testbed, uuid: &str) -> Self {
        let name = testbed.ok(&format!("virsh -q domname {uuid}")).trim().to_owned();
        let listed = testbed.ok(&format!("virsh -q domblklist {uuid}"));
        let disks = listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
        Self { testbed: testbed.clone(), name, uuid: uuid.to_owned(), disks: disks.collect() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Its disks' targets.
    pub fn disks(&self) -> &[String] {
        &self.disks
    }

    /// `virsh domstate`.
    pub fn state(&self) -> String {
        self.testbed.ok(&format!("virsh -q domstate {}", self.uuid)).trim().to_owned()
    }

    /// The image that the disk is written to.
    pub fn active(&self, target: &str) -> String {
        let listed = self.testbed.ok(&format!("virsh -q domblklist {}", self.uuid));
        let path = listed.lines().find_map(|line| line.trim().strip_prefix(target)).map(str::trim);
        path.unwrap_or_else(|| panic!("no {target}: {listed}")).to_owned()
    }

    /// The disk's images by the word of the QEMU that runs it, from the one that is written to down.
    pub fn opened(&self, target: &str) -> Vec<String> {
        let disk = self.disks.iter().position(|d| *d == target).expect("it has this disk");
        let ask = quote(r#"{"execute":"query-block"}"#);
        let said = self.testbed.ok(&format!("virsh -q qemu-monitor-command {} {ask}", self.uuid));
        let said: serde_json::Value = serde_json::from_str(&said).expect("QEMU speaks JSON");
        let is = |d: &&serde_json::Value| {
            d["qdev"].as_str().is_some_and(|qdev| qdev.contains(&format!("/virtio-disk{disk}/")))
        };
        let drive = said["return"].as_array().and_then(|all| all.iter().find(is)).expect("QEMU has it");
        std::iter::successors(Some(&drive["inserted"]["image"]), |image| image.get("backing-image"))
            .map(|image| image["filename"].as_str().expect("it has a name").to_owned())
            .collect()
    }

    /// Where its QEMU is on images that libvirt, killed at the wrong moment, does not know of: turns it off and on again,
    /// as the daemon says. `told`: whether it does say so. True if that was so.
    pub fn put_right(&self, told: impl FnOnce() -> bool) -> bool {
        let state = self.state();
        if state == "shut off" || self.disks.iter().all(|disk| self.opened(disk)[0] == self.active(disk)) {
            return false;
        }
        assert!(told(), "{} is on {:?}, and nobody says so", self.name, self.opened(&self.disks[0]));
        let paused = if state == "paused" { "--paused" } else { "" };
        self.testbed.ok(&format!("virsh -q destroy {0} && virsh -q start {0} {paused}", self.uuid));
        true
    }

    /// Writes a cluster full of this byte to the disk, past all caches: through the running QEMU, so to whatever
    /// layer it runs on, or into the image while the VM is off.
    pub fn write(&self, target: &str, cluster: u64, value: u8) {
        let write = format!("write -P {value} {} 64k", cluster * 65_536);
        if self.state() == "shut off" {
            let image = quote(&self.active(target));
            let said = self.testbed.ok(&format!("qemu-io -f qcow2 -c {} {image}", quote(&write)));
            assert!(said.contains("wrote 65536/65536 bytes"), "{said}");
            return;
        }
        self.qemu_io(target, &format!("\"{write}\""));
        let read = byte_in(&self.testbed, &self.active(target), cluster);
        assert_eq!(read, value, "what was just written to {target} of {}", self.name);
    }

    /// Has the running QEMU do this to the disk, and flush.
    pub fn qemu_io(&self, target: &str, command: &str) {
        let disk = self.disks.iter().position(|d| *d == target).expect("it has this disk");
        for command in [command, "flush"] {
            // By the device's name, which is the same whatever layer it runs on.
            let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
            let said = self.testbed.ok(&format!(
                "virsh -q qemu-monitor-command {} --hmp {}",
                self.uuid,
                quote(&format!("qemu-io -d {device} {command}"))
            ));
            assert_eq!(said.trim(), "", "{command}");
        }
    }
}

/// The first byte of this cluster of the disk that the image is the top of. Others may have it open: what they wrote
/// they have flushed.
pub fn byte_in(testbed: &Testbed, image: &str, cluster: u64) -> u8 {
    let read = format!("read -v {} 1", cluster * 65_536);
    let said = testbed.ok(&format!("qemu-io -r -U -f qcow2 -c {} {}", quote(&read), quote(image)));
    let byte = said.split_whitespace().nth(1).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    byte.unwrap_or_else(|| panic!("{image}: {said}"))
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    out
}
