//! When what was begun is settled: on each new connection before that is told, where a job had the VM meanwhile before
//! that counts as ended, and from time to time.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::mpsc;

use super::{Engine, Input, held::Held, recovery};
use crate::{
    core::{
        job::{Failure, JobId, JobState, Outcome},
        machine::Event,
        model::VmId,
    },
    hypervisor::Info,
    logging::message,
    worker::Tools,
};

impl Engine {
    /// On a new connection, before anything else: thaw what was left frozen, and settle what was begun.
    pub(super) fn recover(&mut self, info: Info) {
        self.connection += 1;
        let number = self.connection;
        let (tools, held, send) = (self.tools.clone(), self.held.clone(), self.send.clone());
        let (line, late) = (self.line.clone(), self.late());
        let again = info.clone();
        let begun = self.thread("recovery", move || {
            // Nothing would ever start if this did not end; what it settled so far is settled.
            let left = caught(|| recovery::run(&tools, &held, &line, &late)).unwrap_or_default();
            // First: whoever hears of the connection finds the jobs that end these.
            for vm in left.merges {
                let _ = send.send(Input::Machine(Event::Unfinished(vm)));
            }
            let _ = send.send(Input::Recovered(number, info, left.skipped));
            caught(|| recovery::hooks(&tools, &held));
            caught(|| recovery::frozen::tell(&tools));
        });
        // Nothing is done before it is, so that there is a thread for it some time.
        self.unrecovered = (!begun).then_some(again);
    }

    /// What of a VM is settled after all others were is told as what happens later.
    fn late(&self) -> recovery::Late {
        let send = self.send.clone();
        Arc::new(move |vm, merges| {
            if merges {
                let _ = send.send(Input::Machine(Event::Unfinished(vm)));
            }
            let _ = send.send(Input::Machine(Event::Changed(vm)));
        })
    }

    /// Begins what there was no thread for when the connection came.
    pub(super) fn recover_late(&mut self) {
        if let Some(info) = self.unrecovered.take() {
            self.recover(info);
        }
    }

    /// Everything was settled, on the connection of this number, but what is about these VMs, which somebody had. Where
    /// that was a job that goes on, it is settled when that ends; else before the connection is told.
    pub(super) fn recovered(&mut self, number: u64, info: Info, skipped: BTreeSet<VmId>) {
        // Of a connection that went meanwhile, it says nothing: all is settled on the next one.
        if number != self.connection {
            return;
        }
        let jobs = &self.machine.view().jobs;
        let at_work = |vm: &VmId| jobs.values().any(|job| job.vm == *vm && job.state == JobState::Running);
        let (later, now): (BTreeSet<_>, BTreeSet<_>) = skipped.into_iter().partition(at_work);
        self.skipped.extend(later);
        if !now.is_empty() {
            let (tools, held, send, told) =
                (self.tools.clone(), self.held.clone(), self.send.clone(), info.clone());
            let (line, late) = (self.line.clone(), self.late());
            let begun = self.thread("recovery", move || {
                let news = send.clone();
                // Whoever has it may be at what libvirt never answers.
                let of = tools.clone();
                recovery::the_skipped(&of, &line, now, move |vm| settle(&tools, &held, &news, vm), &late);
                let _ = send.send(Input::Recovered(number, told, BTreeSet::new()));
            });
            if begun {
                return;
            }
        }
        self.handle(Event::Connected { uri: info.uri, version: info.version });
    }

    /// A job's thread ended. What it left and could not settle, as it had lost the connection, is settled before the job
    /// counts as ended: who waits for a job finds all as it will stay.
    pub(super) fn ended(&mut self, job: JobId, outcome: Outcome) {
        let vm = self.machine.view().jobs.get(&job).map(|job| job.vm);
        if let Some(vm) = vm.filter(|vm| self.skipped.remove(vm)) {
            let (tools, held, send) = (self.tools.clone(), self.held.clone(), self.send.clone());
            let (reader, told) = (self.reader.clone(), outcome.clone());
            let begun = self.thread("recovery", move || {
                settle(&tools, &held, &send, vm);
                reader.read_and_wait(vm);
                let _ = send.send(Input::Ended(job, told));
            });
            if begun {
                return;
            }
        }
        self.cancels.remove(&job);
        self.handle(Event::Ended(job, outcome));
    }

    /// Tries again what could not be settled: that need not wait for the next connection. One at a time.
    pub(super) fn recover_again(&self) {
        if self.recovering.swap(true, Ordering::SeqCst) {
            return;
        }
        let (tools, held, send) = (self.tools.clone(), self.held.clone(), self.send.clone());
        let line = self.line.clone();
        let recovering = Arc::clone(&self.recovering);
        let begun = self.thread("recovery", move || {
            for vm in caught(|| recovery::again(&tools, &held, &line)).unwrap_or_default() {
                let _ = send.send(Input::Machine(Event::Unfinished(vm)));
            }
            recovering.store(false, Ordering::SeqCst);
        });
        if !begun {
            self.recovering.store(false, Ordering::SeqCst);
        }
    }
}

/// Settles what was begun on a VM as soon as nobody has it. A merge is left to a job of its own.
fn settle(tools: &Tools, held: &Held, send: &mpsc::UnboundedSender<Input>, vm: VmId) {
    let _hold = held.take(vm);
    if caught(|| recovery::settle_vm(tools, vm)).unwrap_or(false) {
        let _ = send.send(Input::Machine(Event::Unfinished(vm)));
    }
}

/// What comes before a job. Where a bug ends it, nobody knows what the VM stands on: the job must not begin.
pub(super) fn before(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    caught(work).unwrap_or_else(|| {
        let why = "it did not begin, and did nothing: a bug in virtsnapd (a panic; the journal has it) ended the settling of \
                   what was begun before on the VM, which is tried again every few minutes and before the VM's next job. \
                   Please report the bug";
        Err(Failure::new("Failed", why))
    })
}

/// `None` if it panicked: a job without an end would hold its VM for ever.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        tracing::error!(
            MESSAGE_ID = message::INTERNAL_ERROR,
            "a bug ended the settling of what was begun early; it is tried again"
        );
    }
    done.ok()
}
