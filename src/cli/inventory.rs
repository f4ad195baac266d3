//! Everything the daemon has, from one `GetManagedObjects` call, or piece by piece where that is too much, arranged for
//! looking things up.
//!
//! Objects are found by their properties. The client takes paths from the bus and never puts one together.

use std::{collections::HashMap, ops::Deref};

use zbus::{Connection, OwnedObjectPath};

use super::{
    exit::Failure,
    pieces,
    props::{Everything, Job, Policy, Snapshot, Vm},
    proxy::{ManagerProxy, ObjectsProxy},
};

/// One object: where it is, and its properties.
#[derive(Debug, Clone)]
pub struct Object<T> {
    /// Its path on the bus.
    pub path: OwnedObjectPath,
    props: T,
}

impl<T> Object<T> {
    /// An object of which the properties were read.
    pub fn new(path: OwnedObjectPath, props: T) -> Self {
        Self { path, props }
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.props
    }
}

/// All VMs, snapshots, policies and jobs at one moment.
#[derive(Debug, Default)]
pub struct Inventory {
    vms: Vec<Object<Vm>>,
    /// By the VM's path, oldest first.
    snapshots: HashMap<OwnedObjectPath, Vec<Object<Snapshot>>>,
    policies: Vec<Object<Policy>>,
    jobs: Vec<Object<Job>>,
}

impl Inventory {
    /// Asks the daemon.
    pub async fn fetch(bus: &Connection) -> Result<Self, Failure> {
        let everything = match ObjectsProxy::new(bus).await?.get_managed_objects().await {
            Err(e) if pieces::too_much(&e) => pieces::everything(bus).await?,
            everything => everything?,
        };
        Ok(Self::arrange(everything))
    }

    /// Asks the daemon, for a verb about this VM: of the VMs, it knows this one alone. Where there is none such, the daemon
    /// says whether that is certain: while it starts, or libvirt is away, it is not.
    pub async fn about(vm: &str, bus: &Connection) -> Result<Self, Failure> {
        let path = ManagerProxy::new(bus).await?.lookup_vm(vm).await?;
        match pieces::about(path, bus).await? {
            Some(pieces) => Ok(Self::arrange(pieces)),
            None => Self::fetch(bus).await,
        }
    }

    pub(super) fn arrange(everything: Everything) -> Self {
        let mut all = Self::default();
        for (path, interfaces) in everything {
            if let Some(vm) = interfaces.vm {
                all.vms.push(Object::new(path, vm));
            } else if let Some(snapshot) = interfaces.snapshot {
                all.snapshots.entry(snapshot.vm.clone()).or_default().push(Object::new(path, snapshot));
            } else if let Some(policy) = interfaces.policy {
                all.policies.push(Object::new(path, policy));
            } else if let Some(job) = interfaces.job {
                all.jobs.push(Object::new(path, job));
            }
        }
        all.vms.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
        all.policies.sort_by(|a, b| a.name.cmp(&b.name));
        all.jobs.sort_by_key(|job| job.id);
        for snapshots in all.snapshots.values_mut() {
            snapshots.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        }
        all
    }

    /// All VMs, by name.
    pub fn vms(&self) -> &[Object<Vm>] {
        &self.vms
    }

    /// All policies, by name.
    pub fn policies(&self) -> &[Object<Policy>] {
        &self.policies
    }

    /// All jobs, by number.
    pub fn jobs(&self) -> &[Object<Job>] {
        &self.jobs
    }

    /// The job of that number.
    pub fn job(&self, id: u32) -> Result<&Object<Job>, Failure> {
        self.jobs.iter().find(|job| job.id == id).ok_or_else(|| Failure::NotFound {
            what: format!("there is no job {id}"),
            look: ("jobs", "shows the jobs; finished ones go after a while"),
        })
    }

    /// A VM's snapshots, oldest first.
    pub fn snapshots(&self, vm: &Object<Vm>) -> &[Object<Snapshot>] {
        self.snapshots.get(&vm.path).map_or(&[], Vec::as_slice)
    }

    /// The VM of that name, else of that UUID, as the daemon's `LookupVM` finds it.
    pub fn vm(&self, name_or_uuid: &str) -> Result<&Object<Vm>, Failure> {
        let by_name = self.vms.iter().find(|vm| vm.name == name_or_uuid);
        let found = by_name.or_else(|| self.vms.iter().find(|vm| vm.uuid.eq_ignore_ascii_case(name_or_uuid)));
        found.ok_or_else(|| Failure::NotFound {
            what: format!("there is no VM {name_or_uuid:?}"),
            look: ("list", "shows the VMs"),
        })
    }

    /// A VM's snapshot of that name.
    pub fn snapshot(&self, vm: &Object<Vm>, name: &str) -> Result<&Object<Snapshot>, Failure> {
        self.snapshots(vm).iter().find(|s| s.name == name).ok_or_else(|| Failure::NotFound {
            what: format!("VM {:?} has no snapshot {name:?}", vm.name),
            look: ("list VM", "shows its snapshots"),
        })
    }

    /// The policy of that name.
    pub fn policy(&self, name: &str) -> Result<&Object<Policy>, Failure> {
        self.policies.iter().find(|p| p.name == name).ok_or_else(|| Failure::NotFound {
            what: format!("there is no policy {name:?}"),
            look: ("policies", "lists them"),
        })
    }

