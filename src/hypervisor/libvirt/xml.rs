//! libvirt's XML, read and written: text in, values out. No calls.
//!
//! Reading goes through `roxmltree`, which refuses document types and so every kind of entity trick; writing
//! escapes every value. A name never gets into XML by formatting alone.

use std::collections::BTreeSet;

use jiff::Timestamp;
use roxmltree::{Document, Node};

use crate::{
    core::model::{Content, SnapshotName, Storage, VmId},
    hypervisor::{Agent, CreateSpec, Disk, Error, ErrorKind, Layer, Overlay, Result, SnapshotDisk},
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
}

/// A disk, and its address where it has one on PCI (to find the guest's file systems on it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskXml {
    pub(super) disk: Disk,
    pub(super) pci: Option<[u32; 4]>,
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
    pub(super) delete_in_progress: bool,
}

/// What a storage volume's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeXml {
    pub(super) format: String,
    pub(super) capacity: u64,
    pub(super) backing: Option<Layer>,
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
    let disks =
        devices.into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")).map(disk).collect();
    Ok(DomainXml { id, name: child_text(root, "name").unwrap_or_default(), tags, agent, disks, seclabels })
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
    while let Some(store) = below {
        let Some(path) = source(store) else { break };
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
    let writable = device == "disk" && child(node, "readonly").is_none() && !chain.is_empty();
    DiskXml { disk: Disk { target, kind, writable, chain }, pci }
}

/// Reads a snapshot's XML.
pub(super) fn snapshot(xml: &str) -> Result<SnapshotXml> {
    let doc = parse(xml)?;
    let root = doc.root_element();
    let name = child_text(root, "name").ok_or_else(|| broken("a snapshot without a name"))?;
    let seconds: i64 = child_text(root, "creationTime").and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let memory = child(root, "memory").and_then(|m| m.attribute("snapshot")).unwrap_or("no");
    let external = |d: &Node<'_, '_>| d.attribute("snapshot") == Some("external");
    let rows: Vec<_> = child(root, "disks")
        .into_iter()
        .flat_map(|d| d.children())
        .filter(|n| n.has_tag_name("disk"))
        .collect();
    // The domain inside is as it was before the snapshot: its disks are the state images.
    let before: Vec<_> = child(root, "domain")
        .and_then(|d| child(d, "devices"))
        .into_iter()
        .flat_map(|d| d.children())
        .filter(|n| n.has_tag_name("disk"))
        .collect();
    let disks: Vec<SnapshotDisk> = rows
        .iter()
        .filter(|d| external(d))
        .filter_map(|d| {
            let target = d.attribute("name")?.to_owned();
            let state_image = before
                .iter()
                .find(|b| child(**b, "target").and_then(|t| t.attribute("dev")) == Some(&target))
                .and_then(|b| source(*b))
                .unwrap_or_default();
            Some(SnapshotDisk { overlay: source(*d)?, target, state_image })
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
        delete_in_progress: rows.iter().any(|d| child(*d, "snapshotDeleteInProgress").is_some()),
    })
}

/// Reads a storage volume's XML.
pub(super) fn volume(xml: &str) -> Result<VolumeXml> {
    let doc = parse(xml)?;
    let root = doc.root_element();
    let format =
        |n| child(n, "format").and_then(|f: Node<'_, '_>| f.attribute("type")).unwrap_or("raw").to_owned();
    let backing = child(root, "backingStore")
        .and_then(|b| Some(Layer { path: child_text(b, "path")?, format: format(b) }));
    Ok(VolumeXml {
        format: child(root, "target").map(format).unwrap_or_default(),
        capacity: child_text(root, "capacity").and_then(|t| t.trim().parse().ok()).unwrap_or(0),
        backing,
    })
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

/// The XML that asks for an external, disk-only snapshot onto prepared overlays.
///
/// Every disk of the VM stands in it: one that is left out by silence would get an overlay of libvirt's choice.
pub(super) fn snapshot_request(spec: &CreateSpec, all_targets: &[String]) -> String {
    let mut x = String::from("<domainsnapshot>");
    element(&mut x, "name", spec.name.as_str());
    element(&mut x, "description", &spec.description);
    x.push_str("<disks>");
    for target in all_targets {
        if let Some(o) = spec.overlays.iter().find(|o| o.target == *target) {
            x.push_str("<disk snapshot='external' type='file'");
            attribute(&mut x, "name", target);
            x.push_str("><driver type='qcow2'/><source");
            attribute(&mut x, "file", &o.path);
            x.push_str("/></disk>");
        } else {
            x.push_str("<disk snapshot='no'");
            attribute(&mut x, "name", target);
            x.push_str("/>");
        }
    }
    x.push_str("</disks></domainsnapshot>");
    x
}

/// The XML of a volume that is an empty overlay.
pub(super) fn overlay_volume(name: &str, overlay: &Overlay, capacity: u64) -> String {
    let mut x = String::from("<volume>");
    element(&mut x, "name", name);
    element(&mut x, "capacity", &capacity.to_string());
    // 0600: the image of a stopped VM is nobody's business either (libvirt's CVE-2025-13193).
    x.push_str(
        "<target><format type='qcow2'/><permissions><mode>0600</mode></permissions></target><backingStore>",
    );
    element(&mut x, "path", &overlay.backing.path);
    x.push_str("<format");
    attribute(&mut x, "type", &overlay.backing.format);
    x.push_str("/></backingStore></volume>");
    x
}

/// The XML of a transient pool over a directory.
pub(super) fn directory_pool(name: &str, directory: &str) -> String {
    let mut x = String::from("<pool type='dir'>");
    element(&mut x, "name", name);
    x.push_str("<target>");
    element(&mut x, "path", directory);
    x.push_str("</target></pool>");
    x
}

fn parse(xml: &str) -> Result<Document<'_>> {
    Document::parse(xml).map_err(|e| broken(&e.to_string()))
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("libvirt's XML cannot be read: {what}"))
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

