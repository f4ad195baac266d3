//! When a policy runs: Vixie cron's five fields in a zone with all its oddities, and what was missed.
//!
//! - `fields.rs` reads the text; anything that cron would misread or never run is an error with its place.
//! - `calendar.rs` asks the `cron` crate, which only ever sees civil time, as if it were UTC.
//! - `civil.rs` maps civil time to instants; the rules for gaps and folds are there.
//! - `due.rs` decides what is to do now, with what was missed, and spreads VMs.
//!
//! # What a schedule does when clocks change
//!
//! As cron does it (`cron(8)`), jobs are of two kinds:
//!
//! - *Fixed-time*: no `*` in the minute and the hour field. It runs once for each civil time that it names. A civil
//!   time that a gap skips runs at the first instant after the gap; all that one gap skips are one run, which
//!   is also the run of that instant if the schedule names it. Of a civil time that occurs twice only the first
//!   occurrence runs. A gap of a whole day (Apia, 30 December 2011) is a gap like any other: the lost day's run
//!   comes at the next day's 00:00, and the next day's own run in its own time.
//! - *Wildcard*: a `*` (or `*/n`) somewhere in the minute or the hour field. It runs at every instant whose
//!   civil time matches: not in a gap, and twice in a fold.

mod calendar;
mod civil;
mod due;
mod fields;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range};

use jiff::{Timestamp, tz::TimeZone};

use calendar::Calendar;
pub use due::{Due, MISSED_MAX, SkipReason, Skipped, due, spread_offset};

/// One entry of a policy's `schedule`: five cron fields or a macro.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// `@reboot`: no time at all.
    Reboot,
    /// Boxed, as it is a few hundred bytes.
    Calendar(Box<Calendar>),
}

/// Why a text is no schedule, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ScheduleError {
    /// What is wrong, in one clause.
    pub message: String,
    /// The bytes of the text that are wrong; never empty unless the text is.
    pub span: Range<usize>,
    /// What to write instead, if that can be said.
    pub help: Option<String>,
}

impl Schedule {
    /// Reads five fields (`minute hour day-of-month month day-of-week`) or a macro: `@hourly`, `@daily`,
    /// `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`, `@reboot`.
    ///
    /// A field is a list of `*`, `*/n`, `a`, `a-b` and `a-b/n`; months and weekdays may be three-letter names in any
    /// case. `0` and `7` are Sunday, and `sun` at the end of a range is 7 (`fri-sun`). If neither day field starts
    /// with `*`, a day that either of them names counts; else a day must match both.
    ///
    /// Refused though some crons take it: `a/n` (they disagree on its meaning), six or seven fields, Quartz's `?`,
    /// `L`, `W`, `#`, and cronie's `~`.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let rule = match fields::parse(text)? {
            None => Rule::Reboot,
            Some(fields) => Rule::Calendar(Box::new(Calendar::new(&fields).map_err(|e| ScheduleError {
                message: format!("the cron crate refuses it: {e}"),
                span: 0..text.len(),
                help: None,
            })?)),
        };
        Ok(Self { text: text.to_owned(), rule })
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True for `@reboot`, which has no times: it is for the start of the daemon.
    pub fn is_reboot(&self) -> bool {
        self.rule == Rule::Reboot
    }

    /// The first run strictly after an instant. `None` for `@reboot`, and where time ends (the year 9999).
    pub fn next_after(&self, after: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
        match &self.rule {
            Rule::Reboot => None,
            Rule::Calendar(calendar) => civil::next(calendar, after, tz),
        }
    }

    /// The last run at or before an instant: the exact inverse of [`Self::next_after`].
    pub fn previous_at_or_before(&self, at: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
        match &self.rule {
            Rule::Reboot => None,
            Rule::Calendar(calendar) => civil::previous(calendar, at, tz),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The first run of any of the schedules strictly after an instant; several at one instant are one.
pub fn next_fire(schedules: &[Schedule], after: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    schedules.iter().filter_map(|s| s.next_after(after, tz)).min()
}

/// The last run of any of the schedules at or before an instant.
pub fn previous_fire(schedules: &[Schedule], at: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
    schedules.iter().filter_map(|s| s.previous_at_or_before(at, tz)).max()
}