    /// The names of those policies. (One that was removed since is left out.)
    pub fn policy_names(&self, paths: &[OwnedObjectPath]) -> Vec<String> {
        self.policies.iter().filter(|p| paths.contains(&p.path)).map(|p| p.name.clone()).collect()
    }

    /// The name of the policy at that path.
    pub fn policy_name(&self, path: &OwnedObjectPath) -> Option<&str> {
        self.policies.iter().find(|p| p.path == *path).map(|p| p.name.as_str())
    }

    /// The name of the VM at that path.
    pub fn vm_name(&self, path: &OwnedObjectPath) -> Option<&str> {
        self.vms.iter().find(|vm| vm.path == *path).map(|vm| vm.name.as_str())
    }

    /// The name of the snapshot at that path, which may be gone.
    pub fn snapshot_name(&self, path: &OwnedObjectPath) -> Option<String> {
        let there = self.snapshots.values().flatten().find(|s| s.path == *path).map(|s| s.name.clone());
        there.or_else(|| path.split_once("/snapshot/").and_then(|(_, label)| label_read(label)))
    }

    /// The snapshot at that path of the VM at that one, and all of that VM's.
    pub fn snapshot_at(
        &self,
        vm: &OwnedObjectPath,
        path: &OwnedObjectPath,
    ) -> Option<(&Object<Snapshot>, &[Object<Snapshot>])> {
        let all = self.snapshots.get(vm)?;
        Some((all.iter().find(|s| s.path == *path)?, all))
    }

    /// When the next of its policies is due for a VM, in µs; 0 for never.
    pub fn next_run(&self, vm: &Object<Vm>) -> u64 {
        let runs = |p: &&Object<Policy>| {
            vm.policies.contains(&p.path) && !vm.suspended.iter().any(|(path, ..)| *path == p.path)
        };
        let due = self.policies.iter().filter(runs).map(|p| p.next_run);
        due.filter(|usec| *usec != 0).min().unwrap_or(0)
    }

    /// Whether a job is at work on a VM.
    pub fn is_busy(&self, vm: &Object<Vm>) -> bool {
        self.jobs.iter().any(|job| job.state == "running" && job.objects.contains(&vm.path))
    }
}

/// What an element of an object's path stands for: `_` and two hexadecimal digits are a byte.
pub(super) fn label_read(label: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), label);
    while let Some(at) = rest.find('_') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?);
        rest = &rest[at + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::props::Interfaces;

    pub(in crate::cli) fn path(text: &str) -> OwnedObjectPath {
        text.try_into().unwrap()
    }

    /// Two VMs; `db` has two snapshots of the policy `nightly`, which is due at 5000.
    pub(in crate::cli) fn sample() -> Inventory {
        let nightly = vec![path("/p/nightly")];
        let vm = |name: &str, uuid: &str, policies: &[OwnedObjectPath]| Interfaces {
            vm: Some(Vm {
                name: name.into(),
                uuid: uuid.into(),
                policies: policies.to_vec(),
                chain_depth: 3,
                ..Vm::default()
            }),
            ..Interfaces::default()
        };
        let snapshot = |name: &str, created, current| Interfaces {
            snapshot: Some(Snapshot {
                name: name.into(),
                vm: path("/vm/1"),
                created,
                current,
                policies: nightly.clone(),
                ..Snapshot::default()
            }),
            ..Interfaces::default()
        };
        let policy =
            Policy { name: "nightly".into(), next_run: 5_000, vms: vec![path("/vm/1")], ..Policy::default() };
        Inventory::arrange(HashMap::from([
            (path("/vm"), Interfaces::default()),
            (path("/vm/2"), vm("web", "BBBB", &[])),
            (path("/vm/1"), vm("db", "aaaa", &nightly)),
            (path("/vm/1/s/b"), snapshot("second", 2_000, true)),
            (path("/vm/1/s/a"), snapshot("first", 1_000, false)),
            (path("/p/nightly"), Interfaces { policy: Some(policy), ..Interfaces::default() }),
        ]))
    }

    #[test]
    fn vms_are_found_by_name_and_by_uuid_in_any_case() {
        let all = sample();
        assert_eq!(all.vm("db").unwrap().path, path("/vm/1"));
        assert_eq!(all.vm("bbbb").unwrap().name, "web");
        assert_eq!(all.vm("nope").unwrap_err().exit().code(), 3);
    }

    #[test]
    fn snapshots_stand_under_their_vm_oldest_first() {
        let all = sample();
        let db = all.vm("db").unwrap();
        let names: Vec<_> = all.snapshots(db).iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        assert!(all.snapshots(all.vm("web").unwrap()).is_empty());
        assert_eq!(all.snapshot(db, "third").unwrap_err().exit().code(), 3);
        assert_eq!(all.snapshot_name(&path("/vm/1/s/b")).as_deref(), Some("second"));
        assert_eq!(all.snapshot_name(&path("/vm/1/snapshot/gone_2d_c3_bc1")).as_deref(), Some("gone-ü1"));
        for none in ["/vm/1", "/vm/1/snapshot/a_2", "/vm/1/snapshot/a_zz", "/vm/1/snapshot/_c3"] {
            assert_eq!(all.snapshot_name(&path(none)), None, "{none}");
        }
    }

    #[test]
    fn a_vm_without_policy_has_no_next_run() {
        let all = sample();
        assert_eq!(all.next_run(all.vm("db").unwrap()), 5_000);
        assert_eq!(all.next_run(all.vm("web").unwrap()), 0);
    }
}
