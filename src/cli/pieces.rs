//! What the daemon has, object by object: where it is about one VM, or all of it is more than a message on the bus may be.
//!
//! Each object is as it was when it was read, and not all at one moment: one that went meanwhile is left out.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join3, stream};
use roxmltree::{Document, ParsingOptions};
use zbus::{Connection, OwnedObjectPath};

use super::{
    exit::Failure,
    props::{self, Everything, Interfaces, Job, Policy, Properties, Snapshot, Vm},
    proxy::{ROOT, SERVICE},
};

/// So many VMs are read at once, and so many of each one's snapshots: a bus has a connection wait for some hundred
/// answers.
const AT_ONCE: usize = 8;

/// More objects than that are all read in one answer, which takes less then.
const FEW: usize = 512;

/// So often it is begun anew, where snapshots come and go meanwhile.
const TRIES: usize = 5;

/// Reads one VM with its snapshots, and all policies and jobs: of a thousand VMs that is a hundredth of it all. `None` if
/// that is more than few, or does not stand still.
pub(super) async fn about(vm: OwnedObjectPath, bus: &Connection) -> Result<Option<Everything>, Failure> {
    for _ in 0..TRIES {
        let Some(all) = once(vm.clone(), bus).await? else { return Ok(None) };
        let after: HashSet<_> = below(bus, &format!("{vm}/snapshot")).await?.into_iter().collect();
        let now: Option<Vm> = there(props::read(bus, &vm).await)?;
        let before = all.get(&vm).and_then(|known| known.vm.as_ref());
        let known = all.iter().filter(|(_, known)| known.snapshot.is_some());
        let known: HashSet<_> = known.map(|(path, _)| path.clone()).collect();
        let current = |vm: Option<&Vm>| vm.map(|vm| vm.current_snapshot.clone());
        // Which there are, and which one it goes on from: all that tells how they hang together.
        if after == known && current(now.as_ref()) == current(before) {
            return Ok(Some(all));
        }
    }
    Ok(None)
}

async fn once(vm: OwnedObjectPath, bus: &Connection) -> Result<Option<Everything>, Failure> {
    let (of_policies, of_snapshots, of_jobs) =
        (format!("{ROOT}/policy"), format!("{vm}/snapshot"), format!("{ROOT}/job"));
    let (policies, snapshots, jobs) =
        try_join3(below(bus, &of_policies), below(bus, &of_snapshots), below(bus, &of_jobs)).await?;
    if policies.len() + snapshots.len() + jobs.len() > FEW {
        return Ok(None);
    }
    let mut all = Everything::new();
    all.extend(read_each(bus, vec![vm]).await?.into_iter().map(of_vm));
    all.extend(read_each(bus, snapshots).await?.into_iter().map(of_snapshot));
    all.extend(read_each(bus, policies).await?.into_iter().map(of_policy));
    all.extend(read_each(bus, jobs).await?.into_iter().map(of_job));
    Ok(Some(all))
}

/// Reads all of it.
pub(super) async fn everything(bus: &Connection) -> Result<Everything, Failure> {
    let policies = read_all(bus, &format!("{ROOT}/policy")).await?;
    let vms = read_all(bus, &format!("{ROOT}/vm")).await?;
    let of_vms = vms.iter().map(|(path, _)| format!("{path}/snapshot"));
    let snapshots = stream::iter(of_vms).map(|of_vm| async move { read_all(bus, &of_vm).await });
    let snapshots: Vec<_> = snapshots.buffer_unordered(AT_ONCE).try_collect().await?;
    let jobs = read_all(bus, &format!("{ROOT}/job")).await?;
    let mut all = Everything::new();
    all.extend(policies.into_iter().map(of_policy));
    all.extend(snapshots.into_iter().flatten().map(of_snapshot));
    all.extend(vms.into_iter().map(of_vm));
    all.extend(jobs.into_iter().map(of_job));
    Ok(all)
}

