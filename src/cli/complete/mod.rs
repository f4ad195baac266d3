//! Shell completion: `virtsnap completion SHELL` prints what a shell reads, and that asks the hidden
//! `virtsnap complete -- WORDS` what fits for the last of the words.
//!
//! The words come as the shell takes them, without quotes, and those that fit go back so: what stands on the line is the
//! script's to say. The answer is a line for each, with what it is for behind a tab; `:files` alone has the shell complete
//! files. Without a daemon, or with one that is slow, there are no names: whoever types must not wait. With `-H` they are
//! that machine's, or none: those of this one would be wrong.

mod line;
mod wanted;

use std::{collections::BTreeSet, time::Duration};

use clap::CommandFactory as _;
use zbus::{Connection, fdo::DBusProxy};

use self::wanted::{Wanted, wanted};
use super::{
    Way,
    args::{Cli, Complete, Completion, Shell},
    console::Console,
    exit::{Exit, Failure},
    inventory::Inventory,
    proxy::SERVICE,
    remote::Manner,
    render::{safe, size},
};

/// No one waits longer for names.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nor for those of another machine, to which ssh has to come first.
const FAR: Duration = Duration::from_secs(3);

/// What a shell reads.
pub(super) fn script(args: &Completion, console: &mut Console<'_>) -> Result<Exit, Failure> {
    console.print(match args.shell {
        Shell::Bash => include_str!("../../../packaging/completion/virtsnap.bash"),
        Shell::Zsh => include_str!("../../../packaging/completion/_virtsnap"),
        Shell::Fish => include_str!("../../../packaging/completion/virtsnap.fish"),
    })?;
    Ok(Exit::Done)
}

/// What fits.
pub(super) async fn complete(
    args: &Complete,
    way: Way<'_>,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let current = args.words.last().map(String::as_str).unwrap_or_default();
    let mut command = Cli::command();
    command.build();
    let (wanted, host) = wanted(&command, &args.words);
    let way = host.map_or(way, |host| Way::Host(host, Manner::Silent));
    let found = match wanted {
        Wanted::Words(words) => words,
        Wanted::Files => {
            console.line(":files")?;
            vec![]
        }
        Wanted::Anything => vec![],
        names => {
            let patience = if matches!(way, Way::Host(..)) { FAR } else { PATIENCE };
            let all = tokio::time::timeout(patience, known(way)).await.ok().flatten();
            all.map(|all| names_of(&names, &all)).unwrap_or_default()
        }
    };
    for (word, what) in found {
        // What a terminal could not show as it is cannot be typed either.
        if word.starts_with(current) && safe(&word) == word {
            console.line(&format!("{word}\t{}", safe(&what)))?;
        }
    }
    Ok(Exit::Done)
}

/// All there is, if a daemon is there: one is not started for it.
async fn known(way: Way<'_>) -> Option<Inventory> {
    let bus: Connection = super::connect(way).await.ok()?;
    let there = DBusProxy::new(&bus).await.ok()?.name_has_owner(SERVICE.try_into().ok()?).await.ok()?;
    if there { Inventory::fetch(&bus).await.ok() } else { None }
}

fn names_of(wanted: &Wanted, all: &Inventory) -> Vec<(String, String)> {
    match wanted {
        Wanted::Vm => all.vms().iter().map(|vm| (vm.name.clone(), vm.state.clone())).collect(),
        Wanted::Snapshot(vm) => {
            let Ok(vm) = all.vm(vm) else { return vec![] };
            let about = |s: &super::props::Snapshot| {
                let size = if s.size == 0 { String::new() } else { format!(", {}", size(s.size)) };
                format!("{}{size}", s.consistency)
            };
            all.snapshots(vm).iter().map(|s| (s.name.clone(), about(s))).collect()
        }
        Wanted::Tag(vm) => {
            let Ok(vm) = all.vm(vm) else { return vec![] };
            let tags: BTreeSet<_> = all.snapshots(vm).iter().flat_map(|s| s.tags.iter().cloned()).collect();
            tags.into_iter().map(|tag| (tag, String::new())).collect()
        }
        Wanted::Policy => all.policies().iter().map(|p| (p.name.clone(), p.schedule.join(", "))).collect(),
        Wanted::Job => {
            let open = all.jobs().iter().filter(|job| job.state != "done");
            open.map(|job| (job.id.to_string(), job.operation.clone())).collect()
        }
        Wanted::Words(_) | Wanted::Files | Wanted::Anything => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inventory::tests::sample;

    #[test]
    fn names_are_those_that_the_daemon_has() {
        let all = sample();
        let names = |wanted| names_of(&wanted, &all).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Wanted::Vm), ["db", "web"]);
        assert_eq!(names(Wanted::Snapshot("db".into())), ["first", "second"]);
        assert_eq!(names(Wanted::Snapshot("gone".into())), [] as [&str; 0]);
        assert_eq!(names(Wanted::Policy), ["nightly"]);
    }
}
