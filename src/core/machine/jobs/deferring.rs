//! What waits when the daemon is told to stop: the next life does it, if it comes soon.
//!
//! What is written down of a job goes when the job begins or ends, and not before: each is done once, or told once why not.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Entry, Jobs};
use crate::core::{
    deferred::{self, Deferred, KEPT_FOR},
    job::{Failure, JobId, JobState, Outcome},
    machine::{self, Effect, Machine, Note},
    model::{Origin, VmId},
    view::DaemonState,
};

#[derive(Debug, Default)]
pub(super) struct Deferring {
    /// Those that are written down, with when the daemon was told to stop; `None`: the host was restarted since.
    written: BTreeMap<JobId, Option<Timestamp>>,
    /// Those of them that an earlier life left, until all VMs are known: nobody knows before whether they are to begin.
    left: BTreeSet<JobId>,
    /// Those that wait for the next life.
    deferred: BTreeSet<JobId>,
}

impl Deferring {
    /// It began or ended; true if that is to be written down.
    pub(super) fn take(&mut self, id: JobId) -> bool {
        self.left.remove(&id);
        self.deferred.remove(&id);
        self.written.remove(&id).is_some()
    }
}

impl Jobs {
    /// They wait again, under their old numbers.
    pub(in crate::core::machine) fn restore(&mut self, deferred: Vec<Deferred>) {
        for Deferred { job, since } in deferred {
            let id = job.id;
            self.last_id = self.last_id.max(id);
            self.queued.push(id);
            self.deferring.written.insert(id, since);
            self.deferring.left.insert(id);
            // Somebody may wait for it, whoever asked first.
            self.table.insert(id, Entry { wanted: true, ..Entry::of(job) });
        }
    }

    /// Those that are not to begin yet: what an earlier life left, and what would overtake that.
    pub(super) fn held_by_left(&self) -> BTreeSet<JobId> {
        let entry = |id: &JobId| self.table.get(id);
        let vms: BTreeSet<VmId> =
            self.deferring.left.iter().filter_map(|id| Some(entry(id)?.job.vm)).collect();
        self.queued.iter().filter(|id| entry(id).is_some_and(|e| vms.contains(&e.job.vm))).copied().collect()
    }

    /// Whether it waits for the next life.
    pub(in crate::core::machine) fn is_deferred(&self, id: JobId) -> bool {
        self.deferring.deferred.contains(&id)
    }

    /// What somebody asked for waits for the next life from now on. A snapshot before an operation does not: whoever
    /// announced that goes on, or gives up, and it would be taken after it.
    fn defer(&mut self, now: Timestamp) -> Vec<Deferred> {
        let asked = |e: &Entry| match e.job.asker.origin {
            Origin::Manual => true,
            Origin::Schedule => e.wanted,
            _ => false,
        };
        let asked: Vec<JobId> =
            self.queued.iter().copied().filter(|id| self.table.get(id).is_some_and(asked)).collect();
        self.queued.retain(|id| !asked.contains(id));
        for id in &asked {
            self.waits(*id, deferred::PHASE);
        }
        self.deferring.deferred = asked.iter().copied().collect();
        let one = |id: &JobId| {
            let job = self.table.get(id)?.job.clone();
            // One that was left before is no younger by this.
            let left = self.deferring.left.contains(id).then(|| self.deferring.written.get(id).copied());
            Some(Deferred { job, since: left.flatten().unwrap_or(Some(now)) })
        };
        asked.iter().filter_map(one).collect()
    }
}

impl Machine {
    /// What an earlier life left waits like all else as soon as all VMs are known, or is over by then.
    pub(in crate::core::machine) fn take_up(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if self.jobs.deferring.left.is_empty() || !self.complete() {
            return;
        }
        for id in std::mem::take(&mut self.jobs.deferring.left) {
            let Some((job, JobState::Queued)) = self.jobs.get(id) else { continue };
            let (vm, since) = (job.vm, self.jobs.deferring.written.get(&id).copied().flatten());
            if let Some(why) = deferred::over(since, now) {
                self.on_ended(id, Outcome::Cancelled(why), now, out);
            } else if !self.vms.contains_key(&vm) && !self.unreadable.contains(&vm) {
                let failure =
                    Failure::new("NoSuchVM", format!("VM {vm} was undefined before this could start"));
                self.on_ended(id, Outcome::Failed(failure), now, out);
            }
        }
    }

    /// What runs comes to its end, what somebody asked for is written down for the next life, and the rest does not begin.
    pub(in crate::core::machine) fn on_stop(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.manager(|m| m.state = DaemonState::Stopping);
        let deferred = self.jobs.defer(now);
        if !deferred.is_empty() {
            out.push(Effect::Defer(deferred));
        }
        for id in self.jobs.queued.clone() {
            let why = "did not begin, as the daemon stops: nothing was done".to_owned();
            self.on_ended(id, Outcome::Cancelled(why), now, out);
        }
        out.extend(self.jobs.running.keys().map(|id| Effect::Cancel(*id)));
    }

    /// It is written down, or why it is not: then what was not before ends here.
    pub(in crate::core::machine) fn on_deferred(
        &mut self,
        stored: Result<(), String>,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let deferring = &mut self.jobs.deferring;
        let Err(why) = stored else {
            let jobs = deferring.deferred.len();
            for id in &deferring.deferred {
                deferring.written.entry(*id).or_insert(Some(now));
            }
            return out.push(Effect::Log(Note::Deferred { jobs, kept_for: KEPT_FOR }));
        };
        let unwritten: Vec<JobId> =
            deferring.deferred.iter().filter(|id| !deferring.written.contains_key(*id)).copied().collect();
        for id in unwritten {
            let why = format!(
                "did not begin, as the daemon stops, and cannot be kept for its next start ({why}): nothing was done"
            );
            self.on_ended(id, Outcome::Cancelled(why), now, out);
        }
    }

    /// It begins or ended: what is written down of it is not for the next life any more.
    pub(in crate::core::machine) fn no_more_deferred(&mut self, id: JobId) -> Option<machine::Entry> {
        self.jobs.deferring.take(id).then_some(machine::Entry::Undeferred(id))
    }
}
