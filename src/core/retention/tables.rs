//! Worked tables: each expectation was found with a calendar in hand, not with the code.

use std::collections::BTreeMap;

use super::{fixtures::*, *};
use crate::core::{
    model::Storage,
    policy::{Combine, Keep},
};

const UNION: Combine = Combine::Union;
const EXTEND: Combine = Combine::Extend;
const NONE: [&str; 0] = [];

#[test]
fn each_rule_keeps_the_newest_of_its_buckets_and_skips_empty_ones() {
    let s = snaps(&[
        "2024-05-05T05:05",
        "2026-09-30T23:59",
        "2026-11-02T10:00",
        "2026-11-09T09:00",
        "2026-11-09T09:30",
        "2026-11-09T11:00",
    ]);
    let keep = |keep| stays(&s, &retention(keep, UNION, "UTC"));
    assert_eq!(
        keep(Keep { last: Some(2), ..Keep::default() }),
        ["2026-11-09T11:00 keep-last=1", "2026-11-09T09:30 keep-last=2"]
    );
    assert_eq!(
        keep(Keep { hourly: Some(3), ..Keep::default() }),
        [
            "2026-11-09T11:00 keep-hourly=2026-11-09T11",
            "2026-11-09T09:30 keep-hourly=2026-11-09T09",
            "2026-11-02T10:00 keep-hourly=2026-11-02T10"
        ]
    );
    assert_eq!(
        keep(Keep { daily: Some(2), ..Keep::default() }),
        ["2026-11-09T11:00 keep-daily=2026-11-09", "2026-11-02T10:00 keep-daily=2026-11-02"]
    );
    assert_eq!(
        keep(Keep { weekly: Some(3), ..Keep::default() }),
        [
            "2026-11-09T11:00 keep-weekly=2026-W46",
            "2026-11-02T10:00 keep-weekly=2026-W45",
            "2026-09-30T23:59 keep-weekly=2026-W40"
        ]
    );
    assert_eq!(
        keep(Keep { monthly: Some(9), ..Keep::default() }),
        [
            "2026-11-09T11:00 keep-monthly=2026-11",
            "2026-09-30T23:59 keep-monthly=2026-09",
            "2024-05-05T05:05 keep-monthly=2024-05"
        ]
    );
    assert_eq!(
        keep(Keep { yearly: Some(2), ..Keep::default() }),
        ["2026-11-09T11:00 keep-yearly=2026", "2024-05-05T05:05 keep-yearly=2024"]
    );
}

#[test]
fn within_is_measured_from_the_newest_and_strict() {
    let s = snaps(&["2026-11-07T11:00", "2026-11-07T11:00:01Z", "2026-11-09T11:00"]);
    let keep = Keep { within: Some(days(2)), ..Keep::default() };
    let expected = ["2026-11-09T11:00 keep-within", "2026-11-07T11:00:01Z keep-within"];
    assert_eq!(stays(&s, &retention(keep, UNION, "UTC")), expected);
}

#[test]
fn weeks_at_new_year_have_their_iso_year() {
    // 2026 has 53 ISO weeks; the last one ends on Sunday, 3 January 2027.
    let s = daily("2026-12-20", "2027-01-12", "02:30", "Europe/Vienna");
    let keep = Keep { weekly: Some(4), ..Keep::default() };
    assert_eq!(
        stays(&s, &retention(keep, UNION, "Europe/Vienna")),
        [
            "2027-01-12 keep-weekly=2027-W02",
            "2027-01-10 keep-weekly=2027-W01",
            "2027-01-03 keep-weekly=2026-W53",
            "2026-12-27 keep-weekly=2026-W52"
        ]
    );
}

#[test]
fn the_year_ends_when_it_ends_in_the_policys_zone() {
    let s = snaps(&["2026-12-31T12:00", "2027-01-01T03:00", "2027-01-01T12:00"]);
    let keep = || Keep { yearly: Some(2), ..Keep::default() };
    assert_eq!(
        names(&stays(&s, &retention(keep(), UNION, "America/New_York"))),
        ["2027-01-01T12:00", "2027-01-01T03:00"]
    );
    assert_eq!(names(&stays(&s, &retention(keep(), UNION, "UTC"))), ["2027-01-01T12:00", "2026-12-31T12:00"]);
}

