//! `virtsnap adopt`: takes over snapshots that others made.

use serde::Serialize;
use zbus::Connection;

use super::{
    args::Adopt,
    console::Console,
    exit::{Exit, Failure},
    inventory::Inventory,
    proxy::{Options, VMProxy},
    render::{count, quoted, safe},
};

#[derive(Serialize)]
struct Adopted<'a> {
    vm: &'a str,
    snapshots: Vec<&'a str>,
}

/// Takes them over, after a look at which if none is named.
pub(super) async fn adopt(
    args: &Adopt,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
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
        console.confirm(&question(&vm.name, &names, &args.policies), args.consent.yes)?;
    }
    let given: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut options = Options::from([("snapshots", given.into())]);
    if !args.policies.is_empty() {
        options.insert("policies", args.policies.clone().into());
    }
    VMProxy::new(bus, &vm.path).await?.adopt(options).await?;
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
