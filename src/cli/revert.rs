//! `virtsnap revert`: puts a VM back to a snapshot, after a word on what that costs.

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::{
    args::{After, Back, Revert, Wait},
    console::Console,
    exit::{Exit, Failure},
    follow::{self, Ended},
    inventory::{Inventory, Object},
    props::{self, Snapshot, Vm},
    proxy::{Options, SnapshotProxy},
    render::{Watch, quoted, safe},
    view,
};

/// The answer for scripts; `Before` is what a verb has to say before it.
#[derive(Serialize)]
struct Reverted<'a, Before> {
    #[serde(flatten)]
    before: Before,
    job: view::Job<'a>,
    /// What was taken before it.
    safety: Option<view::Snapshot<'a>>,
}

/// Nothing to say before.
#[derive(Serialize)]
struct Nothing {}

/// Reverts a VM.
pub(super) async fn revert(
    args: &Revert,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let question = question(args.back, (&vm.name, &vm.state), snapshot, &console.watch);
    console.confirm(&question, args.consent.yes).await?;
    put_back((vm, snapshot), args.back, &args.wait, Nothing {}, bus, console).await
}

/// Puts a VM back, and says how that ended.
pub(super) async fn put_back(
    (vm, snapshot): (&Object<Vm>, &Object<Snapshot>),
    back: Back,
    wait: &Wait,
    before: impl Serialize,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let job = SnapshotProxy::new(bus, &snapshot.path).await?.revert(options(back)).await?;
    if wait.no_wait && console.json {
        return answer(before, &job, &vm.path, None, bus, console).await.map(|()| Exit::Done);
    }
    let ended = match follow::one(&job, wait, bus, console).await? {
        ControlFlow::Continue(ended) => ended,
        ControlFlow::Break(exit) => return Ok(exit),
    };
    let name = quoted(&snapshot.name);
    if console.json {
        let safety = if let Ended::Done(safety) = &ended { safety.as_ref() } else { None };
        answer(before, &job, &vm.path, safety, bus, console).await?;
    } else if let Ended::Done(safety) = &ended {
        let way_back = way_back(safety.as_ref(), bus).await?;
        console.line(&format!("{}: reverted to snapshot {name}{way_back}", safe(&vm.name)))?;
    }
    ended.report(&format!("{} was not reverted to snapshot {name}", quoted(&vm.name)), console);
    Ok(ended.exit())
}

/// `; the way back is snapshot "before-…"`
pub(super) async fn way_back(safety: Option<&OwnedObjectPath>, bus: &Connection) -> Result<String, Failure> {
    let Some(path) = safety else { return Ok(String::new()) };
    let safety: Snapshot = props::read(bus, path).await?;
    Ok(format!("; the way back is snapshot {}", quoted(&safety.name)))
}

/// The job, and the way back.
async fn answer(
    before: impl Serialize,
    job: &OwnedObjectPath,
    vm: &OwnedObjectPath,
    safety: Option<&OwnedObjectPath>,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let job = follow::read(job, bus).await?;
    let all = Inventory::fetch(bus).await?;
    let safety = safety.and_then(|path| all.snapshot_at(vm, path));
    let reverted = Reverted {
        before,
        job: view::Job::new(&job, &console.watch),
        safety: safety.map(|(s, siblings)| view::Snapshot::new(s, siblings, &all, &console.watch)),
    };
    console.answer(&reverted)
}

fn options(back: Back) -> Options<'static> {
    let mut options = Options::new();
    let After { start, paused, off } = back.then;
    for (wanted, word) in [(start, "running"), (paused, "paused"), (off, "shut-off")] {
        if wanted {
            options.insert("state", word.into());
        }
    }
    if back.keep_definition {
        options.insert("definition", "keep".into());
    }
    if back.no_safety {
        options.insert("safety", false.into());
    }
    options
}

/// What it costs, and then the question, which is what stands before the answer.
pub(super) fn question(back: Back, vm: (&str, &str), snapshot: &Snapshot, watch: &Watch) -> String {
    let (taken, name) = (watch.both(snapshot.created), quoted(&snapshot.name));
    format!("{}\nRevert {} to snapshot {name}, taken {taken}?", costs(back, vm, snapshot), quoted(vm.0))
}

/// What is lost and what is the way back, and what happens to the VM.
pub(super) fn costs(back: Back, (vm, state): (&str, &str), snapshot: &Snapshot) -> String {
    let mut said = vec![if back.no_safety {
        format!(
            "Everything written to the disks of {} since the last snapshot is LOST, as none is taken first.",
            quoted(vm)
        )
    } else {
        let like: String = snapshot.name.replace(['{', '}'], "_");
        format!(
            "What the disks of {} hold now is kept in a new snapshot, \"before-revert-{}-(time)\", and can be reverted \
             to.",
            quoted(vm),
            safe(&like)
        )
    }];
    if state != "shut-off" {
        said.push("It is stopped, as if the plug was pulled.".to_owned());
    }
    if snapshot.content == "full" && !back.then.off {
        said.push("Then it goes on where it was when the snapshot was taken, from its memory.".to_owned());
    }
    if !snapshot.consistency_note.is_empty() {
        said.push(format!("What is known of the snapshot: {}.", safe(&snapshot.consistency_note)));
    }
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use jiff::{Timestamp, tz::TimeZone};
    use zbus::Variant;

    use super::*;
    use crate::cli::args::{Cli, Verb};

    fn parsed(args: &[&str]) -> Back {
        match Cli::try_parse_from([&["virtsnap", "revert", "db", "s"], args].concat()).unwrap().verb {
            Verb::Revert(revert) => revert.back,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert!(options(parsed(&["--yes"])).is_empty());
        for (flag, word) in [("--start", "running"), ("--paused", "paused"), ("--off", "shut-off")] {
            assert_eq!(options(parsed(&[flag]))["state"], Variant::from(word));
        }
        let args = parsed(&["--keep-definition", "--no-safety"]);
        assert_eq!(options(args)["definition"], Variant::from("keep"));
        assert_eq!(options(args)["safety"], Variant::from(false));
        assert!(Cli::try_parse_from(["virtsnap", "revert", "db", "s", "--start", "--off"]).is_err());
    }

    #[test]
    fn what_is_lost_and_what_is_the_way_back_come_first_and_the_question_last() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(7_200).unwrap() };
        let snapshot = Snapshot { name: "good".into(), created: 3_600_000_000, ..Snapshot::default() };
        assert_eq!(
            question(parsed(&[]), ("db", "running"), &snapshot, &watch),
            "What the disks of \"db\" hold now is kept in a new snapshot, \"before-revert-good-(time)\", and can be \
             reverted to. It is stopped, as if the plug was pulled.\nRevert \"db\" to snapshot \"good\", taken \
             1970-01-01 01:00:00 (1 h ago)?"
        );
        let off = |args: &[&str], snapshot: &Snapshot| costs(parsed(args), ("db", "shut-off"), snapshot);
        let noted = Snapshot { consistency_note: "the TPM was not kept".into(), ..snapshot.clone() };
        let told = off(&[], &noted);
        assert!(told.ends_with(" to. What is known of the snapshot: the TPM was not kept."), "{told}");
        let with_memory = Snapshot { content: "full".into(), ..snapshot.clone() };
        assert!(off(&[], &with_memory).ends_with(" when the snapshot was taken, from its memory."));
        assert!(!off(&["--off"], &with_memory).contains("goes on"));
        let lost = off(&["--no-safety"], &snapshot);
        assert!(lost.contains("is LOST") && !lost.contains("plug"), "{lost}");
    }
}