#[test]
fn daylight_saving_time_repeats_and_skips_an_hour() {
    let keep = |n| retention(Keep { hourly: Some(n), ..Keep::default() }, UNION, "Europe/Vienna");
    // 02:30 summer time, 02:30 winter time, 03:30: the repeated hour is one.
    let autumn = snaps(&["2026-10-24T23:30", "2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"]);
    assert_eq!(
        stays(&autumn, &keep(3)),
        [
            "2026-10-25T02:30 keep-hourly=2026-10-25T03",
            "2026-10-25T01:30 keep-hourly=2026-10-25T02",
            "2026-10-24T23:30 keep-hourly=2026-10-25T01"
        ]
    );
    let spring = snaps(&["2026-03-29T00:30", "2026-03-29T01:30"]);
    assert_eq!(
        stays(&spring, &keep(9)),
        ["2026-03-29T01:30 keep-hourly=2026-03-29T03", "2026-03-29T00:30 keep-hourly=2026-03-29T01"]
    );
}

#[test]
fn a_day_that_comes_twice_is_one_bucket() {
    // Newfoundland set its clocks from 00:01 on 7 November 2010 back to 23:01 on the 6th.
    let s = snaps(&["2010-11-07T02:00", "2010-11-07T02:30:30Z", "2010-11-07T02:45", "2010-11-07T04:00"]);
    let keep = Keep { daily: Some(3), ..Keep::default() };
    assert_eq!(
        stays(&s, &retention(keep, UNION, "America/St_Johns")),
        ["2010-11-07T04:00 keep-daily=2010-11-07", "2010-11-07T02:45 keep-daily=2010-11-06"]
    );
    // Samoa had no 30 December 2011: two neighbouring days, one bucket each.
    let s = daily("2011-12-27", "2012-01-02", "12:00", "Pacific/Apia");
    let keep = Keep { daily: Some(4), ..Keep::default() };
    let kept = stays(&s, &retention(keep, UNION, "Pacific/Apia"));
    let days: Vec<_> = kept.iter().map(|l| l.split_once('=').unwrap().1).collect();
    assert_eq!(days, ["2012-01-02", "2012-01-01", "2011-12-31", "2011-12-29"]);
}

/// A daily snapshot since 2024 under the rules that Proxmox's manual recommends for ten years of history.
fn ten_years() -> (Vec<Snapshot>, Keep) {
    let keep = Keep {
        last: Some(3),
        daily: Some(13),
        weekly: Some(8),
        monthly: Some(11),
        yearly: Some(9),
        ..Keep::default()
    };
    (daily("2024-01-01", "2026-11-20", "02:30", "Europe/Vienna"), keep)
}

#[test]
#[rustfmt::skip]
fn extend_makes_each_rule_reach_further_back() {
    let (s, keep) = ten_years();
    let kept = stays(&s, &retention(keep, EXTEND, "Europe/Vienna"));
    let expected = [
        // keep-last 3: a Friday and the two days before
        "2026-11-20", "2026-11-19", "2026-11-18",
        // keep-daily 13: the days before those
        "2026-11-17", "2026-11-16", "2026-11-15", "2026-11-14", "2026-11-13", "2026-11-12", "2026-11-11",
        "2026-11-10", "2026-11-09", "2026-11-08", "2026-11-07", "2026-11-06", "2026-11-05",
        // keep-weekly 8: weeks 47, 46, 45 are covered; the Sundays of 44 to 37
        "2026-11-01", "2026-10-25", "2026-10-18", "2026-10-11", "2026-10-04", "2026-09-27", "2026-09-20",
        "2026-09-13",
        // keep-monthly 11: November to September are covered
        "2026-08-31", "2026-07-31", "2026-06-30", "2026-05-31", "2026-04-30", "2026-03-31", "2026-02-28",
        "2026-01-31", "2025-12-31", "2025-11-30", "2025-10-31",
        // keep-yearly 9: 2026 and 2025 are covered, there is only one more
        "2024-12-31",
    ];
    assert_eq!(names(&kept), expected);
    // Each is kept by exactly one rule.
    assert!(kept.iter().all(|line| line.matches("keep-").count() == 1), "{kept:?}");
}

