//! What must be true after each step.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::Value;

use super::{
    act::World,
    harness::{Testbed, quote, wait_for},
};

/// How long anything may take before it counts as never.
pub(crate) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
const IMAGES: &str = "/var/lib/libvirt/images";

/// A snapshot as the bus has it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) state: String,
}

/// What a disk holds now, byte for byte.
pub(crate) fn now(target: &str) -> String {
    format!("/var/tmp/now-{target}.raw")
}

/// Where a snapshot's copy of a disk lies.
pub(crate) fn copy_of(snapshot: &str, target: &str) -> String {
    format!("/var/tmp/{snapshot}-{target}.raw")
}

/// Writes to what a disk holds now.
pub(crate) fn write_now(tb: &Testbed, target: &str, cluster: u64, value: u8) {
    tb.ok(&format!(
        "head -c 65536 /dev/zero | tr '\\0' '\\{value:o}' |
         dd of={} bs=64k seek={cluster} conv=notrunc iflag=fullblock status=none",
        now(target)
    ));
}

/// The snapshots on the bus, the oldest first.
pub(crate) fn listed(world: &World<'_>) -> Vec<Listed> {
    let get = |path: &str, property| world.daemon.bus.get(path, "org.virtsnap1.Snapshot", property);
    let all = world.daemon.snapshots("seq").into_iter();
    all.map(|(name, path)| Listed { state: get(&path, "State"), name, path }).collect()
}

/// The images from this one down.
pub(crate) fn chain(tb: &Testbed, top: &str) -> Vec<String> {
    let text = tb.ok(&format!("qemu-img info -U --backing-chain --output=json {}", quote(top)));
    let layers: Vec<Value> = serde_json::from_str(&text).unwrap();
    layers.iter().map(|layer| layer["filename"].as_str().unwrap().to_owned()).collect()
}

/// A disk's source in each `<disk>` under this element: target and path.
fn sources(under: roxmltree::Node<'_, '_>) -> Vec<(String, String)> {
    let disks = under.descendants().filter(|n| n.has_tag_name("disk"));
    let read = |disk: roxmltree::Node<'_, '_>| {
        let child = |name: &str| disk.children().find(|c| c.has_tag_name(name));
        let target = disk.attribute("name").or_else(|| child("target")?.attribute("dev"))?;
        Some((target.to_owned(), child("source")?.attribute("file")?.to_owned()))
    };
    disks.filter_map(read).collect()
}

impl World<'_> {
    /// All of it; see the module of the test.
    pub(crate) fn check(&self) {
        let all = listed(self);
        let names: BTreeSet<&str> = all.iter().map(|s| s.name.as_str()).collect();
        let virsh = self.tb.ok("virsh -q snapshot-list seq --name");
        let virsh: BTreeSet<&str> = virsh.lines().filter(|l| !l.is_empty()).collect();
        assert_eq!(names, virsh, "the bus and libvirt know the same snapshots");
        let expected: BTreeSet<&str> = self.copies.keys().map(String::as_str).collect();
        assert_eq!(names, expected, "those are there that were taken and not deleted");

        let mut owned = BTreeSet::new();
        let mut script = "set -e\n".to_owned();
        let mut compare = |what: &str, image: &str, copy: &str| {
            let _ = write!(
                script,
                "qemu-img compare -U -F raw {0} {copy} >&2 || {{ echo {1} >&2; exit 1; }}
                 qemu-img check -q -U {0} >&2 || {{ echo {1} is broken >&2; exit 1; }}\n",
                quote(image),
                quote(what)
            );
        };
        for target in self.vm.disks() {
            let top = self.vm.active(target);
            compare(&format!("disk {target} is not what was written to it"), &top, &now(target));
            owned.extend(chain(self.tb, &top));
        }
        for snapshot in &all {
            let text = self.tb.ok(&format!("virsh snapshot-dumpxml seq {}", snapshot.name));
            let doc = roxmltree::Document::parse(&text).unwrap();
            let part = |name| doc.root_element().children().find(|n| n.has_tag_name(name)).unwrap();
            let (overlays, states) = (sources(part("disks")), sources(part("domain")));
            owned.extend(overlays.into_iter().map(|(_, path)| path));
            for (target, copy) in &self.copies[&snapshot.name] {
                let (_, image) = states.iter().find(|(t, _)| t == target).unwrap();
                owned.extend(chain(self.tb, image));
                // One that is not offered may hold anything.
                if snapshot.state == "ready" {
                    compare(&format!("{} has lost {target}'s data: {image}", snapshot.name), image, copy);
                }
            }
        }
        let checked = self.tb.sh(&script);
        assert!(checked.success(), "{checked}\n{}", self.daemon.journal());
        wait_for(DEADLINE, "no file is left that nobody owns", || {
            let files = self.tb.ok(&format!("find {IMAGES} -type f -name '*seq*'"));
            let left: Vec<&str> = files.lines().filter(|f| !owned.contains(*f)).collect();
            if !left.is_empty() {
                println!("  nobody owns {left:?}");
            }
            left.is_empty().then_some(())
        });
        let inactive = self.tb.ok("virsh dumpxml --inactive seq");
        let doc = roxmltree::Document::parse(&inactive).unwrap();
        for (target, path) in sources(doc.root_element()) {
            assert_eq!(path, self.vm.active(&target), "the definition names what {target} runs on");
        }
    }
}
