//! What is published: a snapshot of everything that a client may see, shared and never changed in place.
//!
//! Each part is behind an `Arc`, so that publishing costs what changed, and a reader that compares two views
//! skips what is the same by pointer.

mod counts;
mod metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::{
    counts::{Counts, Runs},
    metrics::metrics,
};
use super::{
    inhibit::Inhibitor,
    inventory::VmRecord,
    job::{Asker, Far, JobId, JobState, Outcome},
    model::{PolicyName, SnapshotName, VmId, words},
    policy::{Keep, Limits, Policy},
    suspend::Suspension,
    trouble::Trouble,
};

words! {
    /// The daemon's own state.
    DaemonState {
        /// Not all VMs are known yet.
        Starting = "starting",
        /// At work.
        Running = "running",
        /// It waits for what runs to end, and takes no more.
        Stopping = "stopping",
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The daemon itself.
    pub manager: Arc<ManagerView>,
    /// All VMs.
    pub vms: BTreeMap<VmId, Arc<VmView>>,
    /// All policies.
    pub policies: BTreeMap<PolicyName, Arc<PolicyView>>,
    /// The jobs: those that wait, those that run, the last of those that ended.
    pub jobs: BTreeMap<JobId, Arc<JobView>>,
    /// What was done since the daemon's start.
    pub counts: Arc<Counts>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerView {
    /// Its state.
    pub state: DaemonState,
    /// Where the hypervisor is, as configured until the connection says it better.
    pub hypervisor_uri: String,
    /// What it is; empty before the first connection.
    pub hypervisor_version: String,
    /// Whether it can be reached.
    pub hypervisor_connected: bool,
    /// When a policy runs next.
    pub next_run: Option<Timestamp>,
    /// The clock shows what cannot be: all policies wait, or one that has run up to a later time.
    pub clock_implausible: bool,
    /// What keeps it from doing what it is there for.
    pub troubles: Arc<[Trouble]>,
    /// What of the configuration hardly was meant, or has no effect on the VMs there are: one line each.
    pub warnings: Arc<[String]>,
    /// Those for whom all that nobody asked for is held, the oldest first.
    pub inhibitors: Arc<[Inhibitor]>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmView {
    /// What was read of it.
    pub record: Arc<VmRecord>,
    /// The policies that are for it.
    pub policies: Vec<PolicyName>,
    /// Those of them that run before an operation that is announced, by its name.
    pub before: BTreeMap<String, Vec<PolicyName>>,
    /// Those of them that their schedules do not run on it, and why.
    pub suspended: Vec<(PolicyName, Suspension)>,
    /// Those of them whose newest good snapshot of it is too old, and of when that is, if there is one.
    pub stale: Vec<(PolicyName, Option<Timestamp>)>,
    /// Its file systems are frozen by us, or may still be.
    pub frozen: bool,
    /// When the newest good snapshot of ours was taken.
    pub last_success: Option<Timestamp>,
    /// Why the last job on it failed; empty if it did not.
    pub last_error: String,
    /// The snapshots that a job deletes now.
    pub deleting: BTreeSet<SnapshotName>,
    /// The snapshot that a job reverts to now.
    pub reverting: Option<SnapshotName>,
    /// The VMs that were branched off its snapshots, by name.
    pub branches: BTreeMap<SnapshotName, Vec<String>>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyView {
    /// Its name.
    pub name: PolicyName,
    /// Its schedules, as written.
    pub schedules: Vec<String>,
    /// Its zone.
    pub timezone: String,
    /// When it fires next.
    pub next_run: Option<Timestamp>,
    /// When it fired last.
    pub last_run: Option<Timestamp>,
    /// How that ended: `done`, `failed` or `cancelled`; empty if it did not yet.
    pub last_result: String,
    /// Its keep rules.
    pub keep: Keep,
    /// Its limits.
    pub limits: Limits,
    /// All that it says.
    pub settings: Arc<Policy>,
    /// The VMs that it is for.
    pub vms: Vec<VmId>,
    /// Where it stands: `file:line`.
    pub source: String,
    /// Its schedule runs it nowhere, for a person said so.
    pub suspended: Option<Suspension>,
    /// The VMs among those on which its schedule does not run it for a reason of their own, and why.
    pub suspended_on: Vec<(VmId, Suspension)>,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// `create`, `delete`, `forget`, `adopt`, `describe`, `revert`, `branch`, `promote`, `prune`, `repair`, `finish` or `sweep`.
    pub operation: &'static str,
    /// The VM it works on.
    pub vm: VmId,
    /// The snapshot it works on, or made.
    pub snapshot: Option<SnapshotName>,
    /// Where it is.
    pub state: JobState,
    /// What it does at the moment.
    pub phase: String,
    /// How far it is.
    pub far: Far,
    /// Nothing is heard of it any more.
    pub stuck: bool,
    /// Who asked for it.
    pub asker: Asker,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// It stops when it is told to.
    pub cancelable: bool,
}