#[test]
#[rustfmt::skip]
fn union_lets_each_rule_count_for_itself() {
    let (s, keep) = ten_years();
    let kept = stays(&s, &retention(keep, UNION, "Europe/Vienna"));
    let expected = [
        // daily 13, the first three of them keep-last's too, three of them a week's
        "2026-11-20", "2026-11-19", "2026-11-18", "2026-11-17", "2026-11-16", "2026-11-15", "2026-11-14",
        "2026-11-13", "2026-11-12", "2026-11-11", "2026-11-10", "2026-11-09", "2026-11-08",
        // weekly 8 and monthly 11, mingled
        "2026-11-01", "2026-10-31", "2026-10-25", "2026-10-18", "2026-10-11", "2026-10-04", "2026-09-30",
        "2026-08-31", "2026-07-31", "2026-06-30", "2026-05-31", "2026-04-30", "2026-03-31", "2026-02-28",
        "2026-01-31",
        // yearly
        "2025-12-31", "2024-12-31",
    ];
    assert_eq!(names(&kept), expected);
    assert_eq!(
        kept[0],
        "2026-11-20 keep-last=1 keep-daily=2026-11-20 keep-weekly=2026-W47 keep-monthly=2026-11 keep-yearly=2026"
    );
}

#[test]
fn extend_counts_what_within_and_last_keep_as_covered() {
    let s = daily("2026-11-01", "2026-11-20", "02:30", "UTC");
    let keep = Keep { within: Some(days(2)), last: Some(1), daily: Some(2), ..Keep::default() };
    assert_eq!(
        stays(&s, &retention(keep, EXTEND, "UTC")),
        [
            "2026-11-20 keep-within",
            "2026-11-19 keep-within",
            "2026-11-18 keep-last=3",
            "2026-11-17 keep-daily=2026-11-17",
            "2026-11-16 keep-daily=2026-11-16"
        ]
    );
}

#[test]
fn of_equal_times_the_greater_name_is_newer() {
    let mut s = snaps(&["2026-11-09T11:00", "2026-11-09T11:00"]);
    s[0].name = SnapshotName::existing("b");
    s[1].name = SnapshotName::existing("a");
    let keep = Keep { last: Some(1), ..Keep::default() };
    assert_eq!(names(&stays(&s, &retention(keep, UNION, "UTC"))), ["b"]);
}

/// What goes under policy `p`, as "name rule", oldest first.
fn goes(snapshots: &[Snapshot], retention: &Retention, change: impl FnOnce(&mut Context<'_>)) -> Vec<String> {
    let p = policy("p");
    let policies = [Rules { policy: &p, retention }];
    let mut ctx = Context::new(at("2026-11-20T12:00"), &policies);
    change(&mut ctx);
    judge(snapshots, &ctx).iter().filter(|v| !v.keep).map(line).collect()
}

fn limited(limits: Limits) -> Retention {
    Retention { limits, ..retention(Keep::default(), UNION, "UTC") }
}

#[test]
fn limits_cut_the_oldest_and_spare_pinned_ones() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    s[0].pinned = true;
    let cut = |s: &[Snapshot], limits| goes(s, &limited(limits), |_| {});
    // Exactly nine days old is not older than nine days.
    assert!(cut(&s, Limits { max_age: Some(days(9)), ..Limits::default() }).is_empty());
    let age = Limits { max_age: Some(days(8)), ..Limits::default() };
    assert_eq!(cut(&s, age), ["2026-11-11 max-age"]);
    // Eleven, one pinned and not counted.
    let count = Limits { max_count: Some(9), ..Limits::default() };
    assert_eq!(cut(&s, count), ["2026-11-11 max-count"]);
    // 110 bytes, the pinned one's counted.
    let bytes = Limits { max_size: Some(95), ..Limits::default() };
    assert_eq!(cut(&s, bytes), ["2026-11-11 max-size", "2026-11-12 max-size"]);
    // Nothing cuts the newest good one.
    let none = Limits { max_age: Some(days(0)), max_count: Some(0), max_size: Some(0), max_delete: None };
    assert_eq!(cut(&s, none).len(), 9);
}

