//! `virtsnap plan --policy`: what a run of a policy would take on each of its VMs, and what would go after it.
//!
//! The daemon's `Preview` says it, which is decided by the code that runs policies.

use std::collections::HashMap;

use serde::Serialize;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

use super::{
    args::Plan,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    props::{Policy, Vm},
    proxy::{Options, PolicyProxy, RawVerdict},
    prune::{self, Verdict},
    render::{Watch, quoted, safe},
};

/// What a run would come to on one VM.
#[derive(Debug, Serialize)]
pub(super) struct Foreseen {
    #[serde(skip)]
    vm: OwnedObjectPath,
    name: String,
    outlook: String,
    text: String,
    #[serde(rename = "next-run-usec")]
    pub(super) next_run: u64,
    snapshot: Option<String>,
    pub(super) verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Answer<'a> {
    policy: &'a str,
    vms: Vec<Foreseen>,
}

impl Foreseen {
    fn read(mut keys: HashMap<String, OwnedVariant>, all: &Inventory) -> Self {
        // A key that a newer daemon has left out or changed is no reason to show nothing.
        let verdicts = keys.remove("verdicts").and_then(|v| Vec::<RawVerdict>::try_from(v).ok());
        let path = keys.remove("vm").and_then(|v| OwnedObjectPath::try_from(v).ok()).unwrap_or_default();
        let next_run = keys.remove("next-run-usec").and_then(|v| u64::try_from(v).ok()).unwrap_or_default();
        let mut text = |key: &str| keys.remove(key).and_then(|v| String::try_from(v).ok());
        Self {
            name: all.vm_name(&path).unwrap_or(path.as_str()).to_owned(),
            outlook: text("outlook").unwrap_or_default(),
            text: text("text").unwrap_or_default(),
            next_run,
            snapshot: text("name"),
            verdicts: verdicts.unwrap_or_default().into_iter().map(Verdict::from).collect(),
            vm: path,
        }
    }

    /// `web: takes a snapshot (nightly-20261121T013000Z); by the schedule 2026-11-21 02:30 (in 3 hours)`
    fn line(&self, watch: &Watch) -> String {
        let called = self.snapshot.as_ref().map(|name| format!(" ({})", safe(name))).unwrap_or_default();
        let next = match self.next_run {
            0 => "its schedule does not run it there".to_owned(),
            at => format!("by the schedule {}", watch.both(at)),
        };
        format!("{}: {}{called}; {next}", safe(&self.name), safe(&self.text))
    }
}

/// What the policy's schedule comes to on this VM when it runs there next; `None` where it never does.
pub(super) async fn next_run(
    policy: &Object<Policy>,
    vm: &Object<Vm>,
    all: &Inventory,
    bus: &Connection,
) -> Result<Option<Foreseen>, Failure> {
    let mut options = Options::from([("next-run", true.into())]);
    options.insert("vm", Variant::from(ObjectPath::from(&vm.path)));
    let told = PolicyProxy::new(bus, &policy.path).await?.preview(options).await?;
    let mut told = told.into_iter().map(|keys| Foreseen::read(keys, all));
    Ok(told.find(|foreseen| foreseen.next_run != 0))
}

/// Shows it; changes nothing.
pub(super) async fn plan(args: &Plan, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = match &args.vm {
        None => Inventory::fetch(bus).await?,
        Some(vm) => Inventory::about(vm, bus).await?,
    };
    let policy = all.policy(args.policy.as_deref().unwrap_or_default())?;
    let mut options = Options::new();
    if let Some(vm) = &args.vm {
        options.insert("vm", Variant::from(ObjectPath::from(&all.vm(vm)?.path)));
    }
    let vms = PolicyProxy::new(bus, &policy.path).await?.preview(options).await?;
    let mut vms: Vec<_> = vms.into_iter().map(|keys| Foreseen::read(keys, &all)).collect();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    if console.json {
        console.answer(&Answer { policy: &policy.name, vms })?;
        return Ok(Exit::Done);
    }
    if vms.is_empty() {
        console.remark(&format!("policy {} is for no VM", quoted(&policy.name)));
    }
    for foreseen in &vms {
        console.line(&foreseen.line(&console.watch))?;
        let doomed: Vec<_> = foreseen.verdicts.iter().filter(|v| !v.keep).collect();
        let vm = all.vms().iter().find(|vm| vm.path == foreseen.vm);
        if let Some(vm) = vm.filter(|_| !doomed.is_empty()) {
            console.print(&prune::verdict_table(&doomed, all.snapshots(vm), &console.watch))?;
        }
    }
    Ok(Exit::Done)
}
