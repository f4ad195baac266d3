//! VMs, policies, requests and troubles as a seed has them; and when the troubles are over, all comes to rest.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use virtsnap::{
    core::{
        job::Pace,
        machine::Change,
        model::{Content, SnapshotName, VmId, VmState},
        policy::{Memory, Quiesce},
        revert::{DefinitionOf, Then},
    },
    hypervisor::sim::VmSpec,
};

use super::{
    kept::Kept,
    plan::Trouble,
    world::{Life, OTHER, WEB, World, create, create_with},
};

const POLICIES: &str = "
[policy.hourly]
vms = [\"*\", \"!other\"]
schedule = \"7 * * * *\"
keep-last = 3
max-delete = 10

[policy.often]
vms = [\"web\", \"db\"]
schedule = \"*/20 * * * *\"
keep-last = 2
max-delete = 10
quiesce = \"require\"
";

const DB: VmId = VmId(uuid::Uuid::from_u128(2));
const APP: VmId = VmId(uuid::Uuid::from_u128(3));
const VMS: [VmId; 3] = [WEB, DB, APP];

/// So many things happen in one run.
const EVENTS: usize = 30;

fn start(seed: u64) -> World {
    let mut world = World::new(seed, POLICIES);
    world.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    world.add_vm(VmSpec::new("db", 2));
    world.add_vm(VmSpec::new("app", 3).with_disks(&["vda", "vdb"]));
    let other = world.add_vm(VmSpec::new("other", 9));
    assert_eq!(other, OTHER);
    world.sim.make_foreign_snapshot(other, "theirs").unwrap();
    world.plan.oracle.learn(other, "theirs");
    world.plan.oracle.write(other);
    world.plan.oracle.busy(true);
    world.boot();
    world.rest();
    world
}

impl World {
    fn any_vm(&mut self) -> VmId {
        VMS[self.dice.roll(VMS.len())]
    }

    fn any_snapshot(&mut self, vm: VmId) -> Option<SnapshotName> {
        let view = self.life.as_ref()?.engine.view().vms.get(&vm)?;
        let names: Vec<SnapshotName> = view.record.snapshots.keys().cloned().collect();
        let at = self.dice.roll(names.len());
        names.get(at).cloned()
    }

    /// Some steps, as they come.
    fn some_turns(&mut self) {
        for _ in 0..self.dice.roll(120) {
            if !self.turn() {
                break;
            }
        }
    }

    fn some_request(&mut self, number: usize, kept: &mut Kept) {
        let vm = self.any_vm();
        let pace = Pace::default();
        let change = match self.dice.roll(6) {
            0 => {
                let memory = if self.dice.roll(3) == 0 { Memory::Prefer } else { Memory::Never };
                Some(create_with(vm, &format!("m{number}"), Quiesce::Prefer, memory, None))
            }
            1 => Some(create(vm, &format!("m{number}"))),
            2 | 3 => self.any_snapshot(vm).map(|name| Change::Delete { vm, name, pace, foreign: false }),
            4 => Some(Change::Prune { vm, all: true, pace }),
            _ => Some(Change::Run { policy: "hourly".parse().unwrap(), vm: None }),
        };
        if let (Some(change), true) = (change, self.life.is_some()) {
            if let Change::Delete { vm, name, .. } = &change {
                kept.delete(*vm, name);
            }
            drop(self.ask(change));
        }
    }

    /// A revert, with nothing else under way but a trouble perhaps: what the disks hold then is one or the other.
    fn revert(&mut self) -> Vec<String> {
        self.settle();
        let vm = self.any_vm();
        let Some(to) = self.any_snapshot(vm) else { return Vec::new() };
        let shown = |life: &Life| life.engine.view().vms[&vm].record.snapshots[&to].snapshot.content;
        let with_memory = self.life.as_ref().map(shown) == Some(Content::Full);
        let oracle = Arc::clone(&self.plan);
        oracle.oracle.busy(false);
        let before = oracle.oracle.disks(vm);
        let trouble = [Trouble::Kill, Trouble::Half, Trouble::Answer, Trouble::StoreFails][self.dice.roll(4)];
        self.plan.arm(trouble, self.dice.roll(60));
        let (then, definition) = (Then::AsBefore, DefinitionOf::Snapshot);
        let safety = self.dice.roll(2) == 0;
        drop(self.ask(Change::Revert { vm, name: to.clone(), then, definition, safety }));
        self.rest();
        self.settle();
        let now = oracle.oracle.now(vm);
        let there = oracle.oracle.snapshot(vm, to.as_str());
        // One with memory goes on where it was taken, whatever the VM was before.
        if with_memory {
            oracle.oracle.either(vm, VmState::Running);
        }
        let mut wrong = Vec::new();
        if now != before && there.as_ref().is_some_and(|there| *there != now) {
            wrong.push(format!(
                "after a revert to {to} VM {vm} holds {now:?}, neither {before:?} nor {there:?}"
            ));
        }
        oracle.oracle.accept(vm);
        oracle.oracle.busy(true);
        wrong
    }

    fn some_trouble(&mut self) {
        let vm = self.any_vm();
        match self.dice.roll(12) {
            0 => self.bury(),
            1 => self.power(vm, false),
            2 => self.power(vm, true),
            3 => self.plan.trouble(Trouble::Lost, None),
            4 => self.sim.connect(),
            5 => drop(self.sim.agent_stuck(vm, true)),
            6 => drop(self.sim.agent_stuck(vm, false)),
            7 => self.plan.trouble(Trouble::DiskFull, None),
            8 => self.heal(),
            _ => {
                let trouble = Trouble::ALL[self.dice.roll(Trouble::ALL.len())];
                self.plan.arm(trouble, self.dice.roll(50));
            }
        }
    }
}

fn run(seed: u64) -> Vec<String> {
    let mut world = start(seed);
    let mut wrong = Vec::new();
    let mut kept = Kept::default();
    for number in 0..EVENTS {
        kept.look(&world);
        match world.dice.roll(10) {
            0..4 => world.some_request(number, &mut kept),
            4..6 => {
                let minutes = 1 + world.dice.roll(40);
                world.pass(Duration::from_secs(60 * minutes as u64));
            }
            6..9 => world.some_trouble(),
            _ => wrong.extend(world.revert()),
        }
        if world.life.is_none() {
            world.boot();
        }
        world.some_turns();
        if !wrong.is_empty() {
            return wrong;
        }
    }
    world.plan.oracle.busy(false);
    world.settle();
    // What was put off or failed is tried again.
    world.pass(Duration::from_secs(3 * 3600));
    let mut wrong = world.faults(&[]);
    wrong.extend(kept.lost(&world));
    wrong
}

#[test]
fn whatever_happens_all_comes_to_rest() {
    let read = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = read("VIRTSNAP_SEED").or_else(|| read("VIRTSNAP_FIRST_SEED")).unwrap_or(1);
    let count = if read("VIRTSNAP_SEED").is_some() { 1 } else { read("VIRTSNAP_SEEDS").unwrap_or(10) };
    let mut failures = Vec::new();
    for seed in first..first + count {
        let wrong =
            catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|_| vec!["panicked".to_owned()]);
        if !wrong.is_empty() {
            println!("seed {seed}:\n    {}", wrong.join("\n    "));
            failures.push(seed);
        }
    }
    println!("{count} seeds, {} failed", failures.len());
    assert!(
        failures.is_empty(),
        "these failed: {failures:?}; to see one again: VIRTSNAP_SEED={} cargo nextest run --test simulation comes_to_rest",
        failures[0]
    );
}
