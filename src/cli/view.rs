//! What `--json` prints. Scripts rely on it: keys are added, never renamed or given another meaning.
//!
//! Objects are named as people name them, but for `object` and `objects`, which are paths on the bus; times are RFC 3339
//! in the reader's zone, sizes bytes, durations microseconds; what is not there is `null`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use zbus::{OwnedObjectPath, Variant};

use super::{
    inventory::{Inventory, Object},
    props,
    render::{Watch, rfc3339},
    watch::json,
};

/// A VM.
#[derive(Debug, Serialize)]
pub struct Vm<'a> {
    name: &'a str,
    uuid: &'a str,
    object: &'a str,
    state: &'a str,
    policies: Vec<String>,
    suspended: Vec<Suspension<'a>>,
    stale: Vec<Stale<'a>>,
    snapshots: usize,
    snapshot_bytes: u64,
    current_snapshot: Option<&'a str>,
    agent_connected: bool,
    frozen: bool,
    health: Option<&'a str>,
    health_reason: Option<&'a str>,
    orphans: Vec<Orphan<'a>>,
    forgotten: Vec<Forgotten<'a>>,
    chain_depth: u32,
    last_success: Option<String>,
    last_error: Option<&'a str>,
    next_run: Option<String>,
}

impl<'a> Vm<'a> {
    /// A VM as it is in the inventory.
    pub fn new(vm: &'a Object<props::Vm>, all: &'a Inventory, watch: &Watch) -> Self {
        Self {
            name: &vm.name,
            uuid: &vm.uuid,
            object: vm.path.as_str(),
            state: &vm.state,
            policies: all.policy_names(&vm.policies),
            suspended: vm.suspended.iter().map(|s| Suspension::of_policy(s, all, watch)).collect(),
            stale: vm.stale.iter().map(|s| Stale::new(s, all, watch)).collect(),
            snapshots: all.snapshots(vm).len(),
            snapshot_bytes: vm.snapshot_bytes,
            current_snapshot: sibling(all.snapshots(vm), &vm.current_snapshot),
            agent_connected: vm.agent_connected,
            frozen: vm.frozen,
            health: text(&vm.health),
            health_reason: text(&vm.health_reason),
            orphans: vm.orphans.iter().map(|o| Orphan::new(o, watch)).collect(),
            forgotten: vm.forgotten.iter().map(|f| Forgotten::new(f, watch)).collect(),
            chain_depth: vm.chain_depth,
            last_success: rfc3339(vm.last_success, &watch.zone),
            last_error: text(&vm.last_error),
            next_run: rfc3339(all.next_run(vm), &watch.zone),
        }
    }
}

/// A policy that is suspended, or where it is.
#[derive(Debug, Serialize)]
pub struct Suspension<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<&'a str>,
    /// failures or person.
    by: &'a str,
    reason: Option<&'a str>,
    since: Option<String>,
}

impl<'a> Suspension<'a> {
    fn new((_, by, reason, since): &'a props::Suspended, watch: &Watch) -> Self {
        Self { policy: None, vm: None, by, reason: text(reason), since: rfc3339(*since, &watch.zone) }
    }

    /// One of a VM's.
    pub fn of_policy(suspended: &'a props::Suspended, all: &'a Inventory, watch: &Watch) -> Self {
        Self { policy: all.policy_name(&suspended.0), ..Self::new(suspended, watch) }
    }

    fn on_vm(suspended: &'a props::Suspended, all: &'a Inventory, watch: &Watch) -> Self {
        Self { vm: all.vm_name(&suspended.0), ..Self::new(suspended, watch) }
    }
}

/// A policy whose newest good snapshot is too old.
#[derive(Debug, Serialize)]
pub struct Stale<'a> {
    policy: Option<&'a str>,
    newest: Option<String>,
}

