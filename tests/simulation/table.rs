//! The operations, each with what there is before it.

use std::collections::BTreeSet;

use virtsnap::{
    core::{
        branch::BranchJob,
        job::{AdoptJob, Pace},
        machine::Change,
        model::{PolicyName, VmId, VmState},
        policy::{Memory, Quiesce},
        revert::{DefinitionOf, Then},
    },
    hypervisor::{Hypervisor as _, sim::VmSpec},
};

use super::world::{OTHER, WEB, World, create, create_with, name};

/// One operation.
pub struct Case {
    pub name: &'static str,
    pub policies: &'static str,
    /// What there is before it.
    pub arrange: fn(&mut World),
    pub change: fn(&mut World) -> Change,
    /// These snapshots of the VM go with it, and no others.
    pub goes: &'static [&'static str],
    /// These come.
    pub comes: &'static [&'static str],
    /// The VM may be on this snapshot afterwards.
    pub reverts_to: Option<&'static str>,
    /// What else is so then.
    pub also: fn(&World) -> bool,
    /// The guest writes meanwhile.
    pub busy: bool,
    /// Something is wrong before it, which only this one puts right.
    pub ill: bool,
}

/// An image that nobody has.
const LOST: &str = "/images/web-vda.lost.qcow2";
/// Of five, by a policy that keeps two.
const PRUNED: &[&str] = &["s0", "s1", "s2"];
/// Nothing but the prune takes any: a clock that is set forward makes no run due.
const KEEP: &str = "[policy.nightly]
    vms = [\"*\"]
    schedule = \"30 2 * * *\"
    catch-up = \"skip\"
    keep-last = 2
    max-delete = 10
";

const fn case(name: &'static str, arrange: fn(&mut World), change: fn(&mut World) -> Change) -> Case {
    let also = |_: &World| true;
    Case {
        name,
        policies: "",
        arrange,
        change,
        goes: &[],
        comes: &[],
        reverts_to: None,
        also,
        busy: true,
        ill: false,
    }
}

const fn takes(name: &'static str, arrange: fn(&mut World), change: fn(&mut World) -> Change) -> Case {
    Case { comes: &["new"], ..case(name, arrange, change) }
}

const fn deletes(
    name: &'static str,
    arrange: fn(&mut World),
    change: fn(&mut World) -> Change,
    goes: &'static [&'static str],
) -> Case {
    Case { goes, ..case(name, arrange, change) }
}

const fn back(name: &'static str, arrange: fn(&mut World), change: fn(&mut World) -> Change) -> Case {
    Case { reverts_to: Some("s1"), busy: false, ..case(name, arrange, change) }
}

pub const CASES: &[Case] = &[
    takes("create", two_disks, |_| with(Quiesce::Require, Memory::Never, None)),
    takes("create-memory", two_disks, |_| with(Quiesce::Prefer, Memory::Require, None)),
    takes("create-one-disk", three, |_| with(Quiesce::Prefer, Memory::Never, Some("vdb"))),
    takes("create-off", off, |_| create(WEB, "new")),
    deletes("delete-oldest", three, |_| delete("s1"), &["s1"]),
    deletes("delete-middle", three, |_| delete("s2"), &["s2"]),
    deletes("delete-newest", three, |_| delete("s3"), &["s3"]),
    deletes("delete-off", three_off, |_| delete("s2"), &["s2"]),
    deletes("delete-after-memory", after_memory, |_| delete("s1"), &["s1"]),
    Case { policies: KEEP, ..deletes("prune", by_policy, |_| prune(), PRUNED) },
    Case { policies: KEEP, ..deletes("prune-off", by_policy_off, |_| prune(), PRUNED) },
    back("revert", three, |_| revert("s1", true)),
    back("revert-off", three_off, |_| revert("s1", true)),
    back("revert-without-safety", three, |_| revert("s1", false)),
    back("revert-memory", after_memory, |_| revert("s1", true)),
    deletes("delete-left-branch", left_branch, |_| delete("s3"), &["s3"]),
    // It is refused: both branches stand on it.
    case("delete-where-it-forks", left_branch, |_| delete("s2")),
    Case { also: |world| has_branch(world, VmState::ShutOff), ..case("branch", three, |_| branch(false)) },
    Case {
        also: |world| has_branch(world, VmState::Running),
        ..case("branch-and-start", three, |_| branch(true))
    },
    Case {
        also: stands_alone,
        ..case("promote", branched, |world| Change::Promote { vm: newest(world), pace: Pace::default() })
    },
    deletes("delete-what-a-branch-lay-on", promoted, |_| delete("s2"), &["s2"]),
    Case {
        policies: KEEP,
        also: |world| is_adopted(world, "theirs"),
        ..case("adopt", foreign, |_| adopt(&["theirs"], false, &[]))
    },
    takes("create-with-hooks", hooked, |_| with(Quiesce::Require, Memory::Never, None)),
    deletes("delete-with-hooks", hooked_three, |_| delete("s2"), &["s2"]),
    back("revert-with-hooks", hooked_three, |_| revert("s1", true)),
    Case {
        ill: true,
        goes: &["s3"],
        ..case("forget", lost_branch, |_| Change::Forget { vm: WEB, name: name("s3") })
    },
    case("describe-oldest", three, |_| describe("s1")),
    case("describe-newest", three, |_| describe("s3")),
    Case { ill: true, ..case("adopt-layers", layers, |_| adopt(&[], true, &[])) },
    Case { ill: true, also: is_in_quarantine, ..case("quarantine", strays, |_| adopt(&[], false, &[LOST])) },
    Case {
        ill: true,
        goes: &["in"],
        ..case("delete-inside", inside, |_| Change::Delete {
            vm: WEB,
            name: name("in"),
            pace: Pace::default(),
            foreign: true,
        })
    },
    Case {
        reverts_to: Some("in"),
        busy: false,
        ill: true,
        ..case("revert-inside", inside, |_| revert("in", false))
    },
    Case { ill: true, ..deletes("delete-after-broken", broken, |_| delete("s3"), &["s3"]) },
    Case { ill: true, ..deletes("delete-after-left", left, |_| delete("s3"), &["s3"]) },
];

