//! What waits when the daemon is told to stop: the next life does it, if it comes soon.

use jiff::Timestamp;

use super::{Entry, Jobs, who};
use crate::core::{
    deferred::{self, Deferred, KEPT_FOR},
    job::{Failure, Job, JobId, JobState, Outcome},
    machine::{Effect, Machine, Note, memory},
};

/// What an earlier life left.
#[derive(Debug)]
pub(super) enum Left {
    /// When it was stopped is to be compared with the time, which is not known yet.
    Unjudged(Box<Deferred>),
    /// It begins when all VMs are known.
    Wanted,
    /// It is over.
    Over(String),
}

impl Jobs {
    /// They wait again, under their old numbers.
    pub(in crate::core::machine) fn restore(&mut self, deferred: Vec<Deferred>) {
        for one in deferred {
            let job = one.job.clone();
            self.last_id = self.last_id.max(job.id);
            self.queued.push(job.id);
            self.left.insert(job.id, Left::Unjudged(Box::new(one)));
            self.table.insert(job.id, Entry::of(job));
        }
    }

    /// They are not to begin yet.
    pub(in crate::core::machine) fn left(&self) -> impl Iterator<Item = JobId> {
        self.left.keys().copied()
    }

    /// What somebody asked for waits for the next life from now on; those jobs.
    fn defer(&mut self) -> Vec<Job> {
        let asked = |id: &JobId| {
            let over = matches!(self.left.get(id), Some(Left::Over(_)));
            !over && self.table.get(id).is_some_and(|e| e.wanted || who(&e.job).is_some())
        };
        let asked: Vec<JobId> = self.queued.iter().copied().filter(asked).collect();
        self.queued.retain(|id| !asked.contains(id));
        for id in &asked {
            self.waits(*id, deferred::PHASE);
        }
        self.deferred.clone_from(&asked);
        asked.iter().filter_map(|id| self.table.get(id).map(|e| e.job.clone())).collect()
    }
}

impl Machine {
    /// Judges what an earlier life left, as soon as the time is known, and has it wait like all else once all VMs are.
    pub(in crate::core::machine) fn take_up(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        for left in self.jobs.left.values_mut() {
            if let Left::Unjudged(deferred) = left {
                *left = deferred.over(now).map_or(Left::Wanted, Left::Over);
            }
        }
        if self.jobs.left.is_empty() || !self.complete() {
            return;
        }
        // From here on they are as any other that waits.
        self.journal.push(memory::Entry::TakenUp);
        for (id, left) in std::mem::take(&mut self.jobs.left) {
            let Some((job, JobState::Queued)) = self.jobs.get(id) else { continue };
            let vm = job.vm;
            if let Left::Over(why) = left {
                self.on_ended(id, Outcome::Cancelled(why), now, out);
            } else if !self.vms.contains_key(&vm) && !self.unreadable.contains(&vm) {
                let failure =
                    Failure::new("NoSuchVM", format!("VM {vm} was undefined before this could start"));
                self.on_ended(id, Outcome::Failed(failure), now, out);
            }
        }
    }

    /// Has what somebody asked for written down for the next life.
    pub(super) fn defer(&mut self, out: &mut Vec<Effect>) {
        let jobs = self.jobs.defer();
        if !jobs.is_empty() {
            out.push(Effect::Defer(jobs));
        }
    }

    /// It is written down, or why it is not: then it ends here.
    pub(in crate::core::machine) fn on_deferred(
        &mut self,
        stored: Result<(), String>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Err(why) = stored else {
            let jobs = self.jobs.deferred.len();
            return out.push(Effect::Log(Note::Deferred { jobs, kept_for: KEPT_FOR }));
        };
        for id in std::mem::take(&mut self.jobs.deferred) {
            let why = format!(
                "did not begin, as the daemon stops, and cannot be kept for its next start ({why}): nothing was done"
            );
            self.on_ended(id, Outcome::Cancelled(why), now, out);
        }
    }
}
