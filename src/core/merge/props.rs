//! The planner against a model of a disk: images with backing images, as snapshots, reverts and merges leave
//! them. Whatever is planned, what stays must read as it did when it was taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::core::model::{Content, Origin};

type Data = BTreeMap<u8, u32>;

#[derive(Debug, Clone)]
struct Image {
    backing: Option<usize>,
    data: Data,
    there: bool,
}

#[derive(Debug, Clone)]
struct Node {
    image: usize,
    parent: Option<SnapshotName>,
    content: Data,
}

/// One disk of a VM, and what libvirt knows of its snapshots.
#[derive(Debug, Clone)]
struct Disk {
    images: Vec<Image>,
    active: usize,
    nodes: BTreeMap<SnapshotName, Node>,
    current: Option<SnapshotName>,
}

#[derive(Debug, Clone)]
enum Act {
    Write(u8),
    Take,
    Revert(prop::sample::Index),
}

impl Disk {
    fn after(acts: &[Act]) -> Self {
        let base = Image { backing: None, data: Data::new(), there: true };
        let mut disk = Self { images: vec![base], active: 0, nodes: BTreeMap::new(), current: None };
        for (i, act) in acts.iter().enumerate() {
            match act {
                Act::Write(cluster) => {
                    disk.images[disk.active].data.insert(*cluster, u32::try_from(i).unwrap());
                }
                Act::Take => {
                    let name = SnapshotName::existing(format!("s{i:02}"));
                    let content = disk.read(disk.active);
                    let parent = disk.current.replace(name.clone());
                    disk.nodes.insert(name, Node { image: disk.active, parent, content });
                    disk.overlay(disk.active);
                }
                Act::Revert(to) if !disk.nodes.is_empty() => {
                    let (name, node) = disk.nodes.iter().nth(to.index(disk.nodes.len())).unwrap();
                    let (name, image) = (name.clone(), node.image);
                    disk.images[disk.active].there = false;
                    disk.current = Some(name);
                    disk.overlay(image);
                }
                Act::Revert(_) => {}
            }
        }
        disk
    }

    fn overlay(&mut self, on: usize) {
        self.active = self.images.len();
        self.images.push(Image { backing: Some(on), data: Data::new(), there: true });
    }

    /// From the image down to the base.
    fn chain(&self, from: usize) -> Vec<usize> {
        std::iter::successors(Some(from), |&i| self.images[i].backing).collect()
    }

    fn read(&self, from: usize) -> Data {
        let mut data = Data::new();
        for i in self.chain(from).into_iter().rev() {
            assert!(self.images[i].there, "an image of the chain is gone");
            data.extend(self.images[i].data.clone());
        }
        data
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let snapshot = |(i, (name, node)): (i64, (&SnapshotName, &Node))| Snapshot {
            name: name.clone(),
            created: Timestamp::from_second(1_780_000_000 + i).unwrap(),
            parent: node.parent.clone(),
            current: self.current.as_ref() == Some(name),
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: BTreeSet::new(),
            pinned: false,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        };
        (0..).zip(&self.nodes).map(snapshot).collect()
    }

    fn children(&self, of: &SnapshotName) -> usize {
        self.nodes.values().filter(|n| n.parent.as_ref() == Some(of)).count()
    }

    /// Does what libvirt and QEMU do at such a step, and nothing more: no image's backing but the one in the live
    /// chain is rewritten.
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Merge { run, survivor, .. } => {
                let base = self.nodes[&run[0]].image;
                let top = survivor.as_ref().map_or(self.active, |s| self.nodes[s].image);
                let live = self.chain(self.active);
                let place = |image| live.iter().position(|&i| i == image).expect("on the live chain");
                let (above, below) = (place(top), place(base));
                assert!(above < below);
                for &i in live[above..below].iter().rev() {
                    let data = std::mem::take(&mut self.images[i].data);
                    self.images[base].data.extend(data);
                    self.images[i].there = false;
                }
                match above.checked_sub(1) {
                    Some(overlay) => self.images[live[overlay]].backing = Some(base),
                    None => self.active = base,
                }
                for name in run {
                    self.forget(name);
                }
                if let Some(survivor) = survivor {
                    self.nodes.get_mut(survivor).unwrap().image = base;
                }
            }
            Step::DropBranch { snapshot, .. } => {
                assert_eq!(self.children(snapshot), 0);
                assert_ne!(self.current.as_ref(), Some(snapshot));
                self.images[self.nodes[snapshot].image].there = false;
                self.forget(snapshot);
            }
            Step::DeleteInternal { .. } => panic!("there are no internal ones"),
        }
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

fn disk() -> impl Strategy<Value = Disk> {
    let act = prop_oneof![
        4 => (0..12_u8).prop_map(Act::Write),
        4 => Just(Act::Take),
        1 => any::<prop::sample::Index>().prop_map(Act::Revert),
    ];
    prop::collection::vec(act, 0..50).prop_map(|acts| Disk::after(&acts))
}

