//! Worked tables: what runs when, around every odd thing that zones do.

use jiff::{SignedDuration, Timestamp};

use super::{at, cron, tz};
use crate::core::schedule::{Schedule, next_fire, previous_fire};

const NS: SignedDuration = SignedDuration::from_nanos(1);

/// All runs from `from` (inclusive) to `to` (exclusive) in local time with offset, there and back the same.
fn runs(schedule: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let (schedule, tz) = (cron(schedule), tz(zone));
    let local =
        |text: &str| text.parse::<jiff::civil::DateTime>().unwrap().to_zoned(tz.clone()).unwrap().timestamp();
    let (from, to) = (local(from), local(to));
    let forward = walk(from - NS, |t| schedule.next_after(t, &tz).filter(|t| *t < to));
    let mut backward = walk(to, |t| schedule.previous_at_or_before(t - NS, &tz).filter(|t| *t >= from));
    backward.reverse();
    assert_eq!(forward, backward, "there and back");
    forward.iter().map(|t| t.to_zoned(tz.clone()).strftime("%d %H:%M%:z").to_string()).collect()
}

fn walk(from: Timestamp, step: impl Fn(Timestamp) -> Option<Timestamp>) -> Vec<Timestamp> {
    std::iter::successors(step(from), |t| step(*t)).take(3000).collect()
}

#[test]
fn new_york() {
    let spring = |s| runs(s, "America/New_York", "2024-03-09", "2024-03-12");
    assert_eq!(spring("30 2 * * *"), ["09 02:30-05:00", "10 03:00-04:00", "11 02:30-04:00"]);
    assert_eq!(spring("15,45 2 10 * *"), ["10 03:00-04:00"], "two in one gap are one");
    assert_eq!(spring("0 2,3 10 * *"), ["10 03:00-04:00"], "and one with that of the gap's end");
    assert_eq!(spring("30 2,3 10 * *"), ["10 03:00-04:00", "10 03:30-04:00"]);
    assert_eq!(spring("59 1 10 * *"), ["10 01:59-05:00"]);
    assert_eq!(
        spring("*/30 2 * * *"),
        ["09 02:00-05:00", "09 02:30-05:00", "11 02:00-04:00", "11 02:30-04:00"]
    );
    assert_eq!(spring("30 1-3/1 10 * *"), ["10 01:30-05:00", "10 03:00-04:00", "10 03:30-04:00"]);
    assert_eq!(spring("30 */2 10 * *").first().unwrap(), "10 00:30-05:00");
    assert_eq!(spring("30 */2 10 * *")[1], "10 04:30-04:00", "a wildcard hour skips the gap");
    assert_eq!(spring("0 * 10 * *").len(), 23);

    let autumn = |s| runs(s, "America/New_York", "2024-11-03", "2024-11-04");
    assert_eq!(autumn("30 1 * * *"), ["03 01:30-04:00"], "the first time");
    assert_eq!(autumn("0 1,2 * * *"), ["03 01:00-04:00", "03 02:00-05:00"]);
    assert_eq!(autumn("0,30 1 * * *"), ["03 01:00-04:00", "03 01:30-04:00"]);
    assert_eq!(
        autumn("*/30 1 * * *"),
        ["03 01:00-04:00", "03 01:30-04:00", "03 01:00-05:00", "03 01:30-05:00"],
        "elapsed time"
    );
    assert_eq!(autumn("0 * * * *").len(), 25);
    assert_eq!(autumn("@hourly").len(), 25);
    assert_eq!(autumn("@daily"), ["03 00:00-04:00"]);
}

#[test]
fn from_within_a_fold() {
    let ny = tz("America/New_York");
    let nightly = cron("30 1 * * *");
    let first = at("2024-11-03T05:30:00Z");
    assert_eq!(nightly.next_after(first - NS, &ny), Some(first));
    assert_eq!(nightly.next_after(first, &ny), Some(at("2024-11-04T06:30:00Z")));
    for second_pass in ["2024-11-03T06:00:00Z", "2024-11-03T06:29:59Z", "2024-11-03T06:30:00.5Z"] {
        assert_eq!(
            nightly.next_after(at(second_pass), &ny),
            Some(at("2024-11-04T06:30:00Z")),
            "{second_pass}"
        );
        assert_eq!(nightly.previous_at_or_before(at(second_pass), &ny), Some(first), "{second_pass}");
    }
    assert_eq!(
        cron("59 1 * * *").previous_at_or_before(at("2024-11-03T06:01:00Z"), &ny),
        Some(at("2024-11-03T05:59:00Z")),
        "01:59 was in the first pass, though the clock shows 01:01 again"
    );
}

