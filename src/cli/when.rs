//! Times that a person gives: a point in time, or how long from now on.

use jiff::{SignedDuration, Span, Timestamp, ToSpan as _, Zoned, civil, fmt::temporal::Pieces};

use super::{exit::Failure, render::Watch};
use crate::config;

/// Of an option, in µs, as the bus has it; it must not have passed.
pub(super) fn given(option: &str, text: &str, watch: &Watch) -> Result<u64, Failure> {
    let from_now = || {
        let long: SignedDuration = config::duration(text).ok()?;
        watch.now.checked_add(long).ok()
    };
    let at = point(text, watch).or_else(from_now).ok_or_else(|| {
        let hint = "give a date (2026-12-31), a date and a time (\"2026-12-31 18:00\"), a time of day (18:00), or how \
                    long from now on (12h, 30d)";
        Failure::Usage(format!("--{option} {text:?} is not a time; {hint}"))
    })?;
    usec(option, text, at, watch)
}

/// A point in time, in µs, if it has not passed.
pub(super) fn usec(option: &str, text: &str, at: Timestamp, watch: &Watch) -> Result<u64, Failure> {
    if at <= watch.now {
        return Err(Failure::Usage(format!("--{option} {text:?} has passed already")));
    }
    Ok(u64::try_from(at.as_microsecond()).unwrap_or(u64::MAX))
}

/// The same, where "never" is one, too.
pub(super) fn or_never(option: &str, text: &str, watch: &Watch) -> Result<u64, Failure> {
    if text == "never" { Ok(0) } else { given(option, text, watch) }
}

/// A point in time that has passed: as such, by the day (`yesterday 14:30`), as a time of day, or as how long ago.
pub(super) fn past(option: &str, text: &str, watch: &Watch) -> Result<Timestamp, Failure> {
    let at = earlier(text.trim(), watch).ok_or_else(|| {
        let hint = "give a date and a time (\"2026-01-31 14:30\"), \"yesterday 14:30\", a time of day (14:30), or how \
                    long ago (\"2h ago\")";
        Failure::Usage(format!("--{option} {text:?} is not a time; {hint}"))
    })?;
    if at > watch.now {
        return Err(Failure::Usage(format!("--{option} {text:?} has not come yet")));
    }
    Ok(at)
}

/// A time of day is the last one, a day without a time its first moment.
fn earlier(text: &str, watch: &Watch) -> Option<Timestamp> {
    let now = watch.now.to_zoned(watch.zone.clone());
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let day = match word {
        "now" if rest.is_empty() => return Some(watch.now),
        "today" => Some(now.date()),
        "yesterday" => Some(now.date().yesterday().ok()?),
        _ => None,
    };
    if let Some(day) = day {
        let time = if rest.is_empty() { civil::Time::midnight() } else { of_day(rest.trim())? };
        return Some(day.to_datetime(time).to_zoned(watch.zone.clone()).ok()?.timestamp());
    }
    if let Some(long) = text.strip_suffix("ago") {
        // A sign would turn it round.
        let long: Span = long.trim().parse().ok().filter(|long: &Span| long.is_positive())?;
        return Some(now.checked_sub(long).ok()?.timestamp());
    }
    let at = point(text, watch)?;
    // Not the next one.
    if at > watch.now && of_day(text).is_some() {
        Some(at.to_zoned(watch.zone.clone()).checked_sub(1.day()).ok()?.timestamp())
    } else {
        Some(at)
    }
}

/// In the reader's zone; a time of day is the next one.
pub(super) fn point(text: &str, watch: &Watch) -> Option<Timestamp> {
    if let Ok(given) = Pieces::parse(text) {
        let named = given.time_zone_annotation().is_some();
        // As a time without a zone it would be read, too, and the zone that was given be left out.
        return match given.offset() {
            _ if named => Some(text.parse::<Zoned>().ok()?.timestamp()),
            Some(_) => text.parse().ok(),
            None => {
                let at: civil::DateTime = text.parse().ok()?;
                Some(at.to_zoned(watch.zone.clone()).ok()?.timestamp())
            }
        };
    }
    let time = of_day(text)?;
    let today = watch.now.to_zoned(watch.zone.clone()).date();
    let on = |day: civil::Date| Some(day.to_datetime(time).to_zoned(watch.zone.clone()).ok()?.timestamp());
    match on(today)? {
        at if at > watch.now => Some(at),
        _ => on(today.tomorrow().ok()?),
    }
}

