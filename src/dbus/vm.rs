//! `org.virtsnap1.VM`, one for each VM that libvirt defines.

use std::{collections::HashMap, sync::Arc};

use zbus::{Connection, OwnedObjectPath, OwnedVariant, Str, fdo, interface, message::Header};

use super::{
    Options, Shared,
    auth::Caller,
    error::BusError,
    path,
    policy::{Suspended, suspended},
    publish::usec,
};
use crate::core::{
    forgotten::Forgotten,
    health,
    job::AdoptJob,
    label::{Expiry, Label},
    machine::{Change, Query, Reply},
    model::{SnapshotName, VmId},
    policy::Memory,
    prune::Sentence,
    qcow2::Inner,
    settings::Explanation,
    stray::Stray,
    view::VmView,
};

/// A snapshot's fate: path, name, keep, reasons (rule, policy, bucket), sentence.
pub(super) type Fate = (OwnedObjectPath, String, bool, Vec<(String, String, String)>, String);

/// Those of a VM's snapshots.
pub(super) fn fates(vm: VmId, sentences: Vec<Sentence>) -> Vec<Fate> {
    let fate = |s: Sentence| (path::snapshot(vm, &s.name), s.name.to_string(), s.keep, s.reasons, s.text);
    sentences.into_iter().map(fate).collect()
}

/// One reason why a VM's settings are as they are, by its keys.
type Why = HashMap<&'static str, OwnedVariant>;

fn why(reason: &Explanation) -> Why {
    let mut keys = vec![
        ("about", reason.about.as_str().to_owned()),
        ("value", reason.text.clone()),
        ("source", reason.source.to_string()),
        ("text", reason.to_string()),
    ];
    keys.extend(reason.policy.as_ref().map(|policy| ("policy", policy.to_string())));
    keys.extend(reason.key.clone().map(|key| ("key", key)));
    if let Some((value, source)) = &reason.instead_of {
        keys.extend([("instead-of", value.clone()), ("instead-of-source", source.to_string())]);
    }
    keys.into_iter().map(|(key, text)| (key, Str::from(text).into())).collect()
}

/// A VM's object.
#[derive(Debug)]
pub(super) struct Vm {
    shared: Shared,
    id: VmId,
}

impl Vm {
    pub(super) fn new(shared: Shared, id: VmId) -> Self {
        Self { shared, id }
    }

    fn view(&self) -> Result<Arc<VmView>, BusError> {
        self.shared.lens.view().vms.get(&self.id).cloned().ok_or_else(|| BusError::gone("the VM"))
    }
}

#[interface(name = "org.virtsnap1.VM", introspection_docs = false)]
impl Vm {
    #[zbus(out_args("job"))]
    async fn create_snapshot(
        &self,
        name: &str,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let mut options =
            Options::new(options, &["description", "quiesce", "memory", "disks", "tags", "expires"])?;
        let description = options.take::<String>("description", "a string")?.unwrap_or_default();
        let quiesce = options.word("quiesce")?;
        let memory = options.word("memory")?.unwrap_or(Memory::Never);
        let disks = options.take::<Vec<String>>("disks", "an array of strings")?;
        let tags = options.tags()?.unwrap_or_default();
        let label =
            Label { tags, expires: options.time("expires")?.and_then(Expiry::at), ..Label::default() };
        let name = match name {
            "" => None,
            name => Some(SnapshotName::for_new(name).map_err(|e| BusError::invalid(e.to_string()))?),
        };
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let change = Change::Create { vm: self.id, name, description, quiesce, memory, disks, label };
        self.shared.start(change, &caller).await
    }

