//! From one published view to the next: objects come, go and change on the bus.
//!
//! A change is found by asking the same getters that clients use, once with the old view held and once with the
//! new one, so that signals alone keep a mirror right. What did not change is skipped by pointer.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::sync::watch;
use zbus::{
    Connection, OwnedObjectPath, OwnedVariant, Variant,
    fdo::Properties,
    object_server::{Interface, SignalEmitter},
};

use super::{
    Shared, job::Job, manager::Manager, objects::Still, path, policy::Policy, snapshot::Snapshot, vm::Vm,
};
use crate::{
    core::{
        job::JobId,
        model::VmId,
        view::{JobView, ManagerView, View, VmView},
    },
    engine::Published,
    logging::message,
};

/// A time as D-Bus has it: µs since the epoch, 0 for none.
pub(super) fn usec(at: Option<Timestamp>) -> u64 {
    at.and_then(|t| u64::try_from(t.as_microsecond()).ok()).unwrap_or(0)
}

/// The task that publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    connection: Connection,
    shared: Shared,
    still: Still,
    published: watch::Receiver<Published>,
    settled: watch::Sender<u64>,
    /// What the objects show.
    objects: watch::Sender<Arc<View>>,
    /// What the manager shows: it says "running" when all it speaks of is there.
    manager: watch::Sender<Arc<View>>,
    /// What is on the bus now.
    out: Arc<View>,
}

impl Publisher {
    pub(super) fn new(
        connection: Connection,
        shared: Shared,
        still: Still,
        settled: watch::Sender<u64>,
        objects: watch::Sender<Arc<View>>,
        manager: watch::Sender<Arc<View>>,
    ) -> Self {
        let published = shared.engine.published.clone();
        let first: Arc<ManagerView> = Arc::clone(&published.borrow().view.manager);
        let out = View {
            manager: first,
            vms: BTreeMap::new(),
            policies: BTreeMap::new(),
            jobs: BTreeMap::new(),
            counts: Arc::default(),
        };
        Self { connection, shared, still, published, settled, objects, manager, out: Arc::new(out) }
    }

    pub(super) async fn run(&mut self) {
        while self.published.changed().await.is_ok() {
            self.catch_up().await;
        }
    }

    /// Brings the bus to the newest view. What fails is told to the log: nobody else could do anything about it.
    pub(super) async fn catch_up(&mut self) {
        let published = self.published.borrow_and_update().clone();
        let old = std::mem::replace(&mut self.out, Arc::clone(&published.view));
        let _changing = self.still.write().await;
        if let Err(e) = self.step(&old, &published.view).await {
            tracing::warn!(
                MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                "a change could not be published on D-Bus"
            );
        }
        self.settled.send_replace(published.generation);
    }

    async fn step(&self, old: &Arc<View>, new: &Arc<View>) -> zbus::Result<()> {
        // What goes does so while it still has its properties.
        self.remove_gone(old, new).await?;
        self.objects.send_replace(Arc::clone(new));
        // Policies before the VMs that name them, VMs before the jobs on them: a path should lead somewhere.
        for (name, view) in &new.policies {
            match old.policies.get(name) {
                None => self.add(path::policy(name), Policy::new(self.shared.clone(), name.clone())).await?,
                Some(before) if Arc::ptr_eq(before, view) => {}
                Some(_) => {
                    self.compare(path::policy(name), |s| Policy::new(s, name.clone()), old, new).await?;
                }
            }
        }
        for (id, view) in &new.vms {
            match old.vms.get(id) {
                None => self.add(path::vm(*id), Vm::new(self.shared.clone(), *id)).await?,
                Some(before) if Arc::ptr_eq(before, view) => continue,
                Some(_) => self.compare(path::vm(*id), |s| Vm::new(s, *id), old, new).await?,
            }
            self.snapshots(*id, old, new, view).await?;
        }
        for (id, view) in &new.jobs {
            self.job(*id, old, new, view).await?;
        }
        self.manager.send_replace(Arc::clone(new));
        if !Arc::ptr_eq(&old.manager, &new.manager) {
            let at = OwnedObjectPath::try_from(path::ROOT).unwrap_or_default();
            self.compare(at, Manager::new, old, new).await?;
        }
        Ok(())
    }

