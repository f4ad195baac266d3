//! Calendar buckets: which hour, day, ISO week, month and year a moment belongs to in a zone, and which
//! snapshots a policy's keep rules want by them.

use std::{collections::HashSet, fmt};

use jiff::{Timestamp, tz::TimeZone};

use super::{moment::Moment, reason::Rule};
use crate::core::policy::{Combine, Keep, Retention};

/// What a kept snapshot represents: the newest of this stretch of the calendar.
///
/// Hours are the calendar's: where the clock is set back, the repeated hour is one bucket, as in restic,
/// Proxmox and Borg. Kept as a number, for a million snapshots have one each; shown on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// `keep-within`: the span as a whole.
    Span,
    /// `keep-last`: the so-manyth that it keeps, the newest being 1.
    Number(u32),
    /// Local hours since 1970: `2026-11-20T14`.
    Hour(i32),
    /// Local days since 1970: `2026-11-20`.
    Day(i32),
    /// ISO weeks since that of 1970-01-01: `2026-W47`, with the ISO year.
    Week(i32),
    /// Months since the year 0: `2026-11`.
    Month(i32),
    /// `2026`.
    Year(i32),
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Span => Ok(()),
            Self::Number(n) => write!(f, "{n}"),
            Self::Hour(h) => write!(f, "{}T{:02}", Self::Day(h.div_euclid(24)), h.rem_euclid(24)),
            Self::Day(d) => {
                let (year, month, day) = civil(d);
                write!(f, "{year:04}-{month:02}-{day:02}")
            }
            Self::Week(w) => {
                // A week belongs to the year that its Thursday is in; day 0 was one.
                let (year, _, _) = civil(w * 7);
                let first = days(year, 1, 1);
                write!(f, "{year:04}-W{:02}", (w * 7 - first) / 7 + 1)
            }
            Self::Month(m) => write!(f, "{:04}-{:02}", m.div_euclid(12), m.rem_euclid(12) + 1),
            Self::Year(y) => write!(f, "{y:04}"),
        }
    }
}

/// The date of a day since 1970 (proleptic Gregorian; after H. Hinnant's `civil_from_days`).
const fn civil(day: i32) -> (i32, i32, i32) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as i32;
    (year, month, of_year - (153 * mp + 2) / 5 + 1)
}

/// The day since 1970 of a date.
const fn days(year: i32, month: i32, day: i32) -> i32 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let mp = (month + 9) % 12;
    let of_year = (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// The bucket that a local time (seconds since 1970 on the wall clock) has in a rule.
#[expect(
    clippy::cast_possible_truncation,
    reason = "jiff's years are -9999..=9999: every unit fits in 32 bits"
)]
fn bucket(rule: Rule, local: i64, position: usize) -> Bucket {
    let day = local.div_euclid(86_400) as i32;
    match rule {
        Rule::Within => Bucket::Span,
        Rule::Last => Bucket::Number(u32::try_from(position).map_or(u32::MAX, |n| n.saturating_add(1))),
        Rule::Hourly => Bucket::Hour(local.div_euclid(3_600) as i32),
        Rule::Daily => Bucket::Day(day),
        // Day 0 was a Thursday; weeks begin on Monday.
        Rule::Weekly => Bucket::Week((day + 3).div_euclid(7)),
        Rule::Monthly => {
            let (year, month, _) = civil(day);
            Bucket::Month(year * 12 + month - 1)
        }
        Rule::Yearly => Bucket::Year(civil(day).0),
    }
}

/// Turns seconds since 1970 into local time, fast where they come in falling order: the zone is asked once for each
/// stretch without a transition, not once for each snapshot.
struct LocalTime<'a> {
    zone: &'a TimeZone,
    /// The stretch asked about last (both ends included) and its offset.
    from: i64,
    to: i64,
    offset: i64,
}

impl<'a> LocalTime<'a> {
    const fn new(zone: &'a TimeZone) -> Self {
        Self { zone, from: 0, to: -1, offset: 0 }
    }

    fn of(&mut self, second: i64) -> i64 {
        if !(self.from <= second && second <= self.to) {
            let asked = Timestamp::from_second(second).unwrap_or(Timestamp::MIN);
            self.offset = i64::from(self.zone.to_offset(asked).seconds());
            self.to = second;
            // A transition at this very second counts as before it.
            let after = Timestamp::from_second(second + 1).unwrap_or(Timestamp::MAX);
            self.from = self.zone.preceding(after).next().map_or(i64::MIN, |t| t.timestamp().as_second());
        }
        second + self.offset
    }
}

/// What the keep rules of one policy want, by position in its candidates (newest first).
pub(super) struct Wanted {
    /// The set of rules ([`Rule::bit`]) that want each.
    marks: Vec<u8>,
    /// The local time of each.
    local: Vec<i64>,
    /// No keep rule: all are wanted, by none.
    all: bool,
}

