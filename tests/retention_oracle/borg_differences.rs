//! Where Borg does otherwise than we do on purpose, each shown. The first two are also in
//! [`known_difference`](super::borg::known_difference), for random histories have them.
//!
//! 1. A month of which a week's archive is kept, but not its newest, is not covered for Borg.
//! 2. The finest of Borg's rules with slots left keeps the oldest archive.
//! 3. Borg's `keep-within` is measured from now; ours from the newest snapshot, so that a host that was off loses nothing.
//! 4. Borg compares a bucket with the one before only: a day that comes twice is two.
//! 5. Borg's `keep-last` is `keep-secondly`: archives of the same second count as one, and the others go.
//! 6. Borg's buckets go by the zone of the client who asks; ours by the policy's.
//! 7. Without a rule Borg refuses; we delete nothing. (A refusal is no verdict: there is no test for it here.)

use jiff::{SignedDuration, tz::TimeZone};
use virtsnap::core::policy::{Combine, Keep};

use super::{borg_peer::prune, history::History, ours::verdicts};

/// What Borg keeps and what we keep.
fn both(zone: &'static str, keep: &Keep, options: &[&str], points: &[(&str, &str)]) -> [Vec<String>; 2] {
    let histories = [History::of(zone, points)];
    let theirs = prune(&histories, &[(zone, 0, keep.clone(), options)]).remove(0);
    let ours = verdicts(&histories[0].points, keep, Combine::Extend, &TimeZone::get(zone).unwrap());
    [theirs, ours].map(|stays| stays.into_keys().collect())
}

#[test]
fn a_week_in_two_months_does_not_cover_the_older_one_for_borg() {
    let points = [
        ("a", "2026-09-30T12:00:00Z"),
        // The Sunday of week 43, and the Saturday and Sunday of week 44.
        ("b", "2026-10-25T12:00:00Z"),
        ("c", "2026-10-31T12:00:00Z"),
        ("d", "2026-11-01T12:00:00Z"),
    ];
    // As if it were 2020, for Borg: the same days of the week.
    let points = points.map(|(name, at)| (name, at.replace("2026", "2020")));
    let points = points.each_ref().map(|(name, at)| (*name, at.as_str()));
    let keep = Keep { weekly: Some(2), monthly: Some(1), ..Keep::default() };
    let [borg, ours] = both("UTC", &keep, &[], &points);
    // November is covered. So is October for us, by its 25th; Borg keeps its 31st.
    assert_eq!(borg, ["b", "c", "d"]);
    assert_eq!(ours, ["a", "b", "d"]);
}

#[test]
fn borg_keeps_the_oldest_while_a_rule_has_slots() {
    let points =
        [("a", "2020-06-10T11:00:00Z"), ("b", "2020-06-10T12:00:00Z"), ("c", "2020-06-11T21:00:00Z")];
    let keep = |daily| Keep { daily: Some(daily), ..Keep::default() };
    assert_eq!(both("UTC", &keep(3), &[], &points), [vec!["a", "b", "c"], vec!["b", "c"]]);
    assert_eq!(both("UTC", &keep(2), &[], &points), [["b", "c"], ["b", "c"]]);
}

#[test]
fn borgs_keep_within_is_measured_from_now() {
    let points =
        [("a", "2020-06-10T11:00:00Z"), ("b", "2020-06-10T12:00:00Z"), ("c", "2020-06-10T13:00:00Z")];
    let keep = Keep { last: Some(1), ..Keep::default() };
    let [borg, _] = both("UTC", &keep, &["--keep-within", "2H"], &points);
    let within = Keep { within: Some(SignedDuration::from_hours(2)), last: None, ..keep };
    let ours = verdicts(&History::of("UTC", &points).points, &within, Combine::Extend, &TimeZone::UTC);
    assert_eq!(borg, ["c"]);
    assert_eq!(ours.into_keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn a_day_that_comes_twice_is_two_for_borg() {
    let points = [
        ("a-on-the-5th", "2010-11-05T12:00:00Z"),
        ("b-on-the-6th", "2010-11-07T02:00:00Z"),
        ("c-on-the-7th", "2010-11-07T02:30:30Z"),
        ("d-on-the-6th", "2010-11-07T02:45:00Z"),
        ("e-on-the-7th", "2010-11-07T04:00:00Z"),
    ];
    let keep = Keep { daily: Some(3), ..Keep::default() };
    let [borg, ours] = both("America/St_Johns", &keep, &[], &points);
    assert_eq!(borg, ["c-on-the-7th", "d-on-the-6th", "e-on-the-7th"]);
    assert_eq!(ours, ["a-on-the-5th", "d-on-the-6th", "e-on-the-7th"]);
}

#[test]
fn archives_of_one_second_are_one_for_borgs_keep_last() {
    let time = "2020-06-10T11:00:00Z";
    let points = [("a", "2020-06-09T11:00:00Z"), ("b", "2020-06-10T10:59:59Z"), ("c", time), ("d", time)];
    let keep = Keep { last: Some(2), ..Keep::default() };
    let [borg, ours] = both("UTC", &keep, &[], &points);
    assert_eq!(ours, ["c", "d"]);
    // Of the two, which one is not said.
    assert!(borg == ["b", "c"] || borg == ["b", "d"], "{borg:?}");
}

#[test]
fn borgs_buckets_go_by_the_zone_of_who_asks() {
    let points =
        [("a", "2020-06-01T12:00:00Z"), ("b", "2020-06-10T21:00:00Z"), ("c", "2020-06-10T23:00:00Z")];
    let histories = [History::of("Europe/Vienna", &points)];
    let keep = Keep { daily: Some(2), ..Keep::default() };
    let none: &[&str] = &[];
    let asked = ["Europe/Vienna", "UTC"].map(|zone| (zone, 0, keep.clone(), none));
    let theirs: Vec<Vec<String>> =
        prune(&histories, &asked).into_iter().map(|stays| stays.into_keys().collect()).collect();
    assert_eq!(theirs, [["b", "c"], ["a", "c"]]);
    let ours = verdicts(&histories[0].points, &keep, Combine::Extend, &histories[0].tz());
    assert_eq!(ours.into_keys().collect::<Vec<_>>(), ["b", "c"]);
}
