//! A model of a disk for the tests: images with backing images, as snapshots, reverts and merges leave them, each a
//! layer of clusters.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::{prelude::*, sample::Index};

use super::*;
use crate::core::model::{Content, Origin};

/// What is in the clusters.
pub(super) type Data = BTreeMap<u8, u32>;

#[derive(Debug, Clone)]
pub(super) struct Image {
    backing: Option<usize>,
    pub(super) data: Data,
    there: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) image: usize,
    parent: Option<SnapshotName>,
    /// What it read when it was taken.
    pub(super) content: Data,
}

/// One disk of a VM, and what libvirt knows of its snapshots.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) images: Vec<Image>,
    pub(super) active: usize,
    pub(super) nodes: BTreeMap<SnapshotName, Node>,
    current: Option<SnapshotName>,
    /// The active images of other VMs that are based on snapshots of this one, and what they read.
    pub(super) others: Vec<(usize, Data)>,
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Write(u8),
    Take,
    Revert(Index),
    /// Another VM is put on a snapshot.
    Branch(Index, u8),
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        40 => (0..12_u8).prop_map(Act::Write),
        40 => Just(Act::Take),
        10 => any::<Index>().prop_map(Act::Revert),
        1 => (any::<Index>(), 0..12_u8).prop_map(|(on, cluster)| Act::Branch(on, cluster)),
    ]
}

/// What a step really did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Clusters written.
    pub(super) copied: u64,
    /// Clusters of the images that it removed.
    pub(super) freed: u64,
}

impl Disk {
    pub(super) fn after(acts: &[Act]) -> Self {
        let base = Image { backing: None, data: Data::new(), there: true };
        let mut disk =
            Self { images: vec![base], active: 0, nodes: BTreeMap::new(), current: None, others: Vec::new() };
        for (i, act) in (0..).zip(acts) {
            let nth = |at: &Index| disk.nodes.iter().nth(at.index(disk.nodes.len())).unwrap();
            match act {
                Act::Write(cluster) => {
                    disk.images[disk.active].data.insert(*cluster, i);
                }
                Act::Take => {
                    let name = SnapshotName::existing(format!("s{i:02}"));
                    let content = disk.read(disk.active);
                    let parent = disk.current.replace(name.clone());
                    disk.nodes.insert(name, Node { image: disk.active, parent, content });
                    disk.active = disk.overlay(disk.active);
                }
                Act::Revert(_) | Act::Branch(..) if disk.nodes.is_empty() => {}
                Act::Revert(to) => {
                    let (name, node) = nth(to);
                    let (name, image) = (name.clone(), node.image);
                    disk.images[disk.active].there = false;
                    disk.current = Some(name);
                    disk.active = disk.overlay(image);
                }
                Act::Branch(on, cluster) => {
                    let image = nth(on).1.image;
                    let other = disk.overlay(image);
                    disk.images[other].data.insert(*cluster, i);
                    disk.others.push((other, disk.read(other)));
                }
            }
        }
        disk
    }

    fn overlay(&mut self, on: usize) -> usize {
        self.images.push(Image { backing: Some(on), data: Data::new(), there: true });
        self.images.len() - 1
    }

    /// From the image down to the base.
    fn chain(&self, from: usize) -> Vec<usize> {
        std::iter::successors(Some(from), |&i| self.images[i].backing).collect()
    }

    pub(super) fn read(&self, from: usize) -> Data {
        let mut data = Data::new();
        for i in self.chain(from).into_iter().rev() {
            assert!(self.images[i].there, "an image of the chain is gone");
            data.extend(self.images[i].data.clone());
        }
        data
    }

    /// Everybody reads what they did: the VM itself, its snapshots, the other VMs.
    pub(super) fn check(&self, live: &Data) {
        assert_eq!(self.read(self.active), *live, "the VM's disk has changed");
        for (name, node) in &self.nodes {
            assert_eq!(self.read(node.image), node.content, "{name} has changed");
        }
        for (image, content) in &self.others {
            assert_eq!(self.read(*image), *content, "another VM's disk has changed");
        }
        // And no image is left over.
        let used = self.nodes.values().map(|n| n.image).chain(self.others.iter().map(|o| o.0));
        let used: BTreeSet<_> = used.chain([self.active]).collect();
        let there = (0..self.images.len()).filter(|&i| self.images[i].there).collect();
        assert_eq!(used, there);
    }

    /// The snapshots that other VMs are based on, ancestors included.
    pub(super) fn needed(&self) -> BTreeMap<SnapshotName, Need> {
        let below: BTreeSet<_> = self.others.iter().flat_map(|o| self.chain(o.0)).collect();
        let named = self.nodes.iter().filter(|(_, node)| below.contains(&node.image));
        named.map(|(name, _)| (name.clone(), Need::OtherVm("other".to_owned()))).collect()
    }

