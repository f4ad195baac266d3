//! `virtsnap guard`: a command with a way back. A snapshot is taken, the command is run, and if it fails the VM is put back.
//!
//! What it says goes to standard error: standard output is the command's.

mod back;
mod command;
mod point;
mod signals;

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use self::{back::Back, command::Unfit, point::done_with, signals::Signals};
use super::{
    args::Guard,
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    place::Place,
    props::{Snapshot, Vm},
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
    /// Nothing where that is not known.
    rolled_back: Option<bool>,
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
    let mut signals = Signals::catch()?;
    let point = match point::take(args, vm, &mut signals, bus, console).await {
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
    let ended = match command::run(&program, &args.command, &mut signals).await {
        Ok(ended) => ended,
        Err(error) => {
            console.error(&format!("`{}` could not be run: {error}", point::shown(args)), None);
            done_with(&point, bus, console).await;
            return Ok(Exit::OfCommand(Unfit::NotExecutable.code()));
        }
    };
    let what = format!("`{}` {}", point::shown(args), ended.how());
    let (mut exit, mut safety, mut rolled_back) = (Exit::OfCommand(ended.code()), None, Some(false));
    if ended.well() {
        done_with(&point, bus, console).await;
    } else if args.no_rollback {
        let hint = format!("{} goes back", by_hand(vm, &point, &console.place));
        console.error(&format!("{what}; {} was left as it is", quoted(&vm.name)), Some(&hint));
        done_with(&point, bus, console).await;
    } else {
        match back::put_back(vm, &point, &mut signals, bus, console).await {
            Back::Done(made) => {
                rolled_back = Some(true);
                let way_back = revert::way_back(made.as_ref(), bus).await.unwrap_or_default();
                let (name, at) = (quoted(&vm.name), quoted(&point.name));
                console.error(&format!("{what}; {name} was put back to snapshot {at}{way_back}"), None);
                safety = made;
                done_with(&point, bus, console).await;
            }
            Back::Not(why, hint) => {
                exit = Exit::NotRolledBack;
                not_rolled_back((&what, &why, hint), vm, &point, console);
            }
            Back::Unknown(job, why) => {
                (exit, rolled_back) = (Exit::NotRolledBack, None);
                not_known((&what, job, &why), vm, &point, console);
            }
        }
    }
    if console.json {
        // Without the daemon it is told all the same how the command ended.
        let all = Inventory::fetch(bus).await.ok();
        let shown = |path: &OwnedObjectPath| {
            let all = all.as_ref()?;
            let (one, siblings) = all.snapshot_at(&vm.path, path)?;
            Some(view::Snapshot::new(one, siblings, all, &console.watch))
        };
        let guarded = Guarded {
            vm: &vm.name,
            command: args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            exit_status: ended.code(),
            signal: ended.told.map(nix::sys::signal::Signal::as_str),
            rolled_back,
            snapshot: shown(&point.path),
            safety: safety.as_ref().and_then(shown),
        };
        let answered = console.answer(&guarded).and_then(|()| console.flush());
        // The exit status says how the command ended, whether or not anybody reads this.
        if let Err(failure) = answered.or_else(closed) {
            console.warning(&format!("how it went could not be told: {failure}"));
        }
    }
    Ok(exit)
}

/// Who reads no more wants to hear no more.
fn closed(failure: Failure) -> Result<(), Failure> {
    if failure.exit() == Exit::Done { Ok(()) } else { Err(failure) }
}

fn unfit_exit(args: &Guard, unfit: Unfit, console: &mut Console<'_>) -> Exit {
    let name = quoted(&args.command[0].to_string_lossy());
    console.error(&format!("{name}: {}; nothing was done", unfit.why()), None);
    Exit::OfCommand(unfit.code())
}

/// What a person types to go back.
fn by_hand(vm: &Object<Vm>, point: &Object<Snapshot>, place: &Place) -> String {
    let then = match vm.state.as_str() {
        "running" => " --start",
        "paused" => " --paused",
        "shut-off" => " --off",
        _ => "",
    };
    place.virtsnap(&format!("revert {} {}{then}", pasted(&vm.name), pasted(&point.name)))
}

/// What a person types for the snapshot to be as any other.
fn let_go(vm: &Object<Vm>, point: &Object<Snapshot>, place: &Place) -> String {
    place.virtsnap(&format!("unpin {} {}", pasted(&vm.name), pasted(&point.name)))
}

fn not_rolled_back(
    (what, why, hint): (&str, &str, Option<String>),
    vm: &Object<Vm>,
    point: &Object<Snapshot>,
    console: &mut Console<'_>,
) {
    let (name, at) = (quoted(&vm.name), quoted(&point.name));
    console.error(
        &format!(
            "{what}, and {name} was NOT put back to snapshot {at}, so it is as the command left it: {why}"
        ),
        hint.as_deref(),
    );
    console.warning(&format!(
        "by hand: {} goes back, and then {} lets go of the snapshot, which is pinned until then; {} says in which state {} \
         is",
        by_hand(vm, point, &console.place),
        let_go(vm, point, &console.place),
        console.place.virtsnap(&format!("show {}", pasted(&vm.name))),
        safe(&vm.name),
    ));
}

fn not_known(
    (what, job, why): (&str, Option<u32>, &str),
    vm: &Object<Vm>,
    point: &Object<Snapshot>,
    console: &mut Console<'_>,
) {
    let (name, at) = (quoted(&vm.name), quoted(&point.name));
    let put = match job {
        Some(id) => {
            format!("job {id} is putting {name} back to snapshot {at}, and how that ends is not known")
        }
        None => format!("it is not known whether {name} is being put back to snapshot {at}"),
    };
    console.error(
        &format!("{what}; {put}: {why}"),
        Some(&format!(
            "{} shows what is under way; a daemon that went ends or undoes it when it is back",
            console.place.virtsnap("jobs")
        )),
    );
    console.warning(&format!(
        "once that is over, {} shows where the VM is: it was put back if there is a new \
         \"before-revert-\" snapshot and {at} is the current one, else {} goes back; and then {} lets go of the snapshot, \
         which is pinned until then",
        console.place.virtsnap(&format!("list {}", pasted(&vm.name))),
        by_hand(vm, point, &console.place),
        let_go(vm, point, &console.place),
    ));
}
