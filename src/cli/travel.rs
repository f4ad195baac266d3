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
    /// Whether the VM went on from it then, and had not been put back to another.
    on_line: bool,
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
    let on_line = on_line(all.snapshots(vm), to);
    let snapshot = on_line
        .or_else(|| newest(all.snapshots(vm), to))
        .ok_or_else(|| missing(&vm.name, all.snapshots(vm), to, &console.watch))?;
    let found = Found {
        to: rfc3339(to, &console.watch.zone),
        snapshot: view::Snapshot::new(snapshot, all.snapshots(vm), &all, &console.watch),
        off_usec: to - snapshot.created,
        on_line: on_line.is_some(),
    };
    let told = format!(
        "{}: the newest restore point before {}{} is snapshot {}, taken {} before that{}",
        safe(&vm.name),
        console.watch.local(to),
        if on_line.is_some() { " on the line that it was on" } else { "" },
        quoted(&snapshot.name),
        span(to - snapshot.created),
        passed_over(all.snapshots(vm), (snapshot, on_line.is_some()), to),
    );
    if args.dry_run {
        if console.json {
            console.answer(&found)?;
        } else {
            console.line(&told)?;
            console.line(&revert::costs(args.back, (&vm.name, &vm.state), snapshot))?;
        }
        return Ok(Exit::Done);
    }
    if !console.json {
        console.line(&told)?;
    }
    let question = revert::question(args.back, (&vm.name, &vm.state), snapshot, &console.watch);
    console.confirm(&question, args.consent.yes).await?;
    revert::put_back((vm, snapshot), args.back, &args.wait, found, bus, console).await
}

fn usec(at: Timestamp) -> u64 {
    u64::try_from(at.as_microsecond()).unwrap_or(0)
}

/// What the VM went on from at that time: what was taken next shows it, or where the VM is now. Another may have been taken
/// later, of a state that was left when the VM was put back.
fn on_line(all: &[Object<Snapshot>], to: u64) -> Option<&Object<Snapshot>> {
    let next = all.iter().filter(|s| s.created >= to).min_by_key(|s| s.created);
    let mut on = next.or_else(|| all.iter().find(|s| s.current));
    // Each once at the most, whatever they say of each other.
    for _ in all {
        let here = on?;
        if is_point(here, to) {
            return on;
        }
        on = all.iter().find(|s| s.path == here.parent);
    }
    None
}

fn newest(all: &[Object<Snapshot>], to: u64) -> Option<&Object<Snapshot>> {
    all.iter().filter(|s| is_point(s, to)).max_by_key(|s| s.created)
}

/// Only a ready one is a restore point.
fn is_point(snapshot: &Snapshot, to: u64) -> bool {
    snapshot.state == "ready" && snapshot.created != 0 && snapshot.created <= to
}

fn missing(vm: &str, all: &[Object<Snapshot>], to: u64, watch: &Watch) -> Failure {
    let oldest = all.iter().filter(|s| s.state == "ready" && s.created != 0).min_by_key(|s| s.created);
    let oldest = oldest.map_or_else(
        || "it has none at all".to_owned(),
        |s| format!("its oldest is snapshot {}, taken {}", quoted(&s.name), watch.both(s.created)),
    );
    Failure::NotFound {
        what: format!("VM {vm:?} has no restore point before {}; {oldest}", watch.local(to)),
        look: ("list VM --timeline", "shows its snapshots by their time"),
    }
}

/// Those that are nearer, and why they are not it.
fn passed_over(all: &[Object<Snapshot>], (chosen, on_line): (&Snapshot, bool), to: u64) -> String {
    let (left, unfit): (Vec<_>, Vec<_>) =
        all.iter().filter(|s| s.created > chosen.created && s.created <= to).partition(|s| is_point(s, to));
    let mut said = Vec::new();
    if !on_line {
        said.push("; none is left of the line that it was on then".to_owned());
    }
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(|s| quoted(&s.name)).collect();
        said.push(format!("; passed over, as the VM had been put back from there: {}", names.join(", ")));
    }
    if !unfit.is_empty() {
        let names: Vec<_> =
            unfit.iter().map(|s| format!("{} ({})", quoted(&s.name), safe(&s.state))).collect();
        said.push(format!("; passed over, as no restore points: {}", names.join(", ")));
    }
    said.concat()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::cli::inventory::tests::path;

    fn taken(name: &str, at: u64, state: &str) -> Object<Snapshot> {
        let props = Snapshot { name: name.into(), created: at, state: state.into(), ..Snapshot::default() };
        Object::new(path(&format!("/{name}")), props)
    }

    /// By their names, times, states and parents; the last is the current one.
    fn tree(all: &[(&str, u64, &str, &str)]) -> Vec<Object<Snapshot>> {
        let last = all.len() - 1;
        let one = |(n, (name, at, state, parent)): (usize, &(&str, u64, &str, &str))| {
            let props = (*taken(name, *at, state)).clone();
            let props = Snapshot { parent: path(&format!("/{parent}")), current: n == last, ..props };
            Object::new(path(&format!("/{name}")), props)
        };
        all.iter().enumerate().map(one).collect()
    }

    #[test]
    fn it_is_the_newest_that_can_be_restored_and_is_no_newer() {
        let all = tree(&[
            ("a", 10, "ready", ""),
            ("b", 20, "ready", "a"),
            ("c", 30, "failed", "b"),
            ("d", 40, "ready", "c"),
        ]);
        for find in [newest, on_line] {
            let name = |to| find(&all, to).map(|s| s.name.as_str());
            assert_eq!(
                [name(9), name(10), name(20), name(39), name(99)],
                [None, Some("a"), Some("b"), Some("b"), Some("d")]
            );
        }
        let over = |chosen: &Snapshot, to| passed_over(&all, (chosen, true), to);
        assert_eq!(over(&all[1], 39), "; passed over, as no restore points: \"c\" (failed)");
        assert_eq!(over(&all[1], 29), "");
    }

    #[test]
    fn what_was_left_when_the_vm_was_put_back_is_not_where_it_was_afterwards() {
        // Put back to a at 30.
        let all = tree(&[("b", 20, "ready", "a"), ("safety", 30, "ready", "b"), ("a", 10, "ready", "")]);
        let name = |to| on_line(&all, to).map(|s| s.name.as_str());
        assert_eq!([name(25), name(30), name(35)], [Some("b"), Some("safety"), Some("a")]);
        assert_eq!(
            passed_over(&all, (&all[2], true), 35),
            "; passed over, as the VM had been put back from there: \"b\", \"safety\""
        );
        // The same after more was taken.
        let all = tree(&[
            ("a", 10, "ready", ""),
            ("b", 20, "ready", "a"),
            ("safety", 30, "ready", "b"),
            ("c", 40, "ready", "a"),
        ]);
        assert_eq!(on_line(&all, 35).unwrap().name, "a");
        // Of that line nothing is left.
        let all = tree(&[("b", 20, "ready", ""), ("c", 40, "ready", "")]);
        assert!(on_line(&all, 35).is_none());
        let fallen = newest(&all, 35).unwrap();
        assert_eq!(fallen.name, "b");
        assert!(passed_over(&all, (fallen, false), 35).starts_with("; none is left of the line"));
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
