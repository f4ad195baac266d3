//! libvirt's XML, read and written: text in, values out. No calls.
//!
//! Reading goes through `roxmltree`, which refuses document types and so every kind of entity trick; writing
//! escapes every value. A name never gets into XML by formatting alone.

#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;

use jiff::Timestamp;
use roxmltree::Node;

pub(super) use self::write::{
    directory_pool, file_volume, overlay_volume, snapshot_inside, snapshot_request,
};
use super::nodes::{broken, child, child_text, overlays, parse, source};
use crate::{
    core::model::{Content, SnapshotName, Storage, VmId},
    hypervisor::{Agent, Disk, Layer, Nvram, Result, SnapshotDisk, Taken, Tpm},
};

/// The namespace of what we keep in a VM's `<metadata>`.
pub(super) const NAMESPACE: &str = "urn:virtsnap:vm:1";

/// What a domain's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DomainXml {
    pub(super) id: VmId,
    pub(super) name: String,
    pub(super) tags: BTreeSet<String>,
    pub(super) agent: Agent,
    pub(super) disks: Vec<DiskXml>,
    /// `<seclabel>`s: model and whether it confines (`type` is not `none`).
    pub(super) seclabels: Vec<(String, bool)>,
    pub(super) nvram: Option<Nvram>,
    pub(super) tpm: Option<Tpm>,
    /// Its memory, in bytes.
    pub(super) ram: u64,
    /// One of its disks is being copied, or the layer it is written to committed.
    pub(super) mirrors: bool,
}

/// A disk, and its address where it has one on PCI (to find the guest's file systems on it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskXml {
    pub(super) disk: Disk,
    pub(super) pci: Option<[u32; 4]>,
    /// It says that its last image lies on nothing.
    pub(super) ends: bool,
    /// A block job has both sides equal, and waits to be ended.
    pub(super) ready: bool,
    /// What a block job copies it to, or commits it into.
    pub(super) mirror: Option<String>,
    /// The pool that it is a volume of, where the definition names it so; the chain's first path is the volume's name.
    pub(super) pool: Option<String>,
}

/// What a snapshot's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotXml {
    pub(super) name: SnapshotName,
    pub(super) description: String,
    pub(super) created: Timestamp,
    pub(super) parent: Option<SnapshotName>,
    pub(super) content: Content,
    pub(super) storage: Storage,
    pub(super) disks: Vec<SnapshotDisk>,
    pub(super) delete_in_progress: Vec<String>,
    pub(super) revert_disks: Vec<(String, String)>,
    pub(super) memory_file: Option<String>,
    pub(super) taken: Taken,
    pub(super) sources: Vec<(String, String)>,
}

/// What a storage volume's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeXml {
    pub(super) path: String,
    pub(super) format: String,
    /// Both in bytes.
    pub(super) capacity: u64,
    pub(super) allocation: u64,
    pub(super) backing: Option<Layer>,
    /// When somebody wrote to it last, as libvirt writes that.
    pub(super) modified: String,
    /// Owner, group and mode, the latter in octal.
    pub(super) access: Option<Access>,
}

/// Who may read and write a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) owner: String,
    pub(super) group: String,
    /// In octal.
    pub(super) mode: String,
}

/// Reads a domain's XML.
pub(super) fn domain(xml: &str) -> Result<DomainXml> {
    let doc = parse(xml)?;
    let root = doc.root_element();
    let uuid = child_text(root, "uuid").unwrap_or_default();
    let id = uuid.parse().map_err(|_| broken(&format!("the domain's UUID {uuid:?} is not one")))?;
    let tags = root
        .children()
        .filter(|n| n.has_tag_name("metadata"))
        .flat_map(|m| m.descendants())
        .filter(|n| n.has_tag_name((NAMESPACE, "tag")))
        .filter_map(|n| n.text().map(|t| t.trim().to_owned()))
        .collect();
    let devices = child(root, "devices");
    let agent = devices
        .into_iter()
        .flat_map(|d| d.children())
        .filter(|n| n.has_tag_name("channel"))
        .filter_map(|c| child(c, "target"))
        .find(|t| t.attribute("name") == Some("org.qemu.guest_agent.0"))
        .map_or(Agent::Absent, |t| match t.attribute("state") {
            Some("connected") => Agent::Connected,
            _ => Agent::Disconnected,
        });
    let seclabels = root
        .children()
        .filter(|n| n.has_tag_name("seclabel"))
        .filter_map(|n| Some((n.attribute("model")?.to_owned(), n.attribute("type") != Some("none"))))
        .collect();
    let of_kind = |kind| devices.into_iter().flat_map(|d| d.children()).filter(move |n| n.has_tag_name(kind));
    Ok(DomainXml {
        id,
        name: child_text(root, "name").unwrap_or_default(),
        tags,
        agent,
        disks: of_kind("disk").map(disk).collect(),
        seclabels,
        nvram: child(root, "os").and_then(|os| child(os, "nvram")).and_then(nvram),
        tpm: of_kind("tpm").filter_map(|n| child(n, "backend")).find_map(|backend| tpm(backend, id)),
        // libvirt tells it in KiB, however it was given.
        ram: child_text(root, "memory").and_then(|m| m.trim().parse::<u64>().ok()).unwrap_or(0) << 10,
        mirrors: of_kind("disk").any(|d| child(d, "mirror").is_some()),
    })
}

