//! Where restic does otherwise than we do on purpose, each shown. (One more is in
//! [`known_difference`](super::restic::known_difference), for random histories have it: restic keeps the oldest.)
//!
//! 1. restic's buckets go by the time on the wall that each snapshot stored; ours by the policy's zone.
//! 2. restic compares a bucket with the one before only: a day that comes twice is two.
//! 3. A day of restic's `keep-within` is the calendar's where the snapshot's zone is that of the client who asks, else 24
//!    hours; ours is 24 hours.
//! 4. restic orders snapshots of equal time as it happens to list them; we by name.
//! 5. restic passes over snapshots from the future when it measures `keep-within`, and judges them by all other rules;
//!    to us they mean that the clock is wrong, and nothing is deleted.
//! 6. For restic a rule of zero is no rule, and without a rule nothing is deleted. For us a policy whose only rule is
//!    zero keeps the newest good one alone; without a rule nothing is deleted here, too.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use virtsnap::core::policy::{Combine, Keep};

use super::{
    history::History,
    ours::{Stays, verdicts},
    restic::known_difference,
    restic_peer::Restic,
};

/// What restic keeps of histories that its clients took in zones of their own.
struct Shown {
    restic: Restic,
    history: History,
}

impl Shown {
    fn new(history: History, client_zone: &str) -> Self {
        let restic = Restic::new();
        let points: Vec<_> =
            history.points.iter().map(|p| (history.zone, p, client_zone.to_owned())).collect();
        restic.take_as(&points);
        Self { restic, history }
    }

    fn theirs(&self, zone: &str, keep: &Keep) -> Vec<String> {
        self.restic.forget(zone, keep, false)[self.history.zone].keys().cloned().collect()
    }

    /// Ours, and the oldest where restic is new enough to keep it.
    fn ours(&self, keep: &Keep) -> Vec<String> {
        let points = &self.history.points;
        names(&known_difference(
            self.restic.version,
            keep,
            points,
            verdicts(points, keep, Combine::Union, &self.history.tz()),
        ))
    }
}

fn names(stays: &Stays) -> Vec<String> {
    stays.keys().cloned().collect()
}

#[test]
fn restics_buckets_go_by_the_time_that_was_stored() {
    // An hour before and after midnight in Vienna, by a client who lives by UTC, where both are of one day.
    let points =
        [("a", "2024-06-01T12:00:00Z"), ("b", "2024-06-10T21:00:00Z"), ("c", "2024-06-10T23:00:00Z")];
    let shown = Shown::new(History::of("Europe/Vienna", &points), "UTC");
    let keep = Keep { daily: Some(2), ..Keep::default() };
    assert_eq!(shown.theirs("Europe/Vienna", &keep), ["a", "c"]);
    assert_eq!(shown.ours(&keep), ["b", "c"]);
}

#[test]
fn a_day_that_comes_twice_is_two_for_restic() {
    // Newfoundland set its clocks from 00:01 on 7 November 2010 back to 23:01 on the 6th.
    let points = [
        ("a-on-the-5th", "2010-11-05T12:00:00Z"),
        ("b-on-the-6th", "2010-11-07T02:00:00Z"),
        ("c-on-the-7th", "2010-11-07T02:30:30Z"),
        ("d-on-the-6th", "2010-11-07T02:45:00Z"),
        ("e-on-the-7th", "2010-11-07T04:00:00Z"),
    ];
    let history = History::of("America/St_Johns", &points);
    let restic = Restic::new();
    // Go takes the first of two equal times; the one after the change needs a clock for which it is the 6th, too.
    let client = |name: &str| if name.starts_with('d') { "Etc/GMT+3" } else { history.zone };
    let points: Vec<_> =
        history.points.iter().map(|p| (history.zone, p, client(&p.name).to_owned())).collect();
    restic.take_as(&points);
    let shown = Shown { restic, history };
    let keep = Keep { daily: Some(3), ..Keep::default() };
    assert_eq!(shown.theirs("UTC", &keep), ["c-on-the-7th", "d-on-the-6th", "e-on-the-7th"]);
    assert_eq!(shown.ours(&keep), ["a-on-the-5th", "d-on-the-6th", "e-on-the-7th"]);
}

