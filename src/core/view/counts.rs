//! What the daemon counts from its start on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::core::{
    job::{Job, JobResult, Operation, Outcome},
    model::{PolicyName, VmId},
};

/// What was done since the daemon's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that ended, by operation and result.
    pub jobs: BTreeMap<(&'static str, JobResult), u64>,
    /// Jobs that failed, by operation and the name of the error.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
    /// Operations that were found cut short.
    pub interrupted: BTreeMap<&'static str, u64>,
    /// Runs of policies that did not happen at their time, nor are caught up.
    pub missed: BTreeMap<PolicyName, u64>,
    /// Runs of policies on VMs that ended.
    pub runs: BTreeMap<(PolicyName, VmId), Runs>,
    /// For how long guests were frozen for snapshots, those too that were not taken then.
    pub frozen: BTreeMap<VmId, SignedDuration>,
    /// What images held that were merged into others, in bytes.
    pub merged: BTreeMap<VmId, u64>,
}

/// The runs of one policy on one VM that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// All of them.
    pub ended: u64,
    /// Those that failed.
    pub failed: u64,
}

impl Counts {
    /// A job ended. `owed_on`: policies whose runs have not ended with it, as they are tried again.
    pub(in crate::core) fn ended(&mut self, job: &Job, outcome: &Outcome, owed_on: &BTreeSet<PolicyName>) {
        *self.jobs.entry((job.operation.as_str(), outcome.result())).or_default() += 1;
        if let Outcome::Failed(failure) = outcome {
            *self.errors.entry((job.operation.as_str(), failure.name)).or_default() += 1;
        }
        if let Operation::Create(create) = &job.operation {
            for policy in create.policies.difference(owed_on) {
                let runs = self.runs.entry((policy.clone(), job.vm)).or_default();
                runs.ended += 1;
                runs.failed += u64::from(outcome.result() == JobResult::Failed);
            }
        }
    }

    /// This operation was found cut short.
    pub(in crate::core) fn interrupted(&mut self, operation: &'static str) {
        *self.interrupted.entry(operation).or_default() += 1;
    }

    /// A run of this policy did not happen.
    pub(in crate::core) fn missed(&mut self, policy: &PolicyName) {
        *self.missed.entry(policy.clone()).or_default() += 1;
    }

    /// The guest of this VM was frozen for so long.
    pub(in crate::core) fn held(&mut self, vm: VmId, time: SignedDuration) {
        let sum = self.frozen.entry(vm).or_default();
        *sum = sum.saturating_add(time);
    }

    /// A run that was to be tried again never worked: the next one takes its place.
    pub(in crate::core) fn overtaken(&mut self, policy: &PolicyName, vm: VmId) {
        let runs = self.runs.entry((policy.clone(), vm)).or_default();
        runs.ended += 1;
        runs.failed += 1;
    }

    /// Images of this VM were merged.
    pub(in crate::core) fn merged(&mut self, vm: VmId, bytes: u64) {
        let sum = self.merged.entry(vm).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// A VM is no more.
    pub(in crate::core) fn forget(&mut self, vm: VmId) {
        self.runs.retain(|(_, of), _| *of != vm);
        self.frozen.remove(&vm);
        self.merged.remove(&vm);
    }
}
