//! `virtsnap create`: takes a snapshot and says how consistent it came out.

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath, Variant};

use super::{
    args::{Create, Taken},
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended},
    inventory::Inventory,
    list::shortfall,
    props::{self, Snapshot},
    proxy::{ManagerProxy, Options, VMProxy},
    render::{duration, quoted, safe},
    view, when,
};

#[derive(Serialize)]
struct Created<'a> {
    job: view::Job<'a>,
    snapshot: Option<view::Snapshot<'a>>,
}

/// Takes a snapshot.
pub(super) async fn create(
    args: &Create,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let vm = ManagerProxy::new(bus).await?.lookup_vm(&args.vm).await?;
    let expires =
        args.expires.as_deref().map(|text| when::given("expires", text, &console.watch)).transpose()?;
    let name = name(args);
    let job = VMProxy::new(bus, &vm).await?.create_snapshot(name, options(&args.taken, expires)).await?;
    if args.wait.no_wait && console.json {
        return answer(&job, &vm, None, bus, console).await.map(|()| Exit::Done);
    }
    let ended = match follow::one(&job, &args.wait, bus, console).await? {
        ControlFlow::Continue(ended) => ended,
        ControlFlow::Break(exit) => return Ok(exit),
    };
    let made = if let Ended::Done(made) = &ended { made.as_ref() } else { None };
    if console.json {
        answer(&job, &vm, made, bus, console).await?;
    } else if let Some(made) = made {
        let snapshot: Snapshot = props::read(bus, made).await?;
        console.line(&format!("{}: {}", safe(&args.vm), taken(&snapshot)))?;
        if let Some(line) = shortfall(&snapshot) {
            console.line(&line)?;
        }
    }
    ended.report(&format!("no snapshot of {} was taken", quoted(&args.vm)), console);
    Ok(ended.exit())
}

/// The name that was given, as a word or as an option; "" for none.
fn name(args: &Create) -> &str {
    args.called.as_deref().or(args.taken.name.as_deref()).unwrap_or_default()
}

/// As the method takes it; `expires` is in µs.
pub(super) fn options(args: &Taken, expires: Option<u64>) -> Options<'_> {
    let mut options = Options::new();
    if let Some(description) = &args.description {
        options.insert("description", description.as_str().into());
    }
    if let Some(quiesce) = args.quiesce {
        options.insert("quiesce", quiesce.as_str().into());
    }
    if let Some(memory) = args.memory {
        options.insert("memory", memory.as_str().into());
    }
    if !args.disks.is_empty() {
        options.insert("disks", Variant::from(args.disks.clone()));
    }
    if !args.tags.is_empty() {
        options.insert("tags", Variant::from(args.tags.clone()));
    }
    if let Some(expires) = expires {
        options.insert("expires", expires.into());
    }
    options
}

/// What was taken, and how consistent it is.
pub(super) fn taken(snapshot: &Snapshot) -> String {
    let Snapshot { name, consistency, frozen, .. } = snapshot;
    let frozen = if *frozen == 0 { String::new() } else { format!(", frozen for {}", duration(*frozen)) };
    format!("snapshot {} taken, {}-consistent{frozen}", quoted(name), safe(consistency))
}

async fn answer(
    job: &OwnedObjectPath,
    vm: &OwnedObjectPath,
    made: Option<&OwnedObjectPath>,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let job = follow::read(job, bus).await?;
    // The parent's and the policies' names are other objects' properties.
    let all = Inventory::fetch(bus).await?;
    let snapshot = made.and_then(|made| all.snapshot_at(vm, made));
    let created = Created {
        job: view::Job::new(&job, &console.watch),
        snapshot: snapshot.map(|(s, siblings)| view::Snapshot::new(s, siblings, &all, &console.watch)),
    };
    console.answer(&created)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Verb};

    fn parsed(args: &[&str]) -> Create {
        match Cli::try_parse_from([&["virtsnap", "create"], args].concat()).unwrap().verb {
            Verb::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert!(options(&parsed(&["db"]).taken, None).is_empty());
        let mut args =
            parsed(&["db", "--quiesce", "require", "--disk", "vda", "--disk", "vdb", "--description", "x"])
                .taken;
        args.memory = parsed(&["db", "--memory", "prefer"]).taken.memory;
        args.tags = parsed(&["db", "--tag", "a", "--tag", "b"]).taken.tags;
        let sent = options(&args, Some(7_200_000_000));
        assert_eq!(sent["tags"], Variant::from(vec!["a", "b"]));
        assert_eq!(sent["expires"], Variant::from(7_200_000_000_u64));
        assert_eq!(sent["memory"], Variant::from("prefer"));
        assert_eq!(sent["quiesce"], Variant::from("require"));
        assert_eq!(sent["disks"], Variant::from(vec!["vda", "vdb"]));
        assert_eq!(sent["description"], Variant::from("x"));
    }

    #[test]
    fn the_name_is_the_second_word_as_elsewhere_or_an_option() {
        assert_eq!(name(&parsed(&["db"])), "");
        assert_eq!(name(&parsed(&["db", "before-upgrade"])), "before-upgrade");
        assert_eq!(name(&parsed(&["db", "--name", "before-upgrade"])), "before-upgrade");
        let both = ["virtsnap", "create", "db", "a", "--name", "b"];
        assert!(Cli::try_parse_from(both).is_err());
    }

    #[test]
    fn a_snapshot_that_froze_nothing_says_nothing_of_freezing() {
        let mut snapshot = Snapshot { name: "a".into(), consistency: "crash".into(), ..Snapshot::default() };
        assert_eq!(taken(&snapshot), "snapshot \"a\" taken, crash-consistent");
        snapshot.consistency = "filesystem".into();
        snapshot.frozen = 24_000;
        assert_eq!(taken(&snapshot), "snapshot \"a\" taken, filesystem-consistent, frozen for 24 ms");
    }
}
