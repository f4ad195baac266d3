//! `virtsnap delete`: deletes a snapshot, or it and its descendants, after a look at which.

use std::collections::BTreeSet;

use serde::Serialize;
use zbus::Connection;

use super::{
    args::Delete,
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended},
    inventory::{Inventory, Object},
    pace, pin,
    props::{Snapshot, Vm},
    proxy::{Options, SnapshotProxy},
    render::{Watch, count, known_size, quoted, safe},
    view,
};

/// What was deleted with others.
#[derive(Serialize)]
struct Gone<'a> {
    vm: &'a str,
    deleted: Vec<&'a str>,
    jobs: Vec<view::Job<'a>>,
}

/// Deletes a snapshot, or it and all that were taken on top of it.
pub(super) async fn delete(
    args: &Delete,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let mut options = pace::options(&args.pace, &console.watch, Options::new())?;
    for (key, given) in [("foreign", args.foreign), ("metadata-only", args.metadata_only)] {
        options.extend(given.then(|| (key, given.into())));
    }
    let doomed = if args.recursive { with_descendants(snapshot, all.snapshots(vm)) } else { vec![snapshot] };
    for snapshot in &doomed {
        refuse(args, &vm.name, snapshot, &console.watch)?;
    }
    let question = match doomed.as_slice() {
        [snapshot] => question(&vm.name, snapshot, args.metadata_only, &console.watch),
        several => question_of(&vm.name, several, &console.watch),
    };
    console.confirm(&question, args.consent.yes).await?;
    if args.recursive {
        return one_by_one(args, vm, &doomed, &options, bus, console).await;
    }

    let job = SnapshotProxy::new(bus, &snapshot.path).await?.delete(options).await?;
    let name = quoted(&snapshot.name);
    let done = format!("{}: snapshot {name} deleted", safe(&vm.name));
    let failed = format!("snapshot {name} of {} was not deleted", quoted(&vm.name));
    follow::told(&job, &args.wait, (&done, &failed), bus, console).await
}

/// What the daemon would refuse is not asked about.
fn refuse(args: &Delete, vm: &str, snapshot: &Snapshot, watch: &Watch) -> Result<(), Failure> {
    let name = quoted(&snapshot.name);
    if !snapshot.managed && !args.foreign && !args.metadata_only {
        let text = format!("snapshot {name} of {} was not made by virtsnap", quoted(vm));
        return Err(Failure::Answered { name: "org.virtsnap1.Error.NotManaged".to_owned(), message: text });
    }
    if let Some(by) = snapshot.pins.first().map(|_| pin::pins(snapshot, watch).join(", ")) {
        let text = format!("snapshot {name} of {} is pinned by {by}", quoted(vm));
        return Err(Failure::Answered { name: "org.virtsnap1.Error.Pinned".to_owned(), message: text });
    }
    Ok(())
}

/// In an order in which each can go: first what the VM does not run on, from the leaves on, for nothing can be merged
/// where two branches begin; then the rest from the oldest on, so that as little as can be is copied more than once.
fn with_descendants<'a>(
    root: &'a Object<Snapshot>,
    all: &'a [Object<Snapshot>],
) -> Vec<&'a Object<Snapshot>> {
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(parent) = tree.get(at) {
        let parent = parent.path.clone();
        tree.extend(all.iter().filter(|s| s.parent == parent));
        at += 1;
    }
    let mut under = BTreeSet::new();
    let mut next = all.iter().find(|s| s.current);
    while let Some(snapshot) = next {
        next =
            all.iter().find(|s| s.path == snapshot.parent).filter(|_| under.insert(snapshot.path.as_str()));
    }
    let (chain, mut aside): (Vec<_>, Vec<_>) =
        tree.into_iter().partition(|s| under.contains(s.path.as_str()));
    aside.reverse();
    aside.into_iter().chain(chain).collect()
}

