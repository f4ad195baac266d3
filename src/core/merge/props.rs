//! The planner against a model of a disk. Whatever is planned, what stays must read as it did when it was taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::{
    disk::{Act, Disk, act},
    *,
};
use crate::core::{
    model::PolicyName,
    policy::{Combine, Keep, Limits, Retention},
    retention::{Context, Rules, doomed, judge},
};

/// A disk, what is to go, what is needed elsewhere, what is being worked on.
#[derive(Debug, Clone)]
struct World {
    disk: Disk,
    snapshots: Vec<Snapshot>,
    doomed: BTreeSet<SnapshotName>,
    needed: BTreeMap<SnapshotName, Need>,
}

impl World {
    fn goes(&self) -> Vec<bool> {
        self.snapshots.iter().map(|s| self.doomed.contains(&s.name)).collect()
    }

    fn plan(&self) -> Plan<&SnapshotName> {
        plan(&self.snapshots, &self.goes(), &self.needed)
    }

    /// Panics at a step that touches what is being worked on, or what is needed.
    fn check(&self, step: &Step<&SnapshotName>) {
        let state = |name: &SnapshotName| self.snapshots.iter().find(|s| s.name == *name).unwrap().state;
        for name in gone(std::slice::from_ref(step)) {
            assert!(!matches!(state(name), SnapshotState::Creating | SnapshotState::Reverting), "{step:?}");
            assert!(!self.needed.contains_key(name), "{step:?}");
        }
        // A survivor's image is moved: nobody else may be at it, and what it holds has to be whole.
        if let Step::Merge { survivor: Some(survivor), .. } = step {
            assert!(!busy(state(survivor)) && !self.needed.contains_key(*survivor), "{step:?}");
        }
    }

    /// The world after these steps.
    fn after(&self, steps: &[Step<&SnapshotName>]) -> Self {
        let mut after = self.clone();
        for step in steps {
            after.disk.apply(step);
        }
        let before: BTreeMap<_, _> = self.snapshots.iter().map(|s| (&s.name, s)).collect();
        after.snapshots = after.disk.snapshots();
        for s in &mut after.snapshots {
            let old = before[&s.name];
            (s.state, s.pinned, s.managed) = (old.state, old.pinned, old.managed);
        }
        after
    }

    /// Does what a held one says has to happen first. Panics if what it says is not so.
    fn obey(&mut self, Held { name, because }: &Held<&SnapshotName>) {
        match because {
            Hold::Busy(state) => self.end(name, *state),
            Hold::ChildBusy { child, state } => self.end(child, *state),
            Hold::Needed(_) => self.release(name),
            Hold::ChildNeeded { child, .. } => self.release(child),
            Hold::Branches(branches) | Hold::DeadBranch(branches) => self.clear(name, branches),
            Hold::ChildBranches { child, branches } => self.clear(child, branches),
            Hold::Broken(_) | Hold::Mixed { .. } | Hold::DeadRoot | Hold::Images(_) => panic!("{because:?}"),
        }
    }

    fn end(&mut self, name: &SnapshotName, state: SnapshotState) {
        let s = self.snapshots.iter_mut().find(|s| s.name == *name).unwrap();
        // Another one may have asked for the same already.
        assert!([state, SnapshotState::Ready].contains(&s.state));
        if state == SnapshotState::Deleting {
            self.doomed.insert(name.clone());
        } else {
            s.state = SnapshotState::Ready;
        }
    }

    fn release(&mut self, name: &SnapshotName) {
        self.needed.remove(name);
        self.disk.release(name);
    }

    fn clear(&mut self, on: &SnapshotName, branches: &[Blocker]) {
        assert!(!branches.is_empty());
        for branch in branches {
            let s = self.snapshots.iter().find(|s| s.name == branch.name).unwrap();
            assert_eq!(s.parent.as_ref(), Some(on));
            assert_eq!((s.pinned, !s.managed), (branch.pinned, branch.foreign));
            self.doomed.insert(s.name.clone());
        }
    }
}

/// The names of those that go, in order.
fn gone<'a>(steps: &[Step<&'a SnapshotName>]) -> Vec<&'a SnapshotName> {
    let of = |step: &Step<&'a SnapshotName>| match step {
        Step::Merge { run, .. } => run.clone(),
        Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => vec![*snapshot],
    };
    steps.iter().flat_map(of).collect()
}

