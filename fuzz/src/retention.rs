//! Any snapshots under any policies: what stays and what goes, and the steps that make it so.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Unstructured};
use virtsnap::core::{
    merge::{self, Plan, Step},
    model::{PolicyName, Snapshot, SnapshotName, SnapshotState},
    retention::{Need, Verdict, clock_fault},
};
use world::World;

type Names = BTreeSet<SnapshotName>;

/// Panics if a verdict or a plan breaks one of its promises.
pub fn run(data: &[u8]) {
    let Ok(world) = World::arbitrary(&mut Unstructured::new(data)) else { return };
    let all = world.judge(true, |verdicts| {
        reasons(&world, verdicts);
        safe(&world, verdicts);
        doomed(verdicts)
    });
    let some = world.judge(false, |verdicts| {
        reasons(&world, verdicts);
        doomed(verdicts)
    });
    capped(&world, &some, &all);
    if world.fault() {
        assert!(all.is_empty() && some.is_empty(), "a wrong clock deletes nothing");
    }
    for doomed in [&some, &all, &world.names()] {
        let plan = plan(&world.snapshots, doomed, &world.needed);
        each_once(&world, &plan, doomed);
        legal(&world, &plan);
        assert_eq!(self::plan(&world.turned().snapshots, doomed, &world.needed), plan, "the order matters");
    }
    if world.has_unique_names() {
        // One name for two of them is one that a verdict cannot be asked for.
        let texts = |world: &World| {
            let text = |v: &Verdict<'_>| (v.name.clone(), v.text());
            world.judge(false, |verdicts| verdicts.iter().map(text).collect::<BTreeMap<_, _>>())
        };
        assert_eq!(texts(&world), texts(&world.turned()), "the order matters");
    }
    if world.makes_sense() {
        let left = world.without(&all);
        assert_eq!(left.judge(true, doomed), Names::new(), "what was kept is kept again");
    }
}

