//! The table of jobs: queued, running, and the last of those that ended.

mod deferring;
mod joining;
mod room;
mod stuck;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Machine, Note};
use crate::core::{
    job::{Asker, Failure, Far, Job, JobId, JobState, Made, Operation, Outcome},
    model::{Origin, SnapshotName, VmId},
    queue::{self, Turn, Waiting, Who},
    view::JobView,
};

/// So many ended jobs linger at least, and each for so long.
const LINGER: (usize, SignedDuration) = (64, SignedDuration::from_mins(10));

#[derive(Debug)]
struct Entry {
    job: Job,
    state: JobState,
    phase: String,
    far: Far,
    snapshot: Option<SnapshotName>,
    /// Nothing stops what it does now.
    to_its_end: bool,
    /// Somebody asked for the same and waits for it.
    wanted: bool,
    /// When it was heard of last, by the clock that only goes forward.
    heard: Duration,
    ended: Option<Timestamp>,
    outcome: Option<Outcome>,
    stale: bool,
}

impl Entry {
    fn stops(&self) -> bool {
        self.job.operation.stops() && !self.to_its_end
    }

    /// One that waits.
    fn of(job: Job) -> Self {
        let snapshot = match &job.operation {
            Operation::Create(c) => c.name.clone(),
            Operation::Delete { name, .. } | Operation::Forget(name) | Operation::Describe { name, .. } => {
                Some(name.clone())
            }
            Operation::Adopt(adopt) => adopt.snapshots.first().cloned(),
            Operation::Revert(revert) => Some(revert.name.clone()),
            Operation::Branch(branch) => Some(branch.name.clone()),
            Operation::Prune { .. }
            | Operation::Promote { .. }
            | Operation::Repair
            | Operation::Finish
            | Operation::Sweep => None,
        };
        Self {
            job,
            state: JobState::Queued,
            phase: "waiting".to_owned(),
            far: Far::default(),
            snapshot,
            ended: None,
            outcome: None,
            to_its_end: false,
            wanted: false,
            heard: Duration::ZERO,
            stale: true,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    table: BTreeMap<JobId, Entry>,
    queued: Vec<JobId>,
    running: BTreeMap<JobId, VmId>,
    /// Those of them that nothing is heard of, and for how long that was.
    stuck: BTreeMap<JobId, Duration>,
    last_id: JobId,
    gone: Vec<JobId>,
    /// What nobody asked for waits until nobody inhibits it any more.
    pub(super) held: bool,
    /// When a job of each was started last, by a number that grows.
    served: BTreeMap<Who, u64>,
    deferring: deferring::Deferring,
}

impl Jobs {
    /// The daemon may end. What is stuck its next life finds as after a crash, and one that waits for it would be killed.
    pub(super) fn at_rest(&self) -> bool {
        self.queued.is_empty() && self.only_stuck_run()
    }

    pub(super) fn at_work(&self, vm: VmId) -> bool {
        self.running.values().any(|v| *v == vm)
    }

    pub(super) fn deleting(&self, vm: VmId) -> BTreeSet<SnapshotName> {
        self.running
            .iter()
            .filter(|(_, v)| **v == vm)
            .filter_map(|(id, _)| self.table.get(id))
            .filter(|e| e.job.operation.stops())
            .filter_map(|e| e.snapshot.clone())
            .collect()
    }

    pub(super) fn reverting(&self, vm: VmId) -> Option<SnapshotName> {
        let running = self.running.iter().filter(|(_, v)| **v == vm);
        let mut entries = running.filter_map(|(id, _)| self.table.get(id));
        entries.find_map(|e| match &e.job.operation {
            Operation::Revert(revert) => Some(revert.name.clone()),
            _ => None,
        })
    }

    pub(super) fn add(&mut self, vm: VmId, operation: Operation, asker: Asker, now: Timestamp) -> JobId {
        self.last_id += 1;
        let id = self.last_id;
        let job = Job { id, vm, operation, asker, asked: now };
        self.table.insert(id, Entry::of(job));
        self.queued.push(id);
        id
    }

    /// Whether it stops now when it is told to.
    pub(super) fn stops(&self, id: JobId) -> bool {
        self.table.get(&id).is_some_and(Entry::stops)
    }

    pub(super) fn get(&self, id: JobId) -> Option<(&Job, JobState)> {
        self.table.get(&id).map(|e| (&e.job, e.state))
    }

    /// Those that wait and that nobody asked for.
    pub(super) fn automatic(&self) -> BTreeSet<JobId> {
        let of = |id: &&JobId| self.table.get(id).is_some_and(|e| !e.wanted && is_automatic(&e.job));
        self.queued.iter().filter(of).copied().collect()
    }

    /// Those of them that wait begin after all others: who asked for something meanwhile does not wait for them.
    pub(super) fn automatic_last(&mut self) {
        let automatic = self.automatic();
        self.queued.sort_by_key(|id| automatic.contains(id));
    }

    /// What it waits for.
    pub(super) fn waits(&mut self, id: JobId, phase: &str) {
        if let Some(entry) = self.table.get_mut(&id).filter(|e| e.phase != phase) {
            phase.clone_into(&mut entry.phase);
            entry.stale = true;
        }
    }

    fn finish(&mut self, id: JobId, outcome: Outcome, now: Timestamp) -> Option<Job> {
        self.queued.retain(|q| *q != id);
        self.running.remove(&id);
        let entry = self.table.get_mut(&id)?;
        if entry.state == JobState::Done {
            return None;
        }
        entry.state = JobState::Done;
        entry.phase = String::new();
        let share = matches!(outcome, Outcome::Done(_)).then_some(1.0);
        entry.far = Far { share, ..Far::default() };
        if let Outcome::Done(Some(Made::Snapshot(name))) = &outcome {
            entry.snapshot = Some(name.clone());
        }
        entry.ended = Some(now);
        entry.outcome = Some(outcome);
        entry.stale = true;
        let job = entry.job.clone();
        self.let_go(now);
        Some(job)
    }

    fn let_go(&mut self, now: Timestamp) {
        let ended: Vec<(JobId, Timestamp)> =
            self.table.iter().filter_map(|(id, e)| e.ended.map(|at| (*id, at))).collect();
        let many = ended.len().saturating_sub(LINGER.0);
        for (id, at) in ended.into_iter().take(many) {
            if now.duration_since(at) >= LINGER.1 {
                self.table.remove(&id);
                self.gone.push(id);
            }
        }
    }

    pub(super) fn publish(&mut self, views: &mut BTreeMap<JobId, Arc<JobView>>) {
        for id in self.gone.drain(..) {
            views.remove(&id);
        }
        for (id, e) in self.table.iter().filter(|(_, e)| e.stale) {
            let view = JobView {
                id: *id,
                operation: e.job.operation.as_str(),
                vm: e.job.vm,
                snapshot: e.snapshot.clone(),
                state: e.state,
                phase: self.phase(*id, e),
                far: e.far,
                stuck: self.stuck.contains_key(id),
                asker: e.job.asker,
                asked: e.job.asked,
                ended: e.ended,
                outcome: e.outcome.clone(),
                cancelable: match e.state {
                    JobState::Queued => true,
                    JobState::Running => e.stops(),
                    JobState::Done => false,
                },
            };
            views.insert(*id, Arc::new(view));
        }
        self.table.values_mut().for_each(|e| e.stale = false);
    }
}

/// Nobody asked for it, and it can wait: what a merge left that was cut short is ended without delay, as recovery is.
fn is_automatic(job: &Job) -> bool {
    job.asker.origin == Origin::Schedule && job.operation != Operation::Finish
}

/// Whose turn it is when it starts: nobody's, where the daemon itself wants it.
fn who(job: &Job) -> Who {
    matches!(job.asker.origin, Origin::Manual | Origin::Operation).then_some(job.asker.uid)
}

impl Machine {
    /// Starts what is admitted, and says why the others wait.
    pub(super) fn start_jobs(&mut self, _now: Timestamp, out: &mut Vec<Effect>) {
        if self.jobs.queued.is_empty() || self.stopping() {
            return;
        }
        if !self.view.manager.hypervisor_connected {
            for id in self.jobs.queued.clone() {
                self.jobs.waits(id, "waiting for libvirt");
            }
            return;
        }
        let mut held = self.held_jobs();
        for id in self.jobs.held_by_left() {
            self.jobs.waits(id, "waiting until all VMs are known");
            held.insert(id);
        }
        let waiting: Vec<Waiting> = self
            .jobs
            .queued
            .iter()
            .filter(|id| !held.contains(id))
            .filter_map(|id| self.jobs.table.get(id))
            .map(|e| Waiting { job: e.job.id, vm: e.job.vm, who: who(&e.job) })
            .collect();
        let limit = usize::try_from(self.settings.daemon.max_jobs).unwrap_or(usize::MAX);
        let (running, counted) = (&self.jobs.running, self.jobs.counted());
        let (turns, served) = queue::admit(&waiting, running, counted, limit, &self.jobs.served);
        self.jobs.served = served;
        let mut begun = Vec::new();
        for (id, turn) in turns {
            let stuck = matches!(turn, Turn::After(job) if self.jobs.stuck.contains_key(&job));
            self.jobs.waits(id, &if stuck { format!("{turn}, which is stuck") } else { turn.to_string() });
            if turn != Turn::Now {
                continue;
            }
            self.jobs.queued.retain(|q| *q != id);
            begun.extend(self.no_more_deferred(id));
            if let Some(entry) = self.jobs.table.get_mut(&id) {
                entry.state = JobState::Running;
                entry.heard = self.elapsed;
                self.jobs.running.insert(id, entry.job.vm);
                self.stale.insert(entry.job.vm);
                out.push(Effect::Start(entry.job.clone()));
            }
        }
        if !begun.is_empty() {
            // Before any of them starts.
            out.insert(0, Effect::Remember(begun));
        }
    }

    pub(super) fn on_progress(
        &mut self,
        id: JobId,
        (phase, far, to_its_end): (String, Far, bool),
        snapshot: Option<SnapshotName>,
    ) {
        if let Some(entry) = self.jobs.table.get_mut(&id).filter(|e| e.state == JobState::Running) {
            entry.phase = phase;
            entry.far = far;
            entry.to_its_end = to_its_end;
            entry.heard = self.elapsed;
            if snapshot.is_some() {
                entry.snapshot = snapshot;
                self.stale.insert(entry.job.vm);
            }
            entry.stale = true;
        }
    }

    pub(super) fn on_ended(&mut self, id: JobId, outcome: Outcome, now: Timestamp, out: &mut Vec<Effect>) {
        let outcome = self.in_full(id, outcome);
        let Some(job) = self.jobs.finish(id, outcome.clone(), now) else { return };
        let undeferred = self.no_more_deferred(id);
        self.journal.extend(undeferred);
        let vm = job.vm;
        self.stale.insert(vm);
        self.tell_withheld(vm);
        match &outcome {
            Outcome::Done(_) => self.journal.extend(self.failing.worked(vm, &job.operation)),
            Outcome::Failed(f) => self.journal.push(self.failing.failed(vm, &job.operation, &f.message)),
            Outcome::Cancelled(_) => {}
        }
        // What is busy is looked at again; and a job that the daemon's end cancels is owed to the next life.
        // Whoever asked for it: a person's may have paid what the schedule owes.
        let mut owed_on = BTreeSet::new();
        if matches!(&outcome, Outcome::Failed(f) if f.name == "Busy") && !self.stopping() {
            owed_on = self.put_off(vm, id, now, out);
        } else if !(matches!(outcome, Outcome::Cancelled(_)) && self.stopping()) {
            self.paid(vm, id);
        }
        Arc::make_mut(&mut self.view.counts).ended(&job, &outcome, &owed_on);
        self.count_run(&job, &outcome, now, out);
        let mut prune = false;
        if let Operation::Create(create) = &job.operation {
            let result = outcome.result();
            for policy in create.policies.difference(&owed_on) {
                if let Some(run) = self.runs.get_mut(policy) {
                    run.ended(result);
                }
            }
            // Only a success may rotate others out.
            prune = matches!(outcome, Outcome::Done(_)) && !create.policies.is_empty();
        }
        if prune && !self.stopping() {
            self.prune_by_itself(vm, now);
        }
        let vm_name = self.name_of(vm);
        let snapshot = self.jobs.table.get(&id).and_then(|entry| entry.snapshot.clone());
        out.push(Effect::Log(Note::Ended { job: Box::new(job), vm_name, snapshot, outcome }));
        out.push(Effect::Read(vm));
    }

    /// Ends what waits for a VM that is no more.
    pub(super) fn end_queued_of(&mut self, vm: VmId, now: Timestamp, out: &mut Vec<Effect>) {
        let waiting: Vec<JobId> = self
            .jobs
            .queued
            .iter()
            .copied()
            .filter(|id| self.jobs.table.get(id).is_some_and(|e| e.job.vm == vm))
            .collect();
        for id in waiting {
            let failure = Failure::new("NoSuchVM", format!("VM {vm} was undefined before this could start"));
            self.on_ended(id, Outcome::Failed(failure), now, out);
        }
    }

    /// Ends merges that were cut short, with nobody asking for it.
    pub(super) fn finish_merges(&mut self, vm: VmId, now: Timestamp) {
        if !self.stopping() && !self.jobs.waits_for(vm, &Operation::Finish) {
            self.jobs.add(vm, Operation::Finish, Asker { origin: Origin::Schedule, uid: self.own_uid }, now);
        }
    }

    pub(super) fn cancel_queued(&mut self, id: JobId, now: Timestamp, out: &mut Vec<Effect>) {
        let why = "was cancelled before it began: nothing was done";
        self.on_ended(id, Outcome::Cancelled(why.to_owned()), now, out);
    }

    /// Whoever is stopped says what is so; which job of which VM that was is said here.
    fn in_full(&self, id: JobId, outcome: Outcome) -> Outcome {
        match (outcome, self.jobs.get(id)) {
            (Outcome::Cancelled(text), Some((job, _))) => Outcome::Cancelled(format!(
                "job {id} ({} of VM {}) {text}",
                job.operation.as_str(),
                self.name_of(job.vm)
            )),
            (outcome, _) => outcome,
        }
    }

    /// A VM as people call it, or its UUID if it is gone.
    pub(super) fn name_of(&self, vm: VmId) -> String {
        self.vms.get(&vm).map_or_else(|| vm.to_string(), |r| r.name.clone())
    }
}
