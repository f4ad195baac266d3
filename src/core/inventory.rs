//! What is known of a VM: the hypervisor's facts and our own records, put together.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::branch::Stem;
use super::forgotten::Forgotten;
use super::health::Finding;
use super::label::Label;
use super::merge::Ground;
use super::model::{Consistency, Snapshot, SnapshotName, VmId, VmState};
use super::policy::Quiesce;
use super::retention::Need;
use super::stray::Stray;

/// One VM, as it was when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    /// Its UUID.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// The guest agent's channel is open at the other end.
    pub agent_connected: bool,
    /// The most images under one of its writable disks.
    pub chain_depth: u32,
    /// Every image under its disks, by path.
    pub images: BTreeSet<String>,
    /// What its snapshots' images allow, where not all of them have all of its disks; else their tree says it.
    pub ground: Option<Box<Ground>>,
    /// What it was branched off, if it was made so.
    pub stem: Option<Stem>,
    /// What is wrong with its disks and snapshots, the worst first.
    pub findings: Vec<Finding>,
    /// Files on its images that belong to nobody, by path.
    pub strays: Vec<Stray>,
    /// Since when the journal knows what happens, if it has snapshots of ours that are older, and nobody said yet that it
    /// is to be pruned all the same.
    pub known_since: Option<Timestamp>,
    /// Snapshots inside its images that libvirt does not know of, by image.
    pub forgotten: Vec<Forgotten>,
    /// Its snapshots.
    pub snapshots: BTreeMap<SnapshotName, SnapshotRecord>,
}

impl VmRecord {
    /// The snapshots, as policies see them, in name order.
    pub fn for_policies(&self) -> Vec<Snapshot> {
        self.snapshots.values().map(|s| s.snapshot.clone()).collect()
    }

    /// The bytes that all its snapshots hold.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshots.values().fold(0, |sum, s| sum.saturating_add(s.snapshot.size))
    }
}

/// The snapshots of a VM whose images others have under their disks: neither they nor what they are based on may be
/// merged or removed. Paths are compared as libvirt gives them; the hypervisor's own check before each deletion
/// knows files that have several.
pub fn needed<'a>(
    vm: &VmRecord,
    others: impl IntoIterator<Item = &'a VmRecord>,
) -> BTreeMap<SnapshotName, Need> {
    let mut of_image: BTreeMap<&str, &SnapshotName> = BTreeMap::new();
    for (name, record) in &vm.snapshots {
        of_image.extend(record.images.iter().map(|image| (image.as_str(), name)));
    }
    let mut needed = BTreeMap::new();
    if of_image.is_empty() {
        return needed;
    }
    for other in others.into_iter().filter(|other| other.id != vm.id) {
        let images = other.images.iter().chain(other.snapshots.values().flat_map(|s| &s.images));
        for name in images.filter_map(|image| of_image.get(image.as_str())) {
            let mut next = Some(*name);
            while let Some(name) = next.filter(|name| !needed.contains_key(*name)) {
                let stem = Stem { vm: vm.id, snapshot: name.clone() };
                let need = if other.stem == Some(stem) { Need::Branch } else { Need::OtherVm };
                needed.insert(name.clone(), need(other.name.clone()));
                next = vm.snapshots.get(name).and_then(|s| s.snapshot.parent.as_ref());
            }
        }
    }
    needed
}

/// One snapshot with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// What policies look at.
    pub snapshot: Snapshot,
    /// Our own identity of it, if it is ours: names are used again.
    pub id: Option<Uuid>,
    /// What people attached to it.
    pub label: Label,
    /// Its description, without our marker.
    pub description: String,
    /// How it was taken.
    pub quality: Quality,
    /// The images that hold its data, by path: one for each disk that it has.
    pub images: Vec<String>,
    /// What these images take by themselves, in bytes: without what they lie on, which older snapshots hold. 0 if unknown.
    pub held: u64,
    /// Its deletion was begun and did not end: its image may hold newer data, and the next prune finishes it.
    pub half_deleted: bool,
}

impl SnapshotRecord {
    /// With this attached to it.
    pub fn set_label(&mut self, label: Label) {
        self.snapshot.pinned = !label.pins.is_empty();
        self.snapshot.expires = label.expires;
        self.label = label;
    }
}

