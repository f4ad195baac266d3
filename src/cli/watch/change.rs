//! One change, and how a person reads it: sizes in units, times by the reader's clock, names instead of paths.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::cli::{
    props,
    render::{NONE, Watch, cell, duration, known_size, quoted, safe, size},
    suspend,
};

/// One change.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    /// When it was heard of, as RFC 3339 has it.
    pub(super) time: String,
    /// added, changed or removed.
    pub(super) event: &'static str,
    /// vm, snapshot, policy, job or daemon.
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// The VM that it is about, if it is about one.
    pub(super) vm: Option<String>,
    pub(super) object: String,
    /// What is so now, as the bus has it.
    pub(super) properties: BTreeMap<String, Value>,
}

impl Change {
    /// `2026-11-23 16:44:00 VM "web": SnapshotBytes 776 KiB, State paused`. `called` says what kind of thing is at a
    /// path, and its name.
    pub(super) fn text(
        &self,
        called: &dyn Fn(&str) -> Option<(&'static str, String)>,
        watch: &Watch,
    ) -> String {
        let now = watch.now.to_zoned(watch.zone.clone()).strftime("%Y-%m-%d %H:%M:%S");
        let kind = word(self.kind);
        let whose = match &self.vm {
            Some(vm) if self.kind != "vm" => format!(" of VM {}", quoted(vm)),
            _ => String::new(),
        };
        let name = if self.kind == "job" { safe(&self.name) } else { quoted(&self.name) };
        let read = Reader { called, watch };
        // How far a job is says nothing where that is not known, and that it is known the other one says.
        let unknown = self.properties.get("ProgressValid") == Some(&Value::Bool(false));
        let says = |key: &str| key != "ProgressValid" && !(unknown && key == "Progress");
        let each = self.properties.iter().filter(|(key, _)| says(key));
        let each = each.map(|(key, value)| {
            format!("{} {}", safe(key.strip_suffix("USec").unwrap_or(key)), read.value(key, value))
        });
        let so = each.collect::<Vec<_>>().join(", ");
        let what = match self.event {
            "added" if so.is_empty() => "is there".to_owned(),
            "added" => format!("is there ({so})"),
            "removed" => "is gone".to_owned(),
            _ if so.is_empty() => "how far it is, is not known".to_owned(),
            _ => so,
        };
        format!("{now} {kind} {name}{whose}: {what}")
    }
}

/// As it stands in a sentence.
fn word(kind: &str) -> &str {
    if kind == "vm" { "VM" } else { kind }
}

/// What values come to.
struct Reader<'a> {
    called: &'a dyn Fn(&str) -> Option<(&'static str, String)>,
    watch: &'a Watch,
}

