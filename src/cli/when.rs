//! Times that a person gives: a point in time, or how long from now on.

use jiff::{SignedDuration, Timestamp, civil};

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

/// In the reader's zone; a time of day is the next one.
pub(super) fn point(text: &str, watch: &Watch) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(at) = text.parse::<civil::DateTime>() {
        return Some(at.to_zoned(watch.zone.clone()).ok()?.timestamp());
    }
    let time: civil::Time = text.parse().ok()?;
    let today = watch.now.to_zoned(watch.zone.clone()).date();
    let on = |day: civil::Date| Some(day.to_datetime(time).to_zoned(watch.zone.clone()).ok()?.timestamp());
    match on(today)? {
        at if at > watch.now => Some(at),
        _ => on(today.tomorrow().ok()?),
    }
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
        ] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(
                given("until", text, &watch).unwrap(),
                u64::try_from(at.as_microsecond()).unwrap(),
                "{text}"
            );
        }
        assert_eq!(or_never("expires", "never", &watch).unwrap(), 0);
        for wrong in ["never", "soon", "2026-11-20", "-1h", "0h", ""] {
            let failure = given("until", wrong, &watch).unwrap_err();
            assert!(
                matches!(&failure, Failure::Usage(text) if text.contains("--until")),
                "{wrong}: {failure}"
            );
        }
    }
}