#[test]
fn a_day_of_restics_keep_within_may_be_the_calendars() {
    // The night between has 23 hours: the older one is 23 and a half older, but of before the same time on the day before.
    let points = [("a", "2024-03-30T10:30:00Z"), ("b", "2024-03-31T10:00:00Z")];
    let shown = Shown::new(History::of("Europe/Vienna", &points), "Europe/Vienna");
    let keep = Keep { within: Some(SignedDuration::from_hours(24)), ..Keep::default() };
    assert_eq!(shown.theirs("Europe/Vienna", &keep), ["b"]);
    assert_eq!(shown.theirs("UTC", &keep), ["a", "b"]);
    assert_eq!(shown.ours(&keep), ["a", "b"]);
    // Exactly that old is too old, for both.
    let span = Keep { within: Some(SignedDuration::from_mins(23 * 60 + 30)), ..Keep::default() };
    assert_eq!(shown.ours(&span), ["b"]);
}

#[test]
fn of_equal_times_restic_keeps_as_many_but_not_certainly_the_same() {
    let time = "2024-06-10T21:00:00Z";
    let points = [("a", time), ("b", time), ("c", time), ("d", "2024-06-09T21:00:00Z")];
    let shown = Shown::new(History::of("UTC", &points), "UTC");
    let keep = Keep { last: Some(2), ..Keep::default() };
    assert_eq!(shown.ours(&keep), ["b", "c"]);
    let theirs: BTreeSet<String> = shown.theirs("UTC", &keep).into_iter().collect();
    assert_eq!(theirs.len(), 2);
    assert!(theirs.iter().all(|name| ["a", "b", "c"].contains(&name.as_str())), "{theirs:?}");
}

#[test]
fn restic_judges_snapshots_from_the_future() {
    let points =
        [("a", "2024-06-10T11:00:00Z"), ("b", "2024-06-10T21:00:00Z"), ("c", "2199-01-01T00:00:00Z")];
    let shown = Shown::new(History::of("UTC", &points), "UTC");
    let within = Keep { within: Some(SignedDuration::from_hours(2)), ..Keep::default() };
    assert_eq!(shown.theirs("UTC", &within), ["b", "c"]);
    let last = Keep { last: Some(1), ..Keep::default() };
    assert_eq!(shown.theirs("UTC", &last), ["c"]);
    let now: Timestamp = "2024-06-11T00:00:00Z".parse().unwrap();
    for keep in [within, last] {
        let ours =
            super::ours::verdicts_at(now, &shown.history.points, &keep, Combine::Union, &TimeZone::UTC);
        assert_eq!(names(&ours), ["a", "b", "c"]);
    }
}

#[test]
fn a_rule_of_zero_is_no_rule_for_restic() {
    let points = [("a", "2024-06-10T11:00:00Z"), ("b", "2024-06-10T21:00:00Z")];
    let shown = Shown::new(History::of("UTC", &points), "UTC");
    // "no policy was specified, no snapshots will be removed", and no answer.
    let answer = shown.restic.refused(&["--keep-daily", "0"]);
    assert!(answer.contains("no policy was specified"), "{answer}");
    let keep = Keep { daily: Some(0), ..Keep::default() };
    assert_eq!(names(&verdicts(&shown.history.points, &keep, Combine::Union, &TimeZone::UTC)), ["b"]);
    let none = verdicts(&shown.history.points, &Keep::default(), Combine::Union, &TimeZone::UTC);
    assert_eq!(names(&none), ["a", "b"]);
}

#[test]
fn all_and_more_than_there_are_is_the_same() {
    let points = [
        ("a", "2023-06-10T11:00:00Z"),
        ("b", "2024-06-10T11:00:00Z"),
        ("c", "2024-06-10T12:00:00Z"),
        ("d", "2024-06-11T21:00:00Z"),
    ];
    let shown = Shown::new(History::of("UTC", &points), "UTC");
    let keep = Keep { daily: Some(u32::MAX), ..Keep::default() };
    assert_eq!(shown.ours(&keep), ["a", "c", "d"]);
    assert_eq!(shown.theirs("UTC", &keep), ["a", "c", "d"]);
    // Its word for all, which 0.14 does not have.
    if shown.restic.version >= (0, 16) {
        let all = &shown.restic.forget_with("UTC", &["--keep-daily", "unlimited"])["UTC"];
        assert_eq!(names(all), ["a", "c", "d"]);
    }
}
