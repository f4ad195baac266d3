//! What has to hold: after each step, and when all is at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use virtsnap::{
    core::{
        health::{Health, worst},
        inventory::VmRecord,
        job::{JobId, JobState, Outcome, Pace},
        machine::Change,
        model::{SnapshotState, Storage, VmId, VmState},
        view::DaemonState,
    },
    engine::Engine,
    hypervisor::Hypervisor as _,
};

use super::{
    oracle::Disks,
    promised::{dishonest, modest},
    world::{OTHER, World},
};

/// What was seen of the jobs of one life.
#[derive(Debug, Default)]
pub struct Jobs {
    ended: BTreeMap<JobId, Outcome>,
    /// Those that wait or run.
    open: BTreeSet<JobId>,
    steps: u64,
}

impl Jobs {
    /// After a step of the engine: at most one job of each VM runs, no more than may, each ends once.
    pub fn check(&mut self, engine: &Engine) -> Vec<String> {
        let mut broken = Vec::new();
        let jobs = &engine.view().jobs;
        self.steps += 1;
        // Of very many not each time: they are shown for long enough.
        if jobs.len() > 100 && !self.steps.is_multiple_of(64) {
            return broken;
        }
        let mut busy = BTreeSet::new();
        let mut running = BTreeSet::new();
        for job in jobs.values().filter(|job| job.state == JobState::Running) {
            if !busy.insert(job.vm) {
                broken.push(format!("two jobs run on VM {}", job.vm));
            }
            running.insert(job.id);
        }
        let most = engine.machine().settings().daemon.max_jobs;
        if running.len() > most as usize {
            broken.push(format!("{} jobs run, of {most}", running.len()));
        }
        // One that is not there any more ended, and was shown for long enough.
        let checked: BTreeSet<JobId> = self.open.iter().copied().chain(jobs.keys().copied()).collect();
        for id in checked {
            let outcome = jobs.get(&id).and_then(|job| job.outcome.clone());
            match (self.ended.get(&id), outcome) {
                (None, Some(outcome)) => drop(self.ended.insert(id, outcome)),
                (Some(before), now) if jobs.contains_key(&id) && now.as_ref() != Some(before) => {
                    broken.push(format!("job {id} ended as {before:?}, and then as {now:?}"));
                }
                (None, None) if !jobs.contains_key(&id) => {
                    self.open.remove(&id);
                    broken.push(format!("job {id} went without an end"));
                }
                _ => {}
            }
        }
        self.open = jobs.values().filter(|job| job.outcome.is_none()).map(|job| job.id).collect();
        broken
    }
}

impl World {
    /// All that can be mended is, and all comes to rest.
    pub fn settle(&mut self) {
        self.heal();
        self.pass(Duration::from_secs(400));
        // What was in the way of a stop came to an end, and so did the daemon.
        if self.life.is_none() {
            self.boot();
            self.pass(Duration::from_secs(400));
        }
    }

    pub fn heal(&mut self) {
        self.plan.heal();
        self.sim.heal();
        self.sim.set_capacity(1 << 40);
        self.sim.connect();
        let full = self.plan.was_full();
        for vm in self.vms() {
            let _ = self.sim.agent_stuck(vm, false);
            // Who owns them lets those go on that were on: one that was woken for a merge stands still too, and is to be
            // off again.
            if full && self.plan.oracle.power(vm).contains(&VmState::Running) {
                let _ = self.sim.resume(vm);
            }
        }
        if self.life.as_ref().is_some_and(|life| life.turns.is_dead()) {
            self.bury();
        }
        if self.life.is_none() {
            self.boot();
        }
    }

    pub fn vms(&self) -> Vec<VmId> {
        self.sim.vms().unwrap_or_default()
    }

    /// What is wrong, now that all is at rest and nothing is in the way. `reverted`: what a VM may have been put back to.
    pub fn faults(&mut self, reverted: &[(VmId, Disks)]) -> Vec<String> {
        let mut wrong = self.unsettled(reverted);
        if !wrong.is_empty() {
            // What is looked for now and then may still find it; and what failed for good a person asks for again.
            self.pass(Duration::from_secs(3 * 3600));
            self.ask_again();
            wrong = self.unsettled(reverted);
        }
        wrong.append(&mut self.broken);
        wrong.extend(self.panics.take());
        if !wrong.is_empty() {
            wrong.append(&mut self.notes);
        }
        wrong
    }

    /// Snapshots whose deletion failed half-way are shown as that, and deleted as any other.
    fn ask_again(&mut self) {
        let Some(life) = &self.life else { return };
        let halves = |record: &VmRecord| {
            let names = record.snapshots.values().filter(|s| s.half_deleted).map(|s| s.snapshot.name.clone());
            names.map(|name| (record.id, name)).collect::<Vec<_>>()
        };
        let all: Vec<_> = life.engine.view().vms.values().flat_map(|vm| halves(&vm.record)).collect();
        for (vm, name) in all {
            let change = Change::Delete { vm, name, pace: Pace::default(), foreign: true };
            if let Some(Err(why)) = self.done(change) {
                self.notes.push(why);
            }
        }
        self.pass(Duration::from_secs(120));
    }

