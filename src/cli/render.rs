//! How things look on a screen: names made harmless, sizes, times, durations, tables.
//!
//! All of it is pure: text in, text out; the time and the zone are arguments.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

use crate::core::text::{for_shell, harmless};

/// What stands for "none" and "not known" in tables.
pub const NONE: &str = "-";

/// A name or a message that others wrote, on one line: whatever could move the cursor, change colours or
/// reorder the text is shown as an escape.
pub fn safe(text: &str) -> String {
    harmless(text)
}

/// A name as part of a command that a person may paste.
pub fn pasted(name: &str) -> String {
    safe(&for_shell(name))
}

/// The same for a text that may have several lines.
pub fn safe_lines(text: &str) -> String {
    text.lines().map(safe).collect::<Vec<_>>().join("\n")
}

/// A name in a sentence: harmless, in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", safe(name))
}

/// Text for a table cell; [`NONE`] for an empty one.
pub fn cell(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { safe(text) }
}

/// Several names in one table cell.
pub fn names<S: AsRef<str>>(names: &[S]) -> String {
    cell(&names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))
}

/// A size in binary units with at most one decimal: `512 B`, `1.5 KiB`, `200 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, rounded; what rounds up to 1024 belongs to the next unit.
    let mut unit = 0;
    let mut tenths = tenths_of(bytes, 1 << 10);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        tenths = tenths_of(bytes, 1 << (10 * (unit + 1)));
    }
    let name = UNITS[unit];
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {name}"),
        (whole, _) if whole >= 100 => format!("{} {name}", (tenths + 5) / 10),
        (whole, tenth) => format!("{whole}.{tenth} {name}"),
    }
}

fn tenths_of(bytes: u64, unit: u64) -> u128 {
    (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit)
}

/// A size of which 0 means that it is not known.
pub fn known_size(bytes: u64) -> String {
    if bytes == 0 { NONE.to_owned() } else { size(bytes) }
}

/// A duration in µs: `0.4 ms`, `24 ms`, `1.3 s`, `2 min 5 s`; [`NONE`] for 0.
pub fn duration(usec: u64) -> String {
    match usec {
        0 => NONE.to_owned(),
        1..=99 => "<0.1 ms".to_owned(),
        100..10_000 => format!("{}.{} ms", usec / 1_000, usec % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", usec / 1_000),
        1_000_000..60_000_000 => format!("{}.{} s", usec / 1_000_000, usec % 1_000_000 / 100_000),
        _ => format!("{} min {} s", usec / 60_000_000, usec % 60_000_000 / 1_000_000),
    }
}

/// A time as the bus has it; `None` for 0 and for what no calendar holds.
pub fn timestamp(usec: u64) -> Option<Timestamp> {
    i64::try_from(usec).ok().filter(|usec| *usec != 0).and_then(|usec| Timestamp::from_microsecond(usec).ok())
}

/// A time for machines: RFC 3339 with the offset of the zone.
pub fn rfc3339(usec: u64, zone: &TimeZone) -> Option<String> {
    let at = timestamp(usec)?;
    Some(at.display_with_offset(zone.to_offset(at)).to_string())
}

/// The clock that times are shown by: the reader's zone, and now.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The reader's zone.
    pub zone: TimeZone,
    /// The time of the run.
    pub now: Timestamp,
}

impl Watch {
    /// `2026-11-20 02:30:00`, or [`NONE`].
    pub fn local(&self, usec: u64) -> String {
        match timestamp(usec) {
            Some(at) => at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            None => NONE.to_owned(),
        }
    }

    /// `3 h ago`, `in 25 min`, or [`NONE`].
    pub fn relative(&self, usec: u64) -> String {
        let Some(at) = timestamp(usec) else { return NONE.to_owned() };
        let seconds = at.duration_since(self.now).as_secs();
        let distance = distance(seconds.unsigned_abs());
        match seconds {
            0 => "now".to_owned(),
            ..0 => format!("{distance} ago"),
            1.. => format!("in {distance}"),
        }
    }

    /// `2026-11-20 02:30:00 (3 h ago)`, or [`NONE`].
    pub fn both(&self, usec: u64) -> String {
        if timestamp(usec).is_none() {
            return NONE.to_owned();
        }
        format!("{} ({})", self.local(usec), self.relative(usec))
    }
}

