//! `virtsnap list VM --timeline`: the way back, the newest first, and what becomes of each point of it: in a prune now, and
//! after the next run of each policy. The daemon decides both.

use serde::Serialize;
use zbus::Connection;

use super::{
    console::Console,
    exit::{Exit, Failure},
    foresee::{self, Foreseen},
    inventory::{Inventory, Object},
    list::orphans,
    pin,
    props::{Policy, Snapshot, Vm},
    proxy::Options,
    prune::{self, Verdict},
    render::{Column, Watch, cell, count, known_size, names, quoted, rfc3339, safe, table},
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
    /// What a prune does with it now.
    next: Option<&'a Verdict>,
    /// The run that it goes at, if it goes at the next one of any policy.
    goes: Option<Goes<'a>>,
}

/// A run to come that a snapshot goes at.
#[derive(Debug, Clone, Copy)]
struct Going<'a> {
    policy: &'a str,
    /// In µs.
    at: u64,
    verdict: &'a Verdict,
}

#[derive(Serialize)]
struct Goes<'a> {
    policy: &'a str,
    at: Option<String>,
    verdict: &'a Verdict,
}

impl<'a> Going<'a> {
    /// The first of the runs to come that lets go of it.
    fn first(snapshot: &Object<Snapshot>, runs: &'a [(&Object<Policy>, Foreseen)]) -> Option<Self> {
        let of = |(policy, run): &'a (&Object<Policy>, Foreseen)| {
            let verdict = run.verdicts.iter().find(|v| v.is_of(&snapshot.path)).filter(|v| !v.keep)?;
            Some(Self { policy: &policy.name, at: run.next_run, verdict })
        };
        runs.iter().filter_map(of).min_by_key(|going| going.at)
    }

    /// `goes at the next run of minute (2026-11-23 16:44:00, in 58 s): no keep rule of policy minute wants it.`
    fn text(&self, watch: &Watch) -> String {
        let (at, from_now) = (watch.local(self.at), watch.relative(self.at));
        let why = self.verdict.why();
        let why = why.strip_prefix("Goes: ").unwrap_or(&why);
        format!("goes at the next run of {} ({at}, {from_now}): {why}", safe(self.policy))
    }

    fn json(&self, watch: &Watch) -> Goes<'a> {
        Goes { policy: self.policy, at: rfc3339(self.at, &watch.zone), verdict: self.verdict }
    }
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
    let runs = runs(vm, all, bus, console).await?;
    let of = |s: &Object<Snapshot>| verdicts.iter().find(|verdict| verdict.is_of(&s.path));
    if console.json {
        let siblings = all.snapshots(vm);
        let points = shown.iter().rev().map(|s| Point {
            snapshot: view::Snapshot::new(s, siblings, all, &console.watch),
            next: of(s),
            goes: Going::first(s, &runs).map(|going| going.json(&console.watch)),
        });
        let snapshots = points.collect();
        return console.answer(&Timeline { vm: view::Vm::new(vm, all, &console.watch), snapshots });
    }
    if shown.is_empty() {
        console.remark(&format!("VM {} has no such snapshot", quoted(&vm.name)));
        return orphans(vm, console);
    }
    let rows = shown.iter().rev();
    let rows = rows.map(|s| row(s, of(s), Going::first(s, &runs), all, &console.watch)).collect();
    console.print(&table(&COLUMNS, rows))?;
    let zone = console.watch.zone.iana_name().unwrap_or("the local zone").to_owned();
    let next = match all.next_run(vm) {
        0 => "no run is due".to_owned(),
        at => format!("the next run is due {}", console.watch.both(at)),
    };
    console.line(&format!("{}, times in {}; {next}", count(shown.len(), "snapshot"), safe(&zone)))?;
    orphans(vm, console)
}

/// What the next run of each policy comes to that is due on the VM.
async fn runs<'a>(
    vm: &Object<Vm>,
    all: &'a Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Vec<(&'a Object<Policy>, Foreseen)>, Failure> {
    let mut runs = Vec::new();
    for policy in all.policies().iter().filter(|p| vm.policies.contains(&p.path) && p.next_run != 0) {
        match foresee::next_run(policy, vm, all, bus).await {
            Ok(run) => runs.extend(run.map(|run| (policy, run))),
            Err(failure) if failure.exit() == Exit::Unreachable => return Err(failure),
            // Out of the configuration since, or asked of a daemon that does not know of it: the rest holds all the same.
            Err(failure) => console.warning(&format!(
                "what goes at the next run of policy {} cannot be told: {failure}",
                quoted(&policy.name)
            )),
        }
    }
    Ok(runs)
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
    going: Option<Going<'_>>,
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
        next(snapshot, verdict, going, watch),
    ]
}

/// What becomes of it: who holds it, when its own time is over, at which run it goes, or what a prune does with it now, and
/// why.
fn next(snapshot: &Snapshot, verdict: Option<&Verdict>, going: Option<Going<'_>>, watch: &Watch) -> String {
    let pins = pin::pins(snapshot, watch);
    let mut all: Vec<String> = Vec::new();
    all.extend((!pins.is_empty()).then(|| format!("pinned by {}", pins.join(", "))));
    match (verdict, going) {
        (Some(verdict), _) if !verdict.keep => {
            all.push(format!("the next prune deletes it. {}", verdict.why()));
        }
        (_, Some(going)) => all.push(going.text(watch)),
        (Some(verdict), None) if pins.is_empty() => all.push(verdict.why()),
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
        assert_eq!(next(&snapshot, Some(&stays), None, &watch), format!("Stays: keep-last; {over}"));
        let going = Some(Going { policy: "minute", at: 3_658_000_000, verdict: &goes });
        assert_eq!(
            next(&snapshot, Some(&stays), going, &watch),
            format!("goes at the next run of minute (1970-01-01 01:00:58, in 58 s): max-age; {over}")
        );
        for going in [None, going] {
            assert_eq!(
                next(&snapshot, Some(&goes), going, &watch),
                format!("the next prune deletes it. Goes: max-age; {over}")
            );
        }
        snapshot.pins = vec![("audit".into(), "root".into(), 0)];
        assert_eq!(next(&snapshot, Some(&stays), None, &watch), format!("pinned by root: audit; {over}"));
        assert_eq!(next(&Snapshot::default(), None, None, &watch), "-");
        let all = sample();
        let of_db = all.snapshots(all.vm("db").unwrap());
        let shown = row(&of_db[0], Some(&stays), None, &all, &watch);
        assert_eq!(shown[1..4], ["59 min ago", "first", "nightly"]);
    }
}