    async fn snapshots(&self, id: VmId, old: &Arc<View>, new: &Arc<View>, view: &VmView) -> zbus::Result<()> {
        let none = BTreeMap::new();
        let before = old.vms.get(&id).map_or(&none, |vm| &vm.record.snapshots);
        for name in view.record.snapshots.keys() {
            let at = path::snapshot(id, name);
            if before.contains_key(name) {
                self.compare(at, |s| Snapshot::new(s, id, name.clone()), old, new).await?;
            } else {
                self.add(at, Snapshot::new(self.shared.clone(), id, name.clone())).await?;
            }
        }
        Ok(())
    }

    async fn job(
        &self,
        id: JobId,
        old: &Arc<View>,
        new: &Arc<View>,
        view: &Arc<JobView>,
    ) -> zbus::Result<()> {
        let at = path::job(id);
        let emitter = SignalEmitter::new(&self.connection, path::ROOT)?;
        let before = old.jobs.get(&id);
        match before {
            None => {
                self.add(at.clone(), Job::new(self.shared.clone(), id)).await?;
                Manager::job_new(&emitter, id, at.clone()).await?;
            }
            Some(before) if Arc::ptr_eq(before, view) => return Ok(()),
            Some(_) => self.compare(at.clone(), |s| Job::new(s, id), old, new).await?,
        }
        Ok(())
    }

    async fn remove_gone(&self, old: &View, new: &View) -> zbus::Result<()> {
        for id in old.jobs.keys().filter(|id| !new.jobs.contains_key(id)) {
            self.remove::<Job>(path::job(*id)).await?;
            let emitter = SignalEmitter::new(&self.connection, path::ROOT)?;
            let outcome = old.jobs[id].outcome.as_ref().map_or("", |o| o.result().as_str());
            Manager::job_removed(&emitter, *id, path::job(*id), outcome).await?;
        }
        for (id, before) in &old.vms {
            let after = new.vms.get(id);
            if after.is_some_and(|after| Arc::ptr_eq(before, after)) {
                continue;
            }
            let stays = |name| after.is_some_and(|vm| vm.record.snapshots.contains_key(name));
            for name in before.record.snapshots.keys().filter(|name| !stays(name)) {
                self.remove::<Snapshot>(path::snapshot(*id, name)).await?;
            }
            if after.is_none() {
                self.remove::<Vm>(path::vm(*id)).await?;
            }
        }
        for name in old.policies.keys().filter(|name| !new.policies.contains_key(name)) {
            self.remove::<Policy>(path::policy(name)).await?;
        }
        Ok(())
    }

    async fn add<I: Interface>(&self, at: OwnedObjectPath, object: I) -> zbus::Result<()> {
        self.connection.object_server().at(at, object).await.map(drop)
    }

    async fn remove<I: Interface>(&self, at: OwnedObjectPath) -> zbus::Result<()> {
        self.connection.object_server().remove::<I, _>(at).await.map(drop)
    }

    /// Emits what differs between the two views of one object.
    async fn compare<I: Interface>(
        &self,
        at: OwnedObjectPath,
        make: impl Fn(Shared) -> I,
        old: &Arc<View>,
        new: &Arc<View>,
    ) -> zbus::Result<()> {
        let emitter = SignalEmitter::new(&self.connection, at)?;
        let before = self.properties(&make(self.shared.held(old)), &emitter).await?;
        let after = self.properties(&make(self.shared.held(new)), &emitter).await?;
        let mut changed: HashMap<&str, Variant<'_>> = HashMap::new();
        for (name, value) in &after {
            if before.get(name) != Some(value) {
                changed.insert(name, Variant::try_from(value)?);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        Properties::properties_changed(&emitter, I::name(), changed, Cow::Borrowed(&[])).await
    }

    async fn properties<I: Interface>(
        &self,
        object: &I,
        emitter: &SignalEmitter<'_>,
    ) -> zbus::Result<HashMap<String, OwnedVariant>> {
        Ok(object.get_all(self.connection.object_server(), &self.connection, None, emitter).await?)
    }
}
