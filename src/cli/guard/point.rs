//! What a guarded command can go back to: the snapshots that are taken before it, and the one that is chosen.

use std::ops::ControlFlow;

use nix::sys::signal::Signal;
use zbus::{Connection, OwnedObjectPath};

use super::{command, signals::Signals};
use crate::cli::{
    args::{Guard, Taken},
    console::Console,
    create::{self, taken},
    exit::{Exit, Failure},
    follow::{self, Ended},
    inventory::Object,
    list::shortfall,
    props::{self, Snapshot, Vm},
    proxy::{ManagerProxy, Options, SnapshotProxy, VMProxy},
    render::{pasted, quoted, safe},
};

/// As long as a plain one stays, if nothing is said.
const KEPT_FOR: &str = "7d";
/// So much of a command stands in a description and in a pin's reason.
const SHOWN: usize = 200;

/// Takes what there is to go back to; `Break` where there is none, which was told.
pub(super) async fn take(
    args: &Guard,
    vm: &Object<Vm>,
    signals: &mut Signals,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<ControlFlow<Exit, Object<Snapshot>>, Failure> {
    let asked = args.keep_for.as_deref();
    let until = |text: &str| crate::cli::when::or_never("keep-for", text, &console.watch);
    let (given, usual) = (asked.map(until).transpose()?, until(asked.unwrap_or(KEPT_FOR))?);
    let (jobs, by_policies) = tokio::select! {
        begun = begin(args, vm, usual, bus, console) => begun?,
        signal = signals.next() => return Ok(ControlFlow::Break(stopped(signal))),
    };
    let mut told = None;
    let stop = async { told = Some(signals.next().await) };
    let Some(followed) = follow::wait_until(stop, &jobs, bus, console).await? else {
        return Ok(ControlFlow::Break(told.map_or(Exit::Interrupted, stopped)));
    };
    let mut all = Vec::new();
    for one in followed {
        match one.ended {
            Ended::Done(Some(made)) => all.push(Object::new(made.clone(), props::read(bus, &made).await?)),
            Ended::Done(None) => {}
            ended => {
                ended.report(&format!("no snapshot of {} was taken", quoted(&vm.name)), console);
                return Ok(ControlFlow::Break(ended.exit()));
            }
        }
    }
    let best = all.into_iter().max_by_key(|snapshot: &Object<Snapshot>| rank(snapshot));
    let best = best.ok_or_else(|| Failure::Answer("the jobs ended and made no snapshot".to_owned()))?;
    if !console.json {
        let kept = match (given, by_policies) {
            (Some(0) | None, true) => String::new(),
            // Theirs may let go of it before.
            (Some(at), true) => format!(", kept until {} at most", console.watch.both(at)),
            _ if usual == 0 => ", kept until it is deleted".to_owned(),
            _ => format!(", kept until {}", console.watch.both(usual)),
        };
        console.warning(&format!("{}: {}{kept}", safe(&vm.name), taken(&best)));
        if let Some(line) = shortfall(&best) {
            console.warning(&line);
        }
    }
    let proxy = SnapshotProxy::new(bus, &best.path).await?;
    // A prune must not take away what the command may need, however long it runs.
    proxy.pin(&format!("virtsnap guard runs {}", shown(args)), 0, Options::new()).await?;
    if let (Some(expires), true) = (given, by_policies)
        && let Err(error) = proxy.update(Options::from([("expires", expires.into())])).await
    {
        done_with(&best, bus, console).await;
        return Err(error.into());
    }
    if let Some(signal) = signals.come().await {
        done_with(&best, bus, console).await;
        return Ok(ControlFlow::Break(stopped(signal)));
    }
    Ok(ControlFlow::Continue(best))
}

/// What a shell would say of who a signal ended.
fn stopped(signal: Signal) -> Exit {
    Exit::OfCommand(command::by_signal(signal as i32))
}

/// The snapshot is as any other from here on. If that cannot be had, all else is told as it is.
pub(super) async fn done_with(point: &Object<Snapshot>, bus: &Connection, console: &mut Console<'_>) {
    if let Err(failure) = let_go(point, bus).await {
        console.warning(&format!("snapshot {} is still pinned: {failure}", quoted(&point.name)));
    }
}

/// Lets the prunes have it again.
async fn let_go(snapshot: &Object<Snapshot>, bus: &Connection) -> Result<(), Failure> {
    Ok(SnapshotProxy::new(bus, &snapshot.path).await?.unpin(Options::new()).await?)
}

/// The command in a line, as a shell takes it.
pub(super) fn shown(args: &Guard) -> String {
    // A command's options are no names that might be taken for some.
    let word = |word: &str| {
        let bare = word.trim_start_matches('-');
        if pasted(bare) == bare { word.to_owned() } else { pasted(word) }
    };
    let words: Vec<_> = args.command.iter().map(|given| word(&given.to_string_lossy())).collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Has what there is to go back to taken; by which jobs, and whether they are of policies.
async fn begin(
    args: &Guard,
    vm: &Object<Vm>,
    expires: u64,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(Vec<OwnedObjectPath>, bool), Failure> {
    if let Some(operation) = &args.operation {
        let announced = announce(operation, vm, bus, console).await?;
        if !announced.is_empty() {
            if let Some(unused) = unused(&args.taken) {
                console.warning(&format!(
                    "{unused}: the policies that list {} take the snapshot of {} as they say; without --operation a plain one \
                     is taken as these options say",
                    quoted(operation),
                    quoted(&vm.name)
                ));
            }
            return Ok((announced, true));
        }
    }
    Ok((vec![plain(args, vm, expires, bus).await?], false))
}

/// Which options say how a plain snapshot is to be, where none is taken.
fn unused(taken: &Taken) -> Option<String> {
    let given = [
        ("--name", taken.name.is_some()),
        ("--description", taken.description.is_some()),
        ("--tag", !taken.tags.is_empty()),
        ("--quiesce", taken.quiesce.is_some()),
        ("--memory", taken.memory.is_some()),
        ("--disk", !taken.disks.is_empty()),
    ];
    let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect();
    let verb = if given.len() == 1 { "is" } else { "are" };
    (!given.is_empty()).then(|| format!("{} {verb} not used", given.join(", ")))
}

async fn announce(
    operation: &str,
    vm: &Object<Vm>,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Vec<OwnedObjectPath>, Failure> {
    let jobs = ManagerProxy::new(bus).await?.before_operation(&vm.path, operation, Options::new()).await?;
    if jobs.is_empty() {
        console.warning(&format!(
            "no policy takes a snapshot of {} before {}: a plain one is taken",
            quoted(&vm.name),
            quoted(operation)
        ));
    }
    Ok(jobs)
}

async fn plain(
    args: &Guard,
    vm: &Object<Vm>,
    expires: u64,
    bus: &Connection,
) -> Result<OwnedObjectPath, Failure> {
    let mut asked = args.taken.clone();
    asked.description.get_or_insert_with(|| format!("before: {}", shown(args)));
    let name = asked.name.as_deref().unwrap_or_default();
    let options = create::options(&asked, (expires != 0).then_some(expires));
    Ok(VMProxy::new(bus, &vm.path).await?.create_snapshot(name, options).await?)
}

/// Which is worth more to go back to.
fn rank(snapshot: &Snapshot) -> u8 {
    match snapshot.consistency.as_str() {
        "memory" => 3,
        "application" | "filesystem" | "offline" => 2,
        _ => 1,
    }
}
