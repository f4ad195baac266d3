//! `extend` is Proxmox's way. Debian has no package of it, so these are tables: each was worked out with a calendar in
//! hand from the rules as documented, not with our code nor theirs.
//!
//! The rules (<https://pbs.proxmox.com/docs/maintenance.html#pruning>, the same words in
//! <https://pve.proxmox.com/pve-docs/chapter-vzdump.html#vzdump_retention>): options are processed in the order last,
//! hourly, daily, weekly, monthly, yearly; of each period only the latest is kept; weeks are those of ISO 8601; "Each
//! option only covers backups within its time period. The next option does not take care of already covered backups. It
//! will only consider older backups." And from the simulator's page
//! (<https://pbs.proxmox.com/docs/prune-simulator/documentation.html>): periods without backups do not count.
//!
//! Differences, each shown in a table marked so:
//!
//! 1. "It will only consider older backups": what a rule passed over inside a period that it kept another of is out for
//!    the later rules, too. That shows where a week is a part of two months or years. For us each period's
//!    representative is its newest snapshot, whatever finer rules passed over.
//! 2. A protected backup is no backup for the rules: it takes no slot, nor does it cover a period. For us a pinned one
//!    counts: a pin never changes what becomes of the others.
//! 3. An unfinished backup goes unless it is newer than the last finished one. Ours stay for the recovery to deal with.
//!    (Not in a table: what is unfinished is no matter of a policy here.)
//! 4. Buckets go by the server's zone, ours by the policy's.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use virtsnap::core::policy::{Combine, Keep};

use super::{history::Point, ours::verdicts};

/// A day, or a moment on the wall, as a point named so.
fn point(zone: &str, name: &str) -> Point {
    let wall = if name.contains('T') { format!("{name}:00") } else { format!("{name}T12:00:00") };
    let wall: jiff::civil::DateTime = wall.parse().unwrap();
    let at: Timestamp = wall.in_tz(zone).unwrap().timestamp();
    Point { name: name.to_owned(), at, pinned: false }
}

/// A backup at noon of each day, both included.
fn daily(from: &str, to: &str) -> Vec<String> {
    let (from, to): (Date, Date) = (from.parse().unwrap(), to.parse().unwrap());
    std::iter::successors(Some(from), |day| day.tomorrow().ok())
        .take_while(|day| *day <= to)
        .map(|day| day.to_string())
        .collect()
}

fn kept(zone: &str, backups: &[impl AsRef<str>], keep: &Keep) -> Vec<String> {
    let points: Vec<Point> = backups.iter().map(|name| point(zone, name.as_ref())).collect();
    let tz = TimeZone::get(zone).unwrap();
    verdicts(&points, keep, Combine::Extend, &tz).into_keys().collect()
}

#[test]
fn hours_and_days() {
    let backups = [
        "2024-05-13T22:15",
        "2024-05-13T23:15",
        "2024-05-14T08:15",
        "2024-05-14T08:45",
        "2024-05-14T09:15",
        "2024-05-14T10:15",
        "2024-05-14T10:45",
    ];
    let kept = |keep| kept("Europe/Vienna", &backups, &keep);
    // Hours 10 and 9; the 14th is covered.
    assert_eq!(
        kept(Keep { hourly: Some(2), daily: Some(2), ..Keep::default() }),
        ["2024-05-13T23:15", "2024-05-14T09:15", "2024-05-14T10:45"]
    );
    // The last two are both of hour 10, which covers the 14th.
    assert_eq!(
        kept(Keep { last: Some(2), daily: Some(2), ..Keep::default() }),
        ["2024-05-13T23:15", "2024-05-14T10:15", "2024-05-14T10:45"]
    );
    // Hour 10 is covered: 9 and 8.
    assert_eq!(
        kept(Keep { last: Some(1), hourly: Some(2), ..Keep::default() }),
        ["2024-05-14T08:45", "2024-05-14T09:15", "2024-05-14T10:45"]
    );
}

#[test]
fn periods_without_backups_do_not_count() {
    let backups = ["2023-11-05", "2024-02-01", "2024-02-10", "2024-05-05"];
    let kept = |keep| kept("UTC", &backups, &keep);
    assert_eq!(kept(Keep { daily: Some(3), ..Keep::default() }), ["2024-02-01", "2024-02-10", "2024-05-05"]);
    assert_eq!(
        kept(Keep { daily: Some(1), monthly: Some(2), ..Keep::default() }),
        ["2023-11-05", "2024-02-10", "2024-05-05"]
    );
}

