//! libvirt's own deletions, broken off at a certain point: what a libvirtd leaves that was killed there, put together by
//! hand. By itself it is a matter of milliseconds.

use std::collections::BTreeMap;

use virtsnap::core::model::{SnapshotName, VmId};

use super::{RealRig, edited};
use crate::{
    contract::broken::Broken,
    harness::{Dying, quote},
};

impl RealRig {
    /// The overlays that the snapshot names, by target; and where each row's content begins in this text.
    fn rows(text: &str) -> BTreeMap<String, (String, usize)> {
        let doc = roxmltree::Document::parse(text).unwrap();
        let disks = doc.root_element().children().find(|n| n.has_tag_name("disks")).unwrap();
        let row = |disk: roxmltree::Node<'_, '_>| {
            let source = disk.children().find(|c| c.has_tag_name("source"))?;
            let first = disk.first_element_child()?.range().start;
            Some((disk.attribute("name")?.to_owned(), (source.attribute("file")?.to_owned(), first)))
        };
        disks.children().filter_map(row).collect()
    }
}

impl Broken for RealRig {
    fn break_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: &[&str]) {
        let overlays = Self::rows(&self.snapshot_xml(vm, name));
        let states = self.state_images(vm, name);
        for target in merged {
            let (top, base) = (&overlays[*target].0, &states[*target]);
            let active =
                if self.vms[&vm].as_ref().unwrap().active(target) == *top { "--active --pivot" } else { "" };
            // With the flags that libvirt uses itself: the overlay goes with it.
            self.tb().ok(&format!(
                "virsh -q blockcommit {} {target} --base {} --top {} --delete --wait {active} >&2",
                vm.0,
                quote(base),
                quote(top)
            ));
            assert!(!self.tb().path(top).exists(), "{top} went with it");
        }
        let parent = self.tb().sh(&format!("virsh -q snapshot-parent {} {}", vm.0, quote(name.as_str())));
        let Some(parent) = Some(parent.stdout.trim()).filter(|p| !p.is_empty()) else { return };
        let text = self.snapshot_xml(vm, &SnapshotName::existing(parent.to_owned()));
        let marks = Self::rows(&text).into_iter().filter(|(target, _)| !merged.contains(&target.as_str()));
        let edits: Vec<_> =
            marks.map(|(_, (_, at))| (at..at, "<snapshotDeleteInProgress/>".to_owned())).collect();
        if !edits.is_empty() {
            self.define(&format!("snapshot-create --redefine {}", vm.0), &edited(&text, edits));
        }
    }

    fn leave_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: bool) {
        let tb = self.tb();
        let dying = Dying::install(tb);
        // When QEMU has begun the first disk's job, or ended it: with the image that a guest writes to it is another command.
        let newest = self.vms[&vm].as_ref().unwrap().state() != "shut off"
            && tb.ok(&format!("virsh -q snapshot-current {} --name", vm.0)).trim() == name.as_str();
        dying.at(match (merged, newest) {
            (false, _) => "ablock-commit",
            (true, false) => "ajob-finalize",
            (true, true) => "ajob-complete",
        });
        let deleted = tb.sh(&format!("virsh -q snapshot-delete {} {}", vm.0, quote(name.as_str())));
        assert!(!deleted.success() && dying.died(), "libvirtd died in it: {deleted}");
        tb.start_libvirtd();
    }
}
