//! `virtsnap time-travel`: puts a VM back to what it was at a time, as near as there is a restore point.

use jiff::Timestamp;
use serde::Serialize;
use zbus::Connection;

use super::{
    args::TimeTravel,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    props::Snapshot,
    render::{Watch, quoted, rfc3339, safe, span},
    revert, view, when,
};

/// What is known before the VM is put back.
#[derive(Serialize)]
struct Found<'a> {
    /// The time that was asked for.
    to: Option<String>,
    snapshot: view::Snapshot<'a>,
    /// How much earlier than that the snapshot was taken.
    off_usec: u64,
}

/// Finds the restore point, says how far off it is, asks, and reverts to it.
pub(super) async fn time_travel(
    args: &TimeTravel,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let to = usec(when::past("to", &args.to, &console.watch)?);
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = newest(all.snapshots(vm), to)
        .ok_or_else(|| missing(&vm.name, all.snapshots(vm), to, &console.watch))?;
    let found = Found {
        to: rfc3339(to, &console.watch.zone),
        snapshot: view::Snapshot::new(snapshot, all.snapshots(vm), &all, &console.watch),
        off_usec: to - snapshot.created,
    };
    let told = format!(
        "{}: the newest restore point before {} is snapshot {}, taken {} before that{}",
        safe(&vm.name),
        console.watch.local(to),
        quoted(&snapshot.name),
        span(to - snapshot.created),
        passed_over(all.snapshots(vm), snapshot, to),
    );
    let question = revert::question(args.back, (&vm.name, &vm.state), snapshot, &console.watch);
    if args.dry_run {
        if console.json {
            console.answer(&found)?;
        } else {
            console.line(&told)?;
            console.line(&question)?;
        }
        return Ok(Exit::Done);
    }
    if !console.json {
        console.line(&told)?;
    }
    console.confirm(&question, args.consent.yes)?;
    revert::put_back((vm, snapshot), args.back, &args.wait, found, bus, console).await
}

fn usec(at: Timestamp) -> u64 {
    u64::try_from(at.as_microsecond()).unwrap_or(0)
}

/// Only a ready one is a restore point.
fn newest(all: &[Object<Snapshot>], to: u64) -> Option<&Object<Snapshot>> {
    all.iter().filter(|s| s.state == "ready" && s.created != 0 && s.created <= to).max_by_key(|s| s.created)
}

fn missing(vm: &str, all: &[Object<Snapshot>], to: u64, watch: &Watch) -> Failure {
    let oldest = all.iter().filter(|s| s.state == "ready" && s.created != 0).min_by_key(|s| s.created);
    let oldest = oldest.map_or_else(
        || "it has none at all".to_owned(),
        |s| format!("its oldest is snapshot {}, taken {}", quoted(&s.name), watch.both(s.created)),
    );
    Failure::NotFound {
        what: format!("VM {vm:?} has no restore point before {}; {oldest}", watch.local(to)),
        hint: "`virtsnap list VM --timeline` shows its snapshots by their time",
    }
}

/// Those that are nearer, and no restore points.
fn passed_over(all: &[Object<Snapshot>], chosen: &Snapshot, to: u64) -> String {
    let nearer = all.iter().filter(|s| s.created > chosen.created && s.created <= to);
    let names: Vec<_> = nearer.map(|s| format!("{} ({})", quoted(&s.name), safe(&s.state))).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("; passed over, as no restore points: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::cli::inventory::tests::path;

    fn taken(name: &str, at: u64, state: &str) -> Object<Snapshot> {
        let props = Snapshot { name: name.into(), created: at, state: state.into(), ..Snapshot::default() };
        Object::new(path("/s"), props)
    }

    #[test]
    fn it_is_the_newest_that_can_be_restored_and_is_no_newer() {
        let all = [
            taken("a", 10, "ready"),
            taken("b", 20, "ready"),
            taken("c", 30, "failed"),
            taken("d", 40, "ready"),
        ];
        let name = |to| newest(&all, to).map(|s| s.name.as_str());
        assert_eq!(
            [name(9), name(10), name(20), name(39), name(99)],
            [None, Some("a"), Some("b"), Some("b"), Some("d")]
        );
        assert_eq!(passed_over(&all, &all[1], 39), "; passed over, as no restore points: \"c\" (failed)");
        assert_eq!(passed_over(&all, &all[1], 29), "");
    }

    #[test]
    fn where_there_is_none_the_oldest_is_named() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(7_200).unwrap() };
        let all = [taken("a", 3_600_000_000, "ready")];
        assert_eq!(
            missing("db", &all, 1_800_000_000, &watch).to_string(),
            "VM \"db\" has no restore point before 1970-01-01 00:30:00; its oldest is snapshot \"a\", taken \
             1970-01-01 01:00:00 (1 h ago)"
        );
        assert!(missing("db", &[], 1, &watch).to_string().ends_with("it has none at all"));
    }
}