fn with(quiesce: Quiesce, memory: Memory, disk: Option<&str>) -> Change {
    create_with(WEB, "new", quiesce, memory, disk)
}

fn delete(label: &str) -> Change {
    Change::Delete { vm: WEB, name: name(label), pace: Pace::default(), foreign: false }
}

fn describe(label: &str) -> Change {
    Change::Describe { vm: WEB, name: name(label), description: "before the upgrade".to_owned() }
}

fn prune() -> Change {
    Change::Prune { vm: WEB, all: true, pace: Pace::default() }
}

fn revert(label: &str, safety: bool) -> Change {
    let (then, definition) = (Then::AsBefore, DefinitionOf::Snapshot);
    Change::Revert { vm: WEB, name: name(label), then, definition, safety }
}

fn branch(start: bool) -> Change {
    let job = BranchJob { name: name("s2"), new_vm: "trial".to_owned(), start, leave_out: false };
    Change::Branch { vm: WEB, job }
}

fn adopt(snapshots: &[&str], layers: bool, strays: &[&str]) -> Change {
    let policies = if snapshots.is_empty() { [].into() } else { [policy()].into() };
    let strays = strays.iter().map(|s| (*s).to_owned()).collect();
    let snapshots = snapshots.iter().map(|s| name(s)).collect();
    Change::Adopt { vm: WEB, adopt: AdoptJob { snapshots, policies, strays, layers } }
}

fn policy() -> PolicyName {
    "nightly".parse().unwrap()
}

/// The branch is there, in this state.
fn has_branch(world: &World, state: VmState) -> bool {
    let branches = world.vms().into_iter().filter(|vm| ![WEB, OTHER].contains(vm));
    branches.map(|vm| world.sim.vm(vm).unwrap().state).eq([state])
}

/// The branch lies on no image of the VM that it was made from.
fn stands_alone(world: &World) -> bool {
    let images = |vm| {
        let disks = world.sim.vm(vm).unwrap().disks.into_iter();
        disks.flat_map(|d| d.chain).map(|layer| layer.path).collect::<BTreeSet<_>>()
    };
    images(newest(world)).is_disjoint(&images(WEB))
}

/// Nobody has the image, and everybody knows.
fn is_in_quarantine(world: &World) -> bool {
    let view = world.life.as_ref().map(|life| life.engine.view());
    let mut vms = view.into_iter().flat_map(|view| view.vms.values());
    vms.any(|vm| vm.record.strays.iter().any(|stray| stray.path == LOST && stray.quarantined.is_some()))
}

/// The policy has it.
fn is_adopted(world: &World, label: &str) -> bool {
    let view = world.life.as_ref().map(|life| life.engine.view());
    let record = view.and_then(|view| view.vms.get(&WEB)?.record.snapshots.get(&name(label)));
    record.is_some_and(|r| r.snapshot.managed && r.snapshot.policies.contains(&policy()))
}

/// The VM that is neither of the two.
fn newest(world: &World) -> VmId {
    world.vms().into_iter().find(|vm| ![WEB, OTHER].contains(vm)).expect("a branch is there")
}