/// The path is the element's text, or since libvirt 8.5 a `<source>` as a disk has it.
fn nvram(node: Node<'_, '_>) -> Option<Nvram> {
    let text = || node.text().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    let path = source(node).or_else(text)?;
    let attribute = |name, otherwise: &str| node.attribute(name).unwrap_or(otherwise).to_owned();
    Some(Nvram { kind: attribute("type", "file"), path, format: attribute("format", "raw") })
}

/// Where libvirt's system instance keeps an emulated TPM's state, as long as the definition says nothing else (which it
/// can since 10.10): `swtpmStorageDir` of its `qemu_conf.c`, and names that swtpm gives its files.
fn tpm(backend: Node<'_, '_>, vm: VmId) -> Option<Tpm> {
    if backend.attribute("type") != Some("emulator") {
        return None;
    }
    let (directory, file) = match backend.attribute("version") {
        Some("1.2") => ("tpm1.2", "tpm-00.permall"),
        _ => ("tpm2", "tpm2-00.permall"),
    };
    let given = child(backend, "source").map(|n| (n.attribute("type"), n.attribute("path")));
    let state = match given {
        None => Some(format!("/var/lib/libvirt/swtpm/{vm}/{directory}/{file}")),
        Some((Some("file"), Some(path))) => Some(path.to_owned()),
        Some((Some("dir"), Some(path))) => Some(format!("{}/{file}", path.trim_end_matches('/'))),
        Some(_) => None,
    };
    Some(Tpm { state })
}

