//! How often schedules fire: what keep rules can be held against.

use std::{cmp::Reverse, collections::BinaryHeap};

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, ISOWeekDate},
    tz::TimeZone,
};

use crate::core::schedule::Schedule;

/// A year of nightly runs, the leap day too.
const SAMPLES: usize = 367;
/// 2026-01-01T00:00Z, a Thursday. Any instant does: what is asked is what calendars repeat, and the answer for
/// a file must not depend on the day.
const FROM: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// Rarer than this need no closer look.
const YEARS: i64 = 12;

/// The span that a keep rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Bucket {
    pub(super) const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// Some of a policy's runs.
#[derive(Debug)]
pub(super) struct Pace {
    runs: Vec<Timestamp>,
    /// The coarsest bucket of which none saw two runs.
    once_a: Option<Bucket>,
}

impl Pace {
    /// `None` if the times are not known: no schedule, or one that runs at boot.
    pub(super) fn of(schedules: &[Schedule], zone: &TimeZone) -> Option<Self> {
        if schedules.is_empty() || schedules.iter().any(Schedule::is_reboot) {
            return None;
        }
        let end = FROM + SignedDuration::from_hours(YEARS * 366 * 24);
        let mut runs = Vec::new();
        // Each schedule is asked only when its own run is over: a list of a thousand has a thousand runs to ask for,
        // not as many for each sample.
        let run =
            |schedule: usize, after| Some(Reverse((schedules[schedule].next_after(after, zone)?, schedule)));
        let mut next: BinaryHeap<_> = (0..schedules.len()).filter_map(|i| run(i, FROM)).collect();
        while let Some(Reverse((at, schedule))) = next.pop().filter(|Reverse((at, _))| *at < end) {
            next.extend(run(schedule, at));
            // Several at one instant are one run.
            if runs.last() != Some(&at) {
                if runs.len() == SAMPLES {
                    break;
                }
                runs.push(at);
            }
        }
        let once_a = Bucket::ALL.into_iter().take_while(|b| !shares(*b, &runs, zone)).last();
        Some(Self { runs, once_a })
    }

    /// True if at most one run comes in each such bucket.
    pub(super) fn at_most_once_a(&self, bucket: Bucket) -> bool {
        // Whoever runs at most once a day runs at most once an hour.
        self.once_a.is_some_and(|coarsest| bucket <= coarsest)
    }

    /// The shortest time between two runs.
    pub(super) fn shortest_gap(&self) -> Option<SignedDuration> {
        self.runs.windows(2).map(|pair| pair[1].duration_since(pair[0])).min()
    }

    /// The most runs that come within less than `span` of the last of them; none if they are more than were
    /// looked at.
    pub(super) fn most_within(&self, span: SignedDuration) -> Option<u32> {
        let (first, last) = (self.runs.first()?, self.runs.last()?);
        if self.runs.len() == SAMPLES && last.duration_since(*first) < span {
            return None;
        }
        let mut from = 0;
        let mut most = 0;
        for (i, run) in self.runs.iter().enumerate() {
            while run.duration_since(self.runs[from]) >= span {
                from += 1;
                if from > i {
                    break;
                }
            }
            most = most.max(i + 1 - from.min(i));
        }
        u32::try_from(most).ok()
    }
}

/// True if two runs one after the other fall into one bucket.
fn shares(bucket: Bucket, runs: &[Timestamp], zone: &TimeZone) -> bool {
    let key = |at: &Timestamp| {
        let local = at.to_zoned(zone.clone());
        let date = local.date();
        match bucket {
            // With the offset: an hour that clocks repeat is two.
            Bucket::Hour => (date, local.hour(), local.offset().seconds()),
            Bucket::Day => (date, 0, 0),
            Bucket::Week => (monday(date), 0, 0),
            Bucket::Month => (date.first_of_month(), 0, 0),
            Bucket::Year => (date.first_of_year(), 0, 0),
        }
    };
    runs.windows(2).any(|pair| key(&pair[0]) == key(&pair[1]))
}

fn monday(date: Date) -> Date {
    let week = date.iso_week_date();
    ISOWeekDate::new(week.year(), week.week(), jiff::civil::Weekday::Monday).map_or(date, ISOWeekDate::date)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(texts: &[&str], zone: &str) -> Pace {
        let schedules: Vec<_> = texts.iter().map(|t| Schedule::parse(t).unwrap()).collect();
        Pace::of(&schedules, &TimeZone::get(zone).unwrap()).unwrap()
    }

    #[test]
    fn the_coarsest_bucket_that_never_sees_two_runs() {
        for (texts, once_a) in [
            (&["*/5 * * * *"][..], None),
            (&["0 * * * *"], Some(Bucket::Hour)),
            (&["30 2 * * *"], Some(Bucket::Day)),
            (&["30 2 * * *", "0 12 * * sun"], Some(Bucket::Hour)),
            (&["0 0 * * mon"], Some(Bucket::Week)),
            (&["0 0 * * mon,thu"], Some(Bucket::Day)),
            (&["@monthly"], Some(Bucket::Month)),
            (&["0 0 29 2 *"], Some(Bucket::Year)),
        ] {
            assert_eq!(pace(texts, "Europe/Vienna").once_a, once_a, "{texts:?}");
        }
        let nightly = pace(&["30 2 * * *"], "America/New_York");
        assert!(nightly.at_most_once_a(Bucket::Hour) && nightly.at_most_once_a(Bucket::Day));
        assert!(!nightly.at_most_once_a(Bucket::Week));
        assert!(!pace(&["* * * * *"], "UTC").at_most_once_a(Bucket::Hour));
    }

    #[test]
    fn runs_of_several_schedules_are_one_list_without_repeats() {
        let pace = pace(&["0 12 * * *", "0 0,12 * * *", "0 12 1 * *"], "UTC");
        assert!(pace.runs.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", pace.runs);
        assert_eq!((pace.runs.len(), pace.shortest_gap()), (SAMPLES, Some(SignedDuration::from_hours(12))));
    }

    #[test]
    fn gaps_and_windows() {
        let nightly = pace(&["30 2 * * *"], "UTC");
        assert_eq!(nightly.shortest_gap(), Some(SignedDuration::from_hours(24)));
        assert_eq!(nightly.most_within(SignedDuration::from_hours(48)), Some(2));
        assert_eq!(nightly.most_within(SignedDuration::from_hours(49)), Some(3));
        assert_eq!(nightly.most_within(SignedDuration::from_secs(1)), Some(1));
        assert_eq!(nightly.most_within(SignedDuration::from_hours(24 * 500)), None);
        assert_eq!(pace(&["0 0 29 2 *"], "UTC").most_within(SignedDuration::from_hours(1)), Some(1));
        assert!(Pace::of(&[], &TimeZone::UTC).is_none());
        assert!(Pace::of(&[Schedule::parse("@reboot").unwrap()], &TimeZone::UTC).is_none());
    }
}
