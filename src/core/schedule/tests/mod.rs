//! Tests of schedules, and a second, slow and plain reading of the rules to hold them against.

mod due;
mod parse;
mod random;
mod zones;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use proptest::prelude::*;

use super::Schedule;

fn tz(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn cron(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e:?}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// One field: its text and the values that it names.
#[derive(Debug, Clone)]
struct Field {
    text: String,
    values: Vec<u8>,
}

/// A random schedule, with its meaning worked out while it was made, so that the parser has no part in it.
#[derive(Clone)]
struct Model {
    text: String,
    fields: [Field; 5],
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

impl Model {
    fn fixed_time(&self) -> bool {
        !self.fields[0].text.contains('*') && !self.fields[1].text.contains('*')
    }

    fn matches(&self, civil: DateTime) -> bool {
        let [minute, hour, day, month, weekday] = &self.fields;
        let has = |field: &Field, value: i8| field.values.contains(&u8::try_from(value).unwrap());
        let by_day = has(day, civil.day());
        let by_weekday = has(weekday, civil.weekday().to_sunday_zero_offset());
        let either = !day.text.starts_with('*') && !weekday.text.starts_with('*');
        has(minute, civil.minute())
            && has(hour, civil.hour())
            && has(month, civil.month())
            && if either { by_day || by_weekday } else { by_day && by_weekday }
    }

    /// All runs in (`from`, `to`], by watching the clock on the wall minute for minute.
    ///
    /// A wildcard schedule runs whenever the clock shows a time that matches. A fixed-time one runs when the clock shows
    /// such a time, or jumps over it, that it had not reached before.
    fn runs(&self, from: Timestamp, to: Timestamp, tz: &TimeZone) -> Vec<Timestamp> {
        let minute = SignedDuration::from_mins(1);
        // Far enough back for the highest time that the clock has shown to be right.
        let mut now = Timestamp::from_second((from.as_second() - 30 * 3600).div_euclid(60) * 60).unwrap();
        let mut highest = tz.to_datetime(now);
        let mut runs = Vec::new();
        while now <= to {
            let civil = tz.to_datetime(now);
            let mut fires = self.matches(civil) && !self.fixed_time();
            while highest < civil {
                highest = highest.checked_add(minute).unwrap();
                fires |= self.matches(highest) && self.fixed_time();
            }
            if fires && now > from {
                runs.push(now);
            }
            now += minute;
        }
        runs
    }
}

/// One field's elements: a list of stars, steps, values, ranges.
fn field(min: u8, max: u8, names: &'static [&'static str]) -> impl Strategy<Value = Field> {
    let word = move |value: u8, style: u8| match names.get(usize::from(value.wrapping_sub(min))) {
        Some(name) if style == 1 => (*name).to_owned(),
        Some(name) if style == 2 => name.to_uppercase(),
        _ => value.to_string(),
    };
    let element = prop_oneof![
        1 => Just(("*".to_owned(), (min..=max).collect::<Vec<_>>())),
        1 => (1..=max).prop_map(move |n| (format!("*/{n}"), (min..=max).step_by(n.into()).collect())),
        3 => (min..=max, 0..4_u8).prop_map(move |(a, style)| (word(a, style), vec![a])),
        2 => (min..=max, min..=max, 0..4_u8, 1..=max).prop_map(move |(a, b, style, n)| {
            let (a, b) = (a.min(b), a.max(b));
            // `sun` is 0 at the start of a range, and 7 at the end of one that does not start there.
            let start = word(a, if a == 7 { 0 } else { style });
            let range = format!("{start}-{}", word(b, if (a, b) == (0, 7) { 0 } else { style }));
            match n % 2 {
                0 => (range, (a..=b).collect()),
                _ => (format!("{range}/{n}"), (a..=b).step_by(n.into()).collect()),
            }
        }),
    ];
    proptest::collection::vec(element, 1..3).prop_map(move |elements| Field {
        text: elements.iter().map(|e| e.0.as_str()).collect::<Vec<_>>().join(","),
        values: elements.iter().flat_map(|e| &e.1).map(|v| if max == 7 { v % 7 } else { *v }).collect(),
    })
}

/// A field that is `*` most of the time.
fn mostly_any(min: u8, max: u8, names: &'static [&'static str]) -> impl Strategy<Value = Field> {
    prop_oneof![
        2 => Just(Field { text: "*".to_owned(), values: (min..=max).collect() }),
        1 => field(min, max, names),
    ]
}

/// Any schedule that fires at least twice within eight years: no 30 February, no 29 February on Mondays.
fn model() -> impl Strategy<Value = Model> {
    const MONTHS: &[&str] =
        &["jan", "Feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "Sat", "sun"];
    let days = field(1, 31, &[]).prop_filter("rare", |f| f.values.iter().any(|v| *v <= 28));
    let days = prop_oneof![2 => mostly_any(1, 31, &[]).boxed(), 1 => days.boxed()]
        .prop_filter("rare", |f| f.values.iter().any(|v| *v <= 28));
    (field(0, 59, &[]), field(0, 23, &[]), days, mostly_any(1, 12, MONTHS), mostly_any(0, 7, WEEKDAYS))
        .prop_map(|(minute, hour, day, month, weekday)| {
            let fields = [minute, hour, day, month, weekday];
            Model { text: fields.each_ref().map(|f| f.text.as_str()).join(" "), fields }
        })
}
