//! `virtsnap policies`: each policy, when it runs, what it keeps, and for which VMs.

use serde::Serialize;
use zbus::{Connection, Variant};

use super::{
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    props::Policy,
    render::{Watch, cell, duration, facts, names, safe, size},
    suspend, view,
};

#[derive(Serialize)]
struct Policies<'a> {
    policies: Vec<view::Policy<'a>>,
}

/// Shows them.
pub(super) async fn policies(bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    if console.json {
        let policies = all.policies().iter().map(|p| view::Policy::new(p, &all, &console.watch)).collect();
        console.answer(&Policies { policies })?;
        return Ok(Exit::Done);
    }
    if all.policies().is_empty() {
        console.remark("no policy yet; `man virtsnap-policy` shows how to write one");
    }
    for (i, policy) in all.policies().iter().enumerate() {
        if i > 0 {
            console.line("")?;
        }
        console.print(&facts(&shown(policy, &all, &console.watch)))?;
    }
    Ok(Exit::Done)
}

fn shown(policy: &Object<Policy>, all: &Inventory, watch: &Watch) -> Vec<(&'static str, String)> {
    let vms: Vec<&str> = policy.vms.iter().filter_map(|path| all.vm_name(path)).collect();
    let schedule = match policy.schedule.as_slice() {
        [] => "only on request".to_owned(),
        times => format!("{} ({})", names(times), safe(&policy.timezone)),
    };
    let last = match policy.last_result.as_str() {
        "" => watch.both(policy.last_run),
        result => format!("{}: {}", watch.both(policy.last_run), safe(result)),
    };
    let mut shown = vec![
        ("Policy", safe(&policy.name)),
        ("Runs", schedule),
        ("Next run", watch.both(policy.next_run)),
        ("Last run", last),
        ("Keeps", kept(policy)),
        ("Takes", said(policy, |key| TAKING.contains(&key))),
        ("Also", said(policy, |key| !TAKING.contains(&key))),
        ("VMs", names(&vms)),
        ("Written at", safe(&policy.source)),
        ("Suspended", suspend::of_whole(policy, watch).unwrap_or_default()),
    ];
    for (i, suspended) in policy.suspended_vms.iter().enumerate() {
        let vm = all.vm_name(&suspended.0).unwrap_or_default();
        let title = if i == 0 { "Not on" } else { "" };
        shown.push((title, format!("{}: {}", safe(vm), suspend::phrase(suspended, watch))));
    }
    shown
}

/// `keep-daily 7, max-size 200 GiB`, in the order of the names.
fn kept(policy: &Policy) -> String {
    let keep = policy.keep.iter().map(|(rule, n)| format!("{rule} {n}"));
    let limits = policy.limits.iter().map(|(limit, value)| format!("{limit} {}", amount(limit, value)));
    cell(&keep.chain(limits).collect::<Vec<_>>().join(", "))
}

/// What of the settings is about how a snapshot is taken.
const TAKING: [&str; 7] =
    ["freeze-timeout", "memory", "mountpoints", "name", "quiesce", "skip-unchanged", "when"];

/// `memory never, quiesce prefer`, of the settings that are wanted and say something.
fn said(policy: &Policy, wanted: impl Fn(&str) -> bool) -> String {
    let wanted = policy.settings.iter().filter(|(key, _)| wanted(key));
    let all = wanted.map(|(key, value)| (key, amount(key, value))).filter(|(_, value)| !value.is_empty());
    all.map(|(key, value)| format!("{} {value}", safe(key))).collect::<Vec<_>>().join(", ")
}

/// A limit or a setting in the unit that it has.
fn amount(key: &str, value: &Variant<'_>) -> String {
    match value {
        Variant::U64(bytes) if key.ends_with("size") => size(*bytes),
        Variant::U64(0) => "0".to_owned(),
        Variant::U64(usec) => span(*usec),
        Variant::U32(n) => n.to_string(),
        Variant::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Variant::Str(text) => safe(text),
        Variant::Array(all) => {
            let all = all.inner().iter().map(|one| amount(key, one));
            all.collect::<Vec<_>>().join(" ")
        }
        other => safe(&format!("{other:?}")),
    }
}

/// As a file would have it: `400d`; what is no whole hour as other durations are shown.
fn span(usec: u64) -> String {
    const HOUR: u64 = 3_600_000_000;
    match usec {
        0 => duration(0),
        _ if usec.is_multiple_of(24 * HOUR) => format!("{}d", usec / (24 * HOUR)),
        _ if usec.is_multiple_of(HOUR) => format!("{}h", usec / HOUR),
        _ if usec < 60_000_000 && usec.is_multiple_of(1_000_000) => format!("{}s", usec / 1_000_000),
        _ if usec < HOUR && usec.is_multiple_of(60_000_000) => format!("{}min", usec / 60_000_000),
        _ => duration(usec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_in_their_units() {
        let limits = [
            ("max-size", Variant::U64(200 << 30)),
            ("max-age", Variant::U64(400 * 86_400_000_000)),
            ("keep-within", Variant::U64(5_400_000_000)),
            ("max-count", Variant::U32(14)),
        ];
        let policy = Policy {
            keep: [("keep-daily".to_owned(), 7)].into(),
            limits: limits.into_iter().map(|(k, v)| (k.to_owned(), v.try_into_owned().unwrap())).collect(),
            ..Policy::default()
        };
        assert_eq!(
            kept(&policy),
            "keep-daily 7, keep-within 90 min 0 s, max-age 400d, max-count 14, max-size 200 GiB"
        );
        assert_eq!(kept(&Policy::default()), "-");
    }

    #[test]
    fn what_else_it_says_is_shown_as_a_file_has_it() {
        let when = vec!["running", "shut-off"];
        let settings = [
            ("when", Variant::from(when)),
            ("before", Variant::from(Vec::<&str>::new())),
            ("quiesce", Variant::from("prefer")),
            ("skip-unchanged", Variant::from(false)),
            ("catch-up-within", Variant::U64(12 * 3_600_000_000)),
            ("freeze-timeout", Variant::U64(8_000_000)),
            ("spread", Variant::U64(0)),
            ("from-the-future", Variant::from("a\u{1b}")),
        ];
        let policy = Policy {
            settings: settings
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.try_into_owned().unwrap()))
                .collect(),
            ..Policy::default()
        };
        let taking = said(&policy, |key| TAKING.contains(&key));
        assert_eq!(taking, "freeze-timeout 8s, quiesce prefer, skip-unchanged no, when running shut-off");
        let others = said(&policy, |key| !TAKING.contains(&key));
        assert_eq!(others, "catch-up-within 12h, from-the-future a\\u{1b}, spread 0");
    }
}