    #[zbus(out_args("verdicts"))]
    async fn preview_prune(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Fate>, BusError> {
        let _call = self.shared.reads(connection, &header).await?;
        let mut options = Options::new(options, &["all"])?;
        let all = options.take::<bool>("all", "a boolean")?.unwrap_or(false);
        match self.shared.query(Query::PreviewPrune { vm: self.id, all }).await? {
            Reply::Preview(sentences) => Ok(fates(self.id, sentences)),
            _ => Err(BusError::new("Failed", "the engine gave no preview")),
        }
    }

    #[zbus(out_args("reasons"))]
    async fn explain(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Why>, BusError> {
        let _call = self.shared.reads(connection, &header).await?;
        Options::new(options, &[])?;
        match self.shared.query(Query::Explain(self.id)).await? {
            Reply::Explained(reasons) => Ok(reasons.iter().map(why).collect()),
            _ => Err(BusError::new("Failed", "the engine gave no explanation")),
        }
    }

    #[zbus(out_args("job"))]
    async fn prune(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let mut options = Options::new(options, &["all", "bandwidth", "until"])?;
        let all = options.take::<bool>("all", "a boolean")?.unwrap_or(false);
        let pace = options.pace()?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        self.shared.start(Change::Prune { vm: self.id, all, pace }, &caller).await
    }

    async fn adopt(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let mut options = Options::new(options, &["snapshots", "policies", "orphans", "layers"])?;
        let layers = options.take::<bool>("layers", "a boolean")?.unwrap_or(false);
        let mut names =
            |key| options.take::<Vec<String>>(key, "an array of strings").map(Option::unwrap_or_default);
        let snapshots = names("snapshots")?.into_iter().map(SnapshotName::existing).collect();
        let strays = names("orphans")?;
        let policies = names("policies")?.iter().map(|p| p.parse()).collect::<Result<_, _>>();
        let policies = policies.map_err(|e| BusError::invalid(format!("option \"policies\": {e}")))?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let change = Change::Adopt { vm: self.id, adopt: AdoptJob { snapshots, policies, strays, layers } };
        match self.shared.change(change, &caller).await? {
            Reply::Job(id) => self.shared.ended_for(connection, Some(caller.call()), id).await.map(drop),
            _ => Err(BusError::new("Failed", "the engine gave no job")),
        }
    }

    #[zbus(out_args("job"))]
    async fn promote(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, BusError> {
        let pace = Options::new(options, &["bandwidth", "until"])?.pace()?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        self.shared.start(Change::Promote { vm: self.id, pace }, &caller).await
    }

    #[zbus(property)]
    fn name(&self) -> fdo::Result<String> {
        Ok(self.view()?.record.name.clone())
    }

    #[zbus(property(emits_changed_signal = "const"), name = "UUID")]
    fn uuid(&self) -> String {
        self.id.to_string()
    }

    #[zbus(property)]
    fn state(&self) -> fdo::Result<&'static str> {
        Ok(self.view()?.record.state.as_str())
    }

    #[zbus(property)]
    fn policies(&self) -> fdo::Result<Vec<OwnedObjectPath>> {
        Ok(self.view()?.policies.iter().map(path::policy).collect())
    }

    #[zbus(property)]
    fn suspended_policies(&self) -> fdo::Result<Vec<Suspended>> {
        Ok(self.view()?.suspended.iter().map(|(name, s)| suspended(path::policy(name), s)).collect())
    }

    #[zbus(property)]
    fn stale_policies(&self) -> fdo::Result<Vec<(OwnedObjectPath, u64)>> {
        Ok(self.view()?.stale.iter().map(|(name, newest)| (path::policy(name), usec(*newest))).collect())
    }

    #[zbus(property)]
    fn current_snapshot(&self) -> fdo::Result<OwnedObjectPath> {
        let view = self.view()?;
        let current = view.record.snapshots.values().find(|s| s.snapshot.current);
        Ok(current.map_or_else(path::none, |s| path::snapshot(self.id, &s.snapshot.name)))
    }

    #[zbus(property)]
    fn agent_connected(&self) -> fdo::Result<bool> {
        Ok(self.view()?.record.agent_connected)
    }

    #[zbus(property)]
    fn frozen(&self) -> fdo::Result<bool> {
        Ok(self.view()?.frozen)
    }

    #[zbus(property)]
    fn health(&self) -> fdo::Result<&'static str> {
        Ok(health::worst(&self.view()?.record.findings).as_str())
    }

    #[zbus(property)]
    fn health_reason(&self) -> fdo::Result<String> {
        Ok(health::reason(&self.view()?.record.findings))
    }

    #[zbus(property)]
    fn orphans(&self) -> fdo::Result<Vec<(String, u64, u64)>> {
        let orphan = |s: &Stray| (s.path.clone(), s.bytes, usec(s.goes()));
        Ok(self.view()?.record.strays.iter().map(orphan).collect())
    }

    #[zbus(property)]
    fn forgotten_snapshots(&self) -> fdo::Result<Vec<(String, String, u64, u64)>> {
        let one = |f: &Forgotten| {
            let Inner { name, memory_bytes, taken } = &f.inner;
            (f.image.clone(), name.clone(), *memory_bytes, usec(Some(*taken)))
        };
        Ok(self.view()?.record.forgotten.iter().map(one).collect())
    }

    #[zbus(property)]
    fn chain_depth(&self) -> fdo::Result<u32> {
        Ok(self.view()?.record.chain_depth)
    }

    #[zbus(property)]
    fn snapshot_bytes(&self) -> fdo::Result<u64> {
        Ok(self.view()?.record.snapshot_bytes())
    }

    #[zbus(property, name = "LastSuccessUSec")]
    fn last_success(&self) -> fdo::Result<u64> {
        Ok(usec(self.view()?.last_success))
    }

    #[zbus(property)]
    fn last_error(&self) -> fdo::Result<String> {
        Ok(self.view()?.last_error.clone())
    }
}
