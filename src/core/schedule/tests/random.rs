//! Properties of all schedules in all zones, and the `croner` crate as a second opinion.

use chrono::{DateTime, FixedOffset, TimeZone as _};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{prelude::*, sample::select};

use super::{Model, at, cron, model, tz};
use crate::core::schedule::Schedule;

const NS: SignedDuration = SignedDuration::from_nanos(1);
const DAY: i64 = 86_400;

/// Zones, and days on which something odd happens there.
const ODD: &[(&str, &str)] = &[
    ("America/New_York", "2024-03-10"),
    ("America/New_York", "2024-11-03"),
    ("Europe/Vienna", "2024-03-31"),
    ("Europe/Vienna", "2024-10-27"),
    ("Europe/Dublin", "2026-10-25"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Africa/Cairo", "2024-04-26"),
    ("Africa/Casablanca", "2024-03-10"),
    ("Australia/Lord_Howe", "2024-10-06"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("Antarctica/Troll", "2024-03-31"),
    ("Antarctica/Troll", "2024-10-27"),
    ("Antarctica/Casey", "2010-03-05"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("Asia/Pyongyang", "2015-08-15"),
    ("America/Caracas", "2016-05-01"),
    ("UTC", "2024-02-29"),
];

/// An odd zone and some minutes around its odd day, to the nanosecond.
fn odd_window() -> impl Strategy<Value = (TimeZone, Timestamp, Timestamp)> {
    (select(ODD), -36 * 3600..24 * 3600_i64, 1..50 * 3600_i64, 0..3_i64).prop_map(
        |((zone, day), from, long, ns)| {
            let from = at(&format!("{day}T00:00:00Z"))
                + SignedDuration::from_secs(from)
                + NS * i32::try_from(ns).unwrap();
            (tz(zone), from, from + SignedDuration::from_secs(long))
        },
    )
}

/// Any zone of this machine, at any time of ours.
fn anywhen() -> impl Strategy<Value = (TimeZone, Timestamp)> {
    let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    (select(names), 0..(2060 - 1970) * 366 * DAY, 0..3_i64).prop_map(|(name, s, ns)| {
        (tz(&name), Timestamp::from_second(s).unwrap() + SignedDuration::from_nanos(ns))
    })
}

fn forward(schedule: &Schedule, from: Timestamp, to: Timestamp, tz: &TimeZone) -> Vec<Timestamp> {
    let step = |t: Timestamp| schedule.next_after(t, tz).filter(|t| *t <= to);
    std::iter::successors(step(from), |t| step(*t)).collect()
}

fn backward(schedule: &Schedule, from: Timestamp, to: Timestamp, tz: &TimeZone) -> Vec<Timestamp> {
    let step = |t: Timestamp| schedule.previous_at_or_before(t, tz).filter(|t| *t > from);
    let mut found: Vec<_> = std::iter::successors(step(to), |t| step(*t - NS)).collect();
    found.reverse();
    found
}

/// What a run's civil time must be: a match, or, for a fixed time, the end of a gap.
fn explained(model: &Model, run: Timestamp, tz: &TimeZone) -> bool {
    let gap = tz.to_offset(run).seconds() - tz.to_offset(run - NS).seconds();
    model.matches(tz.to_datetime(run)) || (model.fixed_time() && gap > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The heart of it: all runs, there and back, are those that watching the clock gives.
    #[test]
    fn runs_are_those_of_a_watched_clock(model in model(), (tz, from, to) in odd_window()) {
        let schedule = cron(&model.text);
        let watched = model.runs(from, to, &tz);
        prop_assert_eq!(&forward(&schedule, from, to, &tz), &watched, "forward");
        prop_assert_eq!(&backward(&schedule, from, to, &tz), &watched, "backward");
        prop_assert!(watched.iter().all(|run| explained(&model, *run, &tz)));
        if model.fixed_time() {
            let mut civil: Vec<_> = watched.iter().map(|run| tz.to_datetime(*run)).collect();
            civil.dedup();
            prop_assert_eq!(civil.len(), watched.len(), "a fixed time runs once");
            prop_assert!(civil.is_sorted());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn backward_is_the_inverse_of_forward_in_all_zones(model in model(), (tz, when) in anywhen()) {
        let schedule = cron(&model.text);
        let next = schedule.next_after(when, &tz).unwrap();
        let previous = schedule.previous_at_or_before(when, &tz).unwrap();
        prop_assert!(previous <= when && when < next);
        prop_assert_eq!(schedule.previous_at_or_before(next, &tz), Some(next));
        prop_assert_eq!(schedule.previous_at_or_before(next - NS, &tz), Some(previous), "nothing between");
        prop_assert_eq!(schedule.next_after(previous, &tz), Some(next));
        prop_assert_eq!(schedule.next_after(previous - NS, &tz), Some(previous));
        prop_assert!(explained(&model, next, &tz) && explained(&model, previous, &tz));
    }

    /// The calendar repeats every 400 years; the `cron` crate's years end at 2100.
    #[test]
    fn centuries_are_alike(model in model(), s in 0..60 * 365 * DAY, ages in prop_oneof![Just(-2), Just(-1), Just(1), Just(3)]) {
        let (schedule, utc) = (cron(&model.text), TimeZone::UTC);
        let age = SignedDuration::from_secs(ages * 146_097 * DAY);
        let when = Timestamp::from_second(s).unwrap();
        prop_assert_eq!(schedule.next_after(when + age, &utc), schedule.next_after(when, &utc).map(|t| t + age));
        let back = |when| schedule.previous_at_or_before(when, &utc);
        prop_assert_eq!(back(when + age), back(when).map(|t| t + age));
    }

    /// Away from transitions `croner` agrees, but for what [`known_differences_from_croner`] lists.
    #[test]
    fn croner_agrees(model in model(), summer in 0..100 * DAY, year in 1980..2080_i16) {
        let [_, _, day, _, weekday] = &model.fields;
        prop_assume!([day, weekday].iter().all(|f| f.text == "*" || !f.text.starts_with('*')));
        prop_assume!(!model.fields.iter().any(|f| f.text.contains('*') && f.text.contains(',')));
        prop_assume!(!weekday.text.to_lowercase().contains("sun-sun"));
        let croner: croner::Cron = model.text.parse().unwrap();
        let schedule = cron(&model.text);
        // Vienna from mid-May on.
        let vienna = FixedOffset::east_opt(7200).unwrap();
        let mut ours = at(&format!("{year}-05-15T00:00:00Z")) + SignedDuration::from_secs(summer);
        let mut theirs: DateTime<FixedOffset> = vienna.timestamp_opt(ours.as_second(), 0).unwrap();
        let end = at(&format!("{year}-09-15T00:00:00Z"));
        for _ in 0..20 {
            let before = ours;
            ours = schedule.next_after(ours, &tz("Europe/Vienna")).unwrap();
            if ours > end {
                break;
            }
            theirs = croner.find_next_occurrence(&theirs, false).unwrap();
            prop_assert_eq!(ours.as_second(), theirs.timestamp(), "{} after {}", model.text, before);
        }
    }
}

/// Where `croner` is known to differ; should it change its mind, this says so.
#[test]
fn known_differences_from_croner() {
    let utc = TimeZone::UTC;
    let from = at("2026-11-01T00:00:00Z");
    let croner = |text: &str| {
        let schedule: croner::Cron = text.parse().unwrap();
        let next = schedule
            .find_next_occurrence(&chrono::DateTime::from_timestamp(from.as_second(), 0).unwrap(), false);
        Timestamp::from_second(next.unwrap().timestamp()).unwrap()
    };
    let ours = |text: &str| cron(text).next_after(from, &utc).unwrap();
    // `*/2` restricts for croner, so that it means "or"; for Vixie cron it means "and".
    assert_eq!(croner("0 0 */2 * fri"), at("2026-11-03T00:00:00Z"));
    assert_eq!(ours("0 0 */2 * fri"), at("2026-11-13T00:00:00Z"));
    // A `*` in a list is refused, though `*/n` is not.
    assert!("*,5 * * * *".parse::<croner::Cron>().is_err());
    assert_eq!(ours("*,5 * * * *"), at("2026-11-01T00:01:00Z"));
    // The second `sun` is always 7, so that this is the whole week; cron's is 0 and the range that one day.
    assert_eq!(croner("0 0 * * sun-sun"), at("2026-11-02T00:00:00Z"));
    assert_eq!(ours("0 0 * * sun-sun"), at("2026-11-08T00:00:00Z"));
}