    fn unsettled(&self, reverted: &[(VmId, Disks)]) -> Vec<String> {
        let mut wrong = self.stuck();
        wrong.extend(self.unpowered());
        wrong.extend(self.left_over());
        wrong.extend(self.wrongly_told());
        for vm in self.vms() {
            wrong.extend(self.data(vm, reverted));
        }
        wrong
    }

    /// Nothing is stuck.
    fn stuck(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let life = self.life.as_ref().expect("the daemon lives");
        let (view, store) = (life.engine.view(), &life.store);
        if view.manager.state != DaemonState::Running || !view.manager.hypervisor_connected {
            wrong.push(format!("the daemon is {:?}", view.manager));
        }
        for job in view.jobs.values().filter(|job| job.outcome.is_none()) {
            wrong.push(format!("job {} ({}) is {}: {}", job.id, job.operation, job.state, job.phase));
        }
        for vm in self.vms() {
            let frozen = self.sim.frozen(vm).unwrap();
            if !frozen.is_empty() {
                wrong.push(format!("VM {vm} is frozen: {frozen:?}"));
            }
            if view.vms.get(&vm).is_none_or(|v| v.frozen) {
                wrong.push(format!("VM {vm} is said to be frozen, or not known"));
            }
        }
        for vm in view.vms.values() {
            let findings = &vm.record.findings;
            if worst(findings) != Health::Ok && vm.record.id != OTHER {
                let texts: Vec<&str> = findings.iter().map(|f| f.text.as_str()).collect();
                wrong.push(format!("VM {} is {}: {}", vm.record.name, worst(findings), texts.join(" ")));
            }
        }
        for vm in store.frozen().unwrap() {
            wrong.push(format!("the store has VM {vm} as frozen"));
        }
        for intent in store.intents().unwrap().into_iter().filter(|i| !i.is_named()) {
            wrong.push(format!("begun and not ended: {intent:?}"));
        }
        for vm in store.redefined().unwrap() {
            wrong.push(format!("metadata of VM {vm} was being changed, and nobody looked what became of it"));
        }
        if !store.awake().unwrap().is_empty() || !store.stilled().unwrap().is_empty() {
            wrong.push("a VM is awake or stilled".to_owned());
        }
        wrong
    }

    /// No file is nobody's and not told.
    fn left_over(&self) -> Vec<String> {
        let life = self.life.as_ref().expect("the daemon lives");
        let mut known: BTreeSet<String> = life.store.named().unwrap();
        for vm in self.vms() {
            let facts = self.sim.vm(vm).unwrap();
            known.extend(facts.disks.into_iter().flat_map(|d| d.chain).map(|layer| layer.path));
            for record in self.sim.snapshots(vm).unwrap() {
                known.extend(record.disks.into_iter().flat_map(|d| [d.overlay, d.state_image]));
                known.extend(record.memory_file);
            }
        }
        for vm in life.engine.view().vms.values() {
            known.extend(vm.record.strays.iter().map(|stray| stray.path.clone()));
        }
        let files = self.sim.files().into_keys();
        files.filter(|file| !known.contains(file)).map(|file| format!("{file} is nobody's")).collect()
    }

    /// Disks and snapshots hold what they have to.
    fn data(&self, vm: VmId, reverted: &[(VmId, Disks)]) -> Vec<String> {
        let oracle = &self.plan.oracle;
        let mut wrong = Vec::new();
        let (now, held) = (oracle.now(vm), oracle.disks(vm));
        if now != held && !reverted.iter().any(|(of, disks)| *of == vm && *disks == now) {
            wrong.push(format!("the disks of VM {vm} hold {now:?}, not {held:?}"));
        }
        let Some(view) = self.life.as_ref().and_then(|life| life.engine.view().vms.get(&vm)) else {
            return wrong;
        };
        let records = self.sim.snapshots(vm).unwrap();
        let names: BTreeSet<_> = records.iter().map(|r| &r.name).collect();
        let shown: BTreeSet<_> = view.record.snapshots.keys().collect();
        if names != shown {
            wrong.push(format!("VM {vm} has snapshots {names:?}, and {shown:?} are shown"));
        }
        for (name, record) in &view.record.snapshots {
            if record.snapshot.state != SnapshotState::Ready || record.half_deleted {
                wrong.push(format!("snapshot {name} is {}", record.snapshot.state));
            }
            if let Some(taken) = oracle.taken(vm, name.as_str()) {
                wrong.extend(dishonest(record, taken));
                wrong.extend(modest(record, taken).filter(|_| self.undisturbed));
            }
            let Some(held) = oracle.snapshot(vm, name.as_str()) else { continue };
            for (target, blocks) in held {
                let part = records.iter().find(|r| r.name == *name);
                let has = part.is_some_and(|r| r.disks.iter().any(|d| d.target == target));
                if !has && record.snapshot.storage == Storage::External {
                    continue;
                }
                let now = self.sim.content_of_snapshot(vm, name, &target);
                if now.as_ref() != Ok(&blocks) {
                    wrong.push(format!("{target} of snapshot {name} holds {now:?}, not {blocks:?}"));
                }
            }
        }
        wrong
    }
}
