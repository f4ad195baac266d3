//! `virtsnap suspend` and `virtsnap resume`: whether a policy's schedule runs it.

use serde::Serialize;
use zbus::{Connection, ObjectPath, OwnedObjectPath, Variant};

use super::{
    args::{Resume, Suspend},
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    props::{Policy, Suspended},
    proxy::{Options, PolicyProxy},
    render::{Watch, quoted, safe},
};

#[derive(Serialize)]
struct Changed<'a> {
    policy: &'a str,
    suspended: bool,
    /// `null`: all of them, those that come later too.
    vms: Option<Vec<&'a str>>,
}

/// How and why, as the end of a sentence that begins with what is suspended.
pub(super) fn phrase((_, by, reason, since): &Suspended, watch: &Watch) -> String {
    let who = if by == "person" { " by hand" } else { "" };
    let why = if reason.is_empty() { String::new() } else { format!(": {}", safe(reason)) };
    format!("suspended{who} since {}{why}", watch.both(*since))
}

/// That of a policy as a whole, if it is.
pub(super) fn of_whole(policy: &Object<Policy>, watch: &Watch) -> Option<String> {
    let why = || {
        let reason = policy.suspended_reason.clone();
        (policy.path.clone(), "person".to_owned(), reason, policy.suspended_since)
    };
    policy.suspended.then(|| phrase(&why(), watch))
}

/// Everything, and the options that say which VM it is about.
async fn about(vm: Option<&str>, bus: &Connection) -> Result<(Inventory, Option<OwnedObjectPath>), Failure> {
    let Some(vm) = vm else { return Ok((Inventory::fetch(bus).await?, None)) };
    let all = Inventory::about(vm, bus).await?;
    let path = all.vm(vm)?.path.clone();
    Ok((all, Some(path)))
}

fn only(vm: Option<&OwnedObjectPath>) -> Options<'_> {
    vm.map(|path| ("vm", Variant::from(ObjectPath::from(path)))).into_iter().collect()
}

/// Suspends a policy.
pub(super) async fn suspend(
    args: &Suspend,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let (all, vm) = about(args.vm.as_deref(), bus).await?;
    let policy = all.policy(&args.policy)?;
    let reason = args.reason.as_deref().unwrap_or_default();
    PolicyProxy::new(bus, &policy.path).await?.suspend(reason, only(vm.as_ref())).await?;
    let vm = vm.as_ref().and_then(|path| all.vm_name(path));
    if console.json {
        let vms = vm.map(|vm| vec![vm]);
        console.answer(&Changed { policy: &policy.name, suspended: true, vms })?;
    } else {
        let on = vm.map_or_else(|| "all of its VMs".to_owned(), |vm| format!("VM {}", quoted(vm)));
        console.line(&format!(
            "policy {} is suspended on {on}: its schedule does not run it there until {}",
            quoted(&policy.name),
            console.place.virtsnap("resume")
        ))?;
    }
    Ok(Exit::Done)
}

/// Resumes a policy wherever it is suspended, or on one VM.
pub(super) async fn resume(
    args: &Resume,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let (all, vm) = about(args.vm.as_deref(), bus).await?;
    let policy = all.policy(&args.policy)?;
    PolicyProxy::new(bus, &policy.path).await?.resume(only(vm.as_ref())).await?;
    let fits = |path: &OwnedObjectPath| vm.as_ref().is_none_or(|only| only == path);
    let on: Vec<&str> = policy
        .suspended_vms
        .iter()
        .filter(|(path, ..)| fits(path))
        .filter_map(|(path, ..)| all.vm_name(path))
        .collect();
    if console.json {
        let vms = (!policy.suspended).then_some(on);
        console.answer(&Changed { policy: &policy.name, suspended: false, vms })?;
        return Ok(Exit::Done);
    }
    let name = quoted(&policy.name);
    if policy.suspended {
        console.line(&format!("policy {name} is resumed on all of its VMs"))?;
    } else if on.is_empty() {
        let on = if vm.is_some() { "there" } else { "on any VM" };
        console.line(&format!("policy {name} was not suspended {on}"))?;
    }
    for vm in on {
        console.line(&format!("policy {name} is resumed on VM {}", quoted(vm)))?;
    }
    Ok(Exit::Done)
}
