//! `virtsnap explain`: which policies are for a VM, by which line of which file, and what they come to.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use zbus::{Connection, OwnedVariant};

use super::{
    args::Explain,
    console::Console,
    exit::{Exit, Failure},
    inventory::Inventory,
    props::Suspended,
    proxy::{Options, VMProxy},
    render::{count, safe},
    suspend, view,
};

/// One reason, as the bus has it.
#[derive(Debug, Serialize)]
struct Why {
    about: String,
    policy: Option<String>,
    key: Option<String>,
    value: String,
    source: String,
    instead_of: Option<String>,
    instead_of_source: Option<String>,
    text: String,
}

#[derive(Serialize)]
struct Explained<'a> {
    name: &'a str,
    uuid: &'a str,
    reasons: &'a [Why],
    suspended: Vec<view::Suspension<'a>>,
}

impl Why {
    fn read(mut keys: HashMap<String, OwnedVariant>) -> Self {
        // A key that a newer daemon has left out or changed is no reason to show nothing.
        let mut text = |key: &str| keys.remove(key).and_then(|value| String::try_from(value).ok());
        Self {
            about: text("about").unwrap_or_default(),
            policy: text("policy"),
            key: text("key"),
            value: text("value").unwrap_or_default(),
            source: text("source").unwrap_or_default(),
            instead_of: text("instead-of"),
            instead_of_source: text("instead-of-source"),
            text: text("text").unwrap_or_default(),
        }
    }

    /// It is about a policy that holds for the VM.
    fn counts(&self) -> bool {
        !matches!(self.about.as_str(), "excluded" | "not-selected" | "unused")
    }
}

/// Shows it; changes nothing.
pub(super) async fn explain(
    args: &Explain,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let reasons = VMProxy::new(bus, &vm.path).await?.explain(Options::new()).await?;
    let reasons: Vec<Why> = reasons.into_iter().map(Why::read).collect();
    if console.json {
        let suspended = vm.suspended.iter().map(|s| view::Suspension::of_policy(s, &all, &console.watch));
        let suspended = suspended.collect();
        console.answer(&Explained { name: &vm.name, uuid: &vm.uuid, reasons: &reasons, suspended })?;
    } else {
        let of = |s: &Suspended| Some((all.policy_name(&s.0)?, suspend::phrase(s, &console.watch)));
        let suspended = vm.suspended.iter().filter_map(of).collect();
        let text = text(&vm.name, &reasons, &suspended);
        console.print(&text)?;
    }
    Ok(Exit::Done)
}

/// What holds first, each policy with its reasons and, if it is suspended, with that; then what does not.
fn text(vm: &str, reasons: &[Why], suspended: &BTreeMap<&str, String>) -> String {
    let holds: Vec<&Why> = reasons.iter().filter(|why| why.about == "holds").collect();
    let mut out = match holds.len() {
        0 => format!("{}: no policy is for this VM\n", safe(vm)),
        n => format!("{}: {}\n", safe(vm), count(n, "policy").replace("policys", "policies")),
    };
    let mut line = |indent: &str, text: &str| {
        out.push_str(indent);
        out.push_str(&safe(text));
        out.push('\n');
    };
    for policy in holds {
        let name = policy.policy.as_deref().unwrap_or_default();
        line("\n", &format!("{name}: {}", policy.value));
        if let Some(suspended) = suspended.get(name) {
            line("    ", suspended);
        }
        let of = reasons.iter().filter(|w| w.policy.as_deref() == Some(name) && w.about != "holds");
        for why in of {
            line(
                "    ",
                why.text.strip_prefix(name).map_or(why.text.as_str(), |t| t.trim_start_matches(": ")),
            );
        }
    }
    let own: Vec<&Why> = reasons.iter().filter(|why| why.policy.is_none()).collect();
    if !own.is_empty() {
        line("\n", "The VM itself:");
        for why in own {
            line("    ", &why.text);
        }
    }
    let others: Vec<&Why> = reasons.iter().filter(|why| why.policy.is_some() && !why.counts()).collect();
    if !others.is_empty() {
        line("\n", "Not for this VM:");
        for why in others {
            line("    ", &why.text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(about: &str, policy: Option<&str>, value: &str, text: &str) -> Why {
        let mut keys: HashMap<String, OwnedVariant> = HashMap::new();
        for (key, value) in [("about", about), ("value", value), ("text", text)] {
            keys.insert(key.to_owned(), zbus::Str::from(value.to_owned()).into());
        }
        if let Some(policy) = policy {
            keys.insert("policy".to_owned(), zbus::Str::from(policy.to_owned()).into());
        }
        Why::read(keys)
    }

    #[test]
    fn what_holds_comes_first_and_each_reason_stands_below_its_policy() {
        let reasons = [
            why("selected", Some("a"), "web*", "a: selected by `web*` (p.toml:2)"),
            why("overridden", Some("a"), "1", "a: keep-last = 1 (p.toml:9) instead of 5 (p.toml:4)"),
            why("not-selected", Some("b"), "", "b: not selected: none of its selectors matches (p.toml:5)"),
            why("set", None, "[\"vda\"]", "disks = [\"vda\"] (p.toml:8) instead of the default"),
            why("holds", Some("a"), "runs at @daily (UTC), keeps last 1 (union)", "a\u{1b}"),
        ];
        assert_eq!(
            text("web1", &reasons, &[("a", "suspended by hand".to_owned())].into()),
            "web1: 1 policy\n\na: runs at @daily (UTC), keeps last 1 (union)\n    suspended by hand\n    selected by `web*` (p.toml:2)\n    \
             keep-last = 1 (p.toml:9) instead of 5 (p.toml:4)\n\nThe VM itself:\n    disks = [\"vda\"] (p.toml:8) \
             instead of the default\n\nNot for this VM:\n    b: not selected: none of its selectors matches \
             (p.toml:5)\n"
        );
    }

    #[test]
    fn no_policy_is_said() {
        assert_eq!(text("x\n", &[], &BTreeMap::new()), "x\\n: no policy is for this VM\n");
    }
}