fn doomed(verdicts: &[Verdict<'_>]) -> Names {
    verdicts.iter().filter(|v| !v.keep).map(|v| v.name.clone()).collect()
}

/// The plan for these names.
fn plan(snapshots: &[Snapshot], doomed: &Names, needed: &BTreeMap<SnapshotName, Need>) -> Plan {
    let goes: Vec<bool> = snapshots.iter().map(|s| doomed.contains(&s.name)).collect();
    merge::plan(snapshots, &goes, needed).owned()
}

fn good(s: &Snapshot) -> bool {
    s.managed && s.state == SnapshotState::Ready
}

/// Each has a verdict, in their order, and only reasons that go with it.
fn reasons(world: &World, verdicts: &[Verdict<'_>]) {
    const GOES: [&str; 6] = ["not-wanted", "max-age", "max-count", "max-size", "vm-max-size", "chain-full"];
    assert!(verdicts.iter().map(|v| v.name).eq(world.snapshots.iter().map(|s| &s.name)));
    for v in verdicts {
        assert!(!v.reasons.is_empty() && !v.text().is_empty());
        assert!(v.reasons.iter().all(|r| GOES.contains(&r.rule()) != v.keep), "{v:?}");
        for bucket in v.reasons.iter().filter_map(virtsnap::core::retention::Reason::bucket) {
            let _ = bucket.to_string();
        }
    }
}

/// Some are never deleted, whatever anyone says.
fn safe(world: &World, verdicts: &[Verdict<'_>]) {
    let newest = |policy: Option<&PolicyName>| {
        let of = |s: &&Snapshot| policy.is_none_or(|p| s.policies.contains(p));
        world.snapshots.iter().filter(|s| good(s)).filter(of).max_by_key(|s| (s.created, &s.name))
    };
    let in_force = || world.policies.iter().map(|(name, _)| name);
    let newest: Vec<_> = in_force().map(Some).chain([None]).filter_map(newest).map(|s| &s.name).collect();
    for (s, v) in world.snapshots.iter().zip(verdicts).filter(|(_, v)| !v.keep) {
        assert!(!s.pinned && good(s) && !world.needed.contains_key(&s.name), "{s:?} {v:?}");
        assert!(
            !s.policies.is_empty() && s.policies.iter().all(|p| in_force().any(|q| q == p)),
            "{s:?} {v:?}"
        );
        assert!(!newest.contains(&&s.name) || !world.has_unique_names(), "{s:?} {v:?}");
    }
}

fn capped(world: &World, some: &Names, all: &Names) {
    assert!(some.is_subset(all), "max-delete adds none");
    if !world.has_unique_names() {
        return;
    }
    for (name, retention) in &world.policies {
        let limit = retention.limits.max_delete.map_or(usize::MAX, |n| n as usize);
        let of = world.snapshots.iter().filter(|s| s.policies.contains(name) && some.contains(&s.name));
        assert!(of.count() <= limit);
    }
}

fn step_names(step: &Step) -> &[SnapshotName] {
    match step {
        Step::Merge { run, .. } => run,
        Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
            std::slice::from_ref(snapshot)
        }
    }
}

/// Each doomed one is dealt with or held, exactly once, and no other is.
fn each_once(world: &World, plan: &Plan, doomed: &Names) {
    let held = plan.held.iter().map(|held| &held.name);
    let mut seen: Vec<_> = plan.steps.iter().flat_map(step_names).chain(held).collect();
    seen.sort();
    if !world.has_unique_names() {
        seen.dedup();
    }
    assert!(seen.iter().copied().eq(doomed), "{plan:?} of {doomed:?}");
    assert!(plan.held.iter().all(|held| !held.text().is_empty()));
}

/// Takes the steps on the tree, and looks at each whether it may be taken.
fn legal(world: &World, plan: &Plan) {
    if !world.tree_makes_sense() {
        assert_eq!(plan.steps, [], "nothing is known to be unused in {world:?}");
        return;
    }
    let mut tree = world.clone();
    for step in &plan.steps {
        let names = step_names(step);
        let children = |of: &SnapshotName| {
            let is_child = |s: &&Snapshot| s.parent.as_ref() == Some(of);
            tree.snapshots.iter().filter(is_child).map(|s| s.name.clone()).collect::<Vec<_>>()
        };
        let bytes = names.iter().fold(0_u64, |sum, name| sum.saturating_add(tree.get(name).size));
        assert!(names.iter().all(|name| !tree.needed.contains_key(name)), "{step:?}");
        match step {
            Step::Merge { run, survivor, copies, frees } => {
                assert!(!run.is_empty() && (*copies, *frees) == (bytes, bytes));
                let above = run.iter().skip(1).chain(survivor).map(|name| vec![name.clone()]);
                // None has another child than the next one; the last of them is the survivor, or current.
                for (name, above) in run.iter().zip(above.chain([Vec::new()])) {
                    assert_eq!(children(name), above, "{step:?}");
                    assert_eq!(tree.get(name).current, above.is_empty(), "{step:?}");
                }
                let survivor = survivor.as_ref().map(|name| tree.get(name));
                assert!(survivor.is_none_or(|s| !tree.needed.contains_key(&s.name)), "{step:?}");
                let branches = survivor.map_or(0, |s| children(&s.name).len());
                assert!(branches <= usize::from(survivor.is_some_and(|s| !s.current)), "{step:?}");
            }
            Step::DropBranch { snapshot, frees } => {
                assert!(children(snapshot).is_empty() && *frees == bytes, "{step:?}");
                assert!(!tree.get(snapshot).current && tree.get(snapshot).parent.is_some(), "{step:?}");
            }
            Step::DeleteInternal { frees, .. } => assert_eq!(*frees, bytes),
        }
        tree = tree.without(&names.iter().cloned().collect());
    }
    let again = self::plan(&tree.snapshots, &tree.names_of(plan), &tree.needed);
    assert_eq!(again.steps, [], "a second plan finds nothing more");
}

impl World {
    fn fault(&self) -> bool {
        self.with_context(true, |ctx| clock_fault(&self.snapshots, ctx).is_some())
    }

    /// The held ones of a plan that are there.
    fn names_of(&self, plan: &Plan) -> Names {
        plan.held.iter().map(|held| held.name.clone()).filter(|name| self.names().contains(name)).collect()
    }
}

/// Who needs an image, from two numbers.
fn need(kind: u8, of: u8) -> Need {
    match kind % 3 {
        0 => Need::OtherVm(format!("vm{of}")),
        1 => Need::Branch(format!("vm{of}")),
        _ => Need::Unmerged(SnapshotName::existing(format!("s{of}"))),
    }
}