#[test]
fn the_vms_own_limit_stands_over_all_policies() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    s[1].policies.clear();
    let cut = goes(&s, &limited(Limits::default()), |ctx| ctx.vm_max_size = Some(80));
    assert_eq!(cut, ["2026-11-10 vm-max-size", "2026-11-12 vm-max-size"]);
}

#[test]
fn a_full_chain_takes_the_finest_rules_oldest() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    s[3].storage = Storage::Internal;
    let keep = Keep { last: Some(4), daily: Some(8), weekly: Some(2), ..Keep::default() };
    let retention = retention(keep, UNION, "UTC");
    let cut = |n| {
        let all = goes(&s, &retention, |ctx| ctx.max_chain = Some(n));
        all.into_iter().filter(|l| l.ends_with("chain-full")).collect::<Vec<_>>()
    };
    // Eight daily ones stay, one of them internal. The oldest of the days that no week wants goes first.
    assert_eq!(cut(8), NONE);
    assert_eq!(cut(7), ["2026-11-14 chain-full"]);
    // At last only the week before and the newest good one are left, then that one alone.
    assert_eq!(cut(3).len(), 5);
    assert!(!cut(3).contains(&"2026-11-15 chain-full".to_owned()));
    assert_eq!(cut(1).len(), 6);
}

#[test]
fn max_delete_takes_the_oldest_and_a_person_may_have_it_all() {
    let s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    let mut retention = retention(Keep { last: Some(7), ..Keep::default() }, UNION, "UTC");
    retention.limits.max_delete = Some(2);
    assert_eq!(goes(&s, &retention, |_| {}), ["2026-11-10 not-wanted", "2026-11-11 not-wanted"]);
    assert_eq!(goes(&s, &retention, |ctx| ctx.whole = true).len(), 4);
}

#[test]
fn an_implausible_clock_stops_everything() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    let retention = retention(Keep { last: Some(1), ..Keep::default() }, UNION, "UTC");
    let at_time = |s: &[Snapshot], now, last: Option<&str>| {
        goes(s, &retention, |ctx| (ctx.now, ctx.last_plausible) = (at(now), last.map(at))).len()
    };
    assert_eq!(at_time(&s, "2026-11-20T12:00", None), 10);
    assert_eq!(at_time(&s, "2026-11-20T11:55", Some("2026-11-20T12:04")), 10);
    assert_eq!(at_time(&s, "2026-11-20T11:55", Some("2026-11-20T12:06")), 0);
    assert_eq!(at_time(&s, "2026-11-20T11:45", None), 0);
    assert_eq!(at_time(&s, "2027-11-20T12:00", Some("2026-11-20T12:00")), 10);
    assert_eq!(at_time(&s, "2027-11-22T12:00", Some("2026-11-20T12:00")), 0);
    assert_eq!(at_time(&s[..0], "1970-01-01T00:00", None), 0);
    for s in &mut s {
        s.created = at("1969-12-31T00:00");
    }
    assert_eq!(at_time(&s, "1970-01-01T00:00", None), 0);
    // A foreign one may be from any time.
    let mut s = snaps(&["2026-11-10T12:00", "2026-11-11T12:00", "2030-01-01T00:00"]);
    s[2].managed = false;
    assert_eq!(at_time(&s, "2026-11-20T12:00", None), 1);
}

