//! The properties of the five interfaces, read straight from the wire into plain structs.
//!
//! A property that the daemon does not send (an older one) is left at its type's default, one that is not
//! known here (a newer one) is skipped; one of another type is an error.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer};
use zbus::{
    Connection, OwnedObjectPath, OwnedVariant, Proxy, Type, as_variant,
    proxy::{self, CacheProperties, MethodFlags},
};

use super::{exit::Failure, proxy::SERVICE};

/// A struct that is one interface's properties: each field with its D-Bus name.
macro_rules! properties {
    ($(#[$meta:meta])* $name:ident of $interface:literal
     { $($(#[$fmeta:meta])* $field:ident: $type:ty = $key:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, Deserialize, Type)]
        #[zbus(signature = "a{sv}")]
        #[serde(default)]
        pub struct $name {
            $($(#[$fmeta])* #[serde(rename = $key, deserialize_with = "as_variant::deserialize")] pub $field: $type),+
        }

        impl Properties for $name {
            const INTERFACE: &'static str = $interface;
        }
    };
}

/// One interface's properties.
pub trait Properties: for<'de> Deserialize<'de> + Type {
    /// The interface's name.
    const INTERFACE: &'static str;
}

/// A suspension: of which policy, or on which VM; by whom (`failures` or `person`); why; since when, in µs.
pub type Suspended = (OwnedObjectPath, String, String, u64);

/// Who has scheduled runs wait: who, why, the user's number, since when (in µs).
pub type Inhibitor = (String, String, u32, u64);

/// A pin: why, whose, when it is over (in µs).
pub type Pin = (String, String, u64);

properties! {
    /// The daemon.
    Manager of "org.virtsnap1.Manager" {
        /// The daemon's version.
        version: String = "Version",
        /// libvirt's connection URI.
        hypervisor_uri: String = "HypervisorURI",
        /// Whether libvirt is reached.
        hypervisor_connected: bool = "HypervisorConnected",
        /// libvirt's version.
        hypervisor_version: String = "HypervisorVersion",
        /// starting, running or stopping.
        state: String = "State",
        /// When the next run is due, in µs.
        next_run: u64 = "NextRunUSec",
        /// What keeps it from doing what it is there for.
        problems: Vec<String> = "Problems",
        /// What of the configuration hardly was meant, after those.
        warnings: Vec<String> = "Warnings",
        /// Who has scheduled runs wait: who, why, the user's number, since when (in µs).
        inhibitors: Vec<Inhibitor> = "Inhibitors",
    }
}

properties! {
    /// A VM.
    Vm of "org.virtsnap1.VM" {
        /// libvirt's name of it.
        name: String = "Name",
        /// libvirt's UUID of it.
        uuid: String = "UUID",
        /// running, shut-off …
        state: String = "State",
        /// The policies that select it.
        policies: Vec<OwnedObjectPath> = "Policies",
        /// Those of them that are suspended on it.
        suspended: Vec<Suspended> = "SuspendedPolicies",
        /// Those whose newest good snapshot is too old, and of when that is, in µs.
        stale: Vec<(OwnedObjectPath, u64)> = "StalePolicies",
        /// The snapshot that its disks go on from.
        current_snapshot: OwnedObjectPath = "CurrentSnapshot",
        /// Whether the guest agent is there.
        agent_connected: bool = "AgentConnected",
        /// Whether its file systems are frozen.
        frozen: bool = "Frozen",
        /// ok, degraded or broken.
        health: String = "Health",
        /// What is wrong, a line for each.
        health_reason: String = "HealthReason",
        /// Files on its images that belong to nobody: path, bytes, when each is removed (in µs).
        orphans: Vec<(String, u64, u64)> = "Orphans",
        /// Those inside its images that libvirt does not know of: image, name, bytes of memory, when (in µs).
        forgotten: Vec<(String, String, u64, u64)> = "ForgottenSnapshots",
        /// Layers under its deepest disk.
        chain_depth: u32 = "ChainDepth",
        /// What all its snapshots occupy.
        snapshot_bytes: u64 = "SnapshotBytes",
        /// When the last snapshot was made, in µs.
        last_success: u64 = "LastSuccessUSec",
        /// What went wrong since.
        last_error: String = "LastError",
    }
}

properties! {
    /// A snapshot.
    Snapshot of "org.virtsnap1.Snapshot" {
        /// libvirt's name of it.
        name: String = "Name",
        /// Whose it is.
        vm: OwnedObjectPath = "VM",
        /// What it was taken on top of.
        parent: OwnedObjectPath = "Parent",
        /// Whether the VM's disks go on from it.
        current: bool = "Current",
        /// The time whose data it holds, in µs.
        created: u64 = "CreatedUSec",
        /// Free text.
        description: String = "Description",
        /// Words that it is found again by.
        tags: Vec<String> = "Tags",
        /// When its own time is over, in µs.
        expires: u64 = "ExpiresUSec",
        /// What holds it.
        pins: Vec<Pin> = "Pins",
        /// disk or full.
        content: String = "Content",
        /// external or internal.
        storage: String = "Storage",
        /// creating, ready …
        state: String = "State",
        /// What was reached.
        consistency: String = "Consistency",
        /// What was asked for.
        consistency_requested: String = "ConsistencyRequested",
        /// Why they differ.
        consistency_note: String = "ConsistencyNote",
        /// How long the guest was frozen, in µs.
        frozen: u64 = "FrozenUSec",
        /// About what deleting it frees.
        size: u64 = "SizeBytes",
        /// What the images with its data occupy.
        held: u64 = "HeldBytes",
        /// Whether virtsnap made it.
        managed: bool = "Managed",
        /// The policies that it counts for.
        policies: Vec<OwnedObjectPath> = "Policies",
        /// Who asked for it.
        origin: String = "Origin",
        /// The VMs that were branched off it.
        branches: Vec<String> = "Branches",
    }
}

properties! {
    /// A policy.
    Policy of "org.virtsnap1.Policy" {
        /// Its name.
        name: String = "Name",
        /// Its cron expressions.
        schedule: Vec<String> = "Schedule",
        /// The zone in which these are meant.
        timezone: String = "Timezone",
        /// The keep rules that count something.
        keep: BTreeMap<String, u32> = "Keep",
        /// The other limits.
        limits: BTreeMap<String, OwnedVariant> = "Limits",
        /// What else it says, under the names that a file gives that.
        settings: BTreeMap<String, OwnedVariant> = "Settings",
        /// When it is due, in µs.
        next_run: u64 = "NextRunUSec",
        /// When it ran last, in µs.
        last_run: u64 = "LastRunUSec",
        /// How that ended.
        last_result: String = "LastResult",
        /// What it selects.
        vms: Vec<OwnedObjectPath> = "VMs",
        /// Where it is written.
        source: String = "Source",
        /// Whether it is suspended for all VMs.
        suspended: bool = "Suspended",
        /// Why.
        suspended_reason: String = "SuspendedReason",
        /// Since when, in µs.
        suspended_since: u64 = "SuspendedUSec",
        /// The VMs on which it is suspended for a reason of their own.
        suspended_vms: Vec<Suspended> = "SuspendedVMs",
    }
}

properties! {
    /// A job.
    Job of "org.virtsnap1.Job" {
        /// Its number.
        id: u32 = "ID",
        /// create, delete, prune …
        operation: String = "Operation",
        /// queued, running or done.
        state: String = "State",
        /// What it is doing.
        phase: String = "Phase",
        /// How far it is.
        progress: f64 = "Progress",
        /// Whether that is known.
        progress_valid: bool = "ProgressValid",
        /// What of it is copied in this phase.
        bytes_done: u64 = "BytesDone",
        /// Of how much, if that is known.
        bytes_total: u64 = "BytesTotal",
        /// What it is about.
        objects: Vec<OwnedObjectPath> = "Objects",
        /// Who asked for it.
        origin: String = "Origin",
        /// The same as a user ID.
        started_by: u32 = "StartedByUID",
        /// When it was asked for, in µs.
        start: u64 = "StartUSec",
        /// Whether it can be told to stop.
        cancelable: bool = "Cancelable",
        /// done, failed, cancelled, or nothing yet.
        result: String = "Result",
        /// The D-Bus error's name.
        error_name: String = "ErrorName",
        /// What went wrong.
        error_message: String = "ErrorMessage",
    }
}

/// One object's interfaces, as `GetManagedObjects` lists them. The nodes between have none.
#[derive(Debug, Default, Deserialize, Type)]
#[zbus(signature = "a{sa{sv}}")]
#[serde(default)]
pub struct Interfaces {
    #[serde(rename = "org.virtsnap1.VM", deserialize_with = "present")]
    pub(super) vm: Option<Vm>,
    #[serde(rename = "org.virtsnap1.Snapshot", deserialize_with = "present")]
    pub(super) snapshot: Option<Snapshot>,
    #[serde(rename = "org.virtsnap1.Policy", deserialize_with = "present")]
    pub(super) policy: Option<Policy>,
    #[serde(rename = "org.virtsnap1.Job", deserialize_with = "present")]
    pub(super) job: Option<Job>,
}

/// D-Bus has no optional values; a key is there or it is not.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One object's properties, in one call. A daemon that has stopped is not started again for it: whoever stopped it would
/// wonder.
pub async fn read<T: Properties>(bus: &Connection, path: &str) -> Result<T, Failure> {
    let proxy = proxy::Builder::<Proxy<'_>>::new(bus)
        .destination(SERVICE)
        .path(path)
        .interface("org.freedesktop.DBus.Properties")
        .cache_properties(CacheProperties::No);
    let proxy = proxy.build().await?;
    let read = proxy.call_with_flags("GetAll", MethodFlags::NO_AUTO_START, &T::INTERFACE).await?;
    read.ok_or_else(|| Failure::Answer("there is none".to_owned()))
}

/// Every object, as the bus sends it.
pub type Everything = HashMap<OwnedObjectPath, Interfaces>;
