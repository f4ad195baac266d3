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
        let mut first = String::new();
        let mut made = Vec::new();
        for letter in ('a'..='z').take(disks) {
            let image = format!("{IMAGES}/{name}-vd{letter}.qcow2");
            let _ = writeln!(first, "qemu-img create -q -f qcow2 {image} 8M");
            made.push(BareDisk { image, format: "qcow2".to_owned() });
        }
        Self::define_after(&first, testbed, name, &made, "", "")
    }

    /// Defines one on images that are there, with more elements in `<os>` and in `<devices>`. Its name may be anything.
    pub fn define_on(testbed: &Testbed, name: &str, disks: &[BareDisk], os: &str, more: &str) -> Self {
        Self::define_after("", testbed, name, disks, os, more)
    }

    fn define_after(
        first: &str,
        testbed: &Testbed,
        name: &str,
        disks: &[BareDisk],
        os: &str,
        more: &str,
    ) -> Self {
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
        let uuid = uuid::Uuid::new_v4().to_string();
        let definition = format!(
            "<domain type='qemu'><name>{}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>
             <os><type arch='x86_64' machine='pc'>hvm</type>{os}</os>
             <devices>{devices}<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
            escaped(name)
        );
        let file = "/var/tmp/bare.xml";
        testbed.push_file(file, definition, 0o600);
        testbed.ok(&format!("set -e\n{first}virsh -q define {file}"));
        Self { testbed: testbed.clone(), name: name.to_owned(), uuid, disks: targets }
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
        image_of(&listed, target)
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

    /// The same by libvirt's word.
    pub fn told(&self, target: &str) -> Vec<String> {
        let text = self.testbed.ok(&format!("virsh -q dumpxml {}", self.uuid));
        let doc = roxmltree::Document::parse(&text).expect("libvirt's XML");
        let is = |disk: &roxmltree::Node<'_, '_>| {
            disk.children().any(|c| c.has_tag_name("target") && c.attribute("dev") == Some(target))
        };
        let disk = doc.descendants().filter(|n| n.has_tag_name("disk")).find(is).expect("it has this disk");
        let child = |of: roxmltree::Node<'_, '_>, name: &str| {
            of.children().find(|c| c.has_tag_name(name)).map(|c| c.id())
        };
        let layers = std::iter::successors(Some(disk.id()), |layer| {
            child(doc.get_node(*layer).expect("it is there"), "backingStore")
        });
        let source = |layer| {
            let source = child(doc.get_node(layer)?, "source")?;
            doc.get_node(source)?.attribute("file").map(str::to_owned)
        };
        layers.filter_map(source).collect()
    }

    /// Where its QEMU is on images that libvirt, killed at the wrong moment, does not know of: turns it off and on again,
    /// as the daemon says. `told`: whether it does say so. True if that was so.
    pub fn put_right(&self, told: impl FnOnce() -> bool) -> bool {
        let state = self.state();
        if state == "shut off" || self.disks.iter().all(|disk| self.opened(disk) == self.told(disk)) {
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
        self.write_all(target, &[cluster], value);
    }

    /// The same of several clusters. Tests do so hundreds of times: with one virsh, and one qemu-io.
    pub fn write_all(&self, target: &str, clusters: &[u64], value: u8) {
        let writes: Vec<_> =
            clusters.iter().map(|cluster| format!("write -P {value} {} 64k", cluster * 65_536)).collect();
        let inside: Vec<_> = writes.iter().map(|write| format!("\"{write}\"")).collect();
        let tell = self.monitor(target, &inside);
        // In vain if it is off.
        let ask = quote(&format!("domstate {0}; domblklist {0}; echo ==; {tell}", self.uuid));
        let asked = self.testbed.sh(&format!("virsh -q {ask}"));
        let (looked, told) = asked.stdout.split_once("\n==").unwrap_or_else(|| panic!("{asked}"));
        let (state, disks) = looked.split_once('\n').unwrap_or_else(|| panic!("{asked}"));
        let image = image_of(disks, target);
        let (format, image) = (format_of(&image), quote(&image));
        if state == "shut off" {
            let said = self.testbed.ok(&format!("qemu-io -f {format} {} {image}", each(&writes)));
            assert_eq!(said.matches("wrote 65536/65536 bytes").count(), writes.len(), "{said}");
        } else {
            let silent = told.trim().is_empty() && asked.stderr.trim().is_empty();
            assert!(asked.success() && silent, "{writes:?}: {asked}");
        }
        let reads: Vec<_> = clusters.iter().map(|cluster| read(*cluster)).collect();
        let said = self.testbed.ok(&format!("qemu-io -r -U -f {format} {} {image}", each(&reads)));
        let bytes: Vec<_> = said.lines().filter_map(byte_of).collect();
        assert_eq!(bytes, vec![value; clusters.len()], "just written to {target} of {}: {said}", self.name);
    }

    /// Has the running QEMU do this to the disk, and flush.
    pub fn qemu_io(&self, target: &str, command: &str) {
        let monitor = quote(&self.monitor(target, &[command.to_owned()]));
        let said = self.testbed.sh(&format!("virsh -q {monitor}"));
        let silent = said.stdout.trim().is_empty() && said.stderr.trim().is_empty();
        assert!(said.success() && silent, "{command}: {said}");
    }

    /// What virsh is told so that the running QEMU does these things to the disk, and flushes.
    fn monitor(&self, target: &str, commands: &[String]) -> String {
        let disk = self.disks.iter().position(|d| *d == target).expect("it has this disk");
        // By the device's name, which is the same whatever layer it runs on.
        let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
        let commands = commands.iter().map(String::as_str).chain(["flush"]);
        let tell =
            |command| format!("qemu-monitor-command {} --hmp 'qemu-io -d {device} {command}'", self.uuid);
        commands.map(tell).collect::<Vec<_>>().join("; ")
    }
}

/// A disk's image in what `virsh domblklist` says.
fn image_of(listed: &str, target: &str) -> String {
    let path = listed.lines().find_map(|line| line.trim().strip_prefix(target)).map(str::trim);
    path.unwrap_or_else(|| panic!("no {target}: {listed}")).to_owned()
}

/// An image's format: the names of raw ones end in `.img`.
fn format_of(image: &str) -> &'static str {
    if std::path::Path::new(image).extension().is_some_and(|e| e == "img") { "raw" } else { "qcow2" }
}

/// Commands as qemu-io's arguments.
fn each(commands: &[String]) -> String {
    commands.iter().map(|command| format!("-c {}", quote(command))).collect::<Vec<_>>().join(" ")
}

/// The first byte of this cluster of the disk that the image is the top of. Others may have it open: what they wrote
/// they have flushed.
pub fn byte_in(testbed: &Testbed, image: &str, cluster: u64) -> u8 {
    let format = format_of(image);
    let said =
        testbed.ok(&format!("qemu-io -r -U -f {format} -c {} {}", quote(&read(cluster)), quote(image)));
    said.lines().find_map(byte_of).unwrap_or_else(|| panic!("{image}: {said}"))
}

/// What qemu-io is told, to say the first byte of a cluster.
fn read(cluster: u64) -> String {
    format!("read -v {} 1", cluster * 65_536)
}

/// The byte in what it says then, `00010000:  07  .`.
fn byte_of(line: &str) -> Option<u8> {
    let (at, rest) = line.split_once(":  ")?;
    let offset = at.len() >= 8 && at.bytes().all(|c| c.is_ascii_hexdigit());
    rest.split_whitespace().next().filter(|_| offset).and_then(|byte| u8::from_str_radix(byte, 16).ok())
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
