//! Data: whatever is created, deleted and reverted, each snapshot is what the disk was.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{super::Blocks, *};
use crate::hypervisor::{Commit, Committed, Merge as _, Steer};

#[derive(Debug, Clone)]
enum Step {
    Write(&'static str, u64, u64),
    Create(Vec<&'static str>),
    Foreign,
    Delete(usize),
    Revert(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let disk = prop_oneof![Just("vda"), Just("vdb")];
    prop_oneof![
        4 => (disk, 0..4_u64, 1..100_u64).prop_map(|(d, b, v)| Step::Write(d, b, v)),
        3 => prop_oneof![Just(vec!["vda", "vdb"]), Just(vec!["vda"]), Just(vec!["vdb"])].prop_map(Step::Create),
        1 => Just(Step::Foreign),
        3 => (0..8_usize).prop_map(Step::Delete),
        1 => (0..8_usize).prop_map(Step::Revert),
    ]
}

/// What each snapshot has to hold for as long as it is there.
type Oracle = BTreeMap<SnapshotName, BTreeMap<String, Blocks>>;

fn check(sim: &Sim, vm: VmId, oracle: &Oracle, now: &BTreeMap<String, Blocks>) {
    for (target, blocks) in now {
        assert_eq!(&sim.read(vm, target).unwrap(), blocks, "disk {target}");
    }
    let records = sim.snapshots(vm).unwrap();
    assert_eq!(records.len(), oracle.len());
    for record in records {
        assert!(record.parent.is_none_or(|p| oracle.contains_key(&p)));
        for (target, blocks) in &oracle[&record.name] {
            let held = sim.content_of_snapshot(vm, &record.name, target).unwrap();
            assert_eq!(&held, blocks, "disk {target} of {}", record.name);
        }
    }
}

proptest! {
    #[test]
    fn every_snapshot_holds_what_the_disk_was(steps in proptest::collection::vec(step(), 1..40)) {
        let sim = Sim::new();
        let vm = sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        let mut oracle = Oracle::new();
        let mut now: BTreeMap<String, Blocks> =
            ["vda", "vdb"].into_iter().map(|d| (d.to_owned(), Blocks::new())).collect();
        for (i, step) in steps.into_iter().enumerate() {
            let label = format!("s{i}");
            match step {
                Step::Write(target, block, value) => {
                    assert!(sim.write(vm, target, block, value));
                    now.get_mut(target).unwrap().insert(block, value);
                }
                Step::Create(targets) => {
                    let mut spec = spec(&sim, vm, &label);
                    spec.overlays.retain(|o| targets.contains(&o.target.as_str()));
                    sim.prepare(vm, &spec.overlays).unwrap();
                    sim.create(vm, &spec).unwrap();
                    let taken = now.iter().filter(|(t, _)| targets.contains(&t.as_str()));
                    oracle.insert(name(&label), taken.map(|(t, b)| (t.clone(), b.clone())).collect());
                }
                Step::Foreign => {
                    sim.make_foreign_snapshot(vm, &label).unwrap();
                    oracle.insert(name(&label), now.clone());
                }
                Step::Delete(which) => {
                    let Some(victim) = oracle.keys().nth(which).cloned() else { continue };
                    match sim.delete(vm, &victim) {
                        Ok(()) => drop(oracle.remove(&victim)),
                        // After a revert there are some that nobody may touch: also what an overlay lies on that the
                        // revert left behind, and that is nobody's now.
                        Err(e) => assert!(
                            matches!(
                                e.kind,
                                ErrorKind::Unsupported
                                    | ErrorKind::ChainMismatch
                                    | ErrorKind::Busy
                                    | ErrorKind::InUse
                            ),
                            "{e}"
                        ),
                    }
                }
                Step::Revert(which) => {
                    let Some((to, was)) = oracle.iter().nth(which) else { continue };
                    sim.stop(vm).unwrap();
                    sim.revert(vm, to).unwrap();
                    sim.start(vm).unwrap();
                    now.extend(was.clone());
                }
            }
            check(&sim, vm, &oracle, &now);
        }
    }
}

#[test]
fn after_a_revert_there_are_two_branches_and_where_they_meet_cannot_be_deleted() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    for (value, label) in [(1, "s1"), (2, "s2")] {
        assert!(sim.write(vm, "vda", 0, value));
        snapshot(&sim, vm, label).unwrap();
    }
    assert_eq!(kind(sim.revert(vm, &name("s1"))), ErrorKind::Failed, "only a stopped one");
    sim.stop(vm).unwrap();
    sim.revert(vm, &name("s1")).unwrap();
    assert_eq!(sim.read(vm, "vda").unwrap()[&0], 1);
    assert!(record(&sim, vm, "s1").current);
    assert_eq!(kind(sim.delete(vm, &name("s1"))), ErrorKind::Unsupported, "current, with a child");
    assert_eq!(kind(sim.delete(vm, &name("s2"))), ErrorKind::Unsupported, "on the branch that was left");
    snapshot(&sim, vm, "s3").unwrap();
    assert_eq!(kind(sim.delete(vm, &name("s1"))), ErrorKind::Unsupported, "two children");
    for (value, label) in [(1, "s1"), (2, "s2"), (1, "s3")] {
        assert_eq!(sim.content_of_snapshot(vm, &name(label), "vda").unwrap()[&0], value);
    }
}

#[test]
fn what_the_guest_writes_during_a_merge_of_its_active_image_is_not_lost() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    snapshot(&sim, vm, "s1").unwrap();
    for block in 0..3 {
        assert!(sim.write(vm, "vda", block, 1));
    }
    let chain = sim.vm(vm).unwrap().disks.remove(0).chain;
    let commit = Commit { target: "vda".to_owned(), top: chain[0].path.clone(), base: chain[1].path.clone() };
    let mut value = 10;
    let committed = sim.commit(vm, &commit, &mut |_| {
        // Behind it, before it, and where it does not come.
        for block in 0..4 {
            value += 1;
            assert!(sim.write(vm, "vda", block, value));
        }
        Steer::On { limit: None }
    });
    assert_eq!(committed, Ok(Committed::Now));
    let newest = (0..4).map(|block| (block, value - 3 + block)).collect();
    assert_eq!(sim.read(vm, "vda"), Ok(newest));
}

#[test]
fn creation_times_are_whole_seconds_of_the_time_that_was_set() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    sim.set_time("2026-03-29T00:59:59.7Z".parse().unwrap());
    snapshot(&sim, vm, "s1").unwrap();
    assert_eq!(record(&sim, vm, "s1").created.to_string(), "2026-03-29T00:59:59Z");
}

#[test]
fn a_merge_into_what_another_branch_stands_on_is_refused() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    let mut only_vdb = spec(&sim, vm, "s1");
    only_vdb.overlays.remove(0);
    sim.prepare(vm, &only_vdb.overlays).unwrap();
    sim.create(vm, &only_vdb).unwrap();
    snapshot(&sim, vm, "s2").unwrap();
    // Reverts vdb alone: vda stays on what lies on s2's state image.
    sim.stop(vm).unwrap();
    sim.revert(vm, &name("s1")).unwrap();
    snapshot(&sim, vm, "s3").unwrap();
    sim.revert(vm, &name("s2")).unwrap();
    // s2 is the current one and has no children, and yet s3 needs vda's base as it is.
    assert_eq!(kind(sim.delete(vm, &name("s2"))), ErrorKind::Unsupported);
}
