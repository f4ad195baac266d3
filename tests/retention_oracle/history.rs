//! Random histories of snapshots, crowded where calendars are difficult.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};

use super::dice::Dice;

/// One snapshot.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Its name, unique among all histories.
    pub(super) name: String,
    /// Its time, in whole seconds, which is what the tools can be given.
    pub(super) at: Timestamp,
    /// Kept whatever the rules say.
    pub(super) pinned: bool,
}

impl Point {
    /// One that is not pinned.
    pub(super) fn new(name: &str, at: &str) -> Self {
        Self { name: name.to_owned(), at: at.parse().unwrap(), pinned: false }
    }
}

/// The snapshots of one VM, whose policy has this zone.
#[derive(Debug)]
pub(super) struct History {
    /// The zone's name.
    pub(super) zone: &'static str,
    /// Without order, no two at the same time.
    pub(super) points: Vec<Point>,
}

impl History {
    /// The zone itself.
    pub(super) fn tz(&self) -> TimeZone {
        TimeZone::get(self.zone).unwrap()
    }

    /// One of its own, made by hand: names and times.
    pub(super) fn of(zone: &'static str, points: &[(&str, &str)]) -> Self {
        Self { zone, points: points.iter().map(|(name, at)| Point::new(name, at)).collect() }
    }
}

/// Zones, and the moments around which snapshots gather: changes of the clocks, borders of ISO weeks and years. All
/// of them past, because Borg and restic look at the clock.
const CROWDED: [(&str, [&str; 3]); 6] = [
    // Spring, autumn, New Year.
    ("America/New_York", ["2024-03-10T07:00:00Z", "2024-11-03T06:00:00Z", "2025-01-01T05:00:00Z"]),
    // Spring, autumn, and the border of week 53 of 2020 that lies in 2021.
    ("Europe/Vienna", ["2020-03-29T01:00:00Z", "2020-10-25T01:00:00Z", "2021-01-03T23:00:00Z"]),
    // Half an hour back, half an hour forth, New Year.
    ("Australia/Lord_Howe", ["2024-04-06T15:00:00Z", "2024-10-05T15:30:00Z", "2024-12-31T13:00:00Z"]),
    // The start of summer time, the day that never was, the end of summer time.
    ("Pacific/Apia", ["2011-09-24T14:00:00Z", "2011-12-30T10:00:00Z", "2012-03-31T14:00:00Z"]),
    // Clocks set back over midnight to the day before; a day without midnight; New Year.
    ("America/Sao_Paulo", ["2018-02-18T02:00:00Z", "2018-11-04T03:00:00Z", "2019-01-01T02:00:00Z"]),
    // A Sunday of week 52 that is New Year; a Monday of week 1 in December; the end of a leap February.
    ("UTC", ["2023-01-01T00:00:00Z", "2024-12-30T00:00:00Z", "2024-03-01T00:00:00Z"]),
];

/// A history of `count` snapshots for each of the zones.
pub(super) fn histories(dice: &mut Dice, count: usize) -> Vec<History> {
    CROWDED
        .iter()
        .enumerate()
        .map(|(number, (zone, centres))| {
            let mut times = BTreeSet::new();
            while times.len() < count {
                let centre: Timestamp = centres[times.len() % centres.len()].parse().unwrap();
                // Close by in steps of five minutes, then ever farther out.
                let minutes = match dice.below(10) {
                    0..4 => dice.around(30) * 5,
                    4..7 => dice.around(100) * 30,
                    7..9 => dice.around(90) * 360,
                    _ => dice.around(550) * 1_440,
                };
                // The very second of the change, and the one before it, too.
                let second = if dice.percent(20) { -1 } else { 0 };
                times.insert(centre + minutes.minutes() + second.seconds());
            }
            let points = times.into_iter().enumerate().map(|(i, at)| Point {
                name: format!("{number}-{i:03}"),
                at,
                pinned: dice.percent(8),
            });
            History { zone, points: points.collect() }
        })
        .collect()
}