#[test]
fn vienna() {
    assert_eq!(
        runs("30 2 * * *", "Europe/Vienna", "2024-03-30", "2024-04-02"),
        ["30 02:30+01:00", "31 03:00+02:00", "01 02:30+02:00"]
    );
    assert_eq!(runs("30 2 * * sun", "Europe/Vienna", "2024-10-27", "2024-10-29"), ["27 02:30+02:00"]);
    assert_eq!(
        runs("30 */2 27 * *", "Europe/Vienna", "2024-10-27", "2024-10-27T05:00"),
        ["27 00:30+02:00", "27 02:30+02:00", "27 02:30+01:00", "27 04:30+01:00"]
    );
}

#[test]
fn sao_paulo_has_no_midnight() {
    let zone = "America/Sao_Paulo";
    assert_eq!(
        runs("@daily", zone, "2018-11-03", "2018-11-06"),
        ["03 00:00-03:00", "04 01:00-02:00", "05 00:00-02:00"]
    );
    assert_eq!(runs("0 0 * * sun", zone, "2018-11-01", "2018-11-10"), ["04 01:00-02:00"]);
    assert_eq!(runs("*/15 0 4 11 *", zone, "2018-11-01", "2018-11-10"), Vec::<String>::new());
    // The fold: the last hour of the 17th twice.
    assert_eq!(runs("30 23 17 * *", zone, "2018-02-17", "2018-02-19"), ["17 23:30-02:00"]);
    assert_eq!(runs("@daily", zone, "2018-02-17", "2018-02-19"), ["17 00:00-02:00", "18 00:00-03:00"]);
}

#[test]
fn lord_howe_moves_half_an_hour() {
    let zone = "Australia/Lord_Howe";
    assert_eq!(runs("15,45 2 * * *", zone, "2024-10-06", "2024-10-07"), ["06 02:30+11:00", "06 02:45+11:00"]);
    assert_eq!(runs("0 * 6 10 *", zone, "2024-10-06", "2024-10-07").len(), 23, "no 02:00");
    assert_eq!(runs("*/30 1 7 4 *", zone, "2024-04-07", "2024-04-08").len(), 3);
    assert_eq!(runs("30,45 1 * * *", zone, "2024-04-07", "2024-04-08"), ["07 01:30+11:00", "07 01:45+11:00"]);
}

#[test]
fn apia_lost_a_day() {
    let zone = "Pacific/Apia";
    assert_eq!(
        runs("30 2 * * *", zone, "2011-12-29", "2012-01-01"),
        ["29 02:30-10:00", "31 00:00+14:00", "31 02:30+14:00"],
        "the lost day's run comes first thing next day"
    );
    assert_eq!(runs("@daily", zone, "2011-12-29", "2012-01-01"), ["29 00:00-10:00", "31 00:00+14:00"]);
    assert_eq!(runs("0 12 30 12 *", zone, "2011-12-29", "2012-01-01"), ["31 00:00+14:00"]);
    assert_eq!(runs("0 12 * * fri", zone, "2011-12-29", "2012-01-01"), ["31 00:00+14:00"]);
    assert_eq!(runs("0,30 6,12,18 30 * *", zone, "2011-12-29", "2012-01-01"), ["31 00:00+14:00"]);
    assert_eq!(runs("* * 30 * *", zone, "2011-12-29", "2012-01-01"), Vec::<String>::new());
}

#[test]
fn troll_jumps_two_hours() {
    let zone = "Antarctica/Troll";
    assert_eq!(
        runs("30 1,2 * * *", zone, "2024-03-31", "2024-04-01"),
        ["31 03:00+02:00"],
        "both are in the gap"
    );
    assert_eq!(runs("30 1,2 * * *", zone, "2024-10-27", "2024-10-28"), ["27 01:30+02:00", "27 02:30+02:00"]);
    assert_eq!(runs("30 * 27 10 *", zone, "2024-10-27", "2024-10-28").len(), 26);
}

