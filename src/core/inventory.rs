//! What is known of a VM: the hypervisor's facts and our own records, put together.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::model::{Consistency, Snapshot, SnapshotName, VmId, VmState};
use super::policy::Quiesce;

/// One VM, as it was when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    /// Its UUID.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// The guest agent's channel is open at the other end.
    pub agent_connected: bool,
    /// The most images under one of its writable disks.
    pub chain_depth: u32,
    /// Its snapshots.
    pub snapshots: BTreeMap<SnapshotName, SnapshotRecord>,
}

impl VmRecord {
    /// The snapshots, as policies see them, in name order.
    pub fn for_policies(&self) -> Vec<Snapshot> {
        self.snapshots.values().map(|s| s.snapshot.clone()).collect()
    }

    /// The bytes that all its snapshots hold.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshots.values().map(|s| s.snapshot.size).sum()
    }
}

/// One snapshot with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// What policies look at.
    pub snapshot: Snapshot,
    /// Its description, without our marker.
    pub description: String,
    /// How it was taken.
    pub quality: Quality,
    /// Its deletion was begun and did not end: its image may hold newer data, and the next prune finishes it.
    pub half_deleted: bool,
}

/// How consistent a snapshot is, and what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quality {
    /// What was reached. Where nobody wrote it down, the least that it can be.
    pub reached: Consistency,
    /// What was asked for; `None` if it is not known.
    pub requested: Option<Quiesce>,
    /// Why they differ; empty if they do not.
    pub note: String,
    /// At most so long were the guest's file systems frozen: from the freeze being sent to the thaw being answered.
    pub frozen: SignedDuration,
}

impl Quality {
    /// Of a snapshot that we know nothing more of: never claims more than is known.
    pub const fn unknown(memory: bool) -> Self {
        let reached = if memory { Consistency::Memory } else { Consistency::Crash };
        Self { reached, requested: None, note: String::new(), frozen: SignedDuration::ZERO }
    }
}
