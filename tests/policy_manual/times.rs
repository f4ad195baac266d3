//! Examples of schedules: when they run, and what becomes of runs that were missed.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use virtsnap::{
    config::{duration, show_duration},
    core::{
        policy::CatchUp,
        schedule::{Schedule, SkipReason, due, next_fire, spread_offset},
    },
};

use super::{
    Page,
    files::{columns, environment},
    page::Example,
};

/// So late is on time: what the daemon grants its timer.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A moment: with an offset, or as a clock in `zone` shows it, `2026-11-20T02:30` or with a blank.
pub fn at(text: &str, zone: &TimeZone) -> Timestamp {
    text.parse().unwrap_or_else(|_| {
        let civil: jiff::civil::DateTime =
            text.replace(' ', "T").parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        civil.to_zoned(zone.clone()).unwrap().timestamp()
    })
}

fn zone(example: &Example) -> TimeZone {
    example.get("zone").map_or_else(|| environment().timezone, |zone| TimeZone::get(zone).unwrap())
}

/// Schedules in the first column, each with its next runs (`after=TIME`, `n=HOW MANY`).
pub fn runs(_: &Page, example: &Example) -> String {
    let zone = zone(example);
    let n: usize = example.get("n").map_or(1, |n| n.parse().unwrap());
    let width: usize = example.get("width").map_or(18, |n| n.parse().unwrap());
    let format = example.get("format").unwrap_or("%a %Y-%m-%d %H:%M").replace('_', " ");
    let mut out = String::new();
    for line in example.text.lines().filter(|line| !line.starts_with(' ')) {
        let text = columns(line)[0];
        let schedule = Schedule::parse(text).unwrap_or_else(|e| panic!("line {}: {text}: {e}", example.line));
        let mut after = at(example.argument("after"), &zone);
        let mut cells = Vec::new();
        for _ in 0..n {
            after = next_fire(std::slice::from_ref(&schedule), after, &zone).unwrap();
            cells.push(after.to_zoned(zone.clone()).strftime(&format).to_string());
        }
        let across: usize = example.get("across").map_or(n, |n| n.parse().unwrap());
        let widest = cells.iter().map(String::len).max().unwrap();
        for (i, row) in cells.chunks(across).enumerate() {
            let first = if i == 0 { text } else { "" };
            let row: Vec<_> = row.iter().map(|cell| format!("{cell:<widest$}")).collect();
            let _ = writeln!(out, "{}", format!("{first:<width$}{}", row.join("  ")).trim_end());
        }
    }
    out
}

/// A host was away: `last` time dealt with, back at, `catch-up` and perhaps `catch-up-within`; and what runs.
pub fn missed(_: &Page, example: &Example) -> String {
    let zone = zone(example);
    let schedule = Schedule::parse(&example.argument("schedule").replace('_', " ")).unwrap();
    let show = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%m-%d %H:%M").to_string();
    let mut out = String::new();
    for line in example.text.lines().filter(|l| !l.starts_with(' ')) {
        let [last, now, rule, ..] = columns(line)[..] else { panic!("{line:?} lacks a column") };
        let (word, within) = rule.split_once(", ").unwrap_or((rule, "400d"));
        let due = due(
            std::slice::from_ref(&schedule),
            &zone,
            Some(at(last, &zone)),
            at(now, &zone),
            word.parse::<CatchUp>().unwrap(),
            duration(within).unwrap(),
            GRACE,
        );
        let mut is = match due.fire {
            Some(fire) => format!("runs for {}", show(fire)),
            None => "nothing runs".to_owned(),
        };
        match due.skipped.map(|s| (s.at, s.why)) {
            Some((at, SkipReason::Policy)) if due.fire.is_some() => {
                let _ = write!(is, "; {} and before skipped", show(at));
            }
            Some((_, SkipReason::Policy)) => is.push_str(": skipped"),
            Some((_, SkipReason::TooLongAgo)) => is.push_str(": too long ago"),
            None if due.missed > 0 => {
                let _ = write!(is, ", and the {} before it", due.missed);
            }
            None => {}
        }
        let _ = writeln!(out, "{last}  {now}  {rule}\n    {is}");
    }
    out
}

/// The offset of VMs (by UUID) with `spread=DURATION`, and when they `run=TIME` then.
pub fn spread(_: &Page, example: &Example) -> String {
    let spread = duration(example.argument("spread")).unwrap();
    let mut out = String::new();
    for line in example.text.lines() {
        let id = columns(line)[0];
        let offset = spread_offset(id.parse().unwrap(), spread);
        let run = at(example.argument("run"), &environment().timezone) + offset;
        let clock = run.to_zoned(environment().timezone).strftime("%H:%M:%S").to_string();
        let _ = writeln!(out, "{id}  {:<14}{clock}", show_duration(offset));
    }
    out
}