/// How consistent a snapshot is, and what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quality {
    /// What was reached. Where nobody wrote it down, the least that it can be.
    pub reached: Consistency,
    /// What was asked for; `None` if it is not known.
    pub requested: Option<Quiesce>,
    /// The memory was asked for.
    pub memory: bool,
    /// Why they differ; empty if they do not.
    pub note: String,
    /// At most so long were the guest's file systems frozen: from the freeze being sent to the thaw being answered.
    pub frozen: SignedDuration,
}

impl Quality {
    /// One more reason why it is not what was asked for.
    pub fn also(&mut self, why: &str) {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(why);
    }

    /// Of a snapshot that we know nothing more of: never claims more than is known.
    pub const fn unknown(memory: bool) -> Self {
        let reached = if memory { Consistency::Memory } else { Consistency::Crash };
        Self { reached, requested: None, memory, note: String::new(), frozen: SignedDuration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        model::{Content, Origin, SnapshotState, Storage},
        simulate::record,
    };

    /// A VM with a chain of snapshots, whose images are `images`.
    fn vm(id: u128, layers: &[&str], snapshots: &[(&str, &str)]) -> VmRecord {
        let mut parent = None;
        let mut all = BTreeMap::new();
        for (name, image) in snapshots {
            let name = SnapshotName::existing(*name);
            let snapshot = Snapshot {
                name: name.clone(),
                created: jiff::Timestamp::UNIX_EPOCH,
                parent: parent.replace(name.clone()),
                current: false,
                state: SnapshotState::Ready,
                origin: Origin::Schedule,
                managed: true,
                policies: BTreeSet::new(),
                pinned: false,
                expires: None,
                content: Content::Disk,
                storage: Storage::External,
                size: 0,
            };
            all.insert(name, SnapshotRecord { images: vec![(*image).to_owned()], ..record(snapshot) });
        }
        VmRecord {
            id: VmId(uuid::Uuid::from_u128(id)),
            name: format!("vm{id}"),
            state: VmState::Running,
            tags: BTreeSet::new(),
            agent_connected: false,
            chain_depth: 1,
            images: layers.iter().map(|l| (*l).to_owned()).collect(),
            ground: None,
            stem: None,
            findings: Vec::new(),
            strays: Vec::new(),
            known_since: None,
            forgotten: Vec::new(),
            snapshots: all,
        }
    }

    fn names(needed: &BTreeMap<SnapshotName, Need>) -> Vec<&str> {
        needed.keys().map(SnapshotName::as_str).collect()
    }

    #[test]
    fn what_a_clone_is_based_on_is_needed_with_all_below_it() {
        let template = vm(1, &["/base", "/o1", "/o2", "/o3"], &[("a", "/base"), ("b", "/o1"), ("c", "/o2")]);
        let clone = vm(2, &["/clone", "/o1"], &[]);
        let found = needed(&template, [&template, &clone]);
        assert_eq!(names(&found), ["a", "b"]);
        assert_eq!(found[&SnapshotName::existing("a")], Need::OtherVm("vm2".to_owned()));
        assert!(needed(&clone, [&template, &clone]).is_empty());
    }

    #[test]
    fn a_branch_is_called_one_where_it_starts_and_below_it_is_another_vm() {
        let web = vm(1, &["/base", "/o1", "/o2"], &[("a", "/base"), ("b", "/o1")]);
        let stem = Stem { vm: web.id, snapshot: SnapshotName::existing("b") };
        let trial = VmRecord { stem: Some(stem), ..vm(2, &["/trial", "/o1", "/base"], &[]) };
        let found = needed(&web, [&web, &trial]);
        assert_eq!(found[&SnapshotName::existing("b")], Need::Branch("vm2".to_owned()));
        assert_eq!(found[&SnapshotName::existing("a")], Need::OtherVm("vm2".to_owned()));
        // What is written down of it pins nothing: what it stands on does.
        let promoted = VmRecord { images: ["/trial".to_owned()].into(), ..trial };
        assert!(needed(&web, [&promoted]).is_empty());
    }

    #[test]
    fn another_vm_s_snapshot_needs_it_as_much_as_its_disk() {
        let template = vm(1, &["/base", "/o1"], &[("a", "/base")]);
        let reverted = vm(2, &["/elsewhere"], &[("s", "/base")]);
        assert_eq!(names(&needed(&template, [&reverted])), ["a"]);
        assert!(needed(&template, [&vm(3, &["/x"], &[("s", "/y")])]).is_empty());
    }
}
