//! What each disk and each snapshot has to hold: written down beside the model of the host, block by block.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::sim::{Asked, Blocks, Op, Sim},
};

/// All disks of a VM, by target.
pub type Disks = BTreeMap<String, Blocks>;

/// How a VM was when a snapshot of it was taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub frozen: bool,
    pub off: bool,
}

#[derive(Debug, Default)]
struct Known {
    disks: BTreeMap<VmId, Disks>,
    snapshots: BTreeMap<(VmId, String), Disks>,
    taken: BTreeMap<(VmId, String), Taken>,
    /// The states that each VM was left in by who owns it: in one of them it has to be.
    power: BTreeMap<VmId, Vec<VmState>>,
    writes: u64,
    /// Guests write while the daemon works.
    busy: bool,
    /// Who was asked to freeze, and how many were frozen at once at most.
    freezing: BTreeSet<VmId>,
    most_frozen: usize,
}

#[derive(Debug)]
pub struct Oracle {
    sim: Arc<Sim>,
    known: Mutex<Known>,
}

impl Oracle {
    pub fn new(sim: &Arc<Sim>) -> Self {
        Self { sim: Arc::clone(sim), known: Mutex::default() }
    }

    /// Guests write while the daemon works, or not any more.
    pub fn busy(&self, busy: bool) {
        self.known.lock().unwrap().busy = busy;
    }

    /// Its owner puts the VM in this state.
    pub fn powered(&self, vm: VmId, state: VmState) {
        self.known.lock().unwrap().power.insert(vm, vec![state]);
    }

    /// It lost its QEMU, perhaps while a job stops and starts it: either is right.
    pub fn died(&self, vm: VmId) {
        self.either(vm, VmState::ShutOff);
    }

    /// It may be in this state as well.
    pub fn either(&self, vm: VmId, state: VmState) {
        self.known.lock().unwrap().power.entry(vm).or_default().push(state);
    }

    /// The states that it may be in; empty if nobody said so.
    pub fn power(&self, vm: VmId) -> Vec<VmState> {
        self.known.lock().unwrap().power.get(&vm).cloned().unwrap_or_default()
    }

    /// How the VM was when this snapshot was taken, if that was seen.
    pub fn taken(&self, vm: VmId, name: &str) -> Option<Taken> {
        self.known.lock().unwrap().taken.get(&(vm, name.to_owned())).copied()
    }

    /// A VM with these disks, as it is now.
    pub fn watch(&self, vm: VmId, targets: &[&str]) {
        let now =
            targets.iter().map(|t| ((*t).to_owned(), self.sim.read(vm, t).unwrap_or_default())).collect();
        self.known.lock().unwrap().disks.insert(vm, now);
    }

    /// A guest writes to each of its disks, as far as it can.
    pub fn write(&self, vm: VmId) {
        let mut known = self.known.lock().unwrap();
        let known = &mut *known;
        for (target, blocks) in known.disks.get_mut(&vm).into_iter().flatten() {
            known.writes += 1;
            let (block, value) = (known.writes * 5 % 11, known.writes);
            if self.sim.write(vm, target, block, value) {
                blocks.insert(block, value);
            }
        }
    }

    /// The VM was put on something else: this is what it has from now on.
    pub fn accept(&self, vm: VmId) {
        let now = self.now(vm);
        self.known.lock().unwrap().disks.insert(vm, now);
    }

    /// What the disks hold.
    pub fn now(&self, vm: VmId) -> Disks {
        let read = |target: String| {
            let blocks = self.sim.read(vm, &target).unwrap_or_default();
            (target, blocks)
        };
        self.disks(vm).into_keys().map(read).collect()
    }

    /// A snapshot that others made, or that was there from the beginning, is as it is.
    pub fn learn(&self, vm: VmId, name: &str) {
        let (now, key) = (self.now(vm), (vm, name.to_owned()));
        self.known.lock().unwrap().snapshots.insert(key, now);
    }

    /// What a snapshot has to hold, if that is known.
    pub fn snapshot(&self, vm: VmId, name: &str) -> Option<Disks> {
        self.known.lock().unwrap().snapshots.get(&(vm, name.to_owned())).cloned()
    }

    /// What the disks have to hold.
    pub fn disks(&self, vm: VmId) -> Disks {
        self.known.lock().unwrap().disks.get(&vm).cloned().unwrap_or_default()
    }

    /// A call comes.
    pub fn before(&self, asked: &Asked) {
        let busy = self.known.lock().unwrap().busy;
        if let Some(vm) = asked.vm.filter(|_| busy) {
            self.write(vm);
        }
        self.count(asked);
        let Some(vm) = asked.vm.filter(|_| [Op::Create, Op::TakeInside].contains(&asked.op)) else { return };
        let name = SnapshotName::existing(asked.about.clone());
        if asked.about.contains('/') || self.knows_it(vm, &name) {
            return;
        }
        // As the guest sees it: whether that is right is looked at when all is at rest.
        let held = self.now(vm);
        let frozen = self.sim.frozen(vm).is_ok_and(|frozen| !frozen.is_empty());
        let mut known = self.known.lock().unwrap();
        known.snapshots.insert((vm, asked.about.clone()), held);
        let off = self.sim.is_off(vm);
        known.taken.insert((vm, asked.about.clone()), Taken { frozen, off });
    }

    fn count(&self, asked: &Asked) {
        let mut known = self.known.lock().unwrap();
        let known = &mut *known;
        match asked.op {
            Op::Freeze => known.freezing.extend(asked.vm),
            Op::Create => {
                known.freezing.retain(|vm| self.sim.frozen(*vm).is_ok_and(|frozen| !frozen.is_empty()));
                known.most_frozen = known.most_frozen.max(known.freezing.len());
            }
            _ => {}
        }
    }

    /// So many guests were frozen at once at most, as seen from each snapshot that was taken.
    pub fn most_frozen(&self) -> usize {
        self.known.lock().unwrap().most_frozen
    }

    fn knows_it(&self, vm: VmId, name: &SnapshotName) -> bool {
        self.disks(vm).into_keys().any(|target| self.sim.content_of_snapshot(vm, name, &target).is_ok())
    }
}
