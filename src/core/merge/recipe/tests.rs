//! Recipes against a model of a VM with several disks, of which each snapshot has some.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::core::chain::{Part, Told, links};

type Data = BTreeMap<u8, usize>;
const DISKS: [&str; 3] = ["vda", "vdb", "vdc"];

#[derive(Debug, Clone)]
struct Image {
    backing: Option<String>,
    data: Data,
}

#[derive(Debug, Clone)]
struct Node {
    name: SnapshotName,
    parent: Option<usize>,
    /// Of each disk that it has: its overlay, its state image, and what it read.
    disks: BTreeMap<usize, (String, String, Data)>,
    /// Of all disks, also those that it does not have.
    sources: [String; 3],
}

/// A VM, its images by name, and all of its snapshots that there ever were.
#[derive(Debug, Clone)]
struct World {
    images: BTreeMap<String, Image>,
    active: [String; 3],
    nodes: Vec<Node>,
    current: Option<usize>,
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize, u8),
    /// By the disks that it has, as bits.
    Take(usize),
    Revert(Index),
}

fn acts(reverts: u32) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        50 => (0..3_usize, 0..6_u8).prop_map(|(disk, cluster)| Act::Write(disk, cluster)),
        40 => (1..8_usize).prop_map(Act::Take),
        reverts => any::<Index>().prop_map(Act::Revert),
    ];
    prop::collection::vec(act, 0..40)
}

impl World {
    fn after(acts: &[Act]) -> Self {
        let base = |disk: usize| format!("/{}", DISKS[disk]);
        let image = |disk| (base(disk), Image { backing: None, data: Data::new() });
        let images = (0..3).map(image).collect();
        let active = [base(0), base(1), base(2)];
        let mut world = Self { images, active, nodes: Vec::new(), current: None };
        for (i, act) in acts.iter().enumerate() {
            match act {
                Act::Write(disk, cluster) => {
                    let active = &world.active[*disk];
                    world.images.get_mut(active).unwrap().data.insert(*cluster, i);
                }
                Act::Take(mask) => world.take(i, *mask),
                Act::Revert(_) if world.nodes.is_empty() => {}
                Act::Revert(to) => {
                    let to = to.index(world.nodes.len());
                    for (disk, (_, state, _)) in world.nodes[to].disks.clone() {
                        world.put_on(disk, &state, i);
                    }
                    world.current = Some(to);
                }
            }
        }
        world
    }

    fn put_on(&mut self, disk: usize, image: &str, i: usize) {
        let overlay = format!("/{}-{i:02}", DISKS[disk]);
        let made = Image { backing: Some(image.to_owned()), data: Data::new() };
        self.images.insert(overlay.clone(), made);
        self.active[disk] = overlay;
    }

    fn take(&mut self, i: usize, mask: usize) {
        let sources = self.active.clone();
        let mut disks = BTreeMap::new();
        for disk in (0..3).filter(|d| mask & (1 << d) != 0) {
            let (state, content) = (self.active[disk].clone(), self.read(&self.active[disk]));
            self.put_on(disk, &state, i);
            disks.insert(disk, (self.active[disk].clone(), state, content));
        }
        let name = SnapshotName::existing(format!("s{i:02}"));
        self.nodes.push(Node { name, parent: self.current, disks, sources });
        self.current = Some(self.nodes.len() - 1);
    }

    fn chain(&self, top: &str) -> Vec<&str> {
        let mut chain = Vec::new();
        let mut next = self.images.get_key_value(top);
        assert!(next.is_some(), "{top} is gone");
        while let Some((path, image)) = next {
            chain.push(path.as_str());
            next = image.backing.as_ref().map(|b| {
                self.images.get_key_value(b).unwrap_or_else(|| panic!("{path} lies on {b}, which is gone"))
            });
        }
        chain
    }

    fn read(&self, top: &str) -> Data {
        let mut data = Data::new();
        for image in self.chain(top).iter().rev() {
            data.extend(self.images[*image].data.clone());
        }
        data
    }

    /// From the first to the current one.
    fn line(&self) -> Vec<usize> {
        let mut line: Vec<_> = std::iter::successors(self.current, |i| self.nodes[*i].parent).collect();
        line.reverse();
        line
    }

