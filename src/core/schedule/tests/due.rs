//! What is due, what was missed, and what a clock that jumps does to it.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::{at, cron, model, tz};
use crate::core::{
    model::VmId,
    policy::CatchUp,
    schedule::{Due, MISSED_MAX, Schedule, SkipReason, Skipped, due, next_fire, spread_offset},
};

const GRACE: SignedDuration = SignedDuration::from_secs(60);
const WITHIN: SignedDuration = SignedDuration::from_hours(12);

fn nightly(last: Option<&str>, now: &str, catch_up: CatchUp) -> Due {
    due(&[cron("30 2 * * *")], &TimeZone::UTC, last.map(at), at(now), catch_up, WITHIN, GRACE)
}

fn fire(due: Due) -> Option<String> {
    due.fire.map(|t| t.to_string())
}

#[test]
fn a_policy_never_seen_has_missed_nothing() {
    let due = nightly(None, "2026-11-21T02:31:00Z", CatchUp::Once);
    assert_eq!((due.fire, due.missed, due.skipped, due.reset), (None, 0, None, false));
    assert_eq!(due.next, Some(at("2026-11-22T02:30:00Z")));
    assert_eq!(due.last, at("2026-11-21T02:31:00Z"), "it begins now");
}

#[test]
fn on_time_it_runs_whatever_catch_up_says() {
    for catch_up in CatchUp::ALL {
        for now in ["2026-11-21T02:30:00Z", "2026-11-21T02:30:00.001Z", "2026-11-21T02:31:00Z"] {
            let due = nightly(Some("2026-11-20T02:30:00Z"), now, *catch_up);
            assert_eq!(due.fire, Some(at("2026-11-21T02:30:00Z")));
            assert_eq!((due.missed, due.skipped, due.last), (0, None, at("2026-11-21T02:30:00Z")));
            assert_eq!(due.next, Some(at("2026-11-22T02:30:00Z")));
        }
    }
    let early = nightly(Some("2026-11-20T02:30:00Z"), "2026-11-21T02:29:59.999Z", CatchUp::Once);
    assert_eq!((early.fire, early.next), (None, Some(at("2026-11-21T02:30:00Z"))));
}

#[test]
fn a_month_off_is_one_run() {
    let last = Some("2026-10-21T02:30:00Z");
    let once = nightly(last, "2026-11-21T14:30:00Z", CatchUp::Once);
    assert_eq!(fire(once).unwrap(), "2026-11-21T02:30:00Z");
    assert_eq!((once.missed, once.skipped), (30, None));
    assert_eq!(once.last, at("2026-11-21T02:30:00Z"));

    let late = nightly(last, "2026-11-21T14:30:01Z", CatchUp::Once);
    assert_eq!((late.fire, late.missed), (None, 31));
    assert_eq!(late.skipped, Some(Skipped { at: at("2026-11-21T02:30:00Z"), why: SkipReason::TooLongAgo }));
    assert_eq!(late.last, at("2026-11-21T02:30:00Z"), "it is dealt with, and not reported again");
    assert_eq!(late.next, Some(at("2026-11-22T02:30:00Z")));

    let skip = nightly(last, "2026-11-21T02:31:01Z", CatchUp::Skip);
    assert_eq!((skip.fire, skip.missed), (None, 31));
    assert_eq!(skip.skipped, Some(Skipped { at: at("2026-11-21T02:30:00Z"), why: SkipReason::Policy }));

    // Woken just in time: today's runs, those before are skipped or stand behind it.
    let skip = nightly(last, "2026-11-21T02:30:30Z", CatchUp::Skip);
    assert_eq!((skip.fire, skip.missed), (Some(at("2026-11-21T02:30:00Z")), 30));
    assert_eq!(skip.skipped, Some(Skipped { at: at("2026-11-20T02:30:00Z"), why: SkipReason::Policy }));
    let once = nightly(last, "2026-11-21T02:30:30Z", CatchUp::Once);
    assert_eq!((once.missed, once.skipped), (30, None));
}

#[test]
fn the_count_of_missed_ones_ends_somewhere() {
    let due = |catch_up| {
        let last = Some(at("2025-11-21T00:00:00Z"));
        due(&[cron("* * * * *")], &TimeZone::UTC, last, at("2026-11-21T12:00:00Z"), catch_up, WITHIN, -GRACE)
    };
    assert_eq!((due(CatchUp::Once).missed, due(CatchUp::Skip).missed), (MISSED_MAX, MISSED_MAX));
}

#[test]
fn a_clock_set_back_runs_nothing_twice() {
    let back = nightly(Some("2026-11-21T02:30:00Z"), "2026-11-21T01:00:00Z", CatchUp::Once);
    assert_eq!((back.fire, back.next, back.reset), (None, Some(at("2026-11-22T02:30:00Z")), false));
    assert_eq!(back.last, at("2026-11-21T02:30:00Z"), "not forgotten");
    let day = nightly(Some("2026-11-21T02:30:00Z"), "2026-11-20T02:30:00Z", CatchUp::Once);
    assert_eq!((day.next, day.reset), (Some(at("2026-11-22T02:30:00Z")), false));
    // It had been in 2036: then waiting for 2036 is no help.
    let years = nightly(Some("2036-11-21T02:30:00Z"), "2026-11-21T01:00:00Z", CatchUp::Once);
    assert_eq!((years.fire, years.next, years.reset), (None, Some(at("2026-11-21T02:30:00Z")), true));
    assert_eq!(years.last, at("2026-11-21T01:00:00Z"));
}

