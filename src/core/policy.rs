//! What a policy says, after it was read and checked: plain values, no text positions, no defaults left open.

use std::collections::BTreeSet;

use jiff::{SignedDuration, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::{
    model::{PolicyName, VmId, VmState, words},
    schedule::Schedule,
};

words! {
    /// What becomes of a run that was missed while the host was off or asleep.
    CatchUp {
        /// One run for all that were missed.
        Once = "once",
        /// None.
        Skip = "skip",
    }
}

words! {
    /// Whether the guest's file systems are frozen for a snapshot.
    Quiesce {
        /// No snapshot without it.
        Require = "require",
        /// Tried; a crash-consistent snapshot where it does not work.
        Prefer = "prefer",
        /// Not tried.
        Never = "never",
    }
}

words! {
    /// Whether the guest's memory is part of a snapshot.
    Memory {
        /// Disks only.
        Never = "never",
        /// With memory where CPU and devices allow it.
        Prefer = "prefer",
        /// No snapshot without it.
        Require = "require",
    }
}

words! {
    /// How the keep rules of a policy work together.
    Combine {
        /// Each rule counts for itself; a snapshot stays if any rule wants it (restic's way).
        Union = "union",
        /// Rules run from last to yearly; a bucket that a kept one covers is skipped (Proxmox's and Borg's way).
        Extend = "extend",
    }
}

/// Which file systems are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mountpoints {
    /// Those on the disks that are snapshotted.
    Auto,
    /// All of the guest's.
    All,
    /// These, by their path in the guest.
    List(Vec<String>),
}

/// One entry of a policy's `vms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// True for `!…`: VMs that match are left out, wherever it stands in the list.
    pub exclude: bool,
    /// What it looks at.
    pub matcher: Matcher,
}

/// What a selector looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// The VM's name, as a glob (`*`, `?`, `[a-z]`, `{a,b}`).
    Name(String),
    /// The VM's UUID.
    Uuid(VmId),
    /// `tag:…`: a tag in the VM's libvirt metadata.
    Tag(String),
}

/// How many snapshots each rule keeps. `None`: the rule is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of the last so many hours that have one.
    pub hourly: Option<u32>,
    /// The same for days.
    pub daily: Option<u32>,
    /// The same for ISO weeks.
    pub weekly: Option<u32>,
    /// The same for months.
    pub monthly: Option<u32>,
    /// The same for years.
    pub yearly: Option<u32>,
    /// All that are less than this much older than the newest.
    pub within: Option<SignedDuration>,
}

impl Keep {
    /// True if there is no rule at all: then nothing is deleted for want of one.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits that cut what the keep rules kept, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// At most so many; pinned ones do not count.
    pub max_count: Option<u32>,
    /// None older than this, measured from now.
    pub max_age: Option<SignedDuration>,
    /// At most so many bytes; pinned ones count.
    pub max_size: Option<u64>,
    /// At most so many deletions in one prune; more needs a person.
    pub max_delete: Option<u32>,
}

/// All about what stays and what goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The keep rules.
    pub keep: Keep,
    /// How they work together.
    pub combine: Combine,
    /// The limits.
    pub limits: Limits,
    /// The zone whose days, weeks, months and years the buckets are.
    pub timezone: TimeZone,
}

/// How a policy's snapshots are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// Whether file systems are frozen.
    pub quiesce: Quiesce,
    /// How long the agent may take to freeze.
    pub freeze_timeout: SignedDuration,
    /// Which file systems are frozen.
    pub mountpoints: Mountpoints,
    /// Whether memory is part of it.
    pub memory: Memory,
    /// The VM states in which the policy runs.
    pub when: BTreeSet<VmState>,
    /// No new snapshot if nothing was written since the last.
    pub skip_unchanged: bool,
    /// The name's template: `{policy}`, `{timestamp}`, `{vm}`, `{operation}`, `{sequence}`.
    pub name: String,
}

impl How {
    /// One snapshot does for both: what differs besides (a name, a time limit) changes nothing of what is in it.
    pub fn takes_the_same(&self, other: &Self) -> bool {
        self.quiesce == other.quiesce && self.mountpoints == other.mountpoints && self.memory == other.memory
    }
}

/// Where in the files something was said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The file's path.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One `[policy.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// Which VMs it is for.
    pub vms: Vec<Selector>,
    /// When it runs; empty: only by hand, or before an operation.
    pub schedules: Vec<Schedule>,
    /// What becomes of missed runs.
    pub catch_up: CatchUp,
    /// How long ago a missed run may have been due.
    pub catch_up_within: SignedDuration,
    /// Runs are spread over this much time, each VM at an offset of its own.
    pub spread: SignedDuration,
    /// Operations before which it runs when a client announces them.
    pub before: BTreeSet<String>,
    /// How its snapshots are taken.
    pub how: How,
    /// What stays and what goes.
    pub retention: Retention,
    /// It is suspended on a VM on which so many runs failed one after the other; `None`: never.
    pub suspend_after: Option<u32>,
    /// How old its newest good snapshot of a VM may be without that being told; `None`: however old.
    pub stale_after: Option<SignedDuration>,
    /// Where it stands.
    pub source: Source,
}

/// `[vm.NAME]`: what belongs to one VM.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VmSettings {
    /// The disks to snapshot, by target (`vda`); `None`: all writable ones.
    pub disks: Option<Vec<String>>,
    /// A limit over all its policies' snapshots, in bytes.
    pub max_size: Option<u64>,
    /// Where it stands.
    pub source: Source,
}