impl<'a> Stale<'a> {
    fn new((policy, newest): &(OwnedObjectPath, u64), all: &'a Inventory, watch: &Watch) -> Self {
        Self { policy: all.policy_name(policy), newest: rfc3339(*newest, &watch.zone) }
    }
}

/// A file that belongs to nobody.
#[derive(Debug, Serialize)]
pub struct Orphan<'a> {
    path: &'a str,
    bytes: u64,
    /// When it is removed; `null` if it is not in quarantine.
    removed: Option<String>,
}

impl<'a> Orphan<'a> {
    fn new((path, bytes, goes): &'a (String, u64, u64), watch: &Watch) -> Self {
        Self { path, bytes: *bytes, removed: rfc3339(*goes, &watch.zone) }
    }
}

/// A snapshot inside an image that libvirt does not know of.
#[derive(Debug, Serialize)]
pub struct Forgotten<'a> {
    image: &'a str,
    name: &'a str,
    memory_bytes: u64,
    created: Option<String>,
}

impl<'a> Forgotten<'a> {
    fn new((image, name, bytes, taken): &'a (String, String, u64, u64), watch: &Watch) -> Self {
        Self { image, name, memory_bytes: *bytes, created: rfc3339(*taken, &watch.zone) }
    }
}

/// A snapshot.
#[derive(Debug, Serialize)]
pub struct Snapshot<'a> {
    name: &'a str,
    object: &'a str,
    created: Option<String>,
    parent: Option<&'a str>,
    children: Vec<&'a str>,
    current: bool,
    description: Option<&'a str>,
    tags: &'a [String],
    expires: Option<String>,
    pins: Vec<Pin<'a>>,
    content: &'a str,
    storage: &'a str,
    state: &'a str,
    consistency: &'a str,
    consistency_requested: Option<&'a str>,
    consistency_note: Option<&'a str>,
    frozen_usec: Option<u64>,
    size_bytes: Option<u64>,
    held_bytes: Option<u64>,
    managed: bool,
    policies: Vec<String>,
    origin: &'a str,
    branches: &'a [String],
}

impl<'a> Snapshot<'a> {
    /// One of a VM's snapshots; `siblings` are all of them.
    pub fn new(
        snapshot: &'a Object<props::Snapshot>,
        siblings: &'a [Object<props::Snapshot>],
        all: &Inventory,
        watch: &Watch,
    ) -> Self {
        Self {
            name: &snapshot.name,
            object: snapshot.path.as_str(),
            created: rfc3339(snapshot.created, &watch.zone),
            parent: sibling(siblings, &snapshot.parent),
            children: siblings
                .iter()
                .filter(|s| s.parent == snapshot.path)
                .map(|s| s.name.as_str())
                .collect(),
            current: snapshot.current,
            description: text(&snapshot.description),
            tags: &snapshot.tags,
            expires: rfc3339(snapshot.expires, &watch.zone),
            pins: snapshot.pins.iter().map(|pin| Pin::new(pin, watch)).collect(),
            content: &snapshot.content,
            storage: &snapshot.storage,
            state: &snapshot.state,
            consistency: &snapshot.consistency,
            consistency_requested: text(&snapshot.consistency_requested),
            consistency_note: text(&snapshot.consistency_note),
            frozen_usec: some(snapshot.frozen),
            size_bytes: some(snapshot.size),
            held_bytes: some(snapshot.held),
            managed: snapshot.managed,
            policies: all.policy_names(&snapshot.policies),
            origin: &snapshot.origin,
            branches: &snapshot.branches,
        }
    }
}

/// What holds a snapshot.
#[derive(Debug, Serialize)]
pub struct Pin<'a> {
    owner: &'a str,
    reason: Option<&'a str>,
    expires: Option<String>,
}

impl<'a> Pin<'a> {
    fn new((reason, owner, expires): &'a props::Pin, watch: &Watch) -> Self {
        Self { owner, reason: text(reason), expires: rfc3339(*expires, &watch.zone) }
    }
}