#[test]
fn nothing_is_due_without_times() {
    for schedules in [vec![], vec![cron("@reboot")]] {
        let now = at("2026-11-21T02:30:00Z");
        let due =
            due(&schedules, &TimeZone::UTC, Some(Timestamp::UNIX_EPOCH), now, CatchUp::Once, WITHIN, GRACE);
        assert_eq!((due.fire, due.missed, due.skipped, due.next), (None, 0, None, None));
    }
}

#[test]
fn a_run_lost_in_a_gap_is_not_missed() {
    let (schedules, vienna) = ([cron("30 2 * * *")], tz("Europe/Vienna"));
    let last = Some(at("2024-03-30T02:30:00+01:00"));
    let now = at("2024-03-31T03:00:00+02:00");
    let due = due(&schedules, &vienna, last, now, CatchUp::Skip, WITHIN, GRACE);
    assert_eq!((due.fire, due.missed), (Some(now), 0));
    assert_eq!(due.next, Some(at("2024-04-01T02:30:00+02:00")));
}

proptest! {
    /// Asked at any times, with the clock now and then set back, each instant runs at most once, in order, never
    /// early; and while it only goes forward, each one runs, or is counted as missed.
    #[test]
    fn each_instant_is_run_or_counted_once(
        model in model(),
        start in 0..2_000_000_000_i64,
        steps in proptest::collection::vec((1..200_000_i64, 0..8_u8), 1..12),
        skip in any::<bool>(),
    ) {
        let schedules: [Schedule; 1] = [cron(&model.text)];
        let vienna = tz("Europe/Vienna");
        let catch_up = if skip { CatchUp::Skip } else { CatchUp::Once };
        let begin = Timestamp::from_second(start).unwrap();
        let (mut now, mut last, mut runs, mut missed, mut capped) = (begin, begin, Vec::new(), 0, false);
        let mut highest = now;
        for (seconds, kind) in steps {
            // Mostly forward; to the next instant exactly; back by less than a day.
            now = match kind {
                0 => now - SignedDuration::from_secs(seconds % 80_000),
                1 | 2 => next_fire(&schedules, last, &vienna).unwrap(),
                _ => now + SignedDuration::from_secs(seconds),
            };
            if last.duration_since(now) > SignedDuration::from_hours(24) {
                now = last;
            }
            highest = highest.max(now);
            let due = due(&schedules, &vienna, Some(last), now, catch_up, WITHIN, GRACE);
            prop_assert!(!due.reset && due.last >= last);
            prop_assert!(due.next.unwrap() > now.max(due.last));
            prop_assert!(due.fire.is_none_or(|fire| fire > last && fire <= now && fire == due.last));
            prop_assert!(due.missed == 0 || due.fire.is_some() || due.skipped.is_some());
            last = due.last;
            runs.extend(due.fire);
            missed += due.missed;
            capped |= due.missed == MISSED_MAX;
        }
        prop_assert!(runs.is_sorted_by(|a, b| a < b));
        let mut all = 0;
        let mut at = begin;
        while let Some(next) = next_fire(&schedules, at, &vienna).filter(|t| *t <= highest && !capped) {
            (all, at) = (all + 1, next);
        }
        prop_assert!(capped || all == u32::try_from(runs.len()).unwrap() + missed);
    }

    #[test]
    fn offsets_are_whole_seconds_below_the_spread(id in any::<u128>(), seconds in -5..100_000_i64, ns in 0..1_000_000_000) {
        let spread = SignedDuration::new(seconds, ns);
        let offset = spread_offset(VmId(uuid::Uuid::from_u128(id)), spread);
        prop_assert!(!offset.is_negative() && offset.subsec_nanos() == 0);
        prop_assert!(offset < spread || (offset.is_zero() && !spread.is_positive()));
    }
}

#[test]
fn offsets_never_change() {
    let offset =
        |id: &str, minutes| spread_offset(id.parse().unwrap(), SignedDuration::from_mins(minutes)).as_secs();
    // Written down once: a new version must not move every VM's runs.
    assert_eq!(offset("c7a5fdbd-edaf-9455-926a-d65c16db1809", 20), 387);
    assert_eq!(offset("c7a5fdbd-edaf-9455-926a-d65c16db1809", 90), 387);
    assert_eq!(offset("00000000-0000-0000-0000-000000000000", 20), 810);
}

#[test]
fn offsets_are_spread_evenly() {
    // Like hosts that number their VMs: UUIDs that differ in the last bytes only.
    let mut tenths = [0; 10];
    for n in 0..1000 {
        let id = VmId(uuid::Uuid::from_u128(0xc7a5_fdbd_edaf_9455_926a_d65c_16db_0000 + n));
        let offset = spread_offset(id, SignedDuration::from_secs(600));
        tenths[usize::try_from(offset.as_secs() / 60).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|n| (60..140).contains(n)), "{tenths:?}");
}