    /// The other VMs on a snapshot's image go.
    pub(super) fn release(&mut self, name: &SnapshotName) {
        let image = self.nodes[name].image;
        let (gone, stay): (Vec<_>, _) =
            std::mem::take(&mut self.others).into_iter().partition(|o| self.chain(o.0).contains(&image));
        self.others = stay;
        for (image, _) in gone {
            self.images[image].there = false;
        }
    }

    pub(super) fn snapshots(&self) -> Vec<Snapshot> {
        let live = self.chain(self.active);
        let snapshot = |(i, (name, node)): (i64, (&SnapshotName, &Node))| {
            // What would be removed: on the live chain the image on top, else its own.
            let on_top = live.windows(2).find(|w| w[1] == node.image).map_or(node.image, |w| w[0]);
            Snapshot {
                name: name.clone(),
                created: Timestamp::from_second(1_780_000_000 + i * 7_000).unwrap(),
                parent: node.parent.clone(),
                current: self.current.as_ref() == Some(name),
                state: SnapshotState::Ready,
                origin: Origin::Schedule,
                managed: true,
                policies: BTreeSet::new(),
                pinned: false,
                expires: None,
                content: Content::Disk,
                storage: Storage::External,
                size: self.images[on_top].data.len() as u64,
            }
        };
        (0..).zip(&self.nodes).map(snapshot).collect()
    }

    /// The images that are there and based on this one.
    fn overlays(&self, of: usize) -> Vec<usize> {
        let based = |i: &usize| self.images[*i].there && self.images[*i].backing == Some(of);
        (0..self.images.len()).filter(based).collect()
    }

    /// Does what libvirt and QEMU do at such a step, and nothing more: no image's backing but the one in the live chain is
    /// rewritten. Panics at a step that is not legal, even if nobody would notice.
    pub(super) fn apply(&mut self, step: &Step<&SnapshotName>) -> Cost {
        let mut cost = Cost { copied: 0, freed: 0 };
        match step {
            Step::Merge { run, survivor, .. } => {
                for pair in run.windows(2) {
                    assert_eq!(self.nodes[pair[1]].parent.as_ref(), Some(pair[0]), "not consecutive");
                }
                let last = run.last().copied();
                match survivor {
                    Some(survivor) => {
                        assert_eq!(self.nodes[*survivor].parent.as_ref(), last, "not the child");
                    }
                    None => assert_eq!(self.current.as_ref(), last, "not the active layer"),
                }
                let base = self.nodes[run[0]].image;
                let top = survivor.map_or(self.active, |s| self.nodes[s].image);
                let live = self.chain(self.active);
                let place = |image| live.iter().position(|&i| i == image).expect("on the live chain");
                let (above, below) = (place(top), place(base));
                assert!(above < below);
                for at in (above..below).rev() {
                    let image = live[at];
                    assert_eq!(self.overlays(live[at + 1]), [image], "something else is based on it");
                    let data = std::mem::take(&mut self.images[image].data);
                    cost.freed += data.len() as u64;
                    cost.copied += data.len() as u64;
                    self.images[base].data.extend(data);
                    self.images[image].there = false;
                }
                match above.checked_sub(1) {
                    Some(overlay) => {
                        // It cannot be that of another VM, nor of a branch: theirs would not be rewritten.
                        self.images[live[overlay]].backing = Some(base);
                        assert_eq!(self.overlays(top), NOBODY, "something else is based on what is removed");
                    }
                    None => self.active = base,
                }
                for name in run {
                    self.forget(name);
                }
                if let Some(survivor) = survivor {
                    self.nodes.get_mut(*survivor).unwrap().image = base;
                }
            }
            Step::DropBranch { snapshot, .. } => {
                assert!(self.nodes.values().all(|n| n.parent.as_ref() != Some(*snapshot)), "it has children");
                assert_ne!(self.current.as_ref(), Some(*snapshot), "it is the current one");
                let image = self.nodes[*snapshot].image;
                assert_eq!(self.overlays(image), NOBODY, "something is based on what is removed");
                cost.freed = self.images[image].data.len() as u64;
                self.images[image].there = false;
                self.forget(snapshot);
            }
            Step::DeleteInternal { .. } => panic!("there are no internal ones"),
        }
        cost
    }

    /// What `METADATA_ONLY` does.
    fn forget(&mut self, name: &SnapshotName) {
        let gone = self.nodes.remove(name).unwrap();
        for node in self.nodes.values_mut().filter(|n| n.parent.as_ref() == Some(name)) {
            node.parent.clone_from(&gone.parent);
        }
        if self.current.as_ref() == Some(name) {
            self.current = gone.parent;
        }
    }
}

const NOBODY: [usize; 0] = [];
