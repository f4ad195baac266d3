//! What libvirt's metadata of a snapshot says, as `virsh` shows it.

use std::collections::BTreeMap;

use virtsnap::core::model::{SnapshotName, VmId};

use super::RealRig;
use crate::harness::quote;

impl RealRig {
    pub(super) fn snapshot_xml(&self, vm: VmId, snapshot: &SnapshotName) -> String {
        self.tb().ok(&format!("virsh snapshot-dumpxml --security-info {} {}", vm.0, quote(snapshot.as_str())))
    }

    /// What the metadata names as the disks' images when the snapshot was taken.
    pub(super) fn state_images(&self, vm: VmId, snapshot: &SnapshotName) -> BTreeMap<String, String> {
        self.definitions_of(vm, snapshot).remove(0)
    }

    /// The disks' images in the definition of then, and in the one for the next start, if they were two.
    pub(super) fn definitions_of(&self, vm: VmId, snapshot: &SnapshotName) -> Vec<BTreeMap<String, String>> {
        let text = self.snapshot_xml(vm, snapshot);
        let doc = roxmltree::Document::parse(&text).unwrap();
        let disk = |n: roxmltree::Node<'_, '_>| {
            let attribute = |tag, name| n.children().find(|c| c.has_tag_name(tag))?.attribute(name);
            Some((attribute("target", "dev")?.to_owned(), attribute("source", "file")?.to_owned()))
        };
        let of = |domain: roxmltree::Node<'_, '_>| {
            domain.descendants().filter(|n| n.has_tag_name("disk")).filter_map(disk).collect()
        };
        ["domain", "inactiveDomain"]
            .iter()
            .filter_map(|tag| doc.root_element().children().find(|n| n.has_tag_name(*tag)))
            .map(of)
            .collect()
    }
}