/// A disk, what is to go, what is needed elsewhere, what is being worked on: by name.
fn world()
-> impl Strategy<Value = (Disk, Vec<Snapshot>, BTreeSet<SnapshotName>, BTreeMap<SnapshotName, Need>)> {
    let each = || prop::collection::vec((0..100_u32, 0..100_u32, 0..100_u32), 50);
    (disk(), each(), 0..100_u32, 0..10_u32).prop_map(|(disk, dice, share, odd)| {
        let mut snapshots = disk.snapshots();
        let (mut doomed, mut needed) = (BTreeSet::new(), BTreeMap::new());
        for (s, (a, b, c)) in snapshots.iter_mut().zip(dice) {
            if a < share {
                doomed.insert(s.name.clone());
            }
            if b < odd {
                needed.insert(s.name.clone(), Need::OtherVm("other".to_owned()));
            }
            if c < odd {
                s.state = SnapshotState::ALL[c as usize % SnapshotState::ALL.len()];
            }
        }
        (disk, snapshots, doomed, needed)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_stays_reads_as_it_did((disk, snapshots, doomed, needed) in world()) {
        let plan = plan(&snapshots, &doomed, &needed);
        let (mut after, live) = (disk.clone(), disk.read(disk.active));
        for step in &plan.steps {
            after.apply(step);
            // After each step, for a prune may end at any.
            prop_assert_eq!(&after.read(after.active), &live);
            for node in after.nodes.values() {
                prop_assert_eq!(&after.read(node.image), &node.content);
            }
        }
        for name in needed.keys() {
            let image = disk.nodes[name].image;
            prop_assert_eq!(after.nodes.get(name).map(|n| n.image), Some(image));
            prop_assert_eq!(&after.images[image].data, &disk.images[image].data);
        }
        let held: BTreeSet<_> = plan.held.iter().map(|h| h.name.clone()).collect();
        let stay: BTreeSet<_> =
            disk.nodes.keys().filter(|n| !doomed.contains(n) || held.contains(n)).cloned().collect();
        prop_assert_eq!(after.nodes.keys().cloned().collect::<BTreeSet<_>>(), stay);
        prop_assert!(held.is_subset(&doomed));
        // No image is left over.
        let used: BTreeSet<_> = after.nodes.values().map(|n| n.image).chain([after.active]).collect();
        let there: BTreeSet<_> = (0..after.images.len()).filter(|&i| after.images[i].there).collect();
        prop_assert_eq!(used, there);
    }

    #[test]
    fn a_second_plan_finds_nothing_more((disk, snapshots, doomed, needed) in world()) {
        let first = plan(&snapshots, &doomed, &needed);
        let mut after = disk;
        first.steps.iter().for_each(|step| after.apply(step));
        let states: BTreeMap<_, _> = snapshots.iter().map(|s| (s.name.clone(), s.state)).collect();
        let mut left = after.snapshots();
        for s in &mut left {
            s.state = states[&s.name];
        }
        prop_assert_eq!(plan(&left, &doomed, &needed).steps, vec![]);
    }

    #[test]
    fn a_plain_chain_is_never_held(count in 1..40_usize, bits: u64) {
        let disk = Disk::after(&vec![Act::Take; count]);
        let snapshots = disk.snapshots();
        let goes = |i: usize| bits >> i & 1 == 1;
        let doomed = (0..count).filter(|&i| goes(i)).map(|i| snapshots[i].name.clone()).collect();
        let plan = plan(&snapshots, &doomed, &BTreeMap::new());
        let runs = (0..count).filter(|&i| goes(i) && (i == 0 || !goes(i - 1))).count();
        prop_assert_eq!(plan.held, vec![]);
        prop_assert_eq!(plan.steps.len(), runs);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (world, shuffled) in world().prop_flat_map(|w| (Just(w.clone()), Just(w.1).prop_shuffle()))
    ) {
        let (_, snapshots, doomed, needed) = world;
        prop_assert_eq!(plan(&snapshots, &doomed, &needed), plan(&shuffled, &doomed, &needed));
    }

    #[test]
    fn any_tangle_is_survived(
        links in prop::collection::vec((0..14_usize, prop::option::weighted(0.9, 0..14_usize), 0..9_u8), 0..14),
        doomed in prop::collection::btree_set(0..14_usize, 0..14),
    ) {
        let name = |i: usize| SnapshotName::existing(format!("s{i}"));
        let template = Disk::after(&[Act::Take]).snapshots().remove(0);
        let snapshots: Vec<_> = links
            .iter()
            .map(|&(i, parent, odd)| Snapshot {
                name: name(i),
                parent: parent.map(name),
                current: odd == 1,
                storage: if odd == 2 { Storage::Internal } else { Storage::External },
                ..template.clone()
            })
            .collect();
        let doomed: BTreeSet<_> = doomed.into_iter().map(name).collect();
        let plan = plan(&snapshots, &doomed, &BTreeMap::new());
        // Each is either dealt with or held, exactly once.
        let mut seen: Vec<_> = plan.held.iter().map(|h| h.name.clone()).collect();
        for step in &plan.steps {
            match step {
                Step::Merge { run, .. } => seen.extend(run.iter().cloned()),
                Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
                    seen.push(snapshot.clone());
                }
            }
        }
        seen.sort();
        prop_assert_eq!(seen, doomed.into_iter().collect::<Vec<_>>());
        if snapshots.iter().filter(|s| s.current).count() != 1 {
            prop_assert_eq!(plan.steps, vec![]);
        }
    }
}
