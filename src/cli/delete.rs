//! `virtsnap delete`: deletes one snapshot, after a look at which.

use zbus::Connection;

use super::{
    args::Delete,
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::Inventory,
    pace, pin,
    props::Snapshot,
    proxy::{Options, SnapshotProxy},
    render::{Watch, known_size, quoted, safe},
};

/// Deletes a snapshot.
pub(super) async fn delete(
    args: &Delete,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::about(&args.vm, bus).await?;
    let vm = all.vm(&args.vm)?;
    let snapshot = all.snapshot(vm, &args.snapshot)?;
    let mut options = pace::options(&args.pace, &console.watch, Options::new())?;
    for (key, given) in [("foreign", args.foreign), ("metadata-only", args.metadata_only)] {
        options.extend(given.then(|| (key, given.into())));
    }
    if !snapshot.managed && !args.foreign && !args.metadata_only {
        let text =
            format!("snapshot {} of {} was not made by virtsnap", quoted(&snapshot.name), quoted(&vm.name));
        return Err(Failure::Answered { name: "org.virtsnap1.Error.NotManaged".to_owned(), message: text });
    }
    if let Some(by) = snapshot.pins.first().map(|_| pin::pins(snapshot, &console.watch).join(", ")) {
        let text = format!("snapshot {} of {} is pinned by {by}", quoted(&snapshot.name), quoted(&vm.name));
        return Err(Failure::Answered { name: "org.virtsnap1.Error.Pinned".to_owned(), message: text });
    }
    let question = question(&vm.name, snapshot, args.metadata_only, &console.watch);
    console.confirm(&question, args.consent.yes)?;

    let job = SnapshotProxy::new(bus, &snapshot.path).await?.delete(options).await?;
    let name = quoted(&snapshot.name);
    let done = format!("{}: snapshot {name} deleted", safe(&vm.name));
    let failed = format!("snapshot {name} of {} was not deleted", quoted(&vm.name));
    follow::told(&job, &args.wait, (&done, &failed), bus, console).await
}

fn question(vm: &str, snapshot: &Snapshot, metadata_only: bool, watch: &Watch) -> String {
    if metadata_only {
        return format!(
            "Forget snapshot {} of {}, whose images are gone?",
            quoted(&snapshot.name),
            quoted(vm)
        );
    }
    let whose = if snapshot.managed { "" } else { ", not made by virtsnap" };
    format!(
        "Delete snapshot {} of {}, taken {}, size {}{whose}?",
        quoted(&snapshot.name),
        quoted(vm),
        watch.both(snapshot.created),
        known_size(snapshot.size),
    )
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;

    #[test]
    fn the_question_says_what_would_be_lost() {
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(7_200).unwrap() };
        let snapshot =
            Snapshot { name: "before".into(), created: 3_600_000_000, size: 3 << 30, ..Snapshot::default() };
        assert_eq!(
            question("db", &snapshot, false, &watch),
            "Delete snapshot \"before\" of \"db\", taken 1970-01-01 01:00:00 (1 h ago), size 3 GiB, \
             not made by virtsnap?"
        );
    }
}
