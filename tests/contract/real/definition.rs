//! What a VM is made of, changed by `virsh` beside it.

use virtsnap::core::model::VmId;

use super::{IMAGES, RealRig, edited};

impl RealRig {
    fn inactive(&self, vm: VmId) -> String {
        self.tb().ok(&format!("virsh dumpxml --inactive --security-info {}", vm.0))
    }

    pub(super) fn set_memory_of(&self, vm: VmId, mib: u64) {
        let text = self.inactive(vm);
        let doc = roxmltree::Document::parse(&text).unwrap();
        let edits = ["memory", "currentMemory"].iter().filter_map(|tag| {
            let node = doc.root_element().children().find(|n| n.has_tag_name(*tag))?;
            Some((node.range(), format!("<{tag} unit='MiB'>{mib}</{tag}>")))
        });
        self.define("define", &edited(&text, edits.collect()));
    }

    pub(super) fn memory_of(&self, vm: VmId) -> u64 {
        let text = self.inactive(vm);
        let doc = roxmltree::Document::parse(&text).unwrap();
        let memory = doc.root_element().children().find(|n| n.has_tag_name("memory")).unwrap();
        memory.text().unwrap().parse::<u64>().unwrap() / 1024
    }

    pub(super) fn attach_to(&self, vm: VmId, target: &str, cdrom: bool) {
        let image = format!("{IMAGES}/attached-{}", self.number());
        let how = if cdrom { "--type cdrom --mode readonly" } else { "--targetbus virtio" };
        self.tb().ok(&format!(
            "set -e; qemu-img create -q -f raw {image} 1M
             virsh -q attach-disk {} {image} {target} --config --subdriver raw {how} >&2",
            vm.0
        ));
    }
}
