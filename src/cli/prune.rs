//! `virtsnap plan` and `virtsnap prune`: what no policy wants to keep, with the reason for each snapshot.
//!
//! Both ask the daemon's `PreviewPrune`, which is decided by the code that prunes; the client has no rules.

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::{
    args::{Plan, Prune},
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended},
    inventory::{Inventory, Object},
    pace,
    props::{Snapshot, Vm},
    proxy::{Options, RawVerdict, VMProxy},
    render::{self, NONE, Watch, cell, count, known_size, pasted, quoted, safe, size, table},
    view,
};

/// What a prune would do with one snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    name: String,
    object: OwnedObjectPath,
    pub(super) keep: bool,
    reasons: Vec<Reason>,
    text: String,
}

#[derive(Debug, Serialize)]
struct Reason {
    rule: String,
    policy: Option<String>,
    bucket: Option<String>,
}

#[derive(Serialize)]
struct Planned<'a> {
    name: &'a str,
    uuid: &'a str,
    object: &'a str,
    verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Plans<'a> {
    vms: Vec<Planned<'a>>,
    /// Of which it cannot be told.
    failed: Vec<Failed<'a>>,
}

#[derive(Serialize)]
struct Failed<'a> {
    name: &'a str,
    uuid: &'a str,
    error: String,
}

#[derive(Serialize)]
struct Pruned<'a> {
    job: Option<view::Job<'a>>,
    deleted: Vec<String>,
    verdicts: Vec<Verdict>,
}

impl From<RawVerdict> for Verdict {
    fn from((object, name, keep, reasons, text): RawVerdict) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let reasons = reasons
            .into_iter()
            .map(|(rule, policy, bucket)| Reason { rule, policy: some(policy), bucket: some(bucket) })
            .collect();
        Self { name, object, keep, reasons, text }
    }
}

impl Verdict {
    /// Whether it is about this one.
    pub(super) fn is_of(&self, snapshot: &OwnedObjectPath) -> bool {
        self.object == *snapshot
    }

    /// The daemon's sentence, or the rules if it has none.
    pub(super) fn why(&self) -> String {
        if self.text.is_empty() {
            cell(&self.reasons.iter().map(|r| r.rule.as_str()).collect::<Vec<_>>().join(", "))
        } else {
            safe(&self.text)
        }
    }
}

/// Shows the verdicts; changes nothing.
pub(super) async fn plan(args: &Plan, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = match &args.vm {
        None => Inventory::fetch(bus).await?,
        Some(vm) => Inventory::about(vm, bus).await?,
    };
    let vms: Vec<_> = match &args.vm {
        Some(vm) => vec![all.vm(vm)?],
        None => all.vms().iter().filter(|vm| !all.snapshots(vm).is_empty()).collect(),
    };
    let mut exit = Exit::Done;
    let (mut plans, mut failed) = (Vec::new(), Vec::new());
    for vm in vms {
        match preview(vm, bus, all_of(args.beyond_max_delete)).await {
            Ok(verdicts) => plans.push((vm, verdicts)),
            // What is wrong with one VM hides nothing of the others.
            Err(failure) if args.all && failure.exit() != Exit::Unreachable => {
                console.failure_in(&failure, &format!("{}: {failure}", quoted(&vm.name)));
                exit = failure.exit();
                failed.push(Failed { name: &vm.name, uuid: &vm.uuid, error: failure.to_string() });
            }
            Err(failure) => return Err(failure),
        }
    }
    if console.json {
        let planned = plans.into_iter().map(|(vm, verdicts)| Planned {
            name: &vm.name,
            uuid: &vm.uuid,
            object: vm.path.as_str(),
            verdicts,
        });
        console.answer(&Plans { vms: planned.collect(), failed })?;
        return Ok(exit);
    }
    for (i, (vm, verdicts)) in plans.iter().enumerate() {
        if i > 0 {
            console.line("")?;
        }
        let snapshots = all.snapshots(vm);
        if !verdicts.is_empty() {
            console.print(&verdict_table(&verdicts.iter().collect::<Vec<_>>(), snapshots, &console.watch))?;
        }
        console.line(&format!("{}: {}", safe(&vm.name), summary(verdicts, snapshots)))?;
    }
    Ok(exit)
}

