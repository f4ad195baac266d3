//! What a driver must offer to be held to the contract, and what all contracts use.

pub(crate) mod adopt;
pub(crate) mod agent;
mod all;
pub(crate) mod branch;
pub(crate) mod broken;
mod capability;
pub(crate) mod create;
pub(crate) mod cut_short;
mod daemon;
pub(crate) mod delete;
pub(crate) mod fitness;
mod given;
mod hold;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod internal;
pub(crate) mod kinds;
pub(crate) mod layers;
pub(crate) mod memory;
pub(crate) mod merge;
pub(crate) mod metadata;
pub(crate) mod native;
pub(crate) mod opened;
pub(crate) mod orphans;
pub(crate) mod promote;
pub(crate) mod real;
pub(crate) mod revert;
pub(crate) mod run;
pub(crate) mod sim;
pub(crate) mod testdriver;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::Hypervisor,
};

pub(crate) use all::{contracts, needs};
pub(crate) use capability::Capability;
pub(crate) use given::{
    RigVm, chain, connected, name, overlays, records, refused, spec, take, targets, wait_for, watched,
};
pub(crate) use hold::{Contract, Needs, declared, hold, hold_all};

/// How long anything may take before it counts as never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// How long an agent that is well may take to answer.
pub(crate) const AGENT: Duration = Duration::from_secs(10);

/// A host to be tested, and a hand on everything around it. Its methods panic if they cannot do it; each
/// returns when it is done: a started VM with an agent is one whose agent answers.
pub(crate) trait Rig:
    agent::Windows
    + branch::Branches
    + broken::Broken
    + fitness::Kinds
    + images::Images
    + internal::Inside
    + kinds::Kept
    + layers::Layers
    + memory::Memory
    + native::Native
{
    /// All that it can do.
    fn capabilities(&self) -> BTreeSet<Capability>;
    /// The driver, not watched yet; each contract asks once.
    fn hv(&self) -> Arc<dyn Hypervisor>;

    /// Makes a VM that no other test has.
    fn new_vm(&mut self, spec: RigVm) -> VmId;
    /// Starts it.
    fn start_vm(&mut self, vm: VmId);
    /// Stops it, with what the guest wrote on its disks.
    fn stop_vm(&mut self, vm: VmId);
    /// Removes the definition of a stopped VM.
    fn undefine_vm(&mut self, vm: VmId);

    /// Where an overlay for this disk may lie; never the same path twice, and nothing is there.
    fn overlay_path(&mut self, vm: VmId, target: &str) -> String;
    /// Puts a file there.
    fn make_file(&mut self, path: &str);
    /// Whether there is a file.
    fn file_exists(&self, path: &str) -> bool;

    /// Writes this value (1 to 255) to the disk, past the guest's memory. One with an agent must run.
    fn write_marker(&mut self, vm: VmId, target: &str, value: u64);
    /// Writes this value (1 to 255) to all of these clusters of the disk; the marker is in number 0. No VM with an agent.
    fn write_clusters(&mut self, vm: VmId, target: &str, clusters: &[u64], value: u64);
    /// The value on the disk now, whether the VM runs or not; 0 if none was written.
    fn marker_now(&self, vm: VmId, target: &str) -> u64;
    /// The value in the snapshot's state image, read through its chain.
    fn marker_in_snapshot(&self, vm: VmId, snapshot: &SnapshotName, target: &str) -> u64;

    /// The disks' images, by target, in each definition that a snapshot keeps.
    fn definitions(&self, vm: VmId, snapshot: &SnapshotName) -> Vec<BTreeMap<String, String>>;
    /// In how many places a snapshot's metadata names the images under an image.
    fn written_chains(&self, vm: VmId, snapshot: &SnapshotName) -> usize;

    /// From its next start on the VM has so much memory, in MiB: part of its definition.
    fn set_memory(&mut self, vm: VmId, mib: u64);
    /// So much its definition gives it, in MiB.
    fn memory(&self, vm: VmId) -> u64;
    /// Gives a stopped VM another disk, or a CD-ROM with something in it.
    fn attach(&mut self, vm: VmId, target: &str, cdrom: bool);
    /// Saves the memory of a running VM and stops it, to go on later.
    fn managed_save(&mut self, vm: VmId);

    /// Another program takes an external snapshot of all disks.
    fn foreign_snapshot(&mut self, vm: VmId, name: &str);
    /// Another program merges each disk's whole chain into its lowest image and leaves the metadata.
    fn merge_chain_behind(&mut self, vm: VmId);
    /// Another program reverts the stopped VM to this snapshot.
    fn revert(&mut self, vm: VmId, name: &SnapshotName);

    /// Stops the agent's process, with its channel open.
    fn agent_stop(&mut self, vm: VmId);
    /// Lets it go on.
    fn agent_cont(&mut self, vm: VmId);
    /// Ends the agent's process and keeps it away.
    fn agent_kill(&mut self, vm: VmId);
    /// Lets it come back.
    fn agent_start(&mut self, vm: VmId);
    /// Makes the guest's freeze hook fail, or not.
    fn hook_fail(&mut self, vm: VmId, fail: bool);
    /// Makes the merge of this snapshot's last disk fail while that of the others goes on, or not.
    fn merge_fails(&mut self, vm: VmId, name: &SnapshotName, fails: bool);

    /// Takes libvirt away.
    fn disconnect(&mut self);
    /// Brings it back.
    fn reconnect(&mut self);

    /// After each contract, also one that failed: what it made may go, and the next one finds all as it was.
    fn tidy(&mut self) {}
}