/// Each is a job, and begins when the one before has ended well.
async fn one_by_one(
    args: &Delete,
    vm: &Object<Vm>,
    doomed: &[&Object<Snapshot>],
    options: &Options<'_>,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let (mut jobs, mut deleted, mut exit) = (Vec::new(), Vec::new(), Exit::Done);
    let mut goes_on = None;
    for snapshot in doomed {
        let mut given = Options::new();
        for (key, value) in options {
            given.insert(key, value.try_clone()?);
        }
        let job = SnapshotProxy::new(bus, &snapshot.path).await?.delete(given).await?;
        if args.wait.no_wait {
            jobs.push(follow::read(&job, bus).await?);
            continue;
        }
        let Some(ended) = follow::wait_for_one(&job, bus, console).await? else {
            exit = Exit::Interrupted;
            jobs.extend(follow::read(&job, bus).await);
            goes_on = Some(snapshot);
            break;
        };
        jobs.push(follow::read(&job, bus).await?);
        let name = quoted(&snapshot.name);
        if let Ended::Failed { .. } | Ended::Unknown(_) = ended {
            ended.report(&format!("snapshot {name} of {} was not deleted", quoted(&vm.name)), console);
            exit = ended.exit();
            break;
        }
        deleted.push(snapshot.name.as_str());
        if !console.json {
            console.line(&format!("{}: snapshot {name} deleted", safe(&vm.name)))?;
        }
    }
    // What the daemon goes on with is neither deleted nor left.
    let left = doomed.len() - deleted.len() - usize::from(goes_on.is_some());
    if console.json {
        let jobs = jobs.iter().map(|job| view::Job::new(job, &console.watch)).collect();
        console.answer(&Gone { vm: &vm.name, deleted, jobs })?;
    } else if args.wait.no_wait {
        for job in &jobs {
            console.line(&follow::started_line(job))?;
        }
    } else if exit != Exit::Done && left > 0 {
        let being = goes_on.map(|s| format!("snapshot {} is being deleted; ", quoted(&s.name)));
        let being = being.unwrap_or_default();
        console.warning(&format!(
            "{being}{} of {} left as they are",
            count(left, "snapshot"),
            quoted(&vm.name)
        ));
    }
    Ok(exit)
}

fn question_of(vm: &str, doomed: &[&Object<Snapshot>], watch: &Watch) -> String {
    let each = doomed.iter().map(|snapshot| {
        let whose = if snapshot.managed { "" } else { ", not made by virtsnap" };
        let taken = watch.both(snapshot.created);
        format!("  {}, taken {taken}, size {}{whose}\n", quoted(&snapshot.name), known_size(snapshot.size))
    });
    let each: String = each.collect();
    format!(
        "Of {} these are deleted, in this order:\n{each}Delete {}?",
        quoted(vm),
        count(doomed.len(), "snapshot")
    )
}

fn question(vm: &str, snapshot: &Snapshot, metadata_only: bool, watch: &Watch) -> String {
    if metadata_only {
        return format!(
            "Forget snapshot {} of {}, whose images are gone?",
            quoted(&snapshot.name),
            quoted(vm)
        );
    }
    let whose = if snapshot.managed { "" } else { ", not made by virtsnap" };
    format!(
        "Delete snapshot {} of {}, taken {}, size {}{whose}?",
        quoted(&snapshot.name),
        quoted(vm),
        watch.both(snapshot.created),
        known_size(snapshot.size),
    )
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;

    #[test]
    fn the_question_says_what_would_be_lost() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(7_200).unwrap() };
        let snapshot =
            Snapshot { name: "before".into(), created: 3_600_000_000, size: 3 << 30, ..Snapshot::default() };
        assert_eq!(
            question("db", &snapshot, false, &watch),
            "Delete snapshot \"before\" of \"db\", taken 1970-01-01 01:00:00 (1 h ago), size 3 GiB, \
             not made by virtsnap?"
        );
    }

    #[test]
    fn what_the_vm_does_not_run_on_goes_first_and_from_the_leaves_on() {
        use crate::cli::inventory::tests::path;
        // a ── b ── c ── d (current), and b ── x ── y, and a stranger.
        let tree = [("a", "/"), ("b", "a"), ("c", "b"), ("x", "b"), ("y", "x"), ("d", "c"), ("z", "/")];
        let at = |name: &str| path(&if name == "/" { "/".to_owned() } else { format!("/s/{name}") });
        let all = tree.map(|(name, parent)| {
            let props = Snapshot {
                name: name.into(),
                parent: at(parent),
                current: name == "d",
                ..Snapshot::default()
            };
            Object::new(at(name), props)
        });
        let order = |root: usize| {
            with_descendants(&all[root], &all).iter().map(|s| s.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(order(0), ["y", "x", "a", "b", "c", "d"]);
        assert_eq!(order(3), ["y", "x"]);
        assert_eq!(order(2), ["c", "d"]);
        assert_eq!(order(6), ["z"]);
    }
}
