//! From civil times to instants and back, through gaps and folds. The rules are in [`super`]'s documentation.

use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use super::calendar::Calendar;

const TICK: SignedDuration = SignedDuration::from_nanos(1);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The first run strictly after `after`.
pub(super) fn next(calendar: &Calendar, after: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    if !calendar.fixed_time {
        return next_match(calendar, after, tz);
    }
    // Later civil times have later instants or the same. In a fold's second pass, and just after a gap, those that come
    // first have had theirs: hence the loop.
    let mut civil = whole_second(tz.to_datetime(after));
    loop {
        civil = calendar.next(civil)?;
        let at = instant(civil, tz)?;
        if at > after {
            return Some(at);
        }
    }
}

/// The last run at or before `at`.
pub(super) fn previous(calendar: &Calendar, at: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    if !calendar.fixed_time {
        return previous_match(calendar, at, tz);
    }
    let mut civil = tz.to_datetime(at);
    if let AmbiguousOffset::Fold { before, after } = tz.to_ambiguous_timestamp(civil).offset()
        && tz.to_offset(at) == after
    {
        // In the second pass all of the fold has had its turn: look back from where the clock would be without it, which
        // is past the fold's end.
        civil = before.to_datetime(at);
    }
    // "Before the next second" is "at or before this one".
    civil = whole_second(civil).checked_add(SECOND).ok()?;
    loop {
        civil = calendar.before(civil)?;
        let found = instant(civil, tz)?;
        if found <= at {
            return Some(found);
        }
    }
}

/// The one instant at which a fixed-time schedule runs for a civil time: its first occurrence, or the end of
/// the gap that has swallowed it.
fn instant(civil: DateTime, tz: &TimeZone) -> Option<Timestamp> {
    match tz.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
        AmbiguousOffset::Gap { before, after } => {
            // By the offset after the gap it would have been before the transition, by the one before it after.
            let earlier = after.to_timestamp(civil).ok()?;
            let later = before.to_timestamp(civil).ok()?;
            let end = tz.following(earlier).map(|t| t.timestamp()).find(|t| tz.to_offset(*t) == after);
            Some(end.map_or(later, |end| end.min(later)))
        }
    }
}

/// The first instant after `after` whose civil time matches.
///
/// It goes from one stretch of constant offset to the next: within one, civil time and instants run in parallel.
fn next_match(calendar: &Calendar, after: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    let mut from = after;
    let mut civil = whole_second(tz.to_datetime(from));
    loop {
        let found = tz.to_offset(from).to_timestamp(calendar.next(civil)?).ok()?;
        match tz.following(from).next().map(|t| t.timestamp()) {
            Some(transition) if transition <= found => {
                from = transition;
                // The stretch's first instant counts.
                civil = tz.to_datetime(from).checked_sub(SECOND).ok()?;
            }
            _ => return Some(found),
        }
    }
}

/// The last instant at or before `at` whose civil time matches.
fn previous_match(calendar: &Calendar, at: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    let mut upto = at;
    loop {
        let civil = whole_second(tz.to_datetime(upto)).checked_add(SECOND).ok()?;
        let found = tz.to_offset(upto).to_timestamp(calendar.before(civil)?).ok()?;
        match tz.preceding(upto.checked_add(TICK).ok()?).next().map(|t| t.timestamp()) {
            Some(transition) if found < transition => upto = transition.checked_sub(TICK).ok()?,
            _ => return Some(found),
        }
    }
}

/// Matches are at whole seconds, and the `cron` crate wants such.
fn whole_second(civil: DateTime) -> DateTime {
    civil.date().at(civil.hour(), civil.minute(), civil.second(), 0)
}