/// Deletes what no policy wants to keep, after a look at what that is.
pub(super) async fn prune(
    args: &Prune,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let paced = pace::options(&args.pace, &console.watch, all_of(args.all))?;
    let verdicts = preview(vm, bus, all_of(args.all)).await?;
    let doomed: Vec<_> = verdicts.iter().filter(|v| !v.keep).collect();
    // With --all the daemon also learns that the clock is right, so it is asked even if nothing goes.
    if doomed.is_empty() && !args.all {
        let line = format!("{}: {}", safe(&vm.name), summary(&verdicts, all.snapshots(vm)));
        if console.json {
            console.answer(&Pruned { job: None, deleted: vec![], verdicts })?;
        } else {
            console.line(&line)?;
        }
        return Ok(Exit::Done);
    }
    if !args.consent.yes && !doomed.is_empty() {
        console.remark(verdict_table(&doomed, all.snapshots(vm), &console.watch).trim_end());
    }
    let question = if doomed.is_empty() {
        format!(
            "Nothing of {} is to be deleted now. Have the daemon take the clock, which shows {}, and what it knows of its \
             snapshots for right, so that later prunes go by that?",
            quoted(&vm.name),
            console.watch.now.to_zoned(console.watch.zone.clone()).strftime("%Y-%m-%d %H:%M:%S"),
        )
    } else {
        format!("Delete {} of {}?", count(doomed.len(), "snapshot"), quoted(&vm.name))
    };
    console.confirm(&question, args.consent.yes).await?;

    let job = VMProxy::new(bus, &vm.path).await?.prune(paced).await?;
    if args.wait.no_wait && console.json {
        let job = follow::read(&job, bus).await?;
        let shown = view::Job::new(&job, &console.watch);
        console.answer(&Pruned { job: Some(shown), deleted: vec![], verdicts })?;
        return Ok(Exit::Done);
    }
    let ended = match follow::one(&job, &args.wait, bus, console).await? {
        ControlFlow::Continue(ended) => ended,
        ControlFlow::Break(exit) => return Ok(exit),
    };

    // Not what was planned but what is gone: a limit or a failure may have left some of it.
    let after = Inventory::fetch(bus).await?;
    let is_left =
        |v: &Verdict| after.vms().iter().any(|vm| after.snapshots(vm).iter().any(|s| s.path == v.object));
    let (left, deleted): (Vec<_>, Vec<_>) = doomed.into_iter().partition(|v| is_left(v));
    let (left, deleted) = (left.len(), deleted.into_iter().map(|v| v.name.clone()).collect::<Vec<_>>());
    if console.json {
        let job = follow::read(&job, bus).await?;
        let shown = view::Job::new(&job, &console.watch);
        console.answer(&Pruned { job: Some(shown), deleted, verdicts })?;
    } else {
        console.line(&format!("{}: {} deleted", safe(&vm.name), count(deleted.len(), "snapshot")))?;
        if left > 0 && !args.all && matches!(ended, Ended::Done(_)) {
            let left = count(left, "snapshot");
            let all = console.place.virtsnap(&format!("prune {} --all", pasted(&vm.name)));
            console.line(&format!("{left} more to delete; {all} goes beyond max-delete"))?;
        }
    }
    ended.report(&format!("pruning {} was not finished", quoted(&vm.name)), console);
    Ok(ended.exit())
}

/// Beyond `max-delete`, or not.
fn all_of<'a>(all: bool) -> Options<'a> {
    if all { Options::from([("all", true.into())]) } else { Options::new() }
}

/// What a prune would do.
pub(super) async fn preview(
    vm: &Object<Vm>,
    bus: &Connection,
    options: Options<'_>,
) -> Result<Vec<Verdict>, Failure> {
    let verdicts = VMProxy::new(bus, &vm.path).await?.preview_prune(options).await?;
    Ok(verdicts.into_iter().map(Verdict::from).collect())
}

pub(super) fn verdict_table(verdicts: &[&Verdict], snapshots: &[Object<Snapshot>], watch: &Watch) -> String {
    let rows = verdicts.iter().map(|verdict| {
        let snapshot = snapshots.iter().find(|s| s.path == verdict.object);
        vec![
            render::verdict(verdict.keep).to_owned(),
            cell(&verdict.name),
            snapshot.map_or_else(|| NONE.to_owned(), |s| watch.both(s.created)),
            snapshot.map_or_else(|| NONE.to_owned(), |s| known_size(s.size)),
            verdict.why(),
        ]
    });
    table(&render::VERDICTS, rows.collect())
}

/// `2 of 14 snapshots to delete, about 1.5 GiB`
fn summary(verdicts: &[Verdict], snapshots: &[Object<Snapshot>]) -> String {
    let all = count(verdicts.len(), "snapshot");
    let doomed: Vec<_> = verdicts.iter().filter(|v| !v.keep).collect();
    if doomed.is_empty() {
        return format!("nothing to delete of {all}");
    }
    let freed = snapshots.iter().filter(|s| doomed.iter().any(|v| v.object == s.path)).map(|s| s.size).sum();
    format!("{} of {all} to delete, about {}", doomed.len(), size(freed))
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::inventory::tests::{path, sample};

    fn verdict(object: &str, keep: bool, text: &str) -> Verdict {
        let reasons = vec![("keep-last".to_owned(), "nightly".to_owned(), String::new())];
        (path(object), "first".to_owned(), keep, reasons, text.to_owned()).into()
    }

    #[test]
    fn the_summary_counts_what_would_go() {
        let all = sample();
        let of_db = all.snapshots(all.vm("db").unwrap());
        let both = [verdict("/vm/1/s/a", false, ""), verdict("/vm/1/s/b", true, "")];
        assert_eq!(summary(&both, of_db), "1 of 2 snapshots to delete, about 0 B");
        assert_eq!(summary(&both[1..], of_db), "nothing to delete of 1 snapshot");
    }

    #[test]
    fn every_verdict_has_its_reason() {
        let all = sample();
        let of_db = all.snapshots(all.vm("db").unwrap());
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH };
        let (told, bare) = (verdict("/vm/1/s/a", false, "over max-count"), verdict("/gone", true, ""));
        let text = verdict_table(&[&told, &bare], of_db, &watch);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("delete ") && lines[1].ends_with("over max-count"), "{text}");
        assert!(lines[2].starts_with("keep ") && lines[2].ends_with("keep-last"), "{text}");
    }

    #[test]
    fn json_has_null_for_a_rule_that_belongs_to_no_policy_or_bucket() {
        let shown = serde_json::to_value(verdict("/a", true, "x")).unwrap();
        assert_eq!(shown["object"], "/a");
        assert_eq!(shown["reasons"][0]["policy"], "nightly");
        assert!(shown["reasons"][0]["bucket"].is_null());
    }
}
