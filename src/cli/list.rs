//! `virtsnap list`: the VMs, or the snapshots of one.

use serde::Serialize;
use zbus::Connection;

use super::{
    args::List,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    pin,
    props::{Snapshot, Vm},
    render::{Column, Watch, cell, count, duration, known_size, names, pasted, quoted, safe, size, table},
    timeline::timeline,
    view,
};

#[derive(Serialize)]
struct Vms<'a> {
    vms: Vec<view::Vm<'a>>,
}

#[derive(Serialize)]
struct Snapshots<'a> {
    vm: view::Vm<'a>,
    snapshots: Vec<view::Snapshot<'a>>,
}

/// Lists VMs, or one VM's snapshots.
pub(super) async fn list(args: &List, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = match &args.vm {
        None => Inventory::fetch(bus).await?,
        Some(vm) => Inventory::about(vm, bus).await?,
    };
    match &args.vm {
        None => list_vms(&all, console)?,
        Some(vm) => {
            let vm = all.vm(vm)?;
            let shown = chosen(all.snapshots(vm), args);
            if args.timeline {
                timeline(vm, &shown, &all, bus, console).await?;
            } else {
                list_snapshots(vm, &shown, args.tree, &all, console)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Those that were asked for.
fn chosen<'a>(all: &'a [Object<Snapshot>], args: &List) -> Vec<&'a Object<Snapshot>> {
    let fits = |s: &&Object<Snapshot>| {
        args.tags.iter().all(|tag| s.tags.contains(tag)) && (!args.pinned || !s.pins.is_empty())
    };
    all.iter().filter(fits).collect()
}

fn list_vms(all: &Inventory, console: &mut Console<'_>) -> Result<(), Failure> {
    if console.json {
        let vms = all.vms().iter().map(|vm| view::Vm::new(vm, all, &console.watch)).collect();
        return console.answer(&Vms { vms });
    }
    if all.vms().is_empty() {
        let status = console.place.virtsnap("status");
        console.remark(&format!("no VM yet; {status} tells whether libvirt is reached"));
        return Ok(());
    }
    let columns = [
        Column::Left("NAME"),
        Column::Left("STATE"),
        Column::Left("HEALTH"),
        Column::Right("SNAPSHOTS"),
        Column::Right("SIZE"),
        Column::Left("LAST SUCCESS"),
        Column::Left("NEXT RUN"),
        Column::Left("POLICIES"),
    ];
    let rows = all.vms().iter().map(|vm| vm_row(vm, all, &console.watch)).collect();
    console.print(&table(&columns, rows))
}

fn vm_row(vm: &Object<Vm>, all: &Inventory, watch: &Watch) -> Vec<String> {
    vec![
        cell(&vm.name),
        cell(&vm.state),
        cell(&vm.health),
        all.snapshots(vm).len().to_string(),
        known_size(vm.snapshot_bytes),
        watch.relative(vm.last_success),
        watch.relative(all.next_run(vm)),
        names(&all.policy_names(&vm.policies)),
    ]
}

fn list_snapshots(
    vm: &Object<Vm>,
    shown: &[&Object<Snapshot>],
    tree: bool,
    all: &Inventory,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let snapshots = all.snapshots(vm);
    if console.json {
        let shown = Snapshots {
            vm: view::Vm::new(vm, all, &console.watch),
            snapshots: shown.iter().map(|s| view::Snapshot::new(s, snapshots, all, &console.watch)).collect(),
        };
        return console.answer(&shown);
    }
    if shown.is_empty() {
        let such = if snapshots.is_empty() { "" } else { " such" };
        console.remark(&format!("VM {} has no{such} snapshot", quoted(&vm.name)));
        return orphans(vm, console);
    }
    let columns = [
        Column::Left(""),
        Column::Left("NAME"),
        Column::Left("CREATED"),
        Column::Left("CONSISTENCY"),
        Column::Right("FROZEN"),
        Column::Right("HOLDS"),
        Column::Right("FREES"),
        Column::Left("FOR"),
    ];
    let row = |indent: &str, s: &Object<Snapshot>| snapshot_row(indent, s, all, &console.watch);
    let rows = if tree {
        super::tree::tree(snapshots).iter().map(|b| row(&b.indent, b.snapshot)).collect()
    } else {
        shown.iter().map(|s| row("", s)).collect()
    };
    console.print(&table(&columns, rows))?;
    let of = if shown.len() == snapshots.len() { String::new() } else { format!("{} of ", shown.len()) };
    let pinned = if shown.iter().any(|s| !s.pins.is_empty()) { ", p = pinned" } else { "" };
    let summary = format!(
        "{of}{}, {}, {} under the deepest disk (* = current{pinned})",
        count(snapshots.len(), "snapshot"),
        size(vm.snapshot_bytes),
        count(vm.chain_depth as usize, "image"),
    );
    console.line(&summary)?;
    let attached: Vec<_> = shown.iter().filter_map(|s| pin::attached(s, &console.watch)).collect();
    let branched = shown.iter().filter_map(|s| branches(s));
    for line in attached.into_iter().chain(branched).chain(shown.iter().filter_map(|s| shortfall(s))) {
        console.line(&line)?;
    }
    orphans(vm, console)
}

/// Files that belong to nobody, and snapshots that libvirt forgot, a line for each.
pub(super) fn orphans(vm: &Vm, console: &mut Console<'_>) -> Result<(), Failure> {
    for (path, bytes, goes) in &vm.orphans {
        let what = if *goes == 0 {
            let adopt = console.place.virtsnap(&format!("adopt {} --orphans", pasted(&vm.name)));
            format!("{adopt} puts it in quarantine")
        } else {
            format!("in quarantine, removed {}", console.watch.both(*goes))
        };
        console.line(&format!("{} ({}) belongs to nobody: {what}", safe(path), size(*bytes)))?;
    }
    for (image, name, bytes, taken) in &vm.forgotten {
        let memory = if *bytes == 0 { "no memory".to_owned() } else { format!("{} of memory", size(*bytes)) };
        let taken = console.watch.both(*taken);
        console.line(&format!(
            "{} inside {} ({taken}, {memory}) is not known to libvirt",
            safe(name),
            safe(image)
        ))?;
    }
    Ok(())
}

fn snapshot_row(indent: &str, snapshot: &Object<Snapshot>, all: &Inventory, watch: &Watch) -> Vec<String> {
    let policies = all.policy_names(&snapshot.policies);
    // What is not a usable restore point says so where its consistency would stand.
    let consistency = if snapshot.state == "ready" { &snapshot.consistency } else { &snapshot.state };
    vec![
        format!(
            "{}{}",
            if snapshot.current { "*" } else { "" },
            if snapshot.pins.is_empty() { "" } else { "p" }
        ),
        format!("{indent}{}", cell(&snapshot.name)),
        watch.both(snapshot.created),
        cell(consistency),
        duration(snapshot.frozen),
        known_size(snapshot.held),
        known_size(snapshot.size),
        if policies.is_empty() { cell(&snapshot.origin) } else { names(&policies) },
    ]
}

/// Which VMs were branched off a snapshot, in a line.
fn branches(snapshot: &Snapshot) -> Option<String> {
    let names: Vec<String> = snapshot.branches.iter().map(|name| quoted(name)).collect();
    (!names.is_empty()).then(|| format!("{}: branched off as {}", quoted(&snapshot.name), names.join(", ")))
}

/// What a snapshot lacks of what was asked for, in a line.
pub(super) fn shortfall(snapshot: &Snapshot) -> Option<String> {
    (!snapshot.consistency_note.is_empty()).then(|| {
        let Snapshot { name, consistency, consistency_requested: asked, consistency_note: note, .. } =
            snapshot;
        if asked == consistency {
            return format!("{}: {}", quoted(name), safe(note));
        }
        let asked = if asked.is_empty() { "more" } else { asked };
        format!("{}: asked for {}, got {}: {}", quoted(name), safe(asked), safe(consistency), safe(note))
    })
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::inventory::tests::sample;
    use crate::{
        cli::{console::Screen, place::Place},
        clock::SystemClock,
    };

    fn shown(vm: Option<&str>, json: bool) -> String {
        shown_as(vm, json, false)
    }

    fn shown_as(vm: Option<&str>, json: bool, tree: bool) -> String {
        let mut out = Vec::new();
        let all = sample();
        let mut console = Console {
            out: &mut out,
            err: &mut std::io::sink(),
            input: &mut std::io::empty(),
            interactive: false,
            screen: Screen { columns: None, clock: &SystemClock::default() },
            json,
            place: Place::default(),
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::from_second(60).unwrap() },
        };
        match vm {
            None => list_vms(&all, &mut console).unwrap(),
            Some(vm) => {
                let vm = all.vm(vm).unwrap();
                let shown: Vec<_> = all.snapshots(vm).iter().collect();
                list_snapshots(vm, &shown, tree, &all, &mut console).unwrap();
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn vms_are_listed_by_name_with_their_policies() {
        let text = shown(None, false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("NAME  STATE"));
        assert!(lines[1].starts_with("db ") && lines[1].ends_with("nightly"), "{text}");
        assert!(lines[2].starts_with("web ") && lines[2].ends_with(" -"), "{text}");
    }

    #[test]
    fn the_newest_snapshot_is_last_and_the_current_one_marked() {
        let text = shown(Some("db"), false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].trim_start().starts_with("first"), "{text}");
        assert!(lines[2].starts_with("*  second"), "{text}");
        assert_eq!(lines[3], "2 snapshots, 0 B, 3 images under the deepest disk (* = current)");
        assert_eq!(shown_as(Some("db"), false, true), text, "neither lies on the other");
    }

    #[test]
    fn json_is_one_object_that_can_grow() {
        let json: serde_json::Value = serde_json::from_str(&shown(Some("db"), true)).unwrap();
        assert_eq!(json["vm"]["name"], "db");
        assert_eq!(json["snapshots"][1]["name"], "second");
        let json: serde_json::Value = serde_json::from_str(&shown(None, true)).unwrap();
        assert_eq!(json["vms"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_snapshot_s_branches_are_named_in_a_line() {
        let mut snapshot = Snapshot { name: "s1".into(), ..Snapshot::default() };
        assert_eq!(branches(&snapshot), None);
        snapshot.branches = vec!["trial".into(), "a b".into()];
        assert_eq!(branches(&snapshot).unwrap(), "\"s1\": branched off as \"trial\", \"a b\"");
    }

    #[test]
    fn a_shortfall_says_what_was_asked_what_was_reached_and_why() {
        let mut snapshot =
            Snapshot { name: "a\nb".into(), consistency: "crash".into(), ..Snapshot::default() };
        assert_eq!(shortfall(&snapshot), None);
        snapshot.consistency_requested = "filesystem".into();
        snapshot.consistency_note = "the agent did not answer".into();
        let line = shortfall(&snapshot).unwrap();
        assert_eq!(line, "\"a\\nb\": asked for filesystem, got crash: the agent did not answer");
        snapshot.consistency = "filesystem".into();
        snapshot.consistency_note = "the TPM was not kept".into();
        assert_eq!(shortfall(&snapshot).unwrap(), "\"a\\nb\": the TPM was not kept");
    }
}