/// In one unit: `42 s`, `25 min`, `3 h`, `12 d`.
fn distance(seconds: u64) -> String {
    match seconds {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..86_400 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// How far two times are apart, in two units: `42 s`, `25 min 3 s`, `3 h 20 min`, `12 d 4 h`.
pub fn span(usec: u64) -> String {
    let seconds = usec / 1_000_000;
    let rest = match seconds {
        0..60 => 0,
        60..3_600 => seconds % 60,
        3_600..86_400 => seconds % 3_600 / 60 * 60,
        _ => seconds % 86_400 / 3_600 * 3_600,
    };
    if rest == 0 { distance(seconds) } else { format!("{} {}", distance(seconds), distance(rest)) }
}

/// A column: its heading, and which side its numbers or words stand on.
#[derive(Debug, Clone, Copy)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers and sizes.
    Right(&'static str),
}

/// What every table of verdicts shows, the daemon's as well as a tryout's.
pub const VERDICTS: [Column; 5] = [
    Column::Left("VERDICT"),
    Column::Left("SNAPSHOT"),
    Column::Left("CREATED"),
    Column::Right("SIZE"),
    Column::Left("WHY"),
];

/// The first word of a row there.
pub const fn verdict(keep: bool) -> &'static str {
    if keep { "keep" } else { "delete" }
}

/// Rows under headings, without lines, two spaces between columns. Cells must be [`safe`].
pub fn table(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|c| match c {
        Column::Left(heading) | Column::Right(heading) => *heading,
    }));
    table.add_rows(rows);
    for (i, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(i) {
            shown.set_padding((0, 2));
            if matches!(column, Column::Right(_)) {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// For what failed. Standard output knows whether it is a terminal, and takes colours away where not.
pub fn red(text: &str) -> String {
    format!("\u{1b}[31m{text}\u{1b}[0m")
}

/// For what wants attention.
pub fn yellow(text: &str) -> String {
    format!("\u{1b}[33m{text}\u{1b}[0m")
}

/// `1 snapshot`, `2 snapshots`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Facts about one thing, a line each; those that are empty are left out, and those without a name belong to the one
/// above.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width =
        facts.iter().filter(|(_, text)| !text.is_empty()).map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, text) in facts.iter().filter(|(_, text)| !text.is_empty()) {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        let _ = writeln!(out, "{name:<w$}  {text}", w = width + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(safe("web1"), "web1");
        assert_eq!(safe("a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(safe("gpj\u{202e}exe"), "gpj\\u{202e}exe");
        assert_eq!(safe("c1 \u{9b}2J"), "c1 \\u{9b}2J");
        assert_eq!(safe("größe <b> 東"), "größe <b> 東");
        assert_eq!(safe_lines("line 1\n  ^\tx"), "line 1\n  ^\\tx");
        assert_eq!(quoted("a\rb"), "\"a\\rb\"");
    }

    #[test]
    fn sizes_are_binary_with_at_most_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1 MiB"),
            (1_047_552, "1023 KiB"),
            (200 << 30, "200 GiB"),
            (123_456_789, "118 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(known_size(0), "-");
    }

    #[test]
    fn durations_keep_the_digits_that_matter() {
        for (usec, text) in [
            (0, "-"),
            (7, "<0.1 ms"),
            (450, "0.4 ms"),
            (24_300, "24 ms"),
            (1_340_000, "1.3 s"),
            (125_000_000, "2 min 5 s"),
        ] {
            assert_eq!(duration(usec), text, "{usec}");
        }
    }

    fn watch() -> Watch {
        Watch { zone: TimeZone::get("Europe/Vienna").unwrap(), now: "2026-11-20T12:00:00Z".parse().unwrap() }
    }

    fn usec(time: &str) -> u64 {
        time.parse::<Timestamp>().unwrap().as_microsecond().try_into().unwrap()
    }

    #[test]
    fn times_are_the_readers() {
        let at = usec("2026-11-20T01:30:00.25Z");
        assert_eq!(watch().local(at), "2026-11-20 02:30:00");
        assert_eq!(watch().both(at), "2026-11-20 02:30:00 (10 h ago)");
        assert_eq!(rfc3339(at, &watch().zone).unwrap(), "2026-11-20T02:30:00.25+01:00");
        assert_eq!(watch().local(0), "-");
        assert_eq!(watch().both(u64::MAX), "-");
        assert_eq!(rfc3339(0, &watch().zone), None);
    }

    #[test]
    fn distances_have_one_unit() {
        for (time, text) in [
            ("2026-11-20T12:00:00Z", "now"),
            ("2026-11-20T11:59:18Z", "42 s ago"),
            ("2026-11-20T12:25:59Z", "in 25 min"),
            ("2026-11-19T12:00:01Z", "23 h ago"),
            ("2025-11-20T12:00:00Z", "365 d ago"),
        ] {
            assert_eq!(watch().relative(usec(time)), text, "{time}");
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (42, "42 s"),
            (1_503, "25 min 3 s"),
            (12_059, "3 h 20 min"),
            (7_200, "2 h"),
            (1_051_500, "12 d 4 h"),
        ] {
            assert_eq!(span(seconds * 1_000_000), text);
        }
    }

    #[test]
    fn tables_line_up_whatever_the_script_and_leave_no_trailing_space() {
        let rows = vec![
            vec!["web1".to_owned(), "12".to_owned(), "x".to_owned()],
            vec!["東京".to_owned(), "1".to_owned(), NONE.to_owned()],
        ];
        let text = table(&[Column::Left("NAME"), Column::Right("SNAPSHOTS"), Column::Left("LAST")], rows);
        assert_eq!(text, "NAME  SNAPSHOTS  LAST\nweb1         12  x\n東京          1  -\n");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(count(1, "snapshot"), "1 snapshot");
        assert_eq!(count(0, "snapshot"), "0 snapshots");
    }
}
