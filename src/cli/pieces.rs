//! Everything the daemon has, object by object: where all of it is more than a message on the bus may be.
//!
//! Each object is as it was when it was read, and not all at one moment: one that went meanwhile is left out.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
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

/// Reads all of it.
pub(super) async fn everything(bus: &Connection) -> Result<Everything, Failure> {
    let mut all = Everything::new();
    for (path, policy) in read_all::<Policy>(bus, &format!("{ROOT}/policy")).await? {
        all.insert(path, Interfaces { policy: Some(policy), ..Interfaces::default() });
    }
    let vms = read_all::<Vm>(bus, &format!("{ROOT}/vm")).await?;
    let of_vms = vms.iter().map(|(path, _)| format!("{path}/snapshot"));
    let snapshots = stream::iter(of_vms).map(|of_vm| async move { read_all::<Snapshot>(bus, &of_vm).await });
    let snapshots: Vec<_> = snapshots.buffer_unordered(AT_ONCE).try_collect().await?;
    for (path, snapshot) in snapshots.into_iter().flatten() {
        all.insert(path, Interfaces { snapshot: Some(snapshot), ..Interfaces::default() });
    }
    for (path, vm) in vms {
        all.insert(path, Interfaces { vm: Some(vm), ..Interfaces::default() });
    }
    for (path, job) in read_all::<Job>(bus, &format!("{ROOT}/job")).await? {
        all.insert(path, Interfaces { job: Some(job), ..Interfaces::default() });
    }
    Ok(all)
}

/// The objects directly below a path.
async fn read_all<T: Properties>(bus: &Connection, path: &str) -> Result<Vec<(OwnedObjectPath, T)>, Failure> {
    let read = |path: OwnedObjectPath| async move {
        let properties = there(props::read::<T>(bus, &path).await)?;
        Ok::<_, Failure>(properties.map(|properties| (path, properties)))
    };
    let all: Vec<_> =
        stream::iter(below(bus, path).await?).map(read).buffer_unordered(AT_ONCE).try_collect().await?;
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
