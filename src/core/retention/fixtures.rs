//! What the tests of this module share.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{Context, Rules, Verdict, judge};
use crate::core::{
    model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
    policy::{Combine, Keep, Limits, Retention},
};

/// A moment, as RFC 3339 or without the seconds in UTC.
pub(super) fn at(text: &str) -> Timestamp {
    text.parse().or_else(|_| format!("{text}:00Z").parse()).unwrap()
}

pub(super) fn policy(name: &str) -> PolicyName {
    name.parse().unwrap()
}

/// A ready, managed snapshot of policy `p`, named after its time.
pub(super) fn snap(time: &str) -> Snapshot {
    Snapshot {
        name: SnapshotName::existing(time),
        created: at(time),
        parent: None,
        current: false,
        state: SnapshotState::Ready,
        origin: Origin::Schedule,
        managed: true,
        policies: BTreeSet::from([policy("p")]),
        pinned: false,
        expires: None,
        content: Content::Disk,
        storage: Storage::External,
        size: 10,
    }
}

pub(super) fn snaps(times: &[&str]) -> Vec<Snapshot> {
    times.iter().map(|t| snap(t)).collect()
}

/// One snapshot a day at that time of the day, in a zone, both days included; named by its date.
pub(super) fn daily(from: &str, to: &str, time: &str, zone: &str) -> Vec<Snapshot> {
    let mut day: jiff::civil::Date = from.parse().unwrap();
    let last: jiff::civil::Date = to.parse().unwrap();
    let time: jiff::civil::Time = time.parse().unwrap();
    let mut all = Vec::new();
    while day <= last {
        let mut s = snap("2026-01-01T00:00");
        s.created = day.to_datetime(time).in_tz(zone).unwrap().timestamp();
        s.name = SnapshotName::existing(day.to_string());
        all.push(s);
        day = day.tomorrow().unwrap();
    }
    all
}

pub(super) fn retention(keep: Keep, combine: Combine, zone: &str) -> Retention {
    Retention { keep, combine, limits: Limits::default(), timezone: TimeZone::get(zone).unwrap() }
}

pub(super) fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

/// What stays under policy `p`, as "name rule=bucket …", newest first.
pub(super) fn stays(snapshots: &[Snapshot], retention: &Retention) -> Vec<String> {
    let p = policy("p");
    let policies = [Rules { policy: &p, retention }];
    let verdicts = judge(snapshots, &Context::new(at("2027-02-01T00:00"), &policies));
    let mut kept: Vec<_> = snapshots.iter().zip(&verdicts).filter(|(_, v)| v.keep).collect();
    kept.sort_by_key(|(s, _)| std::cmp::Reverse(s.created));
    kept.into_iter().map(|(_, v)| line(v)).collect()
}

/// "name rule=bucket …"; the newest-good reason left out, for every list has it at its head.
pub(super) fn line(v: &Verdict<'_>) -> String {
    let mut line = v.name.to_string();
    for reason in v.reasons.iter().filter(|r| r.rule() != "newest-good") {
        line.push(' ');
        line.push_str(reason.rule());
        if let Some(bucket) = reason.bucket().map(|b| b.to_string()).filter(|b| !b.is_empty()) {
            line.push('=');
            line.push_str(&bucket);
        }
    }
    line
}

/// The names alone.
pub(super) fn names(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|l| l.split(' ').next().unwrap()).collect()
}
