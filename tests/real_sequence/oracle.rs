//! What must be true after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

use super::{
    act::World,
    harness::{Testbed, quote, sources, wait_for},
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

/// What libvirt says, asked once.
struct Said {
    /// The image that each disk is written to.
    active: BTreeMap<String, String>,
    inactive: String,
    names: BTreeSet<String>,
    /// Of each snapshot that the bus has, its XML.
    snapshots: Vec<String>,
}

impl World<'_> {
    /// All of it; see the module of the test.
    pub(crate) fn check(&mut self) {
        let all = listed(self);
        let names: BTreeSet<&str> = all.iter().map(|s| s.name.as_str()).collect();
        let said = self.ask_libvirt(&all);
        assert!(said.names.iter().eq(&names), "the bus knows {names:?}, and libvirt {:?}", said.names);
        let expected: BTreeSet<&str> = self.copies.keys().map(String::as_str).collect();
        assert_eq!(names, expected, "those are there that were taken and not deleted");
        for (target, path) in parse(&said.inactive, sources) {
            assert_eq!(Some(&path), said.active.get(&target), "the definition names what {target} runs on");
        }

        // What holds what.
        let mut held: Vec<(String, &str, String)> = Vec::new();
        let mut owned = BTreeSet::new();
        let mut tops = BTreeSet::new();
        for (target, top) in &said.active {
            held.push((format!("disk {target} is not what was written to it"), top, now(target)));
        }
        let mut images = Vec::new();
        for (snapshot, text) in all.iter().zip(&said.snapshots) {
            let (overlays, states) = parse(text, |root| (part(root, "disks"), part(root, "domain")));
            owned.extend(overlays.into_iter().map(|(_, path)| path));
            let offered = snapshot.state == "ready";
            assert!(
                offered || self.doomed.contains(&snapshot.name),
                "{snapshot:?}: {}",
                self.daemon.journal()
            );
            let left_out =
                states.iter().filter(|(target, _)| !self.copies[&snapshot.name].contains_key(target));
            // It stays as long as the snapshot does.
            owned.extend(left_out.map(|(_, image)| image.clone()));
            for (target, copy) in &self.copies[&snapshot.name] {
                let (_, image) = states.iter().find(|(t, _)| t == target).unwrap();
                tops.insert(image.clone());
                images.push((snapshot, target, image.clone(), copy));
            }
        }
        for (snapshot, target, image, copy) in &images {
            // One that is not offered may hold anything.
            if snapshot.state == "ready" {
                let lost = format!("{} has lost {target}'s data: {image}", snapshot.name);
                held.push((lost, image, (*copy).clone()));
            }
        }
        // What lies under the disks is most of it.
        let mut layers = BTreeSet::new();
        for top in said.active.values().chain(&tops) {
            if !layers.contains(top) {
                layers.extend(chain(self.tb, top));
            }
        }
        self.compare(&held, &layers);
        owned.extend(layers);
        wait_for(DEADLINE, "no file is left that nobody owns", || {
            let files = self.tb.ok(&format!("find {IMAGES} -type f -name '*seq*'"));
            let left: Vec<&str> = files.lines().filter(|f| !owned.contains(*f)).collect();
            if !left.is_empty() {
                println!("  nobody owns {left:?}");
            }
            left.is_empty().then_some(())
        });
    }

    fn ask_libvirt(&self, all: &[Listed]) -> Said {
        // virsh ends no line of its own there.
        let end = "echo ===";
        let mut ask =
            format!("domblklist seq; {end}; dumpxml --inactive seq; {end}; snapshot-list seq --name; {end}");
        for snapshot in all {
            let _ = write!(ask, "; snapshot-dumpxml seq {}; {end}", snapshot.name);
        }
        let said = self.tb.ok(&format!("virsh -q {}", quote(&ask)));
        let mut parts = said.split("===").map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(|| panic!("{said}"));
        let pair = |line: &str| line.trim().split_once(' ').map(|(t, p)| (t.to_owned(), p.trim().to_owned()));
        let active = next().lines().filter_map(pair).collect();
        let inactive = next();
        let names = next().lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        Said { active, inactive, names, snapshots: all.iter().map(|_| next()).collect() }
    }

    /// Each image holds what its copy holds, and all are sound.
    fn compare(&self, held: &[(String, &str, String)], images: &BTreeSet<String>) {
        let mut script = "set -e\n".to_owned();
        for (what, image, copy) in held {
            let _ = writeln!(
                script,
                "qemu-img compare -U -F raw {} {copy} >&2 || {{ echo {} >&2; exit 1; }}",
                quote(image),
                quote(what)
            );
        }
        for image in images {
            let image = quote(image);
            let _ = writeln!(
                script,
                "qemu-img check -q -U {image} >&2 || {{ echo {image} is broken >&2; exit 1; }}"
            );
        }
        let checked = self.tb.sh(&script);
        assert!(checked.success(), "{checked}\n{}", self.daemon.journal());
    }
}

fn parse<T>(text: &str, read: impl FnOnce(roxmltree::Node<'_, '_>) -> T) -> T {
    let doc = roxmltree::Document::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    read(doc.root_element())
}

fn part(root: roxmltree::Node<'_, '_>, name: &str) -> Vec<(String, String)> {
    sources(root.children().find(|n| n.has_tag_name(name)).unwrap())
}