/// The daemon runs, and there is a VM with two disks, and one that is none of its business.
fn two_disks(world: &mut World) {
    world.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    let other = world.add_vm(VmSpec::new("other", 9));
    world.sim.make_foreign_snapshot(other, "theirs").unwrap();
    world.plan.oracle.learn(other, "theirs");
    world.plan.oracle.write(other);
    world.boot();
    world.rest();
}

fn three(world: &mut World) {
    two_disks(world);
    for label in ["s1", "s2", "s3"] {
        world.snapshot(WEB, label);
    }
    world.plan.oracle.write(WEB);
}

fn hooked(world: &mut World) {
    world.add_hooks();
    two_disks(world);
}

fn hooked_three(world: &mut World) {
    world.add_hooks();
    three(world);
}

fn off(world: &mut World) {
    two_disks(world);
    world.power(WEB, false);
    world.rest();
}

fn three_off(world: &mut World) {
    three(world);
    world.power(WEB, false);
    world.rest();
}

fn after_memory(world: &mut World) {
    two_disks(world);
    for label in ["s1", "s2"] {
        world.plan.oracle.write(WEB);
        world.must(create_with(WEB, label, Quiesce::Prefer, Memory::Require, None));
    }
    world.plan.oracle.write(WEB);
}

/// Five snapshots of a policy that keeps two: others made them, as one that the policy takes would prune at once.
fn by_policy(world: &mut World) {
    two_disks(world);
    let names: Vec<String> = (0..5).map(|n| format!("s{n}")).collect();
    for label in &names {
        world.plan.oracle.write(WEB);
        world.pass(std::time::Duration::from_secs(10));
        world.sim.make_foreign_snapshot(WEB, label).unwrap();
        world.plan.oracle.learn(WEB, label);
    }
    world.pass(std::time::Duration::from_secs(130));
    let snapshots = names.iter().map(|label| name(label)).collect();
    let adopt = AdoptJob { snapshots, policies: [policy()].into(), ..AdoptJob::default() };
    world.must(Change::Adopt { vm: WEB, adopt });
    world.plan.oracle.write(WEB);
}

fn by_policy_off(world: &mut World) {
    by_policy(world);
    world.power(WEB, false);
    world.rest();
}

/// The VM was put back to s2, and s3 is on a branch that it left.
fn left_branch(world: &mut World) {
    three(world);
    world.must(revert("s2", false));
    world.plan.oracle.accept(WEB);
    world.plan.oracle.write(WEB);
    world.snapshot(WEB, "s4");
}

/// And its images are gone.
fn lost_branch(world: &mut World) {
    left_branch(world);
    let records = world.sim.snapshots(WEB).unwrap();
    for disk in records.iter().filter(|r| r.name == name("s3")).flat_map(|r| &r.disks) {
        assert!(world.sim.remove_file(&disk.state_image));
    }
    world.pass(std::time::Duration::from_secs(400));
}

fn branched(world: &mut World) {
    three(world);
    world.must(branch(true));
    let trial = newest(world);
    world.plan.oracle.watch(trial, &["vda", "vdb"]);
    world.plan.oracle.write(trial);
}

fn promoted(world: &mut World) {
    branched(world);
    let vm = newest(world);
    world.must(Change::Promote { vm, pace: Pace::default() });
}

fn foreign(world: &mut World) {
    two_disks(world);
    world.sim.make_foreign_snapshot(WEB, "theirs").unwrap();
    world.plan.oracle.learn(WEB, "theirs");
    world.pass(std::time::Duration::from_secs(130));
    world.plan.oracle.write(WEB);
}

fn layers(world: &mut World) {
    three(world);
    world.sim.put_on_top(WEB, &["vda", "vdb"]).unwrap();
    world.plan.oracle.write(WEB);
    world.pass(std::time::Duration::from_secs(400));
}

fn strays(world: &mut World) {
    three(world);
    world.sim.make_image(LOST, "/images/web-vda.qcow2").unwrap();
    world.pass(std::time::Duration::from_secs(2 * 3600));
}

fn inside(world: &mut World) {
    two_disks(world);
    world.sim.make_internal_snapshot(WEB, "in").unwrap();
    world.plan.oracle.learn(WEB, "in");
    world.plan.oracle.write(WEB);
    world.pass(std::time::Duration::from_secs(400));
}

fn broken(world: &mut World) {
    three(world);
    world.sim.break_deletion(WEB, &name("s3"), &["vda"]).unwrap();
    world.pass(std::time::Duration::from_secs(400));
}

fn left(world: &mut World) {
    three(world);
    world.power(WEB, false);
    world.rest();
    world.sim.leave_deletion(WEB, &name("s3"), &["vda"]).unwrap();
    world.rest();
}
