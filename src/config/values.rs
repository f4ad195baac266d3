//! Quantities that are written as text: sizes, durations, shares. Each says what is wrong, where in the text,
//! and what would be right.

use std::ops::Range;

use jiff::SignedDuration;

/// Why a text is no such value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// What is wrong.
    pub message: String,
    /// Where in the text, in bytes; `None`: all of it.
    pub span: Option<Range<usize>>,
    /// What would be right.
    pub help: String,
}

impl ValueError {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, help: help.into() }
    }

    pub(super) fn at(self, span: Range<usize>) -> Self {
        Self { span: Some(span), ..self }
    }
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const SIZE_HELP: &str = "a number and a unit: KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of \
    1000), as in \"200GiB\"";

/// Reads a size such as `200GiB` or `1.5 TB`, in bytes. The unit means what it says and must be there.
pub fn size(text: &str) -> Result<u64, ValueError> {
    let number = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, rest) = text.split_at(number);
    let unit = rest.trim_start();
    let unit_span = text.len() - unit.len()..text.len();
    if digits.is_empty() {
        return Err(ValueError::new(format!("{text:?} is not a size"), SIZE_HELP));
    }
    if unit.is_empty() {
        return Err(ValueError::new(format!("the size {text:?} has no unit"), SIZE_HELP));
    }
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let letter = unit.chars().next().map(|c| c.to_ascii_uppercase());
        let help = match letter {
            Some(c @ ('K' | 'M' | 'G' | 'T')) => {
                let decimal = if c == 'K' { 'k' } else { c };
                format!("write `{c}iB` (powers of 1024) or `{decimal}B` (powers of 1000)")
            }
            _ => SIZE_HELP.to_owned(),
        };
        return Err(ValueError::new(format!("{unit:?} is not a unit of size"), help).at(unit_span));
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || fraction.contains('.') || digits.ends_with('.') {
        return Err(ValueError::new(format!("{digits:?} is not a number"), SIZE_HELP).at(0..number));
    }
    let bytes = exact(whole, fraction, *factor).ok_or_else(|| {
        ValueError::new(
            format!("the size {text:?} is too large"),
            "at most 16777215TiB, and at most 9 decimals",
        )
    })?;
    if bytes == 0 {
        return Err(ValueError::new("a size of 0 leaves nothing", "omit the key for no limit"));
    }
    Ok(bytes)
}

/// Without floating point: a size means what it says to the byte.
fn exact(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    if fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: u64 = whole.parse().ok()?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = u128::from(whole).checked_mul(scale)?.checked_add(fraction)?;
    u64::try_from(scaled.checked_mul(u128::from(factor))? / scale).ok()
}

/// A size as people read it, exactly: the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    let largest = |units: &[(&str, u64)]| {
        units
            .iter()
            .rev()
            .find(|(_, f)| bytes >= *f && bytes.is_multiple_of(*f))
            .map(|(u, f)| (bytes / f, *u))
            .map(|(n, unit)| format!("{n}{unit}"))
    };
    largest(&SIZE_UNITS[..4])
        .or_else(|| largest(&SIZE_UNITS[4..]))
        .unwrap_or_else(|| format!("{bytes} bytes"))
}

const DURATION_UNITS: &[(&str, i64)] = &[("w", 604_800), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
const DURATION_HELP: &str =
    "numbers with the units s, min, h, d (24 h) or w, as in \"30s\", \"8h 30min\" or \"400d\"";
/// A hundred years: longer ones would only run out of the calendar.
const DURATION_MAX: i64 = 36_525 * 86_400;

/// Reads a duration such as `20min` or `8h 30min`; `0s` is one too.
pub fn duration(text: &str) -> Result<SignedDuration, ValueError> {
    let mut total: i64 = 0;
    let mut used = Vec::new();
    let mut at = 0;
    let skip_spaces = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let run = |at: usize, part: fn(char) -> bool| {
        text[at..].find(|c: char| !part(c)).map_or(text.len(), |i| at + i)
    };
    at = skip_spaces(at);
    while at < text.len() {
        let digits_end = run(at, |c| c.is_ascii_digit());
        if digits_end == at {
            return Err(
                ValueError::new(format!("{text:?} is not a duration"), DURATION_HELP).at(at..text.len())
            );
        }
        let unit_start = skip_spaces(digits_end);
        let unit_end = run(unit_start, |c| !c.is_ascii_digit() && !c.is_whitespace());
        let unit = &text[unit_start..unit_end];
        let Some((name, seconds)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_duration_unit(unit).at(if unit.is_empty() {
                at..digits_end
            } else {
                unit_start..unit_end
            }));
        };
        if used.contains(name) {
            return Err(
                ValueError::new(format!("{unit:?} stands twice"), "each unit once").at(unit_start..unit_end)
            );
        }
        used.push(*name);
        let sum = text[at..digits_end]
            .parse::<i64>()
            .ok()
            .and_then(|n| n.checked_mul(*seconds))
            .and_then(|n| total.checked_add(n))
            .filter(|n| *n <= DURATION_MAX);
        match sum {
            Some(sum) => total = sum,
            None => {
                return Err(ValueError::new(format!("the duration {text:?} is too long"), "at most 36525d"));
            }
        }
        at = skip_spaces(unit_end);
    }
    if used.is_empty() {
        return Err(ValueError::new("an empty text is not a duration", DURATION_HELP));
    }
    Ok(SignedDuration::from_secs(total))
}