fn disk() -> impl Strategy<Value = Disk> {
    prop::collection::vec(act(), 0..50).prop_map(|acts| Disk::after(&acts))
}

fn world() -> impl Strategy<Value = World> {
    let each = || prop::collection::vec((0..100_u32, 0..100_u32, 0..100_u32, 0..100_u32), 50);
    (disk(), each(), 0..=100_u32, 0..10_u32).prop_map(|(disk, dice, share, odd)| {
        let (mut snapshots, mut needed) = (disk.snapshots(), disk.needed());
        let mut doomed = BTreeSet::new();
        for (s, (a, b, c, d)) in snapshots.iter_mut().zip(dice) {
            if a < share {
                doomed.insert(s.name.clone());
            }
            if b < odd {
                let branch = Need::Branch("branch".to_owned());
                needed.insert(s.name.clone(), if b == 0 { Need::Unmerged(s.name.clone()) } else { branch });
            }
            if c < odd {
                s.state = SnapshotState::ALL[c as usize % SnapshotState::ALL.len()];
            }
            (s.pinned, s.managed) = (d < odd, d + odd < 100);
        }
        World { disk, snapshots, doomed, needed }
    })
}

/// A policy with few slots.
fn retention() -> impl Strategy<Value = Retention> {
    let n = || prop::option::weighted(0.5, 0_u32..6);
    (n(), n(), n(), prop::sample::select(Combine::ALL)).prop_map(|(last, daily, max_count, combine)| {
        Retention {
            keep: Keep { last, daily, ..Keep::default() },
            limits: Limits { max_count, ..Limits::default() },
            combine,
            timezone: TimeZone::UTC,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_is_legal_and_what_stays_reads_as_it_did(world in world()) {
        let plan = world.plan();
        let (mut after, live) = (world.disk.clone(), world.disk.read(world.disk.active));
        for step in &plan.steps {
            world.check(step);
            after.apply(step);
            // After each step, for a prune may end at any.
            after.check(&live);
        }
        for name in world.needed.keys() {
            let image = world.disk.nodes[name].image;
            prop_assert_eq!(after.nodes.get(name).map(|n| n.image), Some(image));
            prop_assert_eq!(&after.images[image].data, &world.disk.images[image].data);
        }
        // What was to go is gone or held, and nothing else is.
        let held: BTreeSet<_> = plan.held.iter().map(|h| h.name).collect();
        let left: BTreeSet<_> = after.nodes.keys().collect();
        let stay: BTreeSet<_> =
            world.disk.nodes.keys().filter(|n| !world.doomed.contains(*n) || held.contains(n)).collect();
        prop_assert_eq!(left, stay);
        prop_assert!(held.iter().all(|name| world.doomed.contains(*name)));
        prop_assert_eq!(held.len(), plan.held.len());
    }

    #[test]
    fn the_bytes_are_those_of_the_images(world in world()) {
        let mut after = world.disk.clone();
        for step in &world.plan().steps {
            let before = after.clone();
            let cost = after.apply(step);
            match step {
                Step::Merge { run, copies, frees, .. } => {
                    prop_assert_eq!(cost.freed, *frees);
                    prop_assert!(cost.copied <= *copies);
                    let image = before.nodes[run[0]].image;
                    let grown = after.images[image].data.len() - before.images[image].data.len();
                    prop_assert!(grown as u64 <= *copies);
                }
                Step::DropBranch { frees, .. } | Step::DeleteInternal { frees, .. } => {
                    prop_assert_eq!((cost.copied, cost.freed), (0, *frees));
                }
            }
        }
    }

    #[test]
    fn what_the_verdicts_keep_is_what_is_left(world in world(), retention in retention()) {
        let p: PolicyName = "p".parse().unwrap();
        let mut world = world;
        world.snapshots.iter_mut().for_each(|s| s.policies.extend([p.clone()]));
        let rules = [Rules { policy: &p, retention: &retention }];
        let now = Timestamp::from_second(1_781_000_000).unwrap();
        let verdicts = judge(&world.snapshots, &Context { needed: &world.needed, ..Context::new(now, &rules) });
        let plan = plan(&world.snapshots, &doomed(&verdicts), &world.needed);
        let (after, live) = (world.after(&plan.steps), world.disk.read(world.disk.active));
        after.disk.check(&live);
        let kept: BTreeSet<_> = verdicts.iter().filter(|v| v.keep).map(|v| v.name).collect();
        let held: BTreeSet<_> = plan.held.iter().map(|h| h.name).collect();
        prop_assert!(kept.is_disjoint(&held));
        prop_assert_eq!(after.disk.nodes.keys().collect::<BTreeSet<_>>(), &kept | &held);
        let newest = world.snapshots.iter().filter(|s| s.managed && s.state == SnapshotState::Ready);
        let newest = newest.max_by_key(|s| age(s)).map(|s| &s.name);
        let safe = world.snapshots.iter().filter(|s| s.pinned || !s.managed || Some(&s.name) == newest);
        let gone: BTreeSet<_> = gone(&plan.steps).into_iter().collect();
        prop_assert!(safe.into_iter().all(|s| !gone.contains(&s.name)));
    }

    #[test]
    fn what_each_says_has_to_happen_first_lets_all_go_in_the_end(world in world()) {
        let mut world = world;
        // Each round does all that is asked for, and at least one more goes or is freed.
        let mut rounds = 4 * world.snapshots.len() + 1;
        loop {
            let plan = world.plan();
            let mut next = world.after(&plan.steps);
            if plan.held.is_empty() {
                prop_assert!(next.disk.nodes.keys().all(|name| !next.doomed.contains(name)));
                break;
            }
            plan.held.iter().for_each(|held| next.obey(held));
            world = next;
            rounds -= 1;
            prop_assert!(rounds > 0, "there is always something in the way");
        }
    }

    #[test]
    fn a_second_plan_finds_nothing_more(world in world()) {
        let after = world.after(&world.plan().steps);
        prop_assert_eq!(after.plan().steps, vec![]);
    }

    #[test]
    fn a_plain_chain_is_never_held(count in 1..40_usize, bits: u64) {
        let snapshots = Disk::after(&vec![Act::Take; count]).snapshots();
        let goes: Vec<bool> = (0..count).map(|i| bits >> i & 1 == 1).collect();
        let plan = plan(&snapshots, &goes, &BTreeMap::new());
        let runs = (0..count).filter(|&i| goes[i] && (i == 0 || !goes[i - 1])).count();
        prop_assert_eq!(plan.held, vec![]);
        prop_assert_eq!(plan.steps.len(), runs);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (world, shuffled) in world().prop_flat_map(|w| (Just(w.clone()), Just(w.snapshots).prop_shuffle()))
    ) {
        let other = World { snapshots: shuffled, ..world.clone() };
        prop_assert_eq!(world.plan(), other.plan());
    }

    #[test]
    fn any_tangle_is_survived(
        links in prop::collection::vec((0..14_usize, prop::option::weighted(0.9, 0..14_usize), 0..9_u8), 0..14),
        doomed in prop::collection::btree_set(0..14_usize, 0..14),
        turn in 0..14_usize,
    ) {
        let name = |i: usize| SnapshotName::existing(format!("s{i}"));
        let template = Disk::after(&[Act::Take]).snapshots().remove(0);
        let mut snapshots: Vec<_> = links
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
        let goes = |all: &[Snapshot]| all.iter().map(|s| doomed.contains(&s.name)).collect::<Vec<_>>();
        let plan = |all: &[Snapshot]| super::plan(all, &goes(all), &BTreeMap::new()).owned();
        let planned = plan(&snapshots);
        // Each is either dealt with or held, exactly once.
        let mut seen: Vec<_> = planned.held.iter().map(|h| h.name.clone()).collect();
        for step in &planned.steps {
            match step {
                Step::Merge { run, .. } => seen.extend(run.iter().cloned()),
                Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
                    seen.push(snapshot.clone());
                }
            }
        }
        seen.sort();
        let mut expected: Vec<_> =
            snapshots.iter().map(|s| s.name.clone()).filter(|name| doomed.contains(name)).collect();
        expected.sort();
        prop_assert_eq!(seen, expected);
        if snapshots.iter().filter(|s| s.current).count() != 1 {
            prop_assert_eq!(&planned.steps, &vec![]);
        }
        // Also of one that makes no sense the same is said, whatever the order.
        snapshots.rotate_left(turn.min(links.len()));
        prop_assert_eq!(plan(&snapshots), planned);
    }
}
