//! The real driver, on a real libvirt in a container, with everything around it done by `virsh` beside it.
//!
//! A VM without an agent has no guest at all: see [`Bare`]. One with an agent is a guest that boots once for each rig
//! and is saved; each further one is restored from that, with its disks as they were. Its marker is a file on each of
//! its disks, read from a raw copy of the image where the guest cannot be asked: so nothing of what is tested has a
//! part in reading it.

mod branches;
mod broken;
mod definition;
mod images;
mod inside;
mod kept;
mod kinds;
mod memory;
mod metadata;
mod native;

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use uuid::Uuid;
use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Hypervisor, libvirt::Libvirt},
};

use super::{Capability, Rig, RigVm};
use crate::harness::{Bare, Guest, GuestSpec, Suite, Testbed, byte_in, quote};

/// The cluster of a bare VM's disk that the marker is in.
const MARKER: u64 = 0;
const IMAGES: &str = "/var/lib/libvirt/images";
/// Where the guest waits to be restored: its memory, its disks, its definition.
const GOLD: &str = "/var/lib/contract";
/// QEMU's block/file-posix.c: `RAW_LOCK_SHARED_BASE` and the number of `BLK_PERM_WRITE`.
const NOT_TO_BE_WRITTEN: i64 = 200 + 1;
/// So many disks the guest has.
const GUEST_DISKS: usize = 2;

pub(crate) struct RealRig {
    suite: Suite,
    /// Started when it is first needed: what the rig can do is known without it.
    testbed: OnceCell<Testbed>,
    guest: Option<Guest>,
    made: Cell<u32>,
    /// What is there of the contract at hand; without a guest, as which of the bare ones.
    vms: BTreeMap<VmId, Option<Bare>>,
    /// An image that nobody may write to as long as this is open.
    held: Option<File>,
    /// There is no libvirtd.
    away: bool,
}

impl RealRig {
    pub(crate) fn new(suite: Suite) -> Self {
        let (testbed, made, vms) = (OnceCell::new(), Cell::new(0), BTreeMap::new());
        Self { suite, testbed, guest: None, made, vms, held: None, away: false }
    }

    fn tb(&self) -> &Testbed {
        self.testbed.get_or_init(|| {
            let testbed = Testbed::start(self.suite);
            testbed.ok(&format!("mkdir -p {GOLD}"));
            testbed
        })
    }

    fn number(&self) -> u32 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    fn guest(&self, vm: VmId) -> &Guest {
        assert!(matches!(self.vms.get(&vm), Some(None)), "there is a guest in it");
        self.guest.as_ref().unwrap()
    }

    /// The guest as it was right after its first boot.
    fn new_guest(&mut self, spec: RigVm) -> VmId {
        assert_eq!(spec.disks, GUEST_DISKS, "that is what the guest has");
        assert!(!self.vms.values().any(Option::is_none), "there is one guest only");
        if self.guest.is_none() {
            let guest = self.tb().guest(GuestSpec { disks: 2, writers: false, ..GuestSpec::named("guest") });
            guest.wait_agent();
            guest.exec("sync");
            self.tb().ok(&format!(
                "set -e; virsh -q dumpxml --inactive {0} >{GOLD}/guest.xml
                 virsh -q save {0} {GOLD}/guest.save >&2
                 cp {IMAGES}/guest-vd?.qcow2 {GOLD}/; virsh -q undefine {0} >&2",
                guest.uuid()
            ));
            self.guest = Some(guest);
        }
        let guest = self.guest.as_ref().unwrap();
        let restore =
            if spec.running { format!("virsh -q restore {GOLD}/guest.save >&2") } else { String::new() };
        self.tb().ok(&format!(
            "set -e; cp {GOLD}/guest-vd?.qcow2 {IMAGES}/; virsh -q define {GOLD}/guest.xml >&2; {restore}"
        ));
        if spec.running {
            guest.wait_agent();
        }
        VmId(Uuid::parse_str(guest.uuid()).unwrap())
    }

    /// Takes the VM off its layers and puts it on others: what `virsh edit` would do to a stopped one.
    fn put_on(&self, vm: VmId, images: &BTreeMap<String, String>) {
        let text = self.tb().ok(&format!("virsh dumpxml --inactive --security-info {}", vm.0));
        let doc = roxmltree::Document::parse(&text).unwrap();
        let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::new();
        for disk in doc.descendants().filter(|n| n.has_tag_name("disk")) {
            let named = |name| disk.children().find(move |c| c.has_tag_name(name));
            let Some(image) = named("target").and_then(|t| images.get(t.attribute("dev")?)) else { continue };
            edits.push((named("source").unwrap().range(), format!("<source file='{image}'/>")));
            edits.extend(named("backingStore").map(|b| (b.range(), String::new())));
        }
        self.define("define", &edited(&text, edits));
    }

    /// Hands XML to a virsh command that takes a file.
    fn define(&self, command: &str, xml: &str) {
        let file = format!("{GOLD}/{}.xml", self.number());
        self.tb().push_file(&file, xml, 0o600);
        self.tb().ok(&format!("virsh -q {command} {file}"));
    }