fn of_vm((path, vm): (OwnedObjectPath, Vm)) -> (OwnedObjectPath, Interfaces) {
    (path, Interfaces { vm: Some(vm), ..Interfaces::default() })
}

fn of_snapshot((path, snapshot): (OwnedObjectPath, Snapshot)) -> (OwnedObjectPath, Interfaces) {
    (path, Interfaces { snapshot: Some(snapshot), ..Interfaces::default() })
}

fn of_policy((path, policy): (OwnedObjectPath, Policy)) -> (OwnedObjectPath, Interfaces) {
    (path, Interfaces { policy: Some(policy), ..Interfaces::default() })
}

fn of_job((path, job): (OwnedObjectPath, Job)) -> (OwnedObjectPath, Interfaces) {
    (path, Interfaces { job: Some(job), ..Interfaces::default() })
}

/// The objects directly below a path.
async fn read_all<T: Properties>(bus: &Connection, path: &str) -> Result<Vec<(OwnedObjectPath, T)>, Failure> {
    read_each(bus, below(bus, path).await?).await
}

/// Those of these objects that are there.
async fn read_each<T: Properties>(
    bus: &Connection,
    paths: Vec<OwnedObjectPath>,
) -> Result<Vec<(OwnedObjectPath, T)>, Failure> {
    let read = |path: OwnedObjectPath| async move {
        let properties = there(props::read::<T>(bus, &path).await)?;
        Ok::<_, Failure>(properties.map(|properties| (path, properties)))
    };
    let all: Vec<_> = stream::iter(paths).map(read).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// The paths directly below a path. None where there is nothing.
async fn below(bus: &Connection, path: &str) -> Result<Vec<OwnedObjectPath>, Failure> {
    let interface = Some("org.freedesktop.DBus.Introspectable");
    let answer = bus.call_method(Some(SERVICE), path, interface, "Introspect", &()).await;
    let Some(answer) = there(answer.map_err(Failure::from))? else { return Ok(Vec::new()) };
    let body = answer.body();
    Ok(labels(body.deserialize()?)
        .into_iter()
        .filter_map(|l| format!("{path}/{l}").try_into().ok())
        .collect())
}

/// What is named directly below, in what `Introspect` answers with.
fn labels(xml: &str) -> Vec<String> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let Ok(document) = Document::parse_with_options(xml, options) else { return Vec::new() };
    let nodes = document.root_element().children().filter(|node| node.has_tag_name("node"));
    nodes.filter_map(|node| Some(node.attribute("name")?.to_owned())).collect()
}

/// What is there no more is nothing.
fn there<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    const GONE: [&str; 3] = ["UnknownObject", "UnknownInterface", "UnknownMethod"];
    match answer {
        Err(Failure::Answered { name, .. })
            if name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| GONE.contains(&name)) =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// Whether the daemon said that all of it is too much at once.
pub(super) fn too_much(e: &zbus::Error) -> bool {
    match e {
        zbus::Error::MethodError(name, ..) => name.as_str() == "org.virtsnap1.Error.LimitExceeded",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_directly_below_is_named() {
        let xml = "<!DOCTYPE node PUBLIC \"x\" \"y\">\n<node><interface name=\"a.b\"/><node name=\"s1\"><node name=\"x\"/></node>\
                   <node name=\"s2\"/></node>";
        assert_eq!(labels(xml), ["s1", "s2"]);
        assert_eq!(labels("no XML"), [] as [&str; 0]);
    }

    #[test]
    fn what_went_meanwhile_is_left_out_and_all_else_is_an_error() {
        let answered = |name: &str| -> Result<(), _> {
            Err(Failure::Answered { name: name.to_owned(), message: String::new() })
        };
        assert!(there(answered("org.freedesktop.DBus.Error.UnknownObject")).unwrap().is_none());
        assert!(there(answered("org.virtsnap1.Error.Stopping")).is_err());
        assert!(there(Ok(())).unwrap().is_some());
    }
}