/// A policy.
#[derive(Debug, Serialize)]
pub struct Policy<'a> {
    name: &'a str,
    object: &'a str,
    schedule: &'a [String],
    timezone: &'a str,
    keep: &'a BTreeMap<String, u32>,
    limits: BTreeMap<&'a str, u64>,
    /// The others, defaults included; durations are µs.
    settings: BTreeMap<&'a str, Value>,
    next_run: Option<String>,
    last_run: Option<String>,
    last_result: Option<&'a str>,
    vms: Vec<&'a str>,
    source: &'a str,
    suspended: bool,
    suspended_reason: Option<&'a str>,
    suspended_since: Option<String>,
    suspended_vms: Vec<Suspension<'a>>,
}

impl<'a> Policy<'a> {
    /// A policy as it is in the inventory.
    pub fn new(policy: &'a Object<props::Policy>, all: &'a Inventory, watch: &Watch) -> Self {
        Self {
            name: &policy.name,
            object: policy.path.as_str(),
            schedule: &policy.schedule,
            timezone: &policy.timezone,
            keep: &policy.keep,
            limits: policy.limits.iter().filter_map(|(k, v)| Some((k.as_str(), number(v)?))).collect(),
            settings: policy.settings.iter().map(|(k, v)| (k.as_str(), json(v))).collect(),
            next_run: rfc3339(policy.next_run, &watch.zone),
            last_run: rfc3339(policy.last_run, &watch.zone),
            last_result: text(&policy.last_result),
            vms: policy.vms.iter().filter_map(|path| all.vm_name(path)).collect(),
            source: &policy.source,
            suspended: policy.suspended,
            suspended_reason: text(&policy.suspended_reason),
            suspended_since: rfc3339(policy.suspended_since, &watch.zone),
            suspended_vms: policy.suspended_vms.iter().map(|s| Suspension::on_vm(s, all, watch)).collect(),
        }
    }
}

/// A job.
#[derive(Debug, Serialize)]
pub struct Job<'a> {
    id: u32,
    object: &'a str,
    operation: &'a str,
    state: &'a str,
    phase: Option<&'a str>,
    progress: Option<f64>,
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
    objects: Vec<&'a str>,
    origin: &'a str,
    started: Option<String>,
    started_by_uid: u32,
    cancelable: bool,
    result: Option<&'a str>,
    error: Option<JobError<'a>>,
}

#[derive(Debug, Serialize)]
struct JobError<'a> {
    name: &'a str,
    message: &'a str,
}

impl<'a> Job<'a> {
    /// A job.
    pub fn new(job: &'a Object<props::Job>, watch: &Watch) -> Self {
        let failed = !job.error_name.is_empty() || !job.error_message.is_empty();
        Self {
            id: job.id,
            object: job.path.as_str(),
            operation: &job.operation,
            state: &job.state,
            phase: text(&job.phase),
            progress: job.progress_valid.then_some(job.progress),
            bytes_done: some(job.bytes_total).map(|_| job.bytes_done),
            bytes_total: some(job.bytes_total),
            objects: job.objects.iter().map(|path| path.as_str()).collect(),
            origin: &job.origin,
            started: rfc3339(job.start, &watch.zone),
            started_by_uid: job.started_by,
            cancelable: job.cancelable,
            result: text(&job.result),
            error: failed.then(|| JobError { name: &job.error_name, message: &job.error_message }),
        }
    }
}

/// A limit: a number, bytes or µs.
fn number(value: &Variant<'_>) -> Option<u64> {
    match value {
        Variant::U32(n) => Some(u64::from(*n)),
        Variant::U64(n) => Some(*n),
        _ => None,
    }
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn some(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

fn sibling<'a>(siblings: &'a [Object<props::Snapshot>], path: &OwnedObjectPath) -> Option<&'a str> {
    siblings.iter().find(|s| s.path == *path).map(|s| s.name.as_str())
}

#[cfg(test)]
mod tests;
