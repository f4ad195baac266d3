//! `virtsnap show`: all that is known of one VM, or of one of its snapshots.

use serde::Serialize;
use zbus::Connection;

use super::{
    args::Show,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    pin,
    props::{Snapshot, Vm},
    render::{Watch, count, duration, facts, known_size, names, quoted, safe, size},
    suspend, view,
};

#[derive(Serialize)]
struct Shown<'a> {
    vm: view::Vm<'a>,
    /// The one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<view::Snapshot<'a>>,
}

/// Shows it.
pub(super) async fn show(args: &Show, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = args.snapshot.as_deref().map(|name| all.snapshot(vm, name)).transpose()?;
    if console.json {
        let siblings = all.snapshots(vm);
        console.answer(&Shown {
            vm: view::Vm::new(vm, &all, &console.watch),
            snapshot: snapshot.map(|s| view::Snapshot::new(s, siblings, &all, &console.watch)),
        })?;
    } else {
        let shown = match snapshot {
            None => of_vm(vm, &all, &console.watch),
            Some(snapshot) => of_snapshot(snapshot, vm, &all, &console.watch),
        };
        console.print(&facts(&shown))?;
    }
    Ok(Exit::Done)
}

fn of_vm(vm: &Object<Vm>, all: &Inventory, watch: &Watch) -> Vec<(&'static str, String)> {
    let snapshots = all.snapshots(vm);
    let current = snapshots.iter().find(|s| s.path == vm.current_snapshot).map(|s| s.name.as_str());
    let mut shown = vec![
        ("Name", safe(&vm.name)),
        ("UUID", safe(&vm.uuid)),
        ("State", safe(&vm.state)),
        ("Guest agent", if vm.agent_connected { "connected" } else { "not connected" }.to_owned()),
        ("Frozen", if vm.frozen { "yes".to_owned() } else { String::new() }),
        ("Health", safe(&vm.health)),
    ];
    shown.extend(vm.health_reason.lines().map(|line| ("", safe(line))));
    shown.extend([("Policies", names(&all.policy_names(&vm.policies)))]);
    for suspended in &vm.suspended {
        let policy = all.policy_name(&suspended.0).unwrap_or_default();
        shown.push(("", format!("{} is {}", quoted(policy), suspend::phrase(suspended, watch))));
    }
    for (policy, newest) in &vm.stale {
        let policy = quoted(all.policy_name(policy).unwrap_or_default());
        let why = match newest {
            0 => "it has no good snapshot yet".to_owned(),
            _ => format!("its newest good snapshot is of {}", watch.both(*newest)),
        };
        shown.push(("", format!("{policy} is stale, {why}")));
    }
    shown.extend([
        ("Next run", watch.both(all.next_run(vm))),
        ("Last success", watch.both(vm.last_success)),
        ("Last error", safe(&vm.last_error)),
        ("Snapshots", format!("{}, {}", count(snapshots.len(), "snapshot"), known_size(vm.snapshot_bytes))),
        ("Goes on from", current.map(safe).unwrap_or_default()),
        ("Deepest disk", count(vm.chain_depth as usize, "image")),
    ]);
    for (path, bytes, goes) in &vm.orphans {
        let goes = if *goes == 0 { String::new() } else { format!(", removed {}", watch.both(*goes)) };
        shown.push(("Belongs to nobody", format!("{} ({}{goes})", safe(path), known_size(*bytes))));
    }
    for (image, name, bytes, taken) in &vm.forgotten {
        let memory = if *bytes == 0 { "no memory".to_owned() } else { format!("{} of memory", size(*bytes)) };
        let taken = watch.both(*taken);
        shown.push((
            "Libvirt forgot",
            format!("{} inside {}, taken {taken}, {memory}", safe(name), safe(image)),
        ));
    }
    shown
}