impl Reader<'_> {
    fn value(&self, key: &str, value: &Value) -> String {
        match (key, value) {
            ("FrozenUSec", Value::Number(n)) => duration(n.as_u64().unwrap_or(0)),
            (key, Value::Number(n)) if key.ends_with("USec") => self.watch.both(n.as_u64().unwrap_or(0)),
            ("BytesDone", Value::Number(n)) => size(n.as_u64().unwrap_or(0)),
            (key, Value::Number(n)) if key.ends_with("Bytes") || key == "BytesTotal" => {
                known_size(n.as_u64().unwrap_or(0))
            }
            ("Progress", Value::Number(n)) => {
                format!("{:.0} %", (n.as_f64().unwrap_or(0.0) * 100.0).clamp(0.0, 100.0))
            }
            ("VM" | "Parent" | "CurrentSnapshot", Value::String(path)) => self.name(path),
            ("Children" | "Policies" | "VMs", Value::Array(paths)) => {
                list(paths, |path| path.as_str().map(|path| self.name(path)))
            }
            ("Objects", Value::Array(paths)) => list(paths, |path| path.as_str().map(|path| self.kind(path))),
            (_, Value::Array(all)) => {
                // Of a newer daemon it may have another shape.
                list(all, |one| Some(self.part(key, one).unwrap_or_else(|| Self::plain(key, one))))
            }
            _ => Self::plain(key, value),
        }
    }

    /// One of those that have several parts each.
    fn part(&self, key: &str, one: &Value) -> Option<String> {
        let read = || one.clone();
        match key {
            "SuspendedPolicies" | "SuspendedVMs" => {
                let (path, by, reason, since): (String, _, _, _) = serde_json::from_value(read()).ok()?;
                let suspended: props::Suspended = (zbus::OwnedObjectPath::default(), by, reason, since);
                Some(format!("{} ({})", self.name(&path), suspend::phrase(&suspended, self.watch)))
            }
            "StalePolicies" => {
                let (path, newest): (String, u64) = serde_json::from_value(read()).ok()?;
                Some(format!("{} (newest good one: {})", self.name(&path), self.watch.both(newest)))
            }
            "Orphans" => {
                let (path, bytes, goes): (String, u64, u64) = serde_json::from_value(read()).ok()?;
                let goes =
                    if goes == 0 { String::new() } else { format!(", removed {}", self.watch.both(goes)) };
                Some(format!("{} ({}{goes})", safe(&path), size(bytes)))
            }
            "ForgottenSnapshots" => {
                let (image, name, ..): (String, String, u64, u64) = serde_json::from_value(read()).ok()?;
                Some(format!("{} inside {}", quoted(&name), safe(&image)))
            }
            "Pins" => {
                let (reason, owner, until): props::Pin = serde_json::from_value(read()).ok()?;
                let until =
                    if until == 0 { String::new() } else { format!(" until {}", self.watch.both(until)) };
                let why = if reason.is_empty() { String::new() } else { format!(": {}", safe(&reason)) };
                Some(format!("{}{until}{why}", safe(&owner)))
            }
            "Inhibitors" => {
                let (who, why, uid, since): props::Inhibitor = serde_json::from_value(read()).ok()?;
                let since = self.watch.both(since);
                Some(format!("{} of user {uid} since {since}: {}", safe(&who), cell(&why)))
            }
            _ => None,
        }
    }

    fn plain(key: &str, value: &Value) -> String {
        match value {
            Value::String(text) => cell(text),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            Value::Number(n) if key.ends_with("size") => size(n.as_u64().unwrap_or(0)),
            // Those of a policy's limits and settings that are durations.
            Value::Number(n) if DURATIONS.contains(&key) => duration(n.as_u64().unwrap_or(0)),
            Value::Array(all) => list(all, |one| Some(Self::plain(key, one))),
            Value::Object(all) => {
                let each =
                    all.iter().map(|(key, value)| format!("{} {}", safe(key), Self::plain(key, value)));
                let all = each.collect::<Vec<_>>().join(", ");
                if all.is_empty() { NONE.to_owned() } else { format!("({all})") }
            }
            other => safe(&other.to_string()),
        }
    }

    /// `"web"`
    fn name(&self, path: &str) -> String {
        match (self.called)(path) {
            _ if path == "/" => NONE.to_owned(),
            Some((_, name)) => quoted(&name),
            None => safe(path),
        }
    }

    /// `VM "web"`
    fn kind(&self, path: &str) -> String {
        match (self.called)(path) {
            Some((kind, name)) => format!("{} {}", word(kind), quoted(&name)),
            None => safe(path),
        }
    }
}

const DURATIONS: [&str; 6] =
    ["max-age", "keep-within", "catch-up-within", "freeze-timeout", "spread", "stale-after"];

