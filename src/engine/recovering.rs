//! When what was begun is settled: on each new connection, where a job had the VM meanwhile after that, and from time to
//! time.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use super::{Engine, Input, recovery, thread};
use crate::{
    core::{job::JobState, machine::Event, model::VmId},
    hypervisor::Info,
    logging::message,
};

impl Engine {
    /// On a new connection, before anything else: thaw what was left frozen, and settle what was begun.
    pub(super) fn recover(&mut self, info: Info) {
        self.connection += 1;
        let number = self.connection;
        let (tools, held, send) = (self.tools.clone(), self.held.clone(), self.send.clone());
        thread("recovery", move || {
            // Nothing would ever start if this did not end; what it settled so far is settled.
            let left = caught(|| recovery::run(&tools, &held)).unwrap_or_default();
            let _ = send.send(Input::Recovered(number, info));
            for vm in left.merges {
                let _ = send.send(Input::Machine(Event::Unfinished(vm)));
            }
            let _ = send.send(Input::Skipped(left.skipped));
            caught(|| recovery::hooks(&tools, &held));
        });
    }

    /// These were at work on it when everything else was settled. What their jobs could not settle without a connection is
    /// settled when they end.
    pub(super) fn take_skipped(&mut self, vms: BTreeSet<VmId>) {
        for vm in vms {
            let jobs = &self.machine.view().jobs;
            if jobs.values().any(|job| job.vm == vm && job.state == JobState::Running) {
                self.skipped.insert(vm);
            } else {
                self.recover_vm(vm);
            }
        }
    }

    /// A job on this VM ended.
    pub(super) fn recover_skipped(&mut self, vm: VmId) {
        if self.skipped.remove(&vm) {
            self.recover_vm(vm);
        }
    }

    fn recover_vm(&self, vm: VmId) {
        let (tools, held, send) = (self.tools.clone(), self.held.clone(), self.send.clone());
        thread("recovery", move || {
            let _hold = held.take(vm);
            if caught(|| recovery::settle_vm(&tools, vm)).unwrap_or(false) {
                let _ = send.send(Input::Machine(Event::Unfinished(vm)));
            }
        });
    }

    /// Tries again what could not be settled: that need not wait for the next connection. One at a time.
    pub(super) fn recover_again(&self) {
        if self.recovering.swap(true, Ordering::SeqCst) {
            return;
        }
        let (tools, held) = (self.tools.clone(), self.held.clone());
        let recovering = Arc::clone(&self.recovering);
        let begun = thread("recovery", move || {
            caught(|| recovery::again(&tools, &held));
            recovering.store(false, Ordering::SeqCst);
        });
        if !begun {
            self.recovering.store(false, Ordering::SeqCst);
        }
    }
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