fn unknown_duration_unit(unit: &str) -> ValueError {
    let help = match unit {
        "" => return ValueError::new("a duration needs a unit", DURATION_HELP),
        "m" | "M" => "`m` could be minutes or months: write `min`, or days (`30d`)",
        "mo" | "month" | "months" | "y" | "year" | "years" => {
            "months and years differ in length: write days (`30d`, `365d`)"
        }
        "ms" | "us" | "ns" => "a second is the shortest",
        "sec" | "second" | "seconds" => "write `s`",
        "mins" | "minute" | "minutes" => "write `min`",
        "hr" | "hrs" | "hour" | "hours" | "H" => "write `h`",
        "day" | "days" | "D" => "write `d`",
        "week" | "weeks" | "W" => "write `w`",
        _ => DURATION_HELP,
    };
    ValueError::new(format!("{unit:?} is not a unit of time"), help)
}

/// A duration as it would be written.
pub fn show_duration(duration: SignedDuration) -> String {
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    // In days rather than weeks: that is how people speak of 400d.
    for (name, seconds) in &DURATION_UNITS[1..] {
        if left >= *seconds {
            parts.push(format!("{}{name}", left / seconds));
            left %= seconds;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Reads `10%`, from 0 to 99.
pub(super) fn percent(text: &str) -> Result<u8, ValueError> {
    text.strip_suffix('%')
        .map(str::trim_end)
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u8>().ok())
        .filter(|n| *n <= 99)
        .ok_or_else(|| {
            ValueError::new(format!("{text:?} is not a percentage"), "from \"0%\" (no check) to \"99%\"")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [
            ("1KiB", 1024),
            ("1kB", 1000),
            ("200GiB", 200 << 30),
            ("200 GB", 200_000_000_000),
            ("1.5TiB", 3 << 39),
            ("0.1kB", 100),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, message, span) in [
            ("200", "the size \"200\" has no unit", None),
            ("200G", "\"G\" is not a unit of size", Some(3..4)),
            ("1 gib", "\"gib\" is not a unit of size", Some(2..5)),
            ("1KB", "\"KB\" is not a unit of size", Some(1..3)),
            ("1 bottle", "\"bottle\" is not a unit of size", Some(2..8)),
            ("", "\"\" is not a size", None),
            ("-1GiB", "\"-1GiB\" is not a size", None),
            ("1.2.3GiB", "\"1.2.3\" is not a number", Some(0..5)),
            (".5GiB", "\".5\" is not a number", Some(0..2)),
            ("1.GiB", "\"1.\" is not a number", Some(0..2)),
            ("16777216TiB", "the size \"16777216TiB\" is too large", None),
            ("99999999999999999999kB", "the size \"99999999999999999999kB\" is too large", None),
            ("0GiB", "a size of 0 leaves nothing", None),
            ("0.0001kB", "a size of 0 leaves nothing", None),
        ] {
            let e = size(text).unwrap_err();
            assert_eq!((e.message.as_str(), e.span), (message, span), "{text}");
        }
        assert_eq!(size("1g").unwrap_err().help, "write `GiB` (powers of 1024) or `GB` (powers of 1000)");
        assert_eq!(size("1KB").unwrap_err().help, "write `KiB` (powers of 1024) or `kB` (powers of 1000)");
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1024, 1000, 200 << 30, 5_000_000] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_size(1536), "1536 bytes");
        for text in ["0s", "30s", "20min", "8h 30min", "400d", "1d 1h 1min 1s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn durations_are_sums_of_plain_units() {
        for (text, seconds) in [
            ("30s", 30),
            ("20min", 1200),
            ("12h", 43_200),
            ("8h 30min", 30_600),
            ("8h30min", 30_600),
            (" 30 min 8 h ", 30_600),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("0s", 0),
            ("36525d", DURATION_MAX),
        ] {
            assert_eq!(duration(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
        for (text, message, span) in [
            ("", "an empty text is not a duration", None),
            ("5", "a duration needs a unit", Some(0..1)),
            ("5m", "\"m\" is not a unit of time", Some(1..2)),
            ("1y", "\"y\" is not a unit of time", Some(1..2)),
            ("1h 2months", "\"months\" is not a unit of time", Some(4..10)),
            ("soon", "\"soon\" is not a duration", Some(0..4)),
            ("-5s", "\"-5s\" is not a duration", Some(0..3)),
            ("1h 1h", "\"h\" stands twice", Some(4..5)),
            ("36526d", "the duration \"36526d\" is too long", None),
            ("9999999999999999999999d", "the duration \"9999999999999999999999d\" is too long", None),
            ("1.5h", "\".\" is not a unit of time", Some(1..2)),
        ] {
            let e = duration(text).unwrap_err();
            assert_eq!((e.message.as_str(), e.span), (message, span), "{text}");
        }
    }

    #[test]
    fn percentages() {
        assert_eq!(percent("10%"), Ok(10));
        assert_eq!(percent("0 %"), Ok(0));
        for bad in ["10", "100%", "%", "-1%", "+1%", "1.5%", "256%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