fn child_text(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name).map(|n| n.text().unwrap_or_default().to_owned())
}

/// The path of a `<source>`, whatever its kind.
fn source(node: Node<'_, '_>) -> Option<String> {
    let s = child(node, "source")?;
    ["file", "dev", "name", "volume", "path"].iter().find_map(|a| s.attribute(*a)).map(str::to_owned)
}

fn element(out: &mut String, name: &str, text: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    escape(out, text);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    escape(out, value);
    out.push('\'');
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            // Else an attribute's value would be normalised to a space.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = r"<domain type='qemu' id='1'><name>web &lt;1&gt;</name>
        <uuid>0cc175b9-c0f1-b6a8-31c3-99e269772661</uuid>
        <metadata><v:vm xmlns:v='urn:virtsnap:vm:1'><v:tag>prod</v:tag></v:vm></metadata>
        <seclabel type='dynamic' model='apparmor' relabel='yes'/><seclabel type='none' model='dac'/>
        <devices>
          <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a.s1.qcow2'/>
            <backingStore type='file'><format type='raw'/><source file='/i/a.raw'/><backingStore/></backingStore>
            <target dev='vda' bus='virtio'/>
            <address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/></disk>
          <disk type='file' device='cdrom'><source file='/i/x.iso'/><target dev='sda'/><readonly/></disk>
          <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
        </devices></domain>";

    #[test]
    fn a_domain_is_read_with_its_chain_agent_tags_and_labels() {
        let d = domain(DOMAIN).unwrap();
        assert_eq!(d.name, "web <1>");
        assert_eq!(d.agent, Agent::Connected);
        assert!(d.tags.contains("prod"));
        assert_eq!(d.seclabels, [("apparmor".into(), true), ("dac".into(), false)]);
        let vda = &d.disks[0];
        assert_eq!(vda.pci, Some([0, 0, 10, 0]));
        assert!(vda.disk.writable && !d.disks[1].disk.writable);
        let paths: Vec<_> = vda.disk.chain.iter().map(|l| (l.path.as_str(), l.format.as_str())).collect();
        assert_eq!(paths, [("/i/a.s1.qcow2", "qcow2"), ("/i/a.raw", "raw")]);
    }

    #[test]
    fn a_snapshot_is_read_with_overlay_and_state_image() {
        let s = snapshot(
            r"<domainsnapshot><name>a
b</name><description>d</description><parent><name>p</name></parent><creationTime>1700000000</creationTime>
            <memory snapshot='no'/><disks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/>
            <snapshotDeleteInProgress/><source file='/i/a.new.qcow2'/></disk><disk name='vdb' snapshot='no'/></disks>
            <domain><devices><disk type='file' device='disk'><source file='/i/a.qcow2'/><target dev='vda'/></disk></devices></domain>
            </domainsnapshot>",
        )
        .unwrap();
        assert_eq!(s.name.as_str(), "a\nb");
        assert_eq!((s.content, s.storage), (Content::Disk, Storage::External));
        assert_eq!(s.disks.len(), 1);
        assert_eq!(
            (s.disks[0].overlay.as_str(), s.disks[0].state_image.as_str()),
            ("/i/a.new.qcow2", "/i/a.qcow2")
        );
        assert_eq!(s.created.as_second(), 1_700_000_000);
        assert!(s.delete_in_progress);
    }

    #[test]
    fn what_is_written_reads_back_whatever_it_holds() {
        let name = "a<b>&'\"\n ü";
        let spec = CreateSpec {
            name: SnapshotName::existing(name),
            description: "x < y\nline two".into(),
            overlays: vec![Overlay {
                target: "vda".into(),
                path: "/i/it's & <that>.qcow2".into(),
                backing: Layer { path: "/i/a".into(), format: "raw".into() },
            }],
        };
        let xml = snapshot_request(&spec, &["vda".into(), "vdb".into()]);
        let back = snapshot(&xml).unwrap();
        assert_eq!(back.name.as_str(), name);
        assert_eq!(back.description, spec.description);
        assert_eq!(back.disks[0].overlay, spec.overlays[0].path);
        assert!(xml.contains("<disk snapshot='no' name='vdb'/>"));
        let v = volume(&overlay_volume("n", &spec.overlays[0], 4096)).unwrap();
        assert_eq!((v.capacity, v.format.as_str()), (4096, "qcow2"));
        assert_eq!(v.backing, Some(spec.overlays[0].backing.clone()));
    }

    #[test]
    fn broken_xml_is_an_error_not_a_panic() {
        assert!(domain("<domain>").is_err());
        assert!(domain("<!DOCTYPE a [<!ENTITY b 'c'>]><domain/>").is_err());
        assert!(snapshot("<domainsnapshot/>").is_err());
    }
}