fn disk(node: Node<'_, '_>) -> DiskXml {
    let device = node.attribute("device").unwrap_or("disk");
    let kind = node.attribute("type").unwrap_or("file").to_owned();
    let mut chain = Vec::new();
    let format = |n: Node<'_, '_>, element| {
        child(n, element).and_then(|f| f.attribute("type")).unwrap_or("raw").to_owned()
    };
    if let Some(path) = source(node) {
        chain.push(Layer { path, format: format(node, "driver") });
    }
    let mut below = child(node, "backingStore");
    let mut ends = false;
    while let Some(store) = below {
        let Some(path) = source(store) else {
            ends = !chain.is_empty() && !store.children().any(|n| n.is_element());
            break;
        };
        chain.push(Layer { path, format: format(store, "format") });
        below = child(store, "backingStore");
    }
    let pci = child(node, "address").filter(|a| a.attribute("type") == Some("pci")).and_then(|a| {
        let number = |name| {
            let text = a.attribute(name)?;
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        Some([number("domain")?, number("bus")?, number("slot")?, number("function")?])
    });
    let target = child(node, "target").and_then(|t| t.attribute("dev")).unwrap_or_default().to_owned();
    // A disk that its definition takes out of snapshots is no less written to; policies say which disks count.
    let writable = matches!(device, "disk" | "lun") && child(node, "readonly").is_none() && !chain.is_empty();
    let bus = child(node, "target").and_then(|t| t.attribute("bus")).unwrap_or_default().to_owned();
    let shared = child(node, "shareable").is_some();
    let ready = child(node, "mirror").is_some_and(|m| m.attribute("ready") == Some("yes"));
    let mirror = child(node, "mirror").and_then(source);
    let pool = child(node, "source").and_then(|s| s.attribute("pool")).map(str::to_owned);
    DiskXml {
        disk: Disk {
            target,
            kind,
            device: device.to_owned(),
            bus,
            shared,
            writable,
            chain,
            lost: None,
            configured: None,
            written_out: None,
        },
        pci,
        ends,
        ready,
        mirror,
        pool,
    }
}

/// The disks' targets, and what libvirt calls their devices in QEMU; those of a VM that is off have no such name.
pub(super) fn aliases(xml: &str) -> Result<Vec<(String, String)>> {
    let doc = parse(xml)?;
    let disks = doc.root_element().descendants().filter(|n| n.has_tag_name("disk"));
    let name = |n, element, attribute| child(n, element).and_then(|c: Node<'_, '_>| c.attribute(attribute));
    let both = |n| Some((name(n, "target", "dev")?.to_owned(), name(n, "alias", "name")?.to_owned()));
    Ok(disks.filter_map(both).collect())
}

/// Reads a snapshot's XML.
pub(super) fn snapshot(xml: &str) -> Result<SnapshotXml> {
    let doc = parse(xml)?;
    let root = doc.root_element();
    let name = child_text(root, "name").ok_or_else(|| broken("a snapshot without a name"))?;
    let seconds: i64 = child_text(root, "creationTime").and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let memory = child(root, "memory").and_then(|m| m.attribute("snapshot")).unwrap_or("no");
    let rows = || child(root, "disks").into_iter().flat_map(|d| d.children());
    // The domain inside is as it was before the snapshot: its disks are the state images.
    let before: Vec<_> = child(root, "domain")
        .and_then(|d| child(d, "devices"))
        .into_iter()
        .flat_map(|d| d.children())
        .filter(|n| n.has_tag_name("disk"))
        .filter_map(|d| Some((child(d, "target")?.attribute("dev")?.to_owned(), d)))
        .collect();
    let of_each = |what: fn(Node<'_, '_>) -> Option<String>| -> Vec<(String, String)> {
        before.iter().filter_map(|(target, disk)| Some((target.clone(), what(*disk)?))).collect()
    };
    let sources = of_each(source);
    let formats = of_each(|disk| child(disk, "driver")?.attribute("type").map(str::to_owned));
    let disks: Vec<SnapshotDisk> = child(root, "disks")
        .into_iter()
        .flat_map(overlays)
        .map(|(target, overlay)| {
            let image = sources.iter().find(|(t, _)| *t == target);
            let state_image = image.map(|(_, path)| path.clone()).unwrap_or_default();
            let format = formats.iter().find(|(t, _)| *t == target).map(|(_, format)| format.clone());
            SnapshotDisk { target, overlay, state_image, format: format.unwrap_or_default() }
        })
        .collect();
    let storage =
        if memory == "external" || !disks.is_empty() { Storage::External } else { Storage::Internal };
    Ok(SnapshotXml {
        name: SnapshotName::existing(name),
        description: child_text(root, "description").unwrap_or_default(),
        created: Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
        parent: child(root, "parent").and_then(|p| child_text(p, "name")).map(SnapshotName::existing),
        content: if memory == "no" { Content::Disk } else { Content::Full },
        storage,
        disks,
        delete_in_progress: rows()
            .filter(|d| child(*d, "snapshotDeleteInProgress").is_some())
            .filter_map(|d| d.attribute("name").map(str::to_owned))
            .collect(),
        revert_disks: child(root, "revertDisks").map(overlays).unwrap_or_default(),
        memory_file: memory_file(root),
        taken: match child_text(root, "state").as_deref() {
            Some("running") => Taken::Running,
            Some("paused") => Taken::Paused,
            Some("disk-snapshot") => Taken::DiskOnly,
            _ => Taken::Off,
        },
        sources,
    })
}

fn memory_file(snapshot: Node<'_, '_>) -> Option<String> {
    child(snapshot, "memory").and_then(|m| m.attribute("file")).map(str::to_owned)
}

/// Reads a storage volume's XML.
pub(super) fn volume(xml: &str) -> Result<VolumeXml> {
    let doc = parse(xml)?;
    let root = doc.root_element();
    let format =
        |n| child(n, "format").and_then(|f: Node<'_, '_>| f.attribute("type")).unwrap_or("raw").to_owned();
    let backing = child(root, "backingStore")
        .and_then(|b| Some(Layer { path: child_text(b, "path")?, format: format(b) }));
    let target = child(root, "target");
    let bytes = |name| child_text(root, name).and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let access = target.and_then(|t| child(t, "permissions")).and_then(|p| {
        let text = |name| child_text(p, name).map(|t| t.trim().to_owned());
        Some(Access { owner: text("owner")?, group: text("group")?, mode: text("mode")? })
    });
    Ok(VolumeXml {
        path: target.and_then(|t| child_text(t, "path")).unwrap_or_default(),
        format: target.map(format).unwrap_or_default(),
        capacity: bytes("capacity"),
        allocation: bytes("allocation"),
        backing,
        modified: target
            .and_then(|t| child(t, "timestamps"))
            .and_then(|t| child_text(t, "mtime"))
            .unwrap_or_default(),
        access,
    })
}

/// All images that a snapshot's XML names: what the disks were on, what was put on top of them, by target, and the memory
/// file.
#[expect(clippy::type_complexity, reason = "three lists for one caller")]
pub(super) fn snapshot_images(xml: &str) -> Result<(Vec<DiskXml>, Vec<(String, String)>, Option<String>)> {
    let doc = parse(xml)?;
    let of = |names: [&'static str; 2]| {
        doc.root_element().children().filter(move |n| names.iter().any(|name| n.has_tag_name(*name)))
    };
    let devices = of(["domain", "inactiveDomain"]).filter_map(|d| child(d, "devices"));
    let before = devices.flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")).map(disk);
    let above = of(["disks", "revertDisks"]).flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk"));
    let above = above.filter_map(|n| Some((n.attribute("name").unwrap_or_default().to_owned(), source(n)?)));
    Ok((before.collect(), above.collect(), memory_file(doc.root_element())))
}

/// A pool's directory, and whether its kind is one of files in a directory.
pub(super) fn pool_directory(xml: &str) -> Option<String> {
    let doc = parse(xml).ok()?;
    let root = doc.root_element();
    let kind = root.attribute("type")?;
    if !matches!(kind, "dir" | "fs" | "netfs") {
        return None;
    }
    child_text(child(root, "target")?, "path")
}

/// The models of mandatory access control that the host's capabilities name.
pub(super) fn security_models(capabilities: &str) -> Vec<String> {
    let Ok(doc) = parse(capabilities) else { return Vec::new() };
    doc.descendants().filter(|n| n.has_tag_name("secmodel")).filter_map(|n| child_text(n, "model")).collect()
}
