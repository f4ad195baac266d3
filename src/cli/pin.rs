//! `virtsnap pin`, `unpin` and `modify`: what people attach to a snapshot.

use std::{collections::BTreeSet, ops::ControlFlow};

use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::{
    args::{Modify, Pin, Unpin},
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::{Inventory, Object},
    props::{self, Snapshot, Vm},
    proxy::{Options, SnapshotProxy},
    render::{Watch, quoted, safe, timestamp},
    view, when,
};

#[derive(Serialize)]
struct Changed<'a> {
    vm: &'a str,
    snapshot: Option<view::Snapshot<'a>>,
}

/// Pins it.
pub(super) async fn pin(args: &Pin, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let expires = args.until.as_deref().map(|text| when::given("until", text, &console.watch)).transpose()?;
    let reason = args.reason.as_deref().unwrap_or_default();
    let proxy = SnapshotProxy::new(bus, &snapshot.path).await?;
    proxy.pin(reason, expires.unwrap_or(0), Options::new()).await?;
    let until = expires.map(|at| format!(" until {}", console.watch.both(at))).unwrap_or_default();
    told(vm, snapshot, &format!("is pinned{until}"), bus, console).await
}

/// Takes pins off.
pub(super) async fn unpin(
    args: &Unpin,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let mut options = Options::new();
    options.extend(args.all.then(|| ("all", true.into())));
    options.extend(args.owner.as_deref().map(|owner| ("owner", owner.into())));
    if is_last(args, snapshot) && is_over(snapshot, &console.watch) {
        let question = format!(
            "Take the last pin off snapshot {} of {}? Its time was over {}: the next prune deletes it.",
            quoted(&snapshot.name),
            quoted(&vm.name),
            console.watch.both(snapshot.expires),
        );
        console.confirm(&question, args.consent.yes).await?;
    }
    SnapshotProxy::new(bus, &snapshot.path).await?.unpin(options).await?;
    let after: Snapshot = props::read(bus, &snapshot.path).await?;
    let left = match pins(&after, &console.watch).as_slice() {
        [] => "is not pinned any more".to_owned(),
        left => format!("is still pinned by {}", left.join(", ")),
    };
    told(vm, snapshot, &left, bus, console).await
}

/// Changes its description, its tags and its expiry.
pub(super) async fn modify(
    args: &Modify,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let mut options = Options::new();
    options.extend(args.description.as_deref().map(|text| ("description", text.into())));
    if !args.tags.is_empty() || !args.untag.is_empty() {
        options.insert("tags", tags(&snapshot.tags, &args.tags, &args.untag).into());
    }
    if let Some(text) = &args.expires {
        options.insert("expires", when::or_never("expires", text, &console.watch)?.into());
    }
    let proxy = SnapshotProxy::new(bus, &snapshot.path).await?;
    let call = proxy.update(options);
    match follow::within(call, ("describe", &vm.path), &args.wait, bus, console).await? {
        ControlFlow::Continue(()) => {}
        ControlFlow::Break(exit) => return Ok(exit),
    }
    told(vm, snapshot, "is modified", bus, console).await
}

/// Whether no pin is left afterwards.
fn is_last(args: &Unpin, snapshot: &Snapshot) -> bool {
    let taken = |owner: &str| args.owner.as_deref().is_none_or(|only| only == owner);
    args.all || matches!(snapshot.pins.as_slice(), [(_, owner, _)] if taken(owner))
}

fn is_over(snapshot: &Snapshot, watch: &Watch) -> bool {
    timestamp(snapshot.expires).is_some_and(|at| at <= watch.now)
}

/// Those there are, with some and without others.
fn tags(before: &[String], with: &[String], without: &[String]) -> Vec<String> {
    let all: BTreeSet<&String> = before.iter().chain(with).filter(|tag| !without.contains(tag)).collect();
    all.into_iter().cloned().collect()
}

async fn told(
    vm: &Object<Vm>,
    snapshot: &Object<Snapshot>,
    what: &str,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    if console.json {
        return answer(vm, &snapshot.path, bus, console).await;
    }
    console.line(&format!("{}: snapshot {} {what}", safe(&vm.name), quoted(&snapshot.name)))?;
    Ok(Exit::Done)
}

async fn answer(
    vm: &Object<Vm>,
    snapshot: &OwnedObjectPath,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    let found = all.snapshot_at(&vm.path, snapshot);
    let snapshot = found.map(|(s, siblings)| view::Snapshot::new(s, siblings, &all, &console.watch));
    console.answer(&Changed { vm: &vm.name, snapshot })?;
    Ok(Exit::Done)
}

/// Who pinned it, each with why and until when.
pub(super) fn pins(snapshot: &Snapshot, watch: &Watch) -> Vec<String> {
    let one = |(reason, owner, expires): &props::Pin| {
        let until = if *expires == 0 { String::new() } else { format!(" until {}", watch.both(*expires)) };
        let why = if reason.is_empty() { String::new() } else { format!(": {}", safe(reason)) };
        format!("{}{until}{why}", safe(owner))
    };
    snapshot.pins.iter().map(one).collect()
}

/// All that is attached to a snapshot, in a line.
pub(super) fn attached(snapshot: &Snapshot, watch: &Watch) -> Option<String> {
    let mut all: Vec<String> = Vec::new();
    all.extend(pins(snapshot, watch).iter().map(|pin| format!("pinned by {pin}")));
    all.extend((snapshot.expires != 0).then(|| format!("expires {}", watch.both(snapshot.expires))));
    let tags: Vec<String> = snapshot.tags.iter().map(|tag| safe(tag)).collect();
    all.extend((!tags.is_empty()).then(|| format!("tagged {}", tags.join(", "))));
    (!all.is_empty()).then(|| format!("{}: {}", quoted(&snapshot.name), all.join("; ")))
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;

    #[test]
    fn tags_are_put_on_and_taken_off() {
        let words = |all: &[&str]| all.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(tags(&words(&["b", "a"]), &words(&["c", "a"]), &words(&["b"])), ["a", "c"]);
        assert_eq!(tags(&words(&["a"]), &[], &words(&["a", "x"])), [] as [&str; 0]);
    }

    #[test]
    fn what_is_attached_is_one_harmless_line() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(3_600).unwrap() };
        let mut snapshot = Snapshot { name: "s1".into(), ..Snapshot::default() };
        assert_eq!(attached(&snapshot, &watch), None);
        snapshot.pins =
            vec![("a\u{1b}dit".into(), "alice".into(), 7_200_000_000), (String::new(), "root".into(), 0)];
        snapshot.expires = 3_000_000;
        snapshot.tags = vec!["prod".into(), "x".into()];
        assert_eq!(
            attached(&snapshot, &watch).unwrap(),
            "\"s1\": pinned by alice until 1970-01-01 02:00:00 (in 1 h): a\\u{1b}dit; pinned by root; \
             expires 1970-01-01 00:00:03 (59 min ago); tagged prod, x"
        );
    }
}
