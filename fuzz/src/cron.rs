//! A text as a schedule, at any instant in a zone where something odd has happened.
//!
//! The first byte chooses the zone and its odd day, the second whether the instant is near that day, eight bytes are
//! the instant, and the rest is the text.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use virtsnap::core::{
    policy::CatchUp,
    schedule::{Schedule, due},
};

const NS: SignedDuration = SignedDuration::from_nanos(1);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HEAD: usize = 10;

/// Zones, and days on which something odd happens there.
const ODD: &[(&str, &str)] = &[
    ("UTC", "2024-02-29"),
    ("America/New_York", "2024-03-10"),
    ("America/New_York", "2024-11-03"),
    ("Europe/Vienna", "2024-03-31"),
    ("Europe/Vienna", "2024-10-27"),
    ("Europe/Dublin", "2026-10-25"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Africa/Cairo", "2024-04-26"),
    ("Africa/Casablanca", "2087-05-11"),
    ("Australia/Lord_Howe", "2024-10-06"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("Asia/Manila", "1844-12-31"),
    ("America/Juneau", "1867-10-18"),
    ("Antarctica/Troll", "2024-03-31"),
    ("Antarctica/Troll", "2024-10-27"),
    ("Antarctica/Casey", "2010-03-05"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("Asia/Pyongyang", "2015-08-15"),
    ("America/Caracas", "2016-05-01"),
    ("Africa/Monrovia", "1972-01-07"),
    ("Asia/Gaza", "2072-10-01"),
    ("Europe/Vienna", "2100-03-28"),
    ("America/Nuuk", "2023-03-26"),
];

/// Panics if the schedule breaks one of its promises.
pub fn run(data: &[u8]) {
    let Some((head, text)) = data.split_at_checked(HEAD) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (zone, day) = ODD[usize::from(head[0]) % ODD.len()];
    let number = u64::from_le_bytes(head[2..].try_into().expect("eight bytes"));
    let at = instant(head[1], day, number);
    match Schedule::parse(text) {
        Ok(schedule) => {
            assert_eq!(schedule.as_str(), text);
            runs(&schedule, at, &TimeZone::get(zone).expect("the zone is known"));
        }
        Err(e) => {
            assert!(text.get(e.span.clone()).is_some(), "{:?} is not in {text:?}", e.span);
            assert!(!e.span.is_empty() || text.is_empty(), "{e:?} points at nothing in {text:?}");
            assert!(!e.message.is_empty() && e.help.is_none_or(|help| !help.is_empty()));
        }
    }
}

fn instant(how: u8, day: &str, number: u64) -> Timestamp {
    let nanos = i64::from(how / 2 % 3);
    let seconds = if how.is_multiple_of(2) {
        let day: Timestamp = format!("{day}T00:00:00Z").parse().expect("a day");
        day.as_second() + i64::try_from(number % (72 * 3600)).expect("it fits") - 36 * 3600
    } else {
        let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        first + i64::try_from(number % (last - first).cast_unsigned()).expect("it fits")
    };
    Timestamp::from_second(seconds).expect("in range") + SignedDuration::from_nanos(nanos)
}

fn runs(schedule: &Schedule, at: Timestamp, tz: &TimeZone) {
    let next = schedule.next_after(at, tz);
    let previous = schedule.previous_at_or_before(at, tz);
    if schedule.is_reboot() {
        assert_eq!((next, previous), (None, None));
        return;
    }
    // 29 February on one weekday can be 40 years off. What never comes is an error, and said at once.
    let year = tz.to_datetime(at).year();
    assert!(next.is_some() || year > 9_950, "never again after {at}");
    assert!(previous.is_some() || year < -9_950, "never before {at}");
    let model = Model::of(schedule.as_str());
    if let Some(next) = next {
        assert!(next > at);
        assert!(model.explains(next, tz), "{next} is no run");
        assert_eq!(schedule.previous_at_or_before(next, tz), Some(next));
        assert_eq!(schedule.previous_at_or_before(next - NS, tz), previous, "nothing between");
    }
    if let Some(previous) = previous {
        assert!(previous <= at);
        assert!(model.explains(previous, tz), "{previous} is no run");
        assert_eq!(schedule.next_after(previous, tz), next, "nothing between");
        if let Ok(before) = previous.checked_sub(NS) {
            assert_eq!(schedule.next_after(before, tz), Some(previous));
        }
    }
    watched(&model, at, next, tz);
    decided(schedule, at, previous, next, tz);
}

/// Watches the clock for some hours: no minute of them is a run that was passed over.
fn watched(model: &Model, at: Timestamp, next: Option<Timestamp>, tz: &TimeZone) {
    let Ok(end) = at.checked_add(SignedDuration::from_hours(30)) else { return };
    let end = next.map_or(end, |next| next.min(end));
    // Local mean times have seconds, and a grid of minutes misses theirs.
    if tz.to_offset(at).seconds() % 60 != 0 || tz.to_offset(end).seconds() % 60 != 0 || model.fixed {
        return;
    }
    // Time begins in the middle of a minute.
    let Ok(mut now) = Timestamp::from_second(at.as_second().div_euclid(60) * 60) else { return };
    while now < end {
        assert!(now <= at || !model.matches(tz.to_datetime(now)), "{now} is a run, too");
        now += MINUTE;
    }
}

/// What the daemon makes of it when it wakes.
fn decided(
    schedule: &Schedule,
    now: Timestamp,
    previous: Option<Timestamp>,
    next: Option<Timestamp>,
    tz: &TimeZone,
) {
    let list = std::slice::from_ref(schedule);
    let grace = SignedDuration::from_mins(2);
    let within = SignedDuration::from_hours(12);
    for catch_up in CatchUp::ALL {
        let first = due(list, tz, None, now, *catch_up, within, grace);
        assert_eq!((first.fire, first.missed, first.next, first.last), (None, 0, next, now));
        let Ok(dealt_with) = now.checked_sub(SignedDuration::from_hours(30)) else { continue };
        let due = due(list, tz, Some(dealt_with), now, *catch_up, within, grace);
        let newest = previous.filter(|previous| *previous > dealt_with);
        assert_eq!(due.next, next, "there is nothing between the last run and now");
        assert!(!due.reset && due.last == newest.unwrap_or(dealt_with));
        let age = newest.map(|newest| now.duration_since(newest));
        let runs = age.is_some_and(|age| age <= grace || (*catch_up == CatchUp::Once && age <= within));
        assert_eq!(due.fire, newest.filter(|_| runs));
        assert!(due.skipped.is_none_or(|s| s.at > dealt_with && s.at <= now && Some(s.at) != due.fire));
        assert_eq!(due.skipped.is_some(), due.missed > 0 && (!runs || *catch_up == CatchUp::Skip));
    }
}

/// A schedule that was found good, read a second time in the plainest way.
struct Model {
    fields: [BTreeSet<i8>; 5],
    either_day: bool,
    /// No `*` in the minute and the hour.
    fixed: bool,
}

impl Model {
    fn of(text: &str) -> Self {
        let text = match text.trim_matches([' ', '\t']).to_lowercase().as_str() {
            "@hourly" => "0 * * * *".to_owned(),
            "@daily" | "@midnight" => "0 0 * * *".to_owned(),
            "@weekly" => "0 0 * * 0".to_owned(),
            "@monthly" => "0 0 1 * *".to_owned(),
            "@yearly" | "@annually" => "0 0 1 1 *".to_owned(),
            fields => fields.to_owned(),
        };
        let words: Vec<_> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        let [minute, hour, day, month, weekday] = words[..] else { panic!("{text:?} has five fields") };
        let mut weekdays = values(weekday, 0, 7, "sunmontuewedthufrisat");
        if weekdays.remove(&7) {
            weekdays.insert(0);
        }
        Self {
            fields: [
                values(minute, 0, 59, ""),
                values(hour, 0, 23, ""),
                values(day, 1, 31, ""),
                values(month, 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"),
                weekdays,
            ],
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            fixed: !minute.contains('*') && !hour.contains('*'),
        }
    }

    fn matches(&self, civil: DateTime) -> bool {
        let [minute, hour, day, month, weekday] = &self.fields;
        let by_day = day.contains(&civil.day());
        let by_weekday = weekday.contains(&civil.weekday().to_sunday_zero_offset());
        minute.contains(&civil.minute())
            && hour.contains(&civil.hour())
            && month.contains(&civil.month())
            && if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }

    /// A run's civil time is a match, to the second; or, for a fixed time, the end of a gap.
    fn explains(&self, run: Timestamp, tz: &TimeZone) -> bool {
        let civil = tz.to_datetime(run);
        let gap = run
            .checked_sub(NS)
            .is_ok_and(|before| tz.to_offset(run).seconds() > tz.to_offset(before).seconds());
        let whole = civil.second() == 0 && civil.subsec_nanosecond() == 0;
        (whole && self.matches(civil)) || (self.fixed && gap)
    }
}

/// The values of a field: lists of `*`, `a` and `a-b`, of which the ranges may have a `/n`.
fn values(field: &str, min: i8, max: i8, names: &str) -> BTreeSet<i8> {
    let value = |word: &str| match names.find(word).filter(|_| word.starts_with(|c: char| c.is_alphabetic()))
    {
        Some(at) => i8::try_from(at / 3).expect("it fits") + min,
        None => word.parse().expect("a number"),
    };
    let mut all = BTreeSet::new();
    for element in field.split(',') {
        let (range, step) = element.split_once('/').unwrap_or((element, "1"));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            // At the end of a range Sunday is the seventh day.
            Some((from, "sun")) if value(from) > 0 => (value(from), 7),
            Some((from, to)) => (value(from), value(to)),
            None => (value(range), value(range)),
        };
        // A step that no field has room for leaves the first value.
        all.extend((from..=to).step_by(step.parse().unwrap_or(usize::MAX)));
    }
    all
}