#[test]
fn what_no_policy_may_let_go_says_why() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    s[0].managed = false;
    s[1].pinned = true;
    s[2].state = SnapshotState::Failed;
    s[3].policies.insert(policy("gone"));
    s[4].policies.clear();
    let needed = BTreeMap::from([(s[5].name.clone(), Need::OtherVm("db".to_owned()))]);
    let (p, retention) = (policy("p"), retention(Keep { last: Some(1), ..Keep::default() }, UNION, "UTC"));
    let policies = [Rules { policy: &p, retention: &retention }];
    let ctx = Context { needed: &needed, ..Context::new(at("2026-11-20T12:00"), &policies) };
    let verdicts = judge(&s, &ctx);
    let text: Vec<_> = verdicts.iter().map(Verdict::text).collect();
    assert_eq!(text[0], "Stays: virtsnap did not make it.");
    assert_eq!(text[1], "Stays: it is pinned.");
    assert_eq!(text[2], "Stays: it is failed, so no policy judges it.");
    assert_eq!(text[3], "Stays: its policy gone is no longer in force.");
    assert_eq!(text[4], "Stays: it counts for no policy.");
    assert_eq!(text[5], "Stays: the VM \"db\" uses its image.");
    assert_eq!(text[6], "Goes: no keep rule of policy p wants it.");
    assert_eq!(
        text[10],
        "Stays: it is the newest good one; keep-last of policy p keeps it, number 1 from the newest."
    );
    assert_eq!(doomed(&verdicts).iter().filter(|goes| **goes).count(), 4);
}

#[test]
fn one_whose_own_time_is_over_goes_and_takes_no_slot() {
    let mut s = daily("2026-11-10", "2026-11-14", "12:00", "UTC");
    let over = Some(at("2026-11-20T12:00"));
    (s[1].expires, s[3].expires) = (over, over);
    let keep = retention(Keep { last: Some(2), ..Keep::default() }, UNION, "UTC");
    let wanted = ["2026-11-10 not-wanted", "2026-11-11 expired", "2026-11-13 expired"];
    assert_eq!(goes(&s, &keep, |_| {}), wanted);
    assert_eq!(goes(&s, &keep, |ctx| ctx.now = at("2026-11-20T11:59"))[1], "2026-11-11 not-wanted");
    // Whatever holds one, and no policy that deletes nothing.
    let nothing = limited(Limits::default());
    assert_eq!(goes(&s, &nothing, |_| {}), wanted[1..]);
    s[1].policies.clear();
    assert_eq!(goes(&s, &nothing, |_| {}), wanted[1..]);
    (s[1].pinned, s[3].state, s[4].expires) = (true, SnapshotState::Failed, over);
    assert_eq!(goes(&s, &nothing, |_| {}), NONE);
    (s[1].pinned, s[1].managed) = (false, false);
    assert_eq!(goes(&s, &nothing, |_| {}), NONE);
}

#[test]
fn another_policys_newest_does_not_count_against_max_count() {
    // Found by the property tests: it did once it was wanted, and a second prune deleted one more.
    let mut s = daily("2026-11-10", "2026-11-14", "12:00", "UTC");
    s[1].policies.insert(policy("q"));
    let (p, q) = (policy("p"), policy("q"));
    let (mut limits, empty) = (limited(Limits::default()), limited(Limits::default()));
    limits.limits.max_count = Some(2);
    let policies = [Rules { policy: &p, retention: &limits }, Rules { policy: &q, retention: &empty }];
    let verdicts = judge(&s, &Context::new(at("2026-11-20T12:00"), &policies));
    let gone: Vec<_> = verdicts.iter().filter(|v| !v.keep).map(line).collect();
    assert_eq!(gone, ["2026-11-10 max-count", "2026-11-12 max-count"]);
}

#[test]
fn only_the_live_chain_fills_up() {
    let mut s = daily("2026-11-10", "2026-11-20", "12:00", "UTC");
    // Each on top of the one before, but the fifth and sixth on an abandoned branch.
    for i in 1..s.len() {
        s[i].parent = Some(s[if i == 6 { 3 } else { i - 1 }].name.clone());
    }
    s[10].current = true;
    let keep = retention(Keep { last: Some(99), ..Keep::default() }, UNION, "UTC");
    let cut = |s: &[Snapshot], n| goes(s, &keep, |ctx| ctx.max_chain = Some(n));
    assert_eq!(cut(&s, 10), NONE);
    assert_eq!(cut(&s, 5).len(), 5);
    assert!(!cut(&s, 5).iter().any(|l| l.starts_with("2026-11-14") || l.starts_with("2026-11-15")));
    // A tree without sense says nothing about any chain.
    s[4].current = true;
    assert_eq!(cut(&s, 5), NONE);
    (s[4].current, s[0].parent) = (false, Some(s[9].name.clone()));
    assert_eq!(cut(&s, 5), NONE);
}
