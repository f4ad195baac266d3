//! What is shown, against what there is.

use std::collections::BTreeSet;

use jiff::{Timestamp, tz::TimeZone};
use roxmltree::{Document, ParsingOptions};

use super::*;
use crate::cli::inventory::tests::{path, sample};

#[test]
fn what_is_not_there_is_null_and_names_stand_for_paths() {
    let watch = Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH };
    let all = sample();
    let db = all.vm("db").unwrap();
    let shown = serde_json::to_value(Vm::new(db, &all, &watch)).unwrap();
    assert_eq!(shown["policies"], serde_json::json!(["nightly"]));
    assert_eq!(shown["next_run"], "1970-01-01T00:00:00.005+00:00");
    assert!(shown["last_success"].is_null() && shown["last_error"].is_null());

    let of_db = all.snapshots(db);
    let shown = serde_json::to_value(Snapshot::new(&of_db[1], of_db, &all, &watch)).unwrap();
    assert_eq!(shown["created"], "1970-01-01T00:00:00.002+00:00");
    assert_eq!(shown["current"], true);
    assert!(shown["frozen_usec"].is_null() && shown["parent"].is_null());
    assert_eq!(shown["children"], serde_json::json!([]));
}

/// What an object's JSON lacks of its interface's properties, and what is told to be elsewhere and is not needed there: by
/// its own name in JSON's spelling, with no `usec` at the end of a time, or where the list says.
fn lacks(interface: &str, shown: &Value, elsewhere: &[(&str, &str)]) -> Vec<String> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(interface, options).unwrap();
    let there: BTreeSet<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("property"))
        .map(|node| node.attribute("name").unwrap())
        .collect();
    assert!(there.len() > 10, "{there:?}");
    let idle = elsewhere.iter().map(|(name, _)| *name).filter(|name| !there.contains(name));
    let mut lacks: Vec<String> = idle.map(|name| format!("{name} is no property")).collect();
    for name in there {
        let place = elsewhere.iter().find(|(other, _)| *other == name);
        let place = place.map_or_else(|| spelt(name), |(_, place)| format!("/{place}"));
        if shown.pointer(&place).is_none() {
            lacks.push(format!("{name} is not at {place}"));
        }
    }
    lacks
}

/// `/last_success` of `LastSuccessUSec`
fn spelt(name: &str) -> String {
    let mut key = "/".to_owned();
    let mut before = 'A';
    for c in name.strip_suffix("USec").unwrap_or(name).chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            key.push('_');
        }
        key.push(c.to_ascii_lowercase());
        before = c;
    }
    key
}

#[test]
fn every_property_of_the_bus_is_shown() {
    let watch = Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH };
    let all = sample();
    let db = all.vm("db").unwrap();
    let vm = serde_json::to_value(Vm::new(db, &all, &watch)).unwrap();
    let elsewhere = [
        // Of each the policy by its name, with why and since when.
        ("SuspendedPolicies", "suspended"),
        ("StalePolicies", "stale"),
        ("ForgottenSnapshots", "forgotten"),
    ];
    let xml = include_str!("../../../dbus/org.virtsnap1.VM.xml");
    assert_eq!(lacks(xml, &vm, &elsewhere), [] as [&str; 0]);

    let of_db = all.snapshots(db);
    let mut snapshot = serde_json::to_value(Snapshot::new(&of_db[0], of_db, &all, &watch)).unwrap();
    // It stands beside the snapshot wherever one is shown.
    snapshot["vm"] = vm;
    // A duration has its unit in its name.
    let elsewhere = [("FrozenUSec", "frozen_usec")];
    let xml = include_str!("../../../dbus/org.virtsnap1.Snapshot.xml");
    assert_eq!(lacks(xml, &snapshot, &elsewhere), [] as [&str; 0]);

    let policy = serde_json::to_value(Policy::new(&all.policies()[0], &all, &watch)).unwrap();
    // Beside `suspended` and `suspended_reason`.
    let elsewhere = [("SuspendedUSec", "suspended_since")];
    let xml = include_str!("../../../dbus/org.virtsnap1.Policy.xml");
    assert_eq!(lacks(xml, &policy, &elsewhere), [] as [&str; 0]);

    let failed = props::Job { error_name: "x".into(), ..props::Job::default() };
    let job = serde_json::to_value(Job::new(&Object::new(path("/job/1"), failed), &watch)).unwrap();
    let elsewhere = [
        ("StartUSec", "started"),
        // Where it is not known, there is no progress.
        ("ProgressValid", "progress"),
        ("ErrorName", "error/name"),
        ("ErrorMessage", "error/message"),
    ];
    let xml = include_str!("../../../dbus/org.virtsnap1.Job.xml");
    assert_eq!(lacks(xml, &job, &elsewhere), [] as [&str; 0]);
}
