//! Jobs at work: each on a thread of its own, which sends its news and its end as inputs.

use std::sync::{Arc, atomic::AtomicBool};

use super::{
    Engine, Input,
    recovering::{before, caught},
    recovery,
};
use crate::{
    core::{
        job::{Failure, Job, Made, Outcome},
        machine::Event,
    },
    worker::{self, Progress, Wire},
};

impl Engine {
    /// VMs may be gone. Nobody waits for it, and the next one makes good what one did not.
    pub(super) fn tidy(&self) {
        let (access, tools) = (Arc::clone(&self.tools.access), self.tools.clone());
        let work = move || {
            worker::tidy_branches(&tools);
            if let Err(e) = access.tidy() {
                tracing::debug!(error = %e, "what VMs that are gone were let write is not taken back");
            }
        };
        if let Err(e) = self.tools.clock.start("tidy", Box::new(work)) {
            tracing::debug!(error = %e, "no thread for tidying");
        }
    }

    pub(super) fn start(&mut self, job: Job) {
        let cancel = Arc::new(AtomicBool::new(false));
        self.cancels.insert(job.id, Arc::clone(&cancel));
        let tools = self.tools.clone();
        let settings = Arc::clone(self.machine.settings());
        let needed = self.machine.needed_of(job.vm);
        let (send, progress) = (self.send.clone(), self.send.clone());
        let id = job.id;
        let reader = self.reader.clone();
        let held = self.held.clone();
        let work = move || {
            let (passed, merged) = (progress.clone(), progress.clone());
            let wire = Wire {
                cancel,
                merged: Box::new(move |bytes| {
                    let _ = merged.send(Input::Machine(Event::Merged(job.vm, bytes)));
                }),
                passed: Box::new(move |at| {
                    let _ = passed.send(Input::Machine(Event::Passed(at)));
                }),
                progress: Box::new(move |p: Progress| {
                    let Progress { job, phase, far, snapshot, to_its_end } = p;
                    let event = Event::Progress { job, phase, far, snapshot, to_its_end };
                    let _ = progress.send(Input::Machine(event));
                }),
            };
            let own = held.take(job.vm);
            let before = before(|| recovery::before_job(&tools, job.vm, &job.operation));
            let outcome = match before {
                Ok(()) => worker::run(&tools, &settings, &job, &needed, &wire),
                Err(failure) => Outcome::Failed(failure),
            };
            if !matches!(outcome, Outcome::Done(_)) {
                // An answer that got lost may have left more, or less, than the job could tell, and one that was
                // cancelled may not have been able to clear up. The VM is still ours.
                caught(|| recovery::settle_vm(&tools, job.vm));
            }
            drop(own);
            // Who waits for the job sees what it did.
            if let Outcome::Done(Some(Made::Vm(made))) = &outcome {
                reader.read_and_wait(*made);
            }
            reader.read_and_wait(job.vm);
            let _ = send.send(Input::Ended(job.id, outcome));
        };
        if let Err(e) = self.tools.clock.start(&format!("job-{id}"), Box::new(work)) {
            let failure = Failure::new("Failed", format!("no thread for the job: {e}"));
            let _ = self.send.send(Input::Ended(id, Outcome::Failed(failure)));
        }
    }
}
