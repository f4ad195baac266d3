//! `virtsnap list VM --timeline`: the way back, the newest first, and what becomes of each point of it.

use serde::Serialize;
use zbus::Connection;

use super::{
    console::Console,
    exit::Failure,
    inventory::{Inventory, Object},
    list::orphans,
    pin,
    props::{Snapshot, Vm},
    proxy::Options,
    prune::{self, Verdict},
    render::{Column, Watch, cell, count, known_size, names, quoted, safe, table},
    view,
};

#[derive(Serialize)]
struct Timeline<'a> {
    vm: view::Vm<'a>,
    snapshots: Vec<Point<'a>>,
}

#[derive(Serialize)]
struct Point<'a> {
    #[serde(flatten)]
    snapshot: view::Snapshot<'a>,
    /// What the next prune does with it.
    next: Option<&'a Verdict>,
}

/// Shows those of a VM's snapshots that were asked for.
pub(super) async fn timeline(
    vm: &Object<Vm>,
    shown: &[&Object<Snapshot>],
    all: &Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let verdicts = prune::preview(vm, bus, Options::new()).await?;
    let of = |s: &Object<Snapshot>| verdicts.iter().find(|verdict| verdict.is_of(&s.path));
    if console.json {
        let siblings = all.snapshots(vm);
        let points = shown
            .iter()
            .rev()
            .map(|s| Point { snapshot: view::Snapshot::new(s, siblings, all, &console.watch), next: of(s) });
        let snapshots = points.collect();
        return console.answer(&Timeline { vm: view::Vm::new(vm, all, &console.watch), snapshots });
    }
    if shown.is_empty() {
        console.remark(&format!("VM {} has no such snapshot", quoted(&vm.name)));
        return orphans(vm, console);
    }
    let rows = shown.iter().rev().map(|s| row(s, of(s), all, &console.watch)).collect();
    console.print(&table(&COLUMNS, rows))?;
    let zone = console.watch.zone.iana_name().unwrap_or("the local zone").to_owned();
    let next = match all.next_run(vm) {
        0 => "no run is due".to_owned(),
        at => format!("the next run is due {}", console.watch.both(at)),
    };
    console.line(&format!("{}, times in {}; {next}", count(shown.len(), "snapshot"), safe(&zone)))?;
    orphans(vm, console)
}

const COLUMNS: [Column; 7] = [
    Column::Left("WHEN"),
    Column::Left("AGE"),
    Column::Left("NAME"),
    Column::Left("FOR"),
    Column::Left("CONSISTENCY"),
    Column::Right("HOLDS"),
    Column::Left("NEXT"),
];

fn row(
    snapshot: &Object<Snapshot>,
    verdict: Option<&Verdict>,
    all: &Inventory,
    watch: &Watch,
) -> Vec<String> {
    let policies = all.policy_names(&snapshot.policies);
    let usable = snapshot.state == "ready";
    vec![
        watch.local(snapshot.created),
        watch.relative(snapshot.created),
        cell(&snapshot.name),
        if policies.is_empty() { cell(&snapshot.origin) } else { names(&policies) },
        cell(if usable { &snapshot.consistency } else { &snapshot.state }),
        known_size(snapshot.held),
        next(snapshot, verdict, watch),
    ]
}

/// What becomes of it: who holds it, when its own time is over, or what the next prune does with it and why.
fn next(snapshot: &Snapshot, verdict: Option<&Verdict>, watch: &Watch) -> String {
    let pins = pin::pins(snapshot, watch);
    let mut all: Vec<String> = Vec::new();
    all.extend((!pins.is_empty()).then(|| format!("pinned by {}", pins.join(", "))));
    match verdict {
        Some(verdict) if !verdict.keep => all.push(format!("the next prune deletes it. {}", verdict.why())),
        Some(verdict) if pins.is_empty() => all.push(verdict.why()),
        _ => {}
    }
    if snapshot.expires != 0 {
        all.push(format!("expires {}", watch.both(snapshot.expires)));
    }
    // What follows a sentence goes on from it.
    cell(&all.join("; ").replace(".; ", "; "))
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::inventory::tests::{path, sample};

    fn verdict(keep: bool, text: &str) -> Verdict {
        (path("/vm/1/s/a"), "first".to_owned(), keep, vec![], text.to_owned()).into()
    }

    #[test]
    fn each_point_says_what_becomes_of_it() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(3_600).unwrap() };
        let mut snapshot = Snapshot { expires: 7_200_000_000, ..Snapshot::default() };
        let (stays, goes) = (verdict(true, "Stays: keep-last."), verdict(false, "Goes: max-age."));
        let over = "expires 1970-01-01 02:00:00 (in 1 h)";
        assert_eq!(next(&snapshot, Some(&stays), &watch), format!("Stays: keep-last; {over}"));
        assert_eq!(
            next(&snapshot, Some(&goes), &watch),
            format!("the next prune deletes it. Goes: max-age; {over}")
        );
        snapshot.pins = vec![("audit".into(), "root".into(), 0)];
        assert_eq!(next(&snapshot, Some(&stays), &watch), format!("pinned by root: audit; {over}"));
        assert_eq!(next(&Snapshot::default(), None, &watch), "-");
        let all = sample();
        let of_db = all.snapshots(all.vm("db").unwrap());
        let shown = row(&of_db[0], Some(&stays), &all, &watch);
        assert_eq!(shown[1..4], ["59 min ago", "first", "nightly"]);
    }
}
