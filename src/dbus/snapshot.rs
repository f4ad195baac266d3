//! `org.virtsnap1.Snapshot`, one for each snapshot that libvirt has metadata of.

use std::{collections::HashMap, sync::Arc};

use zbus::{Connection, OwnedObjectPath, OwnedVariant, fdo, interface, message::Header};

use super::{
    Options, Shared,
    auth::{self, Caller},
    error::BusError,
    path,
    publish::usec,
};
use crate::core::{
    branch::BranchJob,
    inventory::SnapshotRecord,
    label::{Pin, check_description},
    machine::{Change, Edit, Reply, Whose},
    model::{Consistency, SnapshotName, SnapshotState, VmId},
    policy::Quiesce,
    revert::{DefinitionOf, Then},
    verb::Matter,
    view::VmView,
};

/// A snapshot's object.
#[derive(Debug)]
pub(super) struct Snapshot {
    shared: Shared,
    vm: VmId,
    name: SnapshotName,
}

impl Snapshot {
    pub(super) fn new(shared: Shared, vm: VmId, name: SnapshotName) -> Self {
        Self { shared, vm, name }
    }

    fn vm_view(&self) -> Result<Arc<VmView>, BusError> {
        self.shared.lens.view().vms.get(&self.vm).cloned().ok_or_else(|| BusError::gone("the VM"))
    }

    fn label(&self, edit: Edit) -> Change {
        Change::Label { vm: self.vm, name: self.name.clone(), edit }
    }

    async fn edit(&self, edit: Edit, caller: &Caller) -> Result<(), BusError> {
        let change = self.label(edit);
        self.shared.change(change, caller).await.map(drop)
    }

    fn with<T>(&self, get: impl FnOnce(&SnapshotRecord) -> T) -> fdo::Result<T> {
        let vm = self.vm_view()?;
        let record = vm.record.snapshots.get(&self.name).ok_or_else(|| BusError::gone("the snapshot"))?;
        Ok(get(record))
    }
}

#[interface(name = "org.virtsnap1.Snapshot", introspection_docs = false)]
impl Snapshot {
    #[zbus(out_args("job"))]
    async fn delete(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let mut options = Options::new(options, &["bandwidth", "until", "foreign", "metadata-only"])?;
        let foreign = options.take::<bool>("foreign", "a boolean")?.unwrap_or(false);
        let metadata_only = options.take::<bool>("metadata-only", "a boolean")?.unwrap_or(false);
        let pace = options.pace()?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let (vm, name) = (self.vm, self.name.clone());
        let change = if metadata_only {
            Change::Forget { vm, name }
        } else {
            Change::Delete { vm, name, pace, foreign }
        };
        self.shared.start(change, &caller).await
    }

    #[zbus(out_args("job"))]
    async fn revert(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let mut options = Options::new(options, &["state", "safety", "definition"])?;
        let then = options.word("state")?.unwrap_or(Then::AsBefore);
        let definition = options.word("definition")?.unwrap_or(DefinitionOf::Snapshot);
        let safety = options.take::<bool>("safety", "a boolean")?.unwrap_or(true);
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let change = Change::Revert { vm: self.vm, name: self.name.clone(), then, definition, safety };
        self.shared.start(change, &caller).await
    }

    #[zbus(out_args("job"))]
    async fn branch(
        &self,
        new_vm: &str,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let mut options = Options::new(options, &["start", "leave-out"])?;
        let start = options.take::<bool>("start", "a boolean")?.unwrap_or(false);
        let leave_out = options.take::<bool>("leave-out", "a boolean")?.unwrap_or(false);
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let (name, new_vm) = (self.name.clone(), new_vm.to_owned());
        let job = BranchJob { name, new_vm, start, leave_out };
        self.shared.start(Change::Branch { vm: self.vm, job }, &caller).await
    }

    async fn pin(
        &self,
        reason: String,
        expires: u64,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        Options::new(options, &[])?;
        let expires = super::time(expires).map_err(|e| BusError::invalid(format!("expires: {e}")))?;
        let caller = Caller::of(&self.shared, connection, &header).await?.named().await;
        let pin = Pin { owner: caller.user(), reason, expires: expires.at() };
        self.edit(Edit::Pin(pin), &caller).await
    }

    async fn unpin(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let mut options = Options::new(options, &["all", "owner"])?;
        let all = options.take::<bool>("all", "a boolean")?.unwrap_or(false);
        let owner = options.take::<String>("owner", "a string")?;
        if all && owner.is_some() {
            return Err(BusError::invalid("the options \"all\" and \"owner\" exclude each other"));
        }
        let caller = Caller::of(&self.shared, connection, &header).await?.named().await;
        let whose = if all { Whose::All } else { Whose::Owner(owner.unwrap_or_else(|| caller.user())) };
        self.edit(Edit::Unpin(whose), &caller).await
    }

