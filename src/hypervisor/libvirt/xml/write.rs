//! Writing: every value is escaped, whatever it holds.

use super::{
    super::nodes::{attribute, element},
    Access,
};
use crate::{
    core::model::SnapshotName,
    hypervisor::{CreateSpec, Overlay},
};

/// The XML that asks for an external snapshot onto prepared overlays.
///
/// Every disk of the VM stands in it: one that is left out by silence would get an overlay of libvirt's choice.
pub(in super::super) fn snapshot_request(spec: &CreateSpec, all_targets: &[String]) -> String {
    let mut x = String::from("<domainsnapshot>");
    element(&mut x, "name", spec.name.as_str());
    element(&mut x, "description", &spec.description);
    if let Some(path) = &spec.memory {
        x.push_str("<memory snapshot='external'");
        attribute(&mut x, "file", path);
        x.push_str("/>");
    }
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

/// The XML that asks for a snapshot inside the images of all disks, and of the memory if there is any.
pub(in super::super) fn snapshot_inside(name: &SnapshotName, description: &str) -> String {
    let mut x = String::from("<domainsnapshot>");
    element(&mut x, "name", name.as_str());
    element(&mut x, "description", description);
    x.push_str("</domainsnapshot>");
    x
}

/// The XML of a volume that is an empty overlay, as the disk's own image belongs to whom. Without that it is root's.
pub(in super::super) fn overlay_volume(
    name: &str,
    overlay: &Overlay,
    capacity: u64,
    like: Option<&Access>,
) -> String {
    // 0600: the image of a stopped VM is nobody's business either (libvirt's CVE-2025-13193).
    let mut x = volume(name, capacity, "qcow2", like, "0600");
    x.push_str("<backingStore>");
    element(&mut x, "path", &overlay.backing.path);
    x.push_str("<format");
    attribute(&mut x, "type", &overlay.backing.format);
    x.push_str("/></backingStore></volume>");
    x
}

/// The XML of a volume that is a small file.
pub(in super::super) fn file_volume(name: &str, length: u64, like: Option<&Access>) -> String {
    volume(name, length, "raw", like, like.map_or("0600", |l| &l.mode)) + "</volume>"
}

fn volume(name: &str, capacity: u64, format: &str, like: Option<&Access>, mode: &str) -> String {
    let mut x = String::from("<volume>");
    element(&mut x, "name", name);
    element(&mut x, "capacity", &capacity.to_string());
    x.push_str("<target><format");
    attribute(&mut x, "type", format);
    x.push_str("/><permissions>");
    element(&mut x, "mode", mode);
    if let Some(like) = like {
        element(&mut x, "owner", &like.owner);
        element(&mut x, "group", &like.group);
    }
    x.push_str("</permissions></target>");
    x
}

/// The XML of a transient pool over a directory.
pub(in super::super) fn directory_pool(name: &str, directory: &str) -> String {
    let mut x = String::from("<pool type='dir'>");
    element(&mut x, "name", name);
    x.push_str("<target>");
    element(&mut x, "path", directory);
    x.push_str("</target></pool>");
    x
}