/// Several, or that there are none.
fn list(all: &[Value], one: impl Fn(&Value) -> Option<String>) -> String {
    let all: Vec<String> = all.iter().filter_map(one).collect();
    if all.is_empty() { NONE.to_owned() } else { all.join(" and ") }
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};
    use serde_json::json;

    use super::*;

    /// What stands behind the time.
    fn text(
        event: &'static str,
        kind: &'static str,
        name: &str,
        vm: Option<&str>,
        properties: &Value,
    ) -> String {
        let properties = properties.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone()));
        let change = Change {
            time: String::new(),
            event,
            kind,
            name: name.into(),
            vm: vm.map(Into::into),
            object: "/".into(),
            properties: properties.collect(),
        };
        let watch = Watch { zone: TimeZone::UTC, now: Timestamp::from_second(3_600).unwrap() };
        let called = |path: &str| {
            let kind = if path.contains("/s/") { "snapshot" } else { "vm" };
            Some((kind, path.get(3..)?.to_owned()))
        };
        let text = change.text(&called, &watch);
        text.strip_prefix("1970-01-01 01:00:00 ").unwrap().to_owned()
    }

    #[test]
    fn a_line_says_what_of_whom_and_how_it_is_now() {
        let of_web = |kind, properties| text("changed", kind, "web", Some("web"), &properties);
        assert_eq!(
            of_web("vm", json!({ "State": "paused", "LastError": "", "Frozen": false })),
            "VM \"web\": Frozen no, LastError -, State paused"
        );
        assert_eq!(
            text("removed", "snapshot", "s\n1", Some("web"), &json!({})),
            "snapshot \"s\\n1\" of VM \"web\": is gone"
        );
        let at = |progress| text("changed", "job", "7 (delete)", Some("web"), &progress);
        assert_eq!(
            at(
                json!({ "Progress": 0.456, "ProgressValid": true, "Phase": "merging vda", "BytesDone": 1536 })
            ),
            "job 7 (delete) of VM \"web\": BytesDone 1.5 KiB, Phase merging vda, Progress 46 %"
        );
        assert_eq!(
            at(json!({ "Progress": 0.0, "ProgressValid": false, "Phase": "x" })),
            "job 7 (delete) of VM \"web\": Phase x"
        );
    }

    #[test]
    fn a_value_is_read_by_what_it_is() {
        let of_web =
            |properties| text("changed", "vm", "web", None, &properties).split_off("VM \"web\": ".len());
        for (properties, read) in [
            (json!({ "SnapshotBytes": 794_624 }), "SnapshotBytes 776 KiB"),
            (json!({ "LastSuccessUSec": 3_540_000_000_u64 }), "LastSuccess 1970-01-01 00:59:00 (1 min ago)"),
            (json!({ "NextRunUSec": 0 }), "NextRun -"),
            (json!({ "FrozenUSec": 24_000 }), "Frozen 24 ms"),
            (json!({ "CurrentSnapshot": "/v/s/b" }), "CurrentSnapshot \"s/b\""),
            (json!({ "CurrentSnapshot": "/" }), "CurrentSnapshot -"),
            (json!({ "Policies": [] }), "Policies -"),
            (json!({ "Objects": ["/v/web", "/v/s/b"] }), "Objects VM \"web\" and snapshot \"s/b\""),
            (json!({ "Tags": ["a", "b"] }), "Tags a and b"),
            (json!({ "Orphans": [["/i\n", 1536, 0]] }), "Orphans /i\\n (1.5 KiB)"),
            (json!({ "Orphans": ["of another shape"] }), "Orphans of another shape"),
            (json!({ "Pins": [["audit", "root", 0]] }), "Pins root: audit"),
            (
                json!({ "SuspendedPolicies": [["/p/day", "person", "moving", 60_000_000]] }),
                "SuspendedPolicies \"day\" (suspended by hand since 1970-01-01 00:01:00 (59 min ago): moving)",
            ),
            (json!({ "StalePolicies": [["/p/day", 0]] }), "StalePolicies \"day\" (newest good one: -)"),
            (
                json!({ "Limits": { "max-size": 1024, "max-count": 3, "max-age": 60_000_000 } }),
                "Limits (max-age 1 min 0 s, max-count 3, max-size 1 KiB)",
            ),
        ] {
            assert_eq!(of_web(properties), read);
        }
    }
}
