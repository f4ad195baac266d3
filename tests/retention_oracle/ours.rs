//! Our verdict, in the form in which a peer's can be compared with it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};
use virtsnap::core::{
    model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
    policy::{Combine, Keep, Limits, Retention},
    retention::{Context, Rules, judge},
};

use super::history::Point;

/// The names of what stays, with the rules that want it (`keep-daily`, `pinned` …).
pub(super) type Stays = BTreeMap<String, BTreeSet<String>>;

/// The counting rules, in their order, with their numbers; a rule of zero counts as none, as it does for all peers.
pub(super) fn counts(keep: &Keep) -> Vec<(&'static str, u32)> {
    [
        ("keep-last", keep.last),
        ("keep-hourly", keep.hourly),
        ("keep-daily", keep.daily),
        ("keep-weekly", keep.weekly),
        ("keep-monthly", keep.monthly),
        ("keep-yearly", keep.yearly),
    ]
    .into_iter()
    .filter_map(|(rule, count)| Some((rule, count.filter(|n| *n > 0)?)))
    .collect()
}

/// The oldest of them.
pub(super) fn oldest(points: &[Point]) -> &Point {
    points.iter().min_by_key(|p| p.at).unwrap()
}

/// What stays, a moment after the newest was taken.
///
/// That the newest good one is kept even if no rule wants it is ours alone; it is checked here, and taken out where a
/// rule wants it anyway.
pub(super) fn verdicts(points: &[Point], keep: &Keep, combine: Combine, zone: &TimeZone) -> Stays {
    verdicts_at(points.iter().map(|p| p.at).max().unwrap(), points, keep, combine, zone)
}

/// The same at a time of one's own.
pub(super) fn verdicts_at(
    now: Timestamp,
    points: &[Point],
    keep: &Keep,
    combine: Combine,
    zone: &TimeZone,
) -> Stays {
    let policy: PolicyName = "oracle".parse().unwrap();
    let snapshots: Vec<Snapshot> = points
        .iter()
        .map(|point| Snapshot {
            name: SnapshotName::existing(&point.name),
            created: point.at,
            parent: None,
            current: false,
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: BTreeSet::from([policy.clone()]),
            pinned: point.pinned,
            expires: None,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        })
        .collect();
    let retention =
        Retention { keep: keep.clone(), combine, limits: Limits::default(), timezone: zone.clone() };
    let rules = [Rules { policy: &policy, retention: &retention }];
    let newest = points.iter().max_by_key(|p| (p.at, &p.name)).unwrap();
    let ctx = Context { earliest: None, ..Context::new(now, &rules) };
    let mut stays = Stays::new();
    for verdict in judge(&snapshots, &ctx) {
        let mut reasons: BTreeSet<String> = verdict.reasons.iter().map(|r| r.rule().to_owned()).collect();
        let is_newest = verdict.name.as_str() == newest.name;
        assert_eq!(reasons.contains("newest-good"), is_newest, "{}", verdict.text());
        if reasons.len() > 1 {
            reasons.remove("newest-good");
        }
        if verdict.keep {
            stays.insert(verdict.name.to_string(), reasons);
        }
    }
    stays
}

/// Fails with what differs.
#[track_caller]
pub(super) fn assert_same(theirs: &Stays, expected: &Stays, about: &str) {
    let names: BTreeSet<_> = theirs.keys().chain(expected.keys()).collect();
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| theirs.get(*name) != expected.get(*name))
        .map(|name| format!("{name}: theirs {:?}, expected {:?}", theirs.get(name), expected.get(name)))
        .collect();
    assert!(differ.is_empty(), "seed {:#x}, {about}:\n{}", super::dice::SEED, differ.join("\n"));
}