    async fn update(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let mut options = Options::new(options, &["description", "tags", "expires"])?;
        let description = options.take::<String>("description", "a string")?;
        let (tags, expires) = (options.tags()?, options.time("expires")?);
        let caller = Caller::of(&self.shared, connection, &header).await?;
        // Once for all of it: whoever is asked for a password gives it once.
        let permit =
            auth::authorise(&caller, Matter::update(self.vm, self.name.clone()), &self.shared).await?;
        if let Some(e) = description.as_deref().and_then(|text| check_description(text).err()) {
            return Err(BusError::invalid(format!("option \"description\": {e}")));
        }
        if tags.is_some() || expires.is_some() {
            self.shared.carry_out(permit.on(self.label(Edit::Set { tags, expires }))?).await?;
        }
        let Some(description) = description else { return Ok(()) };
        // Libvirt keeps it, and a job of this VM may have to end first.
        let change = Change::Describe { vm: self.vm, name: self.name.clone(), description };
        match self.shared.carry_out(permit.on(change)?).await? {
            Reply::Job(id) => self.shared.ended_for(connection, Some(caller.call()), id).await.map(drop),
            _ => Err(BusError::new("Failed", "the engine gave no job")),
        }
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[zbus(property(emits_changed_signal = "const"), name = "VM")]
    fn vm(&self) -> OwnedObjectPath {
        path::vm(self.vm)
    }

    #[zbus(property)]
    fn parent(&self) -> fdo::Result<OwnedObjectPath> {
        self.with(|r| r.snapshot.parent.as_ref().map_or_else(path::none, |p| path::snapshot(self.vm, p)))
    }

    #[zbus(property)]
    fn children(&self) -> fdo::Result<Vec<OwnedObjectPath>> {
        let vm = self.vm_view()?;
        Ok(vm
            .record
            .snapshots
            .values()
            .filter(|s| s.snapshot.parent.as_ref() == Some(&self.name))
            .map(|s| path::snapshot(self.vm, &s.snapshot.name))
            .collect())
    }

    #[zbus(property)]
    fn current(&self) -> fdo::Result<bool> {
        self.with(|r| r.snapshot.current)
    }

    #[zbus(property, name = "CreatedUSec")]
    fn created(&self) -> fdo::Result<u64> {
        self.with(|r| usec(Some(r.snapshot.created)))
    }

    #[zbus(property)]
    fn description(&self) -> fdo::Result<String> {
        self.with(|r| r.description.clone())
    }

    #[zbus(property)]
    fn tags(&self) -> fdo::Result<Vec<String>> {
        self.with(|r| r.label.tags.iter().map(ToString::to_string).collect())
    }

    #[zbus(property, name = "ExpiresUSec")]
    fn expires(&self) -> fdo::Result<u64> {
        self.with(|r| usec(r.label.expires))
    }

    #[zbus(property)]
    fn pins(&self) -> fdo::Result<Vec<(String, String, u64)>> {
        let pin = |p: &Pin| (p.reason.clone(), p.owner.clone(), usec(p.expires));
        self.with(|r| r.label.pins.iter().map(pin).collect())
    }

    #[zbus(property)]
    fn content(&self) -> fdo::Result<&'static str> {
        self.with(|r| r.snapshot.content.as_str())
    }

    #[zbus(property)]
    fn storage(&self) -> fdo::Result<&'static str> {
        self.with(|r| r.snapshot.storage.as_str())
    }

    #[zbus(property)]
    fn state(&self) -> fdo::Result<&'static str> {
        let vm = self.vm_view()?;
        if vm.deleting.contains(&self.name) {
            return Ok(SnapshotState::Deleting.as_str());
        }
        if vm.reverting.as_ref() == Some(&self.name) {
            return Ok(SnapshotState::Reverting.as_str());
        }
        self.with(|r| r.snapshot.state.as_str())
    }

    #[zbus(property)]
    fn consistency(&self) -> fdo::Result<&'static str> {
        self.with(|r| r.quality.reached.as_str())
    }

    #[zbus(property)]
    fn consistency_requested(&self) -> fdo::Result<&'static str> {
        self.with(|r| match r.quality.requested {
            _ if r.quality.memory => Consistency::Memory.as_str(),
            Some(Quiesce::Require | Quiesce::Prefer) => Consistency::Filesystem.as_str(),
            Some(Quiesce::Never) => Consistency::Crash.as_str(),
            None => "",
        })
    }

    #[zbus(property)]
    fn consistency_note(&self) -> fdo::Result<String> {
        self.with(|r| r.quality.note.clone())
    }

    #[zbus(property, name = "FrozenUSec")]
    fn frozen(&self) -> fdo::Result<u64> {
        self.with(|r| u64::try_from(r.quality.frozen.as_micros()).unwrap_or(0))
    }

    #[zbus(property)]
    fn size_bytes(&self) -> fdo::Result<u64> {
        self.with(|r| r.snapshot.size)
    }

    #[zbus(property)]
    fn held_bytes(&self) -> fdo::Result<u64> {
        self.with(|r| r.held)
    }

    #[zbus(property)]
    fn managed(&self) -> fdo::Result<bool> {
        self.with(|r| r.snapshot.managed)
    }

    #[zbus(property)]
    fn policies(&self) -> fdo::Result<Vec<OwnedObjectPath>> {
        self.with(|r| r.snapshot.policies.iter().map(path::policy).collect())
    }

    #[zbus(property)]
    fn branches(&self) -> fdo::Result<Vec<String>> {
        Ok(self.vm_view()?.branches.get(&self.name).cloned().unwrap_or_default())
    }

    #[zbus(property)]
    fn origin(&self) -> fdo::Result<&'static str> {
        self.with(|r| r.snapshot.origin.as_str())
    }
}
