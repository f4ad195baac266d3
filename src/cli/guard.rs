//! `virtsnap guard`: a command with a way back. A snapshot is taken, the command is run, and if it fails the VM is put back.
//!
//! What it says goes to standard error: standard output is the command's.

mod command;
mod point;

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use self::command::{Signals, Unfit};
use super::{
    args::Guard,
    console::Console,
    exit::{Exit, Failure, hint_for},
    follow::{self, Ended},
    inventory::{Inventory, Object},
    props::{Snapshot, Vm},
    proxy::{Options, SnapshotProxy},
    render::{pasted, quoted, safe},
    revert, view,
};

#[derive(Serialize)]
struct Guarded<'a> {
    vm: &'a str,
    command: Vec<String>,
    exit_status: u8,
    /// The signal that the client got, if it got one.
    signal: Option<&'static str>,
    rolled_back: bool,
    snapshot: Option<view::Snapshot<'a>>,
    /// What was taken before the VM was put back.
    safety: Option<view::Snapshot<'a>>,
}

/// Runs a command, and puts the VM back if it fails.
pub(super) async fn guard(
    args: &Guard,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    // First, so that nothing is done for what cannot be run.
    let program = match command::find(&args.command[0]) {
        Ok(program) => program,
        Err(unfit) => return Ok(unfit_exit(args, unfit, console)),
    };
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let point = match point::take(args, vm, bus, console).await {
        Ok(ControlFlow::Continue(point)) => point,
        Ok(ControlFlow::Break(exit)) => {
            console.warning("the command was not run");
            return Ok(exit);
        }
        Err(failure) => {
            console.failure(&failure);
            console.warning("the command was not run");
            return Ok(failure.exit());
        }
    };
    console.flush()?;
    let ended = async { command::run(&program, &args.command, &mut Signals::catch()?).await };
    let ended = match ended.await {
        Ok(ended) => ended,
        Err(error) => {
            console.error(&format!("{} could not be run: {error}", quoted(&point::shown(args))), None);
            done_with(&point, bus, console).await;
            return Ok(Exit::OfCommand(Unfit::NotExecutable.code()));
        }
    };
    let what = format!("{} {}", quoted(&point::shown(args)), ended.how());
    let (mut exit, mut safety, mut back) = (Exit::OfCommand(ended.code()), None, false);
    if ended.well() {
        done_with(&point, bus, console).await;
    } else if args.no_rollback {
        let hint = format!("`{}` goes back", by_hand(vm, &point));
        console.error(&format!("{what}; {} was left as it is", quoted(&vm.name)), Some(&hint));
        done_with(&point, bus, console).await;
    } else {
        match roll_back(vm, &point, bus, console).await {
            Ok(made) => {
                back = true;
                let way_back = revert::way_back(made.as_ref(), bus).await.unwrap_or_default();
                console.error(
                    &format!(
                        "{what}; {} was put back to snapshot {}{way_back}",
                        quoted(&vm.name),
                        quoted(&point.name)
                    ),
                    None,
                );
                safety = made;
                done_with(&point, bus, console).await;
            }
            Err((why, hint)) => {
                exit = Exit::NotRolledBack;
                not_rolled_back((&what, &why, hint), vm, &point, console);
            }
        }
    }
    if console.json {
        let all = Inventory::fetch(bus).await?;
        let shown = |path: &OwnedObjectPath| {
            let (one, siblings) = all.snapshot_at(&vm.path, path)?;
            Some(view::Snapshot::new(one, siblings, &all, &console.watch))
        };
        let guarded = Guarded {
            vm: &vm.name,
            command: args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            exit_status: ended.code(),
            signal: ended.told.map(nix::sys::signal::Signal::as_str),
            rolled_back: back,
            snapshot: shown(&point.path),
            safety: safety.as_ref().and_then(shown),
        };
        console.answer(&guarded)?;
    }
    Ok(exit)
}

fn unfit_exit(args: &Guard, unfit: Unfit, console: &mut Console<'_>) -> Exit {
    let name = quoted(&args.command[0].to_string_lossy());
    console.error(&format!("{name}: {}; nothing was done", unfit.why()), None);
    Exit::OfCommand(unfit.code())
}

/// The snapshot is as any other from here on. If that cannot be had, the command's end is told all the same.
async fn done_with(point: &Object<Snapshot>, bus: &Connection, console: &mut Console<'_>) {
    if let Err(failure) = point::let_go(point, bus).await {
        console.warning(&format!("snapshot {} is still pinned: {failure}", quoted(&point.name)));
    }
}

/// Puts the VM back, with the power state that it had; what was taken before that. Else why not, and a hint.
async fn roll_back(
    vm: &Object<Vm>,
    point: &Object<Snapshot>,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Option<OwnedObjectPath>, (String, Option<&'static str>)> {
    let failed = |failure: Failure| (failure.to_string(), failure.hint());
    let begun = async {
        let job = SnapshotProxy::new(bus, &point.path).await?.revert(state(vm)).await?;
        follow::wait_for_one(&job, bus, console).await
    };
    match begun.await.map_err(failed)? {
        Some(Ended::Done(safety)) => Ok(safety),
        Some(Ended::Failed { name, message }) => Err((message, hint_for(&name))),
        Some(Ended::Unknown(failure)) => Err(failed(failure)),
        None => Err(("it was not waited for; the daemon goes on with it".to_owned(), None)),
    }
}

/// What it was before the command, and not what the command has made of it.
fn state(vm: &Vm) -> Options<'static> {
    let known = ["running", "paused", "shut-off"].into_iter().find(|word| *word == vm.state);
    known.map(|word| ("state", word.into())).into_iter().collect()
}

/// What a person types to go back.
fn by_hand(vm: &Object<Vm>, point: &Object<Snapshot>) -> String {
    let then = match vm.state.as_str() {
        "running" => " --start",
        "paused" => " --paused",
        "shut-off" => " --off",
        _ => "",
    };
    format!("virtsnap revert {} {}{then}", pasted(&vm.name), pasted(&point.name))
}

fn not_rolled_back(
    (what, why, hint): (&str, &str, Option<&str>),
    vm: &Object<Vm>,
    point: &Object<Snapshot>,
    console: &mut Console<'_>,
) {
    let (name, at) = (quoted(&vm.name), quoted(&point.name));
    console.error(
        &format!(
            "{what}, and {name} was NOT put back to snapshot {at}, so it is as the command left it: {why}"
        ),
        hint,
    );
    console.warning(&format!(
        "by hand: `{}` goes back, and then `virtsnap unpin {} {}` lets go of the snapshot, which is pinned until then; \
         `virtsnap show {}` says in which state {} is",
        by_hand(vm, point),
        pasted(&vm.name),
        pasted(&point.name),
        pasted(&vm.name),
        safe(&vm.name),
    ));
}