fn of_snapshot(
    snapshot: &Object<Snapshot>,
    vm: &Object<Vm>,
    all: &Inventory,
    watch: &Watch,
) -> Vec<(&'static str, String)> {
    let siblings = all.snapshots(vm);
    let parent = siblings.iter().find(|s| s.path == snapshot.parent).map(|s| safe(&s.name));
    let children: Vec<&str> =
        siblings.iter().filter(|s| s.parent == snapshot.path).map(|s| s.name.as_str()).collect();
    let some = |all: &[String]| if all.is_empty() { String::new() } else { names(all) };
    let pins = pin::pins(snapshot, watch);
    let asked = &snapshot.consistency_requested;
    let consistency = if asked.is_empty() || *asked == snapshot.consistency {
        safe(&snapshot.consistency)
    } else {
        format!("{} (asked for {})", safe(&snapshot.consistency), safe(asked))
    };
    vec![
        ("Name", safe(&snapshot.name)),
        ("VM", safe(&vm.name)),
        ("Taken", watch.both(snapshot.created)),
        ("State", safe(&snapshot.state)),
        ("", if snapshot.current { "the VM goes on from it".to_owned() } else { String::new() }),
        ("Description", safe(&snapshot.description)),
        ("Tags", some(&snapshot.tags)),
        ("Pinned by", pins.join(", ")),
        ("Expires", if snapshot.expires == 0 { String::new() } else { watch.both(snapshot.expires) }),
        ("Content", format!("{}, {}", safe(&snapshot.content), safe(&snapshot.storage))),
        ("Consistency", consistency),
        ("", safe(&snapshot.consistency_note)),
        ("Frozen for", if snapshot.frozen == 0 { String::new() } else { duration(snapshot.frozen) }),
        ("Holds", known_size(snapshot.held)),
        ("Frees", known_size(snapshot.size)),
        ("Taken on top of", parent.unwrap_or_default()),
        ("Under", if children.is_empty() { String::new() } else { names(&children) }),
        ("Managed", if snapshot.managed { "yes" } else { "no" }.to_owned()),
        ("Taken by", if snapshot.managed { safe(&snapshot.origin) } else { "others".to_owned() }),
        ("Counts for", some(&all.policy_names(&snapshot.policies))),
        ("Branched off as", snapshot.branches.iter().map(|b| quoted(b)).collect::<Vec<_>>().join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::inventory::tests::sample;

    #[test]
    fn what_is_wrong_with_a_vm_is_shown_with_its_sizes_and_times() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(60).unwrap() };
        let all = sample();
        let db = all.vm("db").unwrap();
        let mut props = Vm::clone(db);
        props.stale = vec![(db.policies[0].clone(), 0), (db.policies[0].clone(), 30_000_000)];
        props.orphans = vec![("/i/a".into(), 1 << 20, 0), ("/i/b".into(), 0, 120_000_000)];
        props.forgotten = vec![("/i/c".into(), "s".into(), 1 << 30, 30_000_000)];
        let shown = facts(&of_vm(&Object::new(db.path.clone(), props), &all, &watch));
        for part in [
            "\"nightly\" is stale, it has no good snapshot yet\n",
            "\"nightly\" is stale, its newest good snapshot is of 1970-01-01 00:00:30 (30 s ago)\n",
            " /i/a (1 MiB)\n",
            " /i/b (-, removed 1970-01-01 00:02:00 (in 1 min))\n",
            " s inside /i/c, taken 1970-01-01 00:00:30 (30 s ago), 1 GiB of memory\n",
        ] {
            assert!(shown.contains(part), "{part:?}: {shown}");
        }
    }

    #[test]
    fn what_is_not_there_has_no_line_and_texts_of_others_are_harmless() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(60).unwrap() };
        let all = sample();
        let db = all.vm("db").unwrap();
        let text = facts(&of_vm(db, &all, &watch));
        assert!(text.starts_with("Name:          db\nUUID:          aaaa\n"), "{text}");
        assert!(text.contains("Snapshots:     2 snapshots, -\n") && !text.contains("Frozen"), "{text}");
        let first = all.snapshot(db, "first").unwrap();
        let mut props = Snapshot::clone(first);
        props.description = "a\u{1b}[2J".into();
        props.consistency = "crash".into();
        props.consistency_requested = "filesystem".into();
        props.consistency_note = "no agent".into();
        let shown = facts(&of_snapshot(&Object::new(first.path.clone(), props), db, &all, &watch));
        assert!(
            shown.contains("Consistency:  crash (asked for filesystem)\n              no agent\n"),
            "{shown}"
        );
        assert!(shown.contains("Description:  a\\u{1b}[2J\n") && !shown.contains("Branched"), "{shown}");
    }
}