    /// The marker in an image that nothing writes to, read through its chain from a copy.
    fn marker_in(&self, image: &str) -> u64 {
        // The copy's journal is replayed first, as the guest would.
        let text = self.tb().ok(&format!(
            "set -e; copy=$(mktemp -p /var/tmp); trap 'rm -f $copy' EXIT
             qemu-img convert -q -f qcow2 -O raw {} $copy
             e2fsck -fy $copy >&2 || [ $? -eq 1 ]
             debugfs -R 'cat /marker' $copy",
            quote(image)
        ));
        text.parse().unwrap_or_else(|e| panic!("{image}: no marker in it: {e}: {text:?}"))
    }
}

/// A text with some of its parts replaced.
fn edited(text: &str, mut edits: Vec<(std::ops::Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for (range, new) in edits {
        text.replace_range(range, &new);
    }
    text
}

impl Rig for RealRig {
    fn capabilities(&self) -> BTreeSet<Capability> {
        let of_11 = |c: &Capability| [Capability::RevertDisks, Capability::NativeRevert].contains(c);
        Capability::of_linux().filter(|c| self.suite == Suite::Trixie || !of_11(c)).collect()
    }

    fn hv(&self) -> Arc<dyn Hypervisor> {
        Arc::new(Libvirt::new(self.tb().libvirt_uri()))
    }

    fn new_vm(&mut self, spec: RigVm) -> VmId {
        if spec.agent {
            let vm = self.new_guest(spec);
            self.vms.insert(vm, None);
            return vm;
        }
        let bare = Bare::define(self.tb(), &format!("bare{}", self.number()), spec.disks);
        if spec.running {
            self.tb().ok(&format!("virsh -q start {}", bare.uuid()));
        }
        let vm = VmId(Uuid::parse_str(bare.uuid()).unwrap());
        self.vms.insert(vm, Some(bare));
        vm
    }

    fn start_vm(&mut self, vm: VmId) {
        if self.vms[&vm].is_none() {
            self.guest(vm).start();
            self.guest(vm).wait_agent();
        } else {
            self.tb().ok(&format!("virsh -q start {}", vm.0));
        }
    }

    fn stop_vm(&mut self, vm: VmId) {
        // A marker is on the disk once it is written: pulling the plug keeps it.
        if self.vms[&vm].is_none() {
            self.guest(vm).destroy();
        } else {
            self.tb().ok(&format!("virsh -q destroy {}", vm.0));
        }
    }

    fn undefine_vm(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q undefine {} --snapshots-metadata", vm.0));
        self.vms.remove(&vm);
    }

    fn overlay_path(&mut self, _vm: VmId, target: &str) -> String {
        format!("{IMAGES}/overlay-{}-{target}.qcow2", self.number())
    }

    fn make_file(&mut self, path: &str) {
        self.tb().push_file(path, "somebody's", 0o644);
    }

    fn file_exists(&self, path: &str) -> bool {
        self.tb().path(path).exists()
    }

    fn write_marker(&mut self, vm: VmId, target: &str, value: u64) {
        match &self.vms[&vm] {
            Some(bare) => bare.write(target, MARKER, u8::try_from(value).unwrap()),
            None => {
                self.guest(vm).exec(&format!("set -e; echo {value} >/mnt/{target}/marker; sync"));
            }
        }
    }

    fn write_clusters(&mut self, vm: VmId, target: &str, clusters: &[u64], value: u64) {
        let bare = self.vms[&vm].as_ref().expect("there is no guest in it");
        bare.write_all(target, clusters, u8::try_from(value).unwrap());
    }

    fn marker_now(&self, vm: VmId, target: &str) -> u64 {
        if let Some(bare) = &self.vms[&vm] {
            return byte_in(self.tb(), &bare.active(target), MARKER).into();
        }
        let guest = self.guest(vm);
        if guest.state() == "running" {
            // From the disk, not from the guest's memory.
            let text = guest.exec(&format!("echo 3 >/proc/sys/vm/drop_caches; cat /mnt/{target}/marker"));
            return text.parse().unwrap_or_else(|e| panic!("{target}: {e}: {text:?}"));
        }
        self.marker_in(&guest.image(target))
    }

    fn marker_in_snapshot(&self, vm: VmId, snapshot: &SnapshotName, target: &str) -> u64 {
        let image = &self.state_images(vm, snapshot)[target];
        match self.vms[&vm] {
            Some(_) => byte_in(self.tb(), image, MARKER).into(),
            None => self.marker_in(image),
        }
    }

    fn definitions(&self, vm: VmId, snapshot: &SnapshotName) -> Vec<BTreeMap<String, String>> {
        self.definitions_of(vm, snapshot)
    }

    fn written_chains(&self, vm: VmId, snapshot: &SnapshotName) -> usize {
        self.snapshot_xml(vm, snapshot).matches("<backingStore").count()
    }

    fn set_memory(&mut self, vm: VmId, mib: u64) {
        self.set_memory_of(vm, mib);
    }

    fn memory(&self, vm: VmId) -> u64 {
        self.memory_of(vm)
    }

    fn attach(&mut self, vm: VmId, target: &str, cdrom: bool) {
        self.attach_to(vm, target, cdrom);
    }

    fn managed_save(&mut self, vm: VmId) {
        self.tb().ok(&format!("virsh -q managedsave {} >&2", vm.0));
    }

    fn foreign_snapshot(&mut self, vm: VmId, name: &str) {
        self.tb().ok(&format!("virsh -q snapshot-create-as {} {} --disk-only --atomic", vm.0, quote(name)));
    }

    fn merge_chain_behind(&mut self, vm: VmId) {
        self.tb().ok(&format!(
            "set -e; for disk in $(virsh -q domblklist {0} | awk '{{print $1}}'); do
               virsh -q blockcommit {0} $disk --active --pivot --wait
             done",
            vm.0
        ));
    }

    /// By hand, which works with both libvirts: 9.0 has no native one, and 11.3's loses data.
    fn revert(&mut self, vm: VmId, name: &SnapshotName) {
        let mut overlays = BTreeMap::new();
        for (target, image) in self.state_images(vm, name) {
            let overlay = self.overlay_path(vm, &target);
            self.tb().ok(&format!("qemu-img create -q -f qcow2 -b {} -F qcow2 {overlay}", quote(&image)));
            overlays.insert(target, overlay);
        }
        self.put_on(vm, &overlays);

        let text = self.snapshot_xml(vm, name);
        let doc = roxmltree::Document::parse(&text).unwrap();
        let disks = doc.root_element().children().find(|n| n.has_tag_name("disks")).unwrap();
        let children = format!("virsh -q snapshot-list {} --from {} --name", vm.0, quote(name.as_str()));
        let mut edits = Vec::new();
        if self.tb().ok(&children).trim().is_empty() {
            for disk in disks.children().filter(|n| n.has_tag_name("disk")) {
                let source = disk.children().find(|c| c.has_tag_name("source")).unwrap();
                let overlay = &overlays[disk.attribute("name").unwrap()];
                edits.push((source.range(), format!("<source file='{overlay}'/>")));
            }
        } else if self.suite == Suite::Trixie {
            // Where libvirt knows reverts, it must be told which overlays the children do not lie on.
            let mut revert = "<revertDisks>".to_owned();
            for (target, overlay) in &overlays {
                let _ = write!(
                    revert,
                    "<disk name='{target}' snapshot='external' type='file'><driver type='qcow2'/>
                     <source file='{overlay}'/></disk>"
                );
            }
            let end = disks.range().end;
            edits.push((end..end, revert + "</revertDisks>"));
        }
        let command = format!("snapshot-create {} --redefine --current", vm.0);
        self.define(&command, &edited(&text, edits));
    }

    fn agent_stop(&mut self, vm: VmId) {
        self.guest(vm).agent_stop();
    }

    fn agent_cont(&mut self, vm: VmId) {
        self.guest(vm).agent_cont();
    }

    fn agent_kill(&mut self, vm: VmId) {
        self.guest(vm).agent_kill();
    }

    fn agent_start(&mut self, vm: VmId) {
        self.guest(vm).agent_start();
    }

    fn hook_fail(&mut self, vm: VmId, fail: bool) {
        self.guest(vm).hook_fail(fail);
    }

    /// Another program has the image, and lets nobody write to it: QEMU tells others so by a lock on a certain byte.
    fn merge_fails(&mut self, vm: VmId, name: &SnapshotName, fails: bool) {
        self.held = None;
        if fails && let Some((_, image)) = self.state_images(vm, name).pop_last() {
            let file = File::open(self.tb().path(image)).unwrap();
            let lock = libc::flock {
                l_type: i16::try_from(libc::F_RDLCK).unwrap(),
                l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
                l_start: NOT_TO_BE_WRITTEN,
                l_len: 1,
                l_pid: 0,
            };
            fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
            self.held = Some(file);
        }
    }

    fn disconnect(&mut self) {
        self.away = true;
        self.tb().stop_libvirtd();
    }

    fn reconnect(&mut self) {
        self.tb().start_libvirtd();
        self.away = false;
    }

    fn tidy(&mut self) {
        // Nothing was ever asked of it.
        if self.testbed.get().is_none() {
            return;
        }
        // A contract that failed may have left anything behind.
        if self.away {
            self.reconnect();
        }
        self.held = None;
        for (vm, guest) in std::mem::take(&mut self.vms) {
            if let Some(guest) = self.guest.as_ref().filter(|g| guest.is_none() && g.state() != "shut off") {
                guest.destroy();
            }
            self.tb().ok(&format!(
                "virsh -q 'destroy {0}; undefine {0} --snapshots-metadata --managed-save --keep-nvram'",
                vm.0
            ));
        }
        // Else the next one's guest, whose disks have the same paths, would have others' images on them.
        self.tb().ok(&format!("rm -rf {IMAGES}/*"));
    }
}