#[test]
fn days_then_weeks() {
    // Monday 1 to Wednesday 24 January; week 4 has begun on the 22nd.
    let backups = daily("2024-01-01", "2024-01-24");
    let keep = Keep { daily: Some(3), weekly: Some(2), ..Keep::default() };
    assert_eq!(
        kept("America/New_York", &backups, &keep),
        ["2024-01-14", "2024-01-21", "2024-01-22", "2024-01-23", "2024-01-24"]
    );
}

#[test]
fn weeks_at_new_year_then_months_and_years() {
    // Week 53 of 2020 is 28 December to 3 January. The 5th covers week 1, January and 2021; the 27th, of week 52, covers
    // December and 2020.
    let backups = daily("2020-12-21", "2021-01-05");
    let keep = Keep { daily: Some(1), weekly: Some(3), monthly: Some(2), yearly: Some(2), ..Keep::default() };
    assert_eq!(kept("Europe/Vienna", &backups, &keep), ["2020-12-27", "2021-01-03", "2021-01-05"]);
}

#[test]
fn months_then_years() {
    let backups = [
        "2022-12-30",
        "2023-10-15",
        "2023-10-31",
        "2023-11-15",
        "2023-11-30",
        "2023-12-15",
        "2023-12-31",
        "2024-01-15",
        "2024-01-31",
        "2024-02-15",
    ];
    let keep = Keep { monthly: Some(2), yearly: Some(3), ..Keep::default() };
    assert_eq!(kept("UTC", &backups, &keep), ["2022-12-30", "2023-12-31", "2024-01-31", "2024-02-15"]);
}

#[test]
fn one_of_each() {
    // Wednesday 12 June, the day before, the Sunday before, the end of the month before; 2024 is covered.
    let backups = daily("2024-03-01", "2024-06-12");
    let one = Some(1);
    let keep = Keep { last: one, daily: one, weekly: one, monthly: one, yearly: one, ..Keep::default() };
    assert_eq!(
        kept("Pacific/Apia", &backups, &keep),
        ["2024-05-31", "2024-06-09", "2024-06-11", "2024-06-12"]
    );
}

#[test]
fn the_manuals_ten_years_on_two_years_of_nights() {
    // The rules that the manual recommends (keep-last 3, -daily 13, -weekly 8, -monthly 11, -yearly 9), on Wednesday 12
    // June 2024 after every night since 20 November 2022.
    let keep = Keep {
        last: Some(3),
        daily: Some(13),
        weekly: Some(8),
        monthly: Some(11),
        yearly: Some(9),
        ..Keep::default()
    };
    let mut expected: Vec<String> = daily("2024-05-28", "2024-06-12");
    // Weeks 24, 23 and 22 (27 May to 2 June) are covered: Sundays of 21 to 14.
    let sundays = ["04-07", "04-14", "04-21", "04-28", "05-05", "05-12", "05-19", "05-26"];
    // June to April are covered: eleven months from March. 2024 and 2023 are covered then; 2022 is not.
    let months = ["2023-05-31", "2023-06-30", "2023-07-31", "2023-08-31", "2023-09-30", "2023-10-31"];
    let months =
        months.into_iter().chain(["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"]);
    expected.extend(sundays.map(|day| format!("2024-{day}")));
    expected.extend(months.map(str::to_owned));
    expected.push("2022-12-31".to_owned());
    expected.sort();
    assert_eq!(kept("Europe/Vienna", &daily("2022-11-20", "2024-06-12"), &keep), expected);
}

#[test]
fn difference_what_a_week_passed_over_may_stand_for_its_month() {
    // Sunday is 1 September: it stands for a week of which six days are August's. Proxmox has passed those over, and
    // takes the 25th for August ("only older backups"); we take the newest of August.
    let backups = daily("2024-08-20", "2024-09-04");
    let keep = Keep { daily: Some(1), weekly: Some(1), monthly: Some(1), ..Keep::default() };
    let proxmox = ["2024-08-25", "2024-09-01", "2024-09-04"];
    let ours = ["2024-08-31", "2024-09-01", "2024-09-04"];
    let kept = kept("UTC", &backups, &keep);
    assert_ne!(kept, proxmox);
    assert_eq!(kept, ours);
}

#[test]
fn difference_a_pinned_one_counts() {
    let mut points = ["2024-05-09", "2024-05-10", "2024-05-11", "2024-05-12"].map(|day| point("UTC", day));
    points[2].pinned = true;
    let keep = Keep { daily: Some(2), ..Keep::default() };
    let kept: Vec<String> = verdicts(&points, &keep, Combine::Extend, &TimeZone::UTC).into_keys().collect();
    // For Proxmox the 11th is protected, and the two days are the 12th and the 10th.
    assert_ne!(kept, ["2024-05-10", "2024-05-11", "2024-05-12"]);
    assert_eq!(kept, ["2024-05-11", "2024-05-12"]);
}