    /// As the worker asks; `None` where the VM's disks are no longer what the line of snapshots says.
    fn recipe(&self, run: &[usize]) -> Option<Result<Recipe, Obstacle>> {
        let line = self.line();
        let off = |i: &usize| !line.contains(i);
        let mut disks = Vec::new();
        for (disk, target) in DISKS.iter().enumerate() {
            let part = |i: usize| {
                let (overlay, state_image, _) = self.nodes[i].disks.get(&disk)?;
                Some(Part { snapshot: &self.nodes[i].name, overlay, state_image, reverted: None })
            };
            let beside = (0..self.nodes.len()).filter(off).filter_map(part).collect();
            let told = Told {
                line: line.iter().rev().copied().filter_map(part).collect(),
                beside,
                current: self.current.and_then(part).is_some(),
            };
            let chain = self.chain(&self.active[disk]);
            let links = links(target, &chain, &told).ok()?;
            disks.push(DiskNow { target, chain: chain.into_iter().map(|i| (i, "qcow2")).collect(), links });
        }
        let now = |i: usize, beside: Vec<_>| {
            let node = &self.nodes[i];
            let sources = node.sources.iter().map(String::as_str).collect();
            SnapshotNow { name: &node.name, id: None, memory: None, sources, beside }
        };
        let on_line: Vec<_> = line.iter().map(|i| now(*i, Vec::new())).collect();
        let beside: Vec<_> = (0..self.nodes.len())
            .filter(off)
            .map(|i| now(i, self.nodes[i].disks.values().flat_map(|d| self.chain(&d.1)).collect()))
            .collect();
        let run: Vec<_> = run.iter().map(|i| self.nodes[*i].name.clone()).collect();
        Some(recipe(&disks, &on_line, &beside, &run))
    }

    /// What libvirt, QEMU and the worker do with it.
    fn apply(&mut self, recipe: &Recipe) {
        for part in &recipe.disks {
            let disk = DISKS.iter().position(|t| *t == part.target).unwrap();
            for image in part.gone.iter().rev() {
                let data = self.images[image].data.clone();
                self.images.get_mut(&part.base).unwrap().data.extend(data);
            }
            let chain: Vec<String> = self.chain(&self.active[disk]).iter().map(|i| (*i).to_owned()).collect();
            match chain.iter().position(|i| *i == part.top).unwrap() {
                0 => self.active[disk].clone_from(&part.base),
                at => self.images.get_mut(&chain[at - 1]).unwrap().backing = Some(part.base.clone()),
            }
            for node in self.nodes.iter_mut().filter(|n| recipe.told.contains(&n.name)) {
                let states = node.disks.values_mut().map(|d| &mut d.1);
                for source in node.sources.iter_mut().chain(states).filter(|s| **s == part.top) {
                    source.clone_from(&part.base);
                }
            }
        }
        for path in recipe.removed() {
            self.images.remove(&path).expect("it was there");
        }
        for doomed in recipe.run.iter().rev() {
            let at = self.nodes.iter().position(|n| n.name == doomed.name).unwrap();
            let parent = self.nodes[at].parent;
            for node in self.nodes.iter_mut().filter(|n| n.parent == Some(at)) {
                node.parent = parent;
            }
            if self.current == Some(at) {
                self.current = parent;
            }
            // Stays in its place, so that the others' places stay right.
            self.nodes[at].disks.clear();
            self.nodes[at].sources = Default::default();
        }
    }

    /// Everybody reads what they read, and finds every image.
    fn check(&self, live: &[Data; 3]) {
        for (disk, before) in live.iter().enumerate() {
            assert_eq!(self.read(&self.active[disk]), *before, "{} has changed", DISKS[disk]);
        }
        for node in &self.nodes {
            for (disk, (_, state, content)) in &node.disks {
                assert_eq!(self.read(state), *content, "{} of {} has changed", DISKS[*disk], node.name);
            }
        }
    }

    fn live(&self) -> [Data; 3] {
        [0, 1, 2].map(|disk| self.read(&self.active[disk]))
    }
}

/// Any run of the line.
fn some_run(world: &World, from: Index, length: Index) -> Vec<usize> {
    let line = world.line();
    if line.is_empty() {
        return Vec::new();
    }
    let from = from.index(line.len());
    line[from..=from + length.index(line.len() - from)].to_vec()
}

proptest! {
    #[test]
    fn on_a_straight_line_every_run_goes_and_who_stays_reads_the_same(
        acts in acts(0), from: Index, length: Index
    ) {
        let mut world = World::after(&acts);
        let (run, live) = (some_run(&world, from, length), world.live());
        let recipe = world.recipe(&run).unwrap().unwrap();
        prop_assert_eq!(recipe.run.len(), run.len());
        let images = world.images.len();
        world.apply(&recipe);
        world.check(&live);
        // One image goes for each disk of each of them.
        let overlays: usize = recipe.disks.iter().map(|d| d.gone.len()).sum();
        prop_assert_eq!(world.images.len(), images - overlays);
        // And so does what is left.
        let rest = world.line();
        let recipe = world.recipe(&rest).unwrap().unwrap();
        world.apply(&recipe);
        world.check(&live);
        prop_assert_eq!(world.images.len(), 3);
    }

    #[test]
    fn among_branches_what_goes_harms_nobody(acts in acts(8), from: Index, length: Index) {
        let mut world = World::after(&acts);
        let (run, live) = (some_run(&world, from, length), world.live());
        if let Some(Ok(recipe)) = world.recipe(&run) {
            world.apply(&recipe);
            world.check(&live);
        }
    }
}

