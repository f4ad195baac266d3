//! `virtsnap adopt`: takes over snapshots that others made, and files that belong to nobody.

use std::ops::ControlFlow;

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::{
    args::{Adopt, Wait},
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::Inventory,
    proxy::{Options, VMProxy},
    render::{count, quoted, safe, size},
};

#[derive(Serialize)]
struct Adopted<'a> {
    vm: &'a str,
    snapshots: Vec<&'a str>,
}

#[derive(Serialize)]
struct Quarantined<'a> {
    vm: &'a str,
    orphans: Vec<&'a str>,
}

/// Asks the daemon, which answers when it is done.
async fn ask(
    vm: &VMProxy<'_>,
    options: Options<'_>,
    path: &OwnedObjectPath,
    wait: &Wait,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<ControlFlow<Exit>, Failure> {
    follow::within(vm.adopt(options), ("adopt", path), wait, bus, console).await
}

/// Looks anew, asks, and puts in quarantine what was shown: no more than that.
async fn quarantine(args: &Adopt, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let before = Inventory::about(&args.vm, bus).await?;
    let object = VMProxy::new(bus, &before.vm(&args.vm)?.path).await?;
    let vm_path = &before.vm(&args.vm)?.path;
    if let ControlFlow::Break(exit) =
        ask(&object, Options::new(), vm_path, &Wait::default(), bus, console).await?
    {
        return Ok(exit);
    }
    let all = Inventory::fetch(bus).await?;
    let vm = all.vm(&args.vm)?;
    let free: Vec<_> = vm.orphans.iter().filter(|(_, _, goes)| *goes == 0).collect();
    let paths: Vec<String> = free.iter().map(|(path, ..)| path.clone()).collect();
    if !free.is_empty() {
        let each = free.iter().map(|(path, bytes, _)| format!("  {} ({})\n", safe(path), size(*bytes)));
        let question = format!(
            "These belong to nobody, and are removed if that is so for seven days:\n{}Put {} in quarantine?",
            each.collect::<String>(),
            count(free.len(), "file"),
        );
        console.confirm(&question, args.consent.yes).await?;
        let options = Options::from([("orphans", paths.clone().into())]);
        if let ControlFlow::Break(exit) = ask(&object, options, vm_path, &args.wait, bus, console).await? {
            return Ok(exit);
        }
    }
    if console.json {
        let orphans = paths.iter().map(String::as_str).collect();
        console.answer(&Quarantined { vm: &vm.name, orphans })?;
    } else if paths.is_empty() {
        console.line(&format!("{}: no file outside of quarantine belongs to nobody", safe(&vm.name)))?;
    } else {
        for path in paths {
            console.line(&format!("{}: {} is in quarantine", safe(&vm.name), safe(&path)))?;
        }
    }
    Ok(Exit::Done)
}

/// Makes snapshots of layers that belong to none; says which.
async fn layers(args: &Adopt, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let before = Inventory::about(&args.vm, bus).await?;
    let vm = before.vm(&args.vm)?;
    let question = format!(
        "Make a snapshot of each layer under the disks of {} that belongs to none?",
        quoted(&vm.name)
    );
    console.confirm(&question, args.consent.yes).await?;
    let mut options = Options::from([("layers", true.into())]);
    if !args.policies.is_empty() {
        options.insert("policies", args.policies.clone().into());
    }
    let object = VMProxy::new(bus, &vm.path).await?;
    if let ControlFlow::Break(exit) = ask(&object, options, &vm.path, &args.wait, bus, console).await? {
        return Ok(exit);
    }
    let after = Inventory::fetch(bus).await?;
    let old: Vec<&str> = before.snapshots(vm).iter().map(|s| s.name.as_str()).collect();
    let now = after.snapshots(after.vm(&args.vm)?).iter().map(|s| s.name.as_str());
    let snapshots: Vec<&str> = now.filter(|name| !old.contains(name)).collect();
    if console.json {
        console.answer(&Adopted { vm: &vm.name, snapshots })?;
    } else {
        for name in snapshots {
            console.line(&format!("{}: snapshot {} made of a layer", safe(&vm.name), quoted(name)))?;
        }
    }
    Ok(Exit::Done)
}

/// Takes them over, after a look at which if none is named.
pub(super) async fn adopt(
    args: &Adopt,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    if args.orphans {
        return quarantine(args, bus, console).await;
    }
    if args.layers {
        return layers(args, bus, console).await;
    }
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let mut names = Vec::new();
    for name in &args.snapshots {
        names.push(all.snapshot(vm, name)?.name.as_str());
    }
    if names.is_empty() {
        names.extend(all.snapshots(vm).iter().filter(|s| !s.managed).map(|s| s.name.as_str()));
        if names.is_empty() {
            if console.json {
                console.answer(&Adopted { vm: &vm.name, snapshots: names })?;
            } else {
                console.line(&format!("{}: no snapshot of others", safe(&vm.name)))?;
            }
            return Ok(Exit::Done);
        }
    }
    // Those that are named stay as they are, unless a policy may prune them.
    if args.snapshots.is_empty() || !args.policies.is_empty() {
        console.confirm(&question(&vm.name, &names, &args.policies), args.consent.yes).await?;
    }
    let given: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut options = Options::from([("snapshots", given.into())]);
    if !args.policies.is_empty() {
        options.insert("policies", args.policies.clone().into());
    }
    let object = VMProxy::new(bus, &vm.path).await?;
    if let ControlFlow::Break(exit) = ask(&object, options, &vm.path, &args.wait, bus, console).await? {
        return Ok(exit);
    }
    if console.json {
        console.answer(&Adopted { vm: &vm.name, snapshots: names })?;
    } else {
        for name in names {
            console.line(&format!("{}: snapshot {} adopted", safe(&vm.name), quoted(name)))?;
        }
    }
    Ok(Exit::Done)
}

fn question(vm: &str, names: &[&str], policies: &[String]) -> String {
    let whose: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let then = if policies.is_empty() {
        "They stay until they are deleted".to_owned()
    } else {
        let policies: Vec<_> = policies.iter().map(|p| quoted(p)).collect();
        format!("They count for {}, and are pruned by it", policies.join(", "))
    };
    format!("Adopt {} of {}: {}? {then}.", count(names.len(), "snapshot"), quoted(vm), whose.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_which_and_what_becomes_of_them() {
        assert_eq!(
            question("db", &["a", "b"], &[]),
            "Adopt 2 snapshots of \"db\": \"a\", \"b\"? They stay until they are deleted."
        );
        assert!(
            question("db", &["a"], &["day".into()])
                .ends_with("They count for \"day\", and are pruned by it.")
        );
    }
}
