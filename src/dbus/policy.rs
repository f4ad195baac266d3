//! `org.virtsnap1.Policy`, one for each policy in force.

use std::{collections::HashMap, sync::Arc};

use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant, fdo, interface, message::Header};

use super::{Options, Shared, auth::Caller, error::BusError, path, publish::usec, vm};
use crate::core::{
    machine::{Change, Query, Reply},
    model::{PolicyName, VmId},
    policy,
    preview::Foreseen,
    suspend::Suspension,
    view::PolicyView,
};

/// A policy's object.
#[derive(Debug)]
pub(super) struct Policy {
    shared: Shared,
    name: PolicyName,
}

impl Policy {
    pub(super) fn new(shared: Shared, name: PolicyName) -> Self {
        Self { shared, name }
    }

    fn view(&self) -> Result<Arc<PolicyView>, BusError> {
        self.shared.lens.view().policies.get(&self.name).cloned().ok_or_else(|| BusError::gone("the policy"))
    }
}

/// A suspension: of what (or where), by whom, why, since when.
pub(super) type Suspended = (OwnedObjectPath, &'static str, String, u64);

/// One, as the bus has it.
pub(super) fn suspended(what: OwnedObjectPath, suspension: &Suspension) -> Suspended {
    (what, suspension.by.as_str(), suspension.reason.clone(), usec(Some(suspension.since)))
}

/// What there is of these.
fn dictionary<const N: usize>(
    all: [(&str, Option<Variant<'_>>); N],
) -> fdo::Result<HashMap<String, OwnedVariant>> {
    let there = all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let own = |value: Variant<'_>| value.try_into_owned().map_err(|e| fdo::Error::Failed(e.to_string()));
    there.map(|(key, value)| Ok((key, own(value)?))).collect()
}

/// What a run would come to on one VM, by its keys.
fn foreseen(of: Foreseen) -> zbus::Result<HashMap<&'static str, OwnedVariant>> {
    let mut keys: Vec<(&'static str, Variant<'_>)> = vec![
        ("vm", path::vm(of.vm).into_inner().into()),
        ("outlook", of.outlook.as_str().into()),
        ("text", of.text.into()),
        ("next-run-usec", usec(of.turn).into()),
        ("verdicts", vm::fates(of.vm, of.verdicts).into()),
    ];
    keys.extend(of.name.map(|name| ("name", name.to_string().into())));
    keys.extend(of.job.map(|id| ("job", path::job(id).into_inner().into())));
    keys.into_iter().map(|(key, value)| Ok((key, value.try_into_owned()?))).collect()
}

/// The VM that an option says it is only about, if that is the only option there may be.
fn only(options: HashMap<String, OwnedVariant>) -> Result<Option<VmId>, BusError> {
    on(&mut Options::new(options, &["vm"])?)
}

/// The VM that an option says it is only about, if it is there.
fn on(options: &mut Options) -> Result<Option<VmId>, BusError> {
    let path = options.take::<OwnedObjectPath>("vm", "an object path")?;
    let vm = path.map(|path| {
        path::vm_of(path.as_str())
            .ok_or_else(|| BusError::invalid(format!("option \"vm\": {path} is not a VM's path")))
    });
    vm.transpose()
}

#[interface(name = "org.virtsnap1.Policy", introspection_docs = false)]
impl Policy {
    #[zbus(out_args("jobs"))]
    async fn run(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<OwnedObjectPath>, BusError> {
        let vm = only(options)?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        match self.shared.change(Change::Run { policy: self.name.clone(), vm }, &caller).await? {
            Reply::Jobs(jobs) => Ok(jobs.into_iter().map(path::job).collect()),
            _ => Err(BusError::new("Failed", "the engine gave no jobs")),
        }
    }

    #[zbus(out_args("vms"))]
    async fn preview(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<HashMap<&'static str, OwnedVariant>>, BusError> {
        let _call = self.shared.reads(connection, &header).await?;
        let mut options = Options::new(options, &["vm", "next-run"])?;
        let (vm, next) = (on(&mut options)?, options.take("next-run", "a boolean")?.unwrap_or(false));
        let query = Query::PreviewPolicy { policy: self.name.clone(), vm, next };
        match self.shared.query(query).await? {
            Reply::Foreseen(all) => all
                .into_iter()
                .map(foreseen)
                .collect::<zbus::Result<_>>()
                .map_err(|e| BusError::new("Failed", e.to_string())),
            _ => Err(BusError::new("Failed", "the engine gave no preview")),
        }
    }

    async fn suspend(
        &self,
        reason: String,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let vm = only(options)?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        let change = Change::Suspend { policy: self.name.clone(), vm, reason };
        self.shared.change(change, &caller).await.map(drop)
    }

    async fn resume(
        &self,
        options: HashMap<String, OwnedVariant>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let vm = only(options)?;
        let caller = Caller::of(&self.shared, connection, &header).await?;
        self.shared.change(Change::Resume { policy: self.name.clone(), vm }, &caller).await.map(drop)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[zbus(property)]
    fn schedule(&self) -> fdo::Result<Vec<String>> {
        Ok(self.view()?.schedules.clone())
    }

    #[zbus(property)]
    fn timezone(&self) -> fdo::Result<String> {
        Ok(self.view()?.timezone.clone())
    }

    #[zbus(property, name = "NextRunUSec")]
    fn next_run(&self) -> fdo::Result<u64> {
        Ok(usec(self.view()?.next_run))
    }

    #[zbus(property, name = "LastRunUSec")]
    fn last_run(&self) -> fdo::Result<u64> {
        Ok(usec(self.view()?.last_run))
    }

    #[zbus(property)]
    fn last_result(&self) -> fdo::Result<String> {
        Ok(self.view()?.last_result.clone())
    }

    #[zbus(property)]
    fn keep(&self) -> fdo::Result<HashMap<String, u32>> {
        let view = self.view()?;
        let k = &view.keep;
        Ok([
            ("keep-last", k.last),
            ("keep-hourly", k.hourly),
            ("keep-daily", k.daily),
            ("keep-weekly", k.weekly),
            ("keep-monthly", k.monthly),
            ("keep-yearly", k.yearly),
        ]
        .into_iter()
        .filter_map(|(rule, n)| n.map(|n| (rule.to_owned(), n)))
        .collect())
    }

    #[zbus(property)]
    fn limits(&self) -> fdo::Result<HashMap<String, OwnedVariant>> {
        let view = self.view()?;
        let l = &view.limits;
        let usec = |d: jiff::SignedDuration| Variant::from(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        let all = [
            ("max-count", l.max_count.map(Variant::from)),
            ("max-age", l.max_age.map(usec)),
            ("keep-within", view.keep.within.map(usec)),
            ("max-size", l.max_size.map(Variant::from)),
            ("max-delete", l.max_delete.map(Variant::from)),
        ];
        dictionary(all)
    }

    #[zbus(property)]
    fn settings(&self) -> fdo::Result<HashMap<String, OwnedVariant>> {
        let view = self.view()?;
        let policy::Policy { before, how, retention, catch_up, catch_up_within, spread, .. } =
            &*view.settings;
        let usec = |d: &jiff::SignedDuration| Variant::from(u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        let mountpoints = match &how.mountpoints {
            policy::Mountpoints::Auto => vec!["auto"],
            policy::Mountpoints::All => vec!["all"],
            policy::Mountpoints::List(paths) => paths.iter().map(String::as_str).collect(),
        };
        dictionary([
            ("before", Some(Variant::from(before.iter().cloned().collect::<Vec<String>>()))),
            ("when", Some(Variant::from(how.when.iter().map(|s| s.as_str()).collect::<Vec<_>>()))),
            ("quiesce", Some(Variant::from(how.quiesce.as_str()))),
            ("memory", Some(Variant::from(how.memory.as_str()))),
            ("combine", Some(Variant::from(retention.combine.as_str()))),
            ("name", Some(Variant::from(how.name.clone()))),
            ("catch-up", Some(Variant::from(catch_up.as_str()))),
            ("catch-up-within", Some(usec(catch_up_within))),
            ("freeze-timeout", Some(usec(&how.freeze_timeout))),
            ("mountpoints", Some(Variant::from(mountpoints))),
            ("skip-unchanged", Some(Variant::from(how.skip_unchanged))),
            ("spread", Some(usec(spread))),
            ("stale-after", view.settings.stale_after.as_ref().map(usec)),
            ("suspend-after", view.settings.suspend_after.map(Variant::from)),
        ])
    }

    #[zbus(property, name = "VMs")]
    fn vms(&self) -> fdo::Result<Vec<OwnedObjectPath>> {
        Ok(self.view()?.vms.iter().map(|id| path::vm(*id)).collect())
    }

    #[zbus(property)]
    fn suspended(&self) -> fdo::Result<bool> {
        Ok(self.view()?.suspended.is_some())
    }

    #[zbus(property)]
    fn suspended_reason(&self) -> fdo::Result<String> {
        Ok(self.view()?.suspended.as_ref().map(|s| s.reason.clone()).unwrap_or_default())
    }

    #[zbus(property, name = "SuspendedUSec")]
    fn suspended_since(&self) -> fdo::Result<u64> {
        Ok(usec(self.view()?.suspended.as_ref().map(|s| s.since)))
    }

    #[zbus(property, name = "SuspendedVMs")]
    fn suspended_vms(&self) -> fdo::Result<Vec<Suspended>> {
        Ok(self.view()?.suspended_on.iter().map(|(vm, s)| suspended(path::vm(*vm), s)).collect())
    }

    #[zbus(property)]
    fn source(&self) -> fdo::Result<String> {
        Ok(self.view()?.source.clone())
    }
}