#[test]
fn utc_and_months() {
    assert_eq!(runs("*/20 8-9 * * mon-fri", "UTC", "2026-11-21", "2026-11-24").len(), 6, "Monday only");
    assert_eq!(
        runs("0 0 13 * fri", "UTC", "2026-11-01", "2026-12-01").len(),
        4,
        "Fridays, of which one is the 13th"
    );
    assert_eq!(runs("0 0 14 * fri", "UTC", "2026-11-01", "2026-12-01").len(), 5, "either");
    assert_eq!(
        runs("0 0 */2 * fri", "UTC", "2026-11-01", "2026-12-01"),
        ["13 00:00+00:00", "27 00:00+00:00"]
    );
    assert_eq!(runs("0 0 31 * *", "UTC", "2026-01-01", "2027-01-01").len(), 7);
    assert_eq!(
        runs("0 0 * * 5-7", "UTC", "2026-11-02", "2026-11-09"),
        runs("0 0 * * fri-sun", "UTC", "2026-11-02", "2026-11-09")
    );
    assert_eq!(runs("0 0 * * 1-7/3", "UTC", "2026-11-02", "2026-11-09").len(), 3, "Mon, Thu, Sun");
    for sunday in ["0", "7", "sun", "0,7", "SUN"] {
        let weekly = runs(&format!("0 0 * * {sunday}"), "UTC", "2026-11-01", "2026-11-15");
        assert_eq!(weekly, runs("@weekly", "UTC", "2026-11-01", "2026-11-15"));
    }
    assert_eq!(runs("@monthly", "UTC", "2026-01-01", "2027-01-01").len(), 12);
    assert_eq!(
        runs("@yearly", "UTC", "2020-01-01", "2027-01-01"),
        runs("@annually", "UTC", "2020-01-01", "2027-01-01")
    );
}

#[test]
fn leap_days_over_centuries() {
    let utc = jiff::tz::TimeZone::UTC;
    let leap = cron("0 12 29 2 *");
    let pairs =
        [("1896-02-29T12:00:00Z", "1904-02-29T12:00:00Z"), ("2096-02-29T12:00:00Z", "2104-02-29T12:00:00Z")];
    for (before, after) in pairs {
        assert_eq!(leap.next_after(at(before), &utc), Some(at(after)));
        assert_eq!(leap.previous_at_or_before(at(after) - NS, &utc), Some(at(before)));
    }
    // A star in a day field means "and". 29 February on a Sunday, over 2100: the longest wait there is.
    let (sunday, before, after) =
        (cron("0 12 29 2 */7"), at("2088-02-29T12:00:00Z"), at("2128-02-29T12:00:00Z"));
    assert_eq!(sunday.next_after(before, &utc), Some(after));
    assert_eq!(sunday.previous_at_or_before(after - NS, &utc), Some(before));
}

#[test]
fn where_time_ends() {
    let utc = jiff::tz::TimeZone::UTC;
    for text in ["@yearly", "* * * * *", "30 2 * * *", "0 12 29 2 *"] {
        let s = cron(text);
        assert_eq!(s.next_after(Timestamp::MAX, &utc), None);
        assert_eq!(s.previous_at_or_before(Timestamp::MIN, &utc), None);
        assert!(s.previous_at_or_before(Timestamp::MAX - SignedDuration::from_hours(48), &utc).is_some());
        assert!(s.next_after(Timestamp::MIN, &utc).is_some());
    }
}

#[test]
fn reboot_has_no_time() {
    let (reboot, utc) = (cron("@reboot"), jiff::tz::TimeZone::UTC);
    assert!(reboot.is_reboot() && !cron("@daily").is_reboot());
    assert_eq!(reboot.next_after(at("2026-01-01T00:00:00Z"), &utc), None);
    assert_eq!(reboot.previous_at_or_before(at("2026-01-01T00:00:00Z"), &utc), None);
}

#[test]
fn several_schedules_are_one_sequence() {
    let utc = jiff::tz::TimeZone::UTC;
    let schedules: Vec<Schedule> = ["0 */6 * * *", "0 12 * * *", "@reboot", "30 13 * * *"].map(cron).into();
    let times = walk(at("2026-01-01T00:00:00Z"), |t| next_fire(&schedules, t, &utc));
    let hours: Vec<_> = times.iter().take(5).map(|t| t.strftime("%d %H:%M").to_string()).collect();
    assert_eq!(hours, ["01 06:00", "01 12:00", "01 13:30", "01 18:00", "02 00:00"]);
    assert_eq!(previous_fire(&schedules, at("2026-01-01T13:29:59Z"), &utc), Some(at("2026-01-01T12:00:00Z")));
    assert_eq!(next_fire(&[], at("2026-01-01T00:00:00Z"), &utc), None);
}
