//! The five fields on the `cron` crate, in civil time only.
//!
//! On its own the crate is wrong for crontab users (it ANDs the two day fields, counts weekdays from 1, skips gaps,
//! fires twice in folds). So it gets its seven fields translated, and sees nothing but UTC: civil time is handed
//! to it as if it were UTC, and `civil.rs` has our own rules for zones.

use chrono::{DateTime as ChronoDateTime, Utc};
use jiff::{
    ToSpan,
    civil::{Date, DateTime},
    tz::Offset,
};

use super::fields::{Fields, Values};

/// The crate knows these years only.
const NATIVE: std::ops::RangeInclusive<i16> = 1970..=2100;

/// No schedule that can fire at all waits longer: 29 February on one weekday, over a year like 2100, takes 40 years.
const REACH: i16 = 41;

/// Which civil times match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    /// All five fields, or, if a day may match either day field, those without the day of week.
    main: cron::Schedule,
    /// Then those without the day of month.
    or: Option<cron::Schedule>,
    /// No `*` in minute and hour.
    pub(super) fixed_time: bool,
}

impl Calendar {
    pub(super) fn new(fields: &Fields) -> Result<Self, cron::error::Error> {
        let every_day = Values::ALL;
        let (main, or) = if fields.either_day() {
            (translate(fields, fields.day, every_day)?, Some(translate(fields, every_day, fields.weekday)?))
        } else {
            (translate(fields, fields.day, fields.weekday)?, None)
        };
        Ok(Self { main, or, fixed_time: !(fields.minute.star || fields.hour.star) })
    }

    /// The first match strictly after a civil time (of whole seconds).
    pub(super) fn next(&self, after: DateTime) -> Option<DateTime> {
        both(self.or.as_ref(), &self.main, |s| next(s, after)).min()
    }

    /// The last match strictly before a civil time (of whole seconds).
    pub(super) fn before(&self, before: DateTime) -> Option<DateTime> {
        both(self.or.as_ref(), &self.main, |s| previous(s, before)).max()
    }
}

fn both<'a>(
    or: Option<&'a cron::Schedule>,
    main: &'a cron::Schedule,
    ask: impl Fn(&'a cron::Schedule) -> Option<DateTime>,
) -> impl Iterator<Item = DateTime> {
    [Some(main), or].into_iter().flatten().filter_map(ask)
}

/// The crate's way to write it: seconds first, weekdays by name (its numbers count from Sunday = 1).
fn translate(fields: &Fields, day: Values, weekday: Values) -> Result<cron::Schedule, cron::error::Error> {
    const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let numbers = |values: Values, first: u8, last: u8| list(values, first, last, |v| v.to_string());
    format!(
        "0 {} {} {} {} {}",
        numbers(fields.minute, 0, 59),
        numbers(fields.hour, 0, 23),
        numbers(day, 1, 31),
        numbers(fields.month, 1, 12),
        list(weekday, 0, 6, |v| WEEKDAYS[usize::from(v)].to_owned()),
    )
    .parse()
}

fn list(values: Values, first: u8, last: u8, word: impl Fn(u8) -> String) -> String {
    let set: Vec<u8> = (first..=last).filter(|v| values.has(*v)).collect();
    if set.len() == usize::from(last - first) + 1 {
        // The crate has a short way for `*`.
        return "*".to_owned();
    }
    set.into_iter().map(word).collect::<Vec<_>>().join(",")
}

fn next(schedule: &cron::Schedule, after: DateTime) -> Option<DateTime> {
    let ask = |after| from_chrono(schedule.after(&to_chrono(after)?).next()?);
    let (mut year, mut after) = (after.year(), after);
    if NATIVE.contains(&year) {
        let found = ask(after);
        if found.is_some() {
            return found;
        }
        (year, after) = (NATIVE.end() + 1, last_second(*NATIVE.end())?);
    }
    // Beyond the crate's years, each year is asked in the guise of one that it knows.
    for year in year..=year.saturating_add(REACH).min(9999) {
        let alias = alias(year)?;
        let from = if after.year() == year { in_year(after, alias)? } else { last_second(alias - 1)? };
        if let Some(found) = ask(from).filter(|found| found.year() == alias) {
            return in_year(found, year);
        }
    }
    None
}

fn previous(schedule: &cron::Schedule, before: DateTime) -> Option<DateTime> {
    let ask = |before| from_chrono(schedule.after(&to_chrono(before)?).next_back()?);
    let (mut year, mut before) = (before.year(), before);
    // "Before 1970 begins" is a question about 1969, and "before 2101 begins" one that the crate can answer.
    if NATIVE.contains(&year) {
        let found = ask(before);
        if found.is_some() {
            return found;
        }
        (year, before) = (NATIVE.start() - 1, first_second(*NATIVE.start())?);
    }
    for year in (year.saturating_sub(REACH).max(-9999)..=year).rev() {
        let alias = alias(year)?;
        let from = if before.year() == year { in_year(before, alias)? } else { first_second(alias + 1)? };
        if let Some(found) = ask(from).filter(|found| found.year() == alias) {
            return in_year(found, year);
        }
    }
    None
}

/// A year that the crate knows with the same calendar: as long, and starting on the same weekday. Any 28 years
/// of our time have all fourteen kinds.
fn alias(year: i16) -> Option<i16> {
    let kind =
        |year| Some((Date::new(year, 1, 1).ok()?.weekday(), Date::new(year, 1, 1).ok()?.in_leap_year()));
    let wanted = kind(year)?;
    (1972..2000).find(|candidate| kind(*candidate) == Some(wanted))
}

fn in_year(at: DateTime, year: i16) -> Option<DateTime> {
    at.with().year(year).build().ok()
}

fn first_second(year: i16) -> Option<DateTime> {
    Some(Date::new(year, 1, 1).ok()?.at(0, 0, 0, 0))
}

fn last_second(year: i16) -> Option<DateTime> {
    first_second(year)?.checked_add(1.year()).ok()?.checked_sub(1.second()).ok()
}

fn to_chrono(civil: DateTime) -> Option<ChronoDateTime<Utc>> {
    ChronoDateTime::from_timestamp(Offset::UTC.to_timestamp(civil).ok()?.as_second(), 0)
}

fn from_chrono(utc: ChronoDateTime<Utc>) -> Option<DateTime> {
    Some(Offset::UTC.to_datetime(jiff::Timestamp::from_second(utc.timestamp()).ok()?))
}
