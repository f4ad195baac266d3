//! What failed last on each VM: shown until the like of it works, also after a restart of the daemon.

use std::collections::{BTreeMap, BTreeSet};

use super::Entry;
use crate::core::{
    job::Operation,
    model::{VmId, words},
};

words! {
    /// Kinds of what can fail on a VM: one that works shows nothing about the others.
    Effort {
        /// To take a snapshot.
        Taking = "taking",
        /// To delete some.
        Deleting = "deleting",
        /// Anything else.
        Other = "other",
    }
}

impl Effort {
    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Create(_) => Self::Taking,
            Operation::Delete { .. } | Operation::Prune { .. } | Operation::Finish => Self::Deleting,
            _ => Self::Other,
        }
    }

    /// Success with this is the end of that failure: a night without a snapshot is no good one because it was pruned well.
    fn makes_up_for(self, failed: Self) -> bool {
        self == Self::Taking || self == failed
    }
}

/// A job that failed on a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was tried.
    pub effort: Effort,
    /// What came of it.
    pub text: String,
}

/// Of all VMs. What the methods return is to be written down.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// The last job.
    jobs: BTreeMap<VmId, Failed>,
    /// To read it: tried again soon, so nobody writes it down.
    reading: BTreeMap<VmId, String>,
    /// A job on it is stuck: the next life of the daemon sees what became of it.
    stuck: BTreeMap<VmId, String>,
}

impl Failing {
    /// Goes on where an earlier life ended.
    pub(super) fn restored(jobs: BTreeMap<VmId, Failed>) -> Self {
        Self { jobs, ..Self::default() }
    }

    /// What there is to tell of it; empty if nothing.
    pub(super) fn text(&self, vm: VmId) -> String {
        let job = self.jobs.get(&vm).map(|failed| &failed.text);
        let now = self.stuck.get(&vm).or_else(|| self.reading.get(&vm));
        now.or(job).cloned().unwrap_or_default()
    }

    /// A job on it is stuck.
    pub(super) fn stuck(&mut self, vm: VmId, text: String) {
        self.stuck.insert(vm, text);
    }

    /// It is not any more.
    pub(super) fn goes_on(&mut self, vm: VmId) {
        self.stuck.remove(&vm);
    }

    /// What is told of a job on it that is stuck.
    pub(super) fn is_stuck(&self, vm: VmId) -> Option<&str> {
        self.stuck.get(&vm).map(String::as_str)
    }

    /// A job failed.
    pub(super) fn failed(&mut self, vm: VmId, operation: &Operation, text: &str) -> Entry {
        let failed = Failed { effort: Effort::of(operation), text: text.to_owned() };
        self.jobs.insert(vm, failed.clone());
        Entry::Failed(vm, failed)
    }

    /// A job did what it was to do.
    pub(super) fn worked(&mut self, vm: VmId, operation: &Operation) -> Option<Entry> {
        let done = Effort::of(operation);
        let over = self.jobs.get(&vm).is_some_and(|failed| done.makes_up_for(failed.effort));
        over.then(|| self.end(vm))
    }

    /// It could not be read.
    pub(super) fn unreadable(&mut self, vm: VmId, why: String) {
        self.reading.insert(vm, why);
    }

    /// It was read; true if it could not be before.
    pub(super) fn read(&mut self, vm: VmId) -> bool {
        self.reading.remove(&vm).is_some()
    }

    /// It is no more.
    pub(super) fn forget(&mut self, vm: VmId) -> Option<Entry> {
        self.reading.remove(&vm);
        self.jobs.contains_key(&vm).then(|| self.end(vm))
    }

    /// These are all VMs that there are.
    pub(super) fn keep(&mut self, vms: &BTreeSet<VmId>) -> Vec<Entry> {
        let gone: Vec<VmId> = self.jobs.keys().filter(|vm| !vms.contains(vm)).copied().collect();
        gone.into_iter().filter_map(|vm| self.forget(vm)).collect()
    }

    fn end(&mut self, vm: VmId) -> Entry {
        self.jobs.remove(&vm);
        Entry::Worked(vm)
    }
}