fn name(i: usize) -> SnapshotName {
    SnapshotName::existing(format!("s{i:02}"))
}

#[test]
fn a_disk_is_merged_between_those_of_the_run_that_have_it() {
    // s00 has vda, s01 vdb, s02 both.
    let world = World::after(&[Act::Take(1), Act::Take(2), Act::Take(3)]);
    let recipe = world.recipe(&[0, 1]).unwrap().unwrap();
    let part = |target: &str, base: &str, top: &str, above: &str| DiskPart {
        above: Some(above.into()),
        base_bytes: None,
        target: target.into(),
        base: base.into(),
        base_format: "qcow2".into(),
        top: top.into(),
        gone: vec![top.into()],
    };
    assert_eq!(
        recipe.disks,
        [part("vda", "/vda", "/vda-00", "/vda-02"), part("vdb", "/vdb", "/vdb-01", "/vdb-02")]
    );
    assert_eq!(recipe.told, [name(2)]);
    assert_eq!(recipe.removed(), ["/vda-00", "/vdb-01"]);
    assert_eq!(recipe.touched(), ["/vda", "/vda-00", "/vdb", "/vdb-01"]);
}

#[test]
fn what_is_not_one_run_of_the_line_is_refused() {
    let world = World::after(&[Act::Take(1), Act::Take(1), Act::Take(1)]);
    assert_eq!(world.recipe(&[0, 2]), Some(Err(Obstacle::NotConsecutive(name(0), name(2)))));
    assert_eq!(world.recipe(&[1, 0]), Some(Err(Obstacle::NotConsecutive(name(1), name(0)))));
    let mut left = world.clone();
    left.put_on(0, "/vda", 9);
    left.current = Some(0);
    assert_eq!(left.recipe(&[1]), Some(Err(Obstacle::OffTheLine(name(1)))));
    let stands = Obstacle::Stands { snapshot: name(1), image: "/vda".into() };
    assert_eq!(left.recipe(&[0]), Some(Err(stands)));
}

#[test]
fn an_image_that_another_disk_stands_on_is_left_alone() {
    let mut world = World::after(&[Act::Take(1)]);
    world.put_on(1, "/vda", 9);
    let shared = Obstacle::Shared { disk: "vdb".into(), image: "/vda".into() };
    assert_eq!(world.recipe(&[0]), Some(Err(shared)));
}

#[test]
fn a_disk_is_merged_only_where_what_lay_above_lies_on_the_base_now() {
    let part = |above: Option<&str>| DiskPart {
        target: "vda".into(),
        base: "/b".into(),
        base_format: "qcow2".into(),
        top: "/2".into(),
        gone: vec!["/2".into(), "/1".into()],
        above: above.map(str::to_owned),
        base_bytes: None,
    };
    let place = |above, chain: &[&str], overlays: &[&str]| part(above).place(chain, overlays).ok();
    let (inner, active) = (Some("/3"), None);
    assert_eq!(place(inner, &["/3", "/2", "/1", "/b", "/0"], &[]), Some(Place::ToDo));
    assert_eq!(place(active, &["/2", "/1", "/b"], &[]), Some(Place::ToDo));
    // With a snapshot that was taken on top meanwhile.
    assert_eq!(place(active, &["/4", "/2", "/1", "/b"], &[]), Some(Place::ToDo));
    assert_eq!(place(inner, &["/3", "/b", "/0"], &[]), Some(Place::Done));
    assert_eq!(place(inner, &["/4", "/3", "/b"], &[]), Some(Place::Done));
    assert_eq!(place(active, &["/b", "/0"], &[]), Some(Place::Done));
    assert_eq!(place(active, &["/4", "/b"], &["/4"]), Some(Place::Done));

    // Reverted to the oldest of the run, to one before it, to one within it; merged by others; another disk.
    for chain in [&["/9", "/b", "/0"][..], &["/9", "/0"], &["/9", "/1", "/b"], &["/b"], &["/x"], &[]] {
        assert_eq!(place(inner, chain, &[]), None, "{chain:?}");
    }
    for chain in [&["/9", "/b"][..], &["/9", "/1", "/b"], &["/b", "/1"], &["/x"], &[]] {
        assert_eq!(place(active, chain, &[]), None, "{chain:?}");
    }
    let written = |chain: &[&str]| part(inner).written(chain);
    assert_eq!(written(&["/4", "/3", "/2", "/1", "/b", "/0"]), ["/b", "/3"]);
    assert_eq!(written(&["/3", "/2", "/1", "/b", "/0"]), ["/b"], "the VM writes to the other one anyway");
    assert_eq!((written(&["/2", "/1", "/b"]), written(&["/3", "/b"])), (vec!["/b".to_owned()], vec![]));

    let strayed = part(inner).place(&["/9", "/b"], &[]).unwrap_err().to_string();
    assert!(strayed.contains("runs on /9 → /b now, where /2 → /1 → /b was to be merged"), "{strayed}");
}