impl Wanted {
    /// Runs the rules over `candidates`, newest first.
    pub(super) fn new(candidates: &[Moment], retention: &Retention) -> Self {
        let keep = &retention.keep;
        let mut marks = vec![0; candidates.len()];
        if keep.is_empty() {
            return Self { marks, local: Vec::new(), all: true };
        }
        let mut time = LocalTime::new(&retention.timezone);
        let local: Vec<i64> = candidates.iter().map(|c| time.of(c.second())).collect();
        if let (Some(within), Some(newest)) = (keep.within, candidates.first()) {
            for (mark, candidate) in marks.iter_mut().zip(candidates) {
                if !newest.is_within(within, *candidate) {
                    break;
                }
                *mark |= Rule::Within.bit();
            }
        }
        for rule in Rule::ALL {
            if let Some(slots) = count(keep, rule) {
                fill(&mut marks, &local, rule, slots, retention.combine);
            }
        }
        Self { marks, local, all: false }
    }

    /// True if a rule wants the candidate at this position, or there is no rule at all.
    pub(super) fn at(&self, position: usize) -> bool {
        self.all || self.marks[position] != 0
    }

    /// The rules that want it, with what it represents for each.
    pub(super) fn rules(&self, position: usize) -> impl Iterator<Item = (Rule, Bucket)> {
        let mark = self.marks[position];
        // Without rules there is no mark, nor any local time.
        Rule::ALL
            .into_iter()
            .filter(move |rule| mark & rule.bit() != 0)
            .map(move |rule| (rule, bucket(rule, self.local[position], position)))
    }
}

/// How many buckets a counting rule may fill.
const fn count(keep: &Keep, rule: Rule) -> Option<u32> {
    match rule {
        Rule::Within => None,
        Rule::Last => keep.last,
        Rule::Hourly => keep.hourly,
        Rule::Daily => keep.daily,
        Rule::Weekly => keep.weekly,
        Rule::Monthly => keep.monthly,
        Rule::Yearly => keep.yearly,
    }
}

/// Gives one rule's slots to the newest of each bucket, newest bucket first. Under `extend` a bucket in which
/// another rule keeps one already is passed over and uses no slot.
///
/// The buckets seen are a set, not just the last one: where the clock is set back by more than an hour, or
/// over midnight, a bucket comes, goes and comes again.
fn fill(marks: &mut [u8], local: &[i64], rule: Rule, slots: u32, combine: Combine) {
    let mut seen = HashSet::new();
    if combine == Combine::Extend {
        let covered = marks.iter().enumerate().filter(|(_, mark)| **mark != 0);
        seen.extend(covered.map(|(i, _)| bucket(rule, local[i], i)));
    }
    let mut free = slots;
    let mut previous = None;
    for (i, mark) in marks.iter_mut().enumerate() {
        if free == 0 {
            break;
        }
        let here = bucket(rule, local[i], i);
        if previous.replace(here) != Some(here) && seen.insert(here) {
            *mark |= rule.bit();
            free -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;

    #[test]
    fn labels_agree_with_jiff_on_every_day_of_500_years() {
        let mut date = Date::constant(1800, 1, 1);
        while date.year() < 2300 {
            let local = date.at(23, 59, 59, 0).to_zoned(TimeZone::UTC).unwrap().timestamp().as_second();
            let week = date.iso_week_date();
            let label = |rule| bucket(rule, local, 0).to_string();
            assert_eq!(label(Rule::Hourly), format!("{date}T23"));
            assert_eq!(label(Rule::Daily), date.to_string());
            assert_eq!(label(Rule::Weekly), format!("{:04}-W{:02}", week.year(), week.week()));
            assert_eq!(label(Rule::Monthly), date.strftime("%Y-%m").to_string());
            assert_eq!(label(Rule::Yearly), date.strftime("%Y").to_string());
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn the_cached_local_time_is_jiffs_own() {
        for zone in [
            "UTC",
            "Europe/Vienna",
            "America/New_York",
            "America/Sao_Paulo",
            "America/St_Johns",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Antarctica/Troll",
        ] {
            let zone = TimeZone::get(zone).unwrap();
            let mut time = LocalTime::new(&zone);
            // Over every transition to the second, and in falling order with odd steps between.
            let end = Timestamp::from_second(2_000_000_000).unwrap();
            let mut moments: Vec<i64> = (0..40_000).map(|i| 2_000_000_000 - i * 86_413).collect();
            for t in zone.preceding(end).take(200) {
                let at = t.timestamp().as_second();
                moments.extend((-2..=2).map(|d| at + d));
                // Asked first at the very second of the transition.
                let mut fresh = LocalTime::new(&zone);
                let _ = fresh.of(at);
                let before = zone.to_offset(Timestamp::from_second(at - 1).unwrap());
                assert_eq!(fresh.of(at - 1), at - 1 + i64::from(before.seconds()), "{at}");
            }
            moments.sort_unstable_by(|a, b| b.cmp(a));
            for second in moments {
                let moment = Timestamp::from_second(second).unwrap();
                let offset = i64::from(zone.to_offset(moment).seconds());
                assert_eq!(time.of(second), second + offset, "{moment}");
            }
        }
    }
}