/// Nothing but that: it would be read off a date or be given a zone, and these be left out.
fn of_day(text: &str) -> Option<civil::Time> {
    let bare = text.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.' | ','));
    text.parse().ok().filter(|_| bare)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn it_is_a_point_in_time_or_how_long_from_now_on() {
        let zone = TimeZone::get("Europe/Vienna").unwrap();
        let watch = Watch { zone, now: "2026-11-20T23:30:00+01:00".parse().unwrap() };
        for (text, at) in [
            ("12h", "2026-11-21T11:30:00+01:00"),
            ("30d", "2026-12-20T23:30:00+01:00"),
            ("2026-12-31", "2026-12-31T00:00:00+01:00"),
            ("2026-12-31 18:00", "2026-12-31T18:00:00+01:00"),
            ("06:00", "2026-11-21T06:00:00+01:00"),
            ("2026-12-31 18:00[America/New_York]", "2026-12-31T18:00:00-05:00"),
            ("2026-12-31T18:00+05:00", "2026-12-31T18:00:00+05:00"),
        ] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(
                given("until", text, &watch).unwrap(),
                u64::try_from(at.as_microsecond()).unwrap(),
                "{text}"
            );
        }
        assert_eq!(or_never("expires", "never", &watch).unwrap(), 0);
        for wrong in ["never", "soon", "2026-11-20", "-1h", "0h", "", "06:00+05:00", "06:00[Asia/Tokyo]"] {
            let failure = given("until", wrong, &watch).unwrap_err();
            assert!(
                matches!(&failure, Failure::Usage(text) if text.contains("--until")),
                "{wrong}: {failure}"
            );
        }
    }

    #[test]
    fn a_time_that_has_passed_is_given_as_people_say_it() {
        let zone = TimeZone::get("Europe/Vienna").unwrap();
        let watch = Watch { zone, now: "2026-03-30T10:00:00+02:00".parse().unwrap() };
        for (text, at) in [
            ("2026-01-31 14:30", "2026-01-31T14:30:00+01:00"),
            ("2026-01-31", "2026-01-31T00:00:00+01:00"),
            ("2026-03-30T07:00:00Z", "2026-03-30T09:00:00+02:00"),
            ("yesterday 14:30", "2026-03-29T14:30:00+02:00"),
            // The clocks were set forward in that night.
            ("yesterday", "2026-03-29T00:00:00+01:00"),
            ("today 08:15", "2026-03-30T08:15:00+02:00"),
            ("09:30", "2026-03-30T09:30:00+02:00"),
            ("14:30", "2026-03-29T14:30:00+02:00"),
            ("2h ago", "2026-03-30T08:00:00+02:00"),
            ("2 hours ago", "2026-03-30T08:00:00+02:00"),
            ("1 day ago", "2026-03-29T10:00:00+02:00"),
            ("1 month ago", "2026-02-28T10:00:00+01:00"),
            ("now", "2026-03-30T10:00:00+02:00"),
            ("2026-01-31 14:30[America/New_York]", "2026-01-31T14:30:00-05:00"),
            ("2026-01-31 14:30-05:00[America/New_York]", "2026-01-31T14:30:00-05:00"),
            ("2026-01-31 14:30+00:00", "2026-01-31T14:30:00+00:00"),
        ] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(past("to", text, &watch).unwrap(), at, "{text}");
        }
        for wrong in [
            "2027-01-01",
            "today 11:00",
            "",
            "soon",
            "ago",
            "-2h ago",
            "2h",
            "yesterday 25:00",
            "now 12:00",
            // No part of it is left out.
            "14:30+00:00",
            "today 09:30+00:00",
            "today 09:30[Asia/Tokyo]",
            "yesterday 2026-01-01 14:30",
            "2026-01-31 14:30+05:00[America/New_York]",
            "2026-01-31 14:30[Nowhere/At_All]",
        ] {
            let refused = past("to", wrong, &watch).unwrap_err();
            assert!(matches!(&refused, Failure::Usage(text) if text.contains("--to")), "{wrong}: {refused}");
        }
    }
}
