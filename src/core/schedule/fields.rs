//! The text of a schedule: five fields as Vixie cron reads them, and a precise word about anything else.

use std::ops::Range;

use super::ScheduleError;

/// The values that a field names, and how it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values {
    /// Bit n for the value n; Sunday is 0.
    set: u64,
    /// It starts with `*`: for cron such a day field is no restriction, `*/2` included.
    starts_with_star: bool,
    /// There is a `*` somewhere in it.
    pub(super) star: bool,
}

impl Values {
    /// As of the field `*`.
    pub(super) const ALL: Self = Self { set: u64::MAX, starts_with_star: true, star: true };

    pub(super) fn has(self, value: u8) -> bool {
        self.set & (1 << value) != 0
    }
}

/// Five fields that were read and can fire.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) minute: Values,
    pub(super) hour: Values,
    pub(super) day: Values,
    pub(super) month: Values,
    pub(super) weekday: Values,
}

impl Fields {
    /// Vixie's rule: with both day fields restricted, a day that either of them names counts.
    pub(super) fn either_day(&self) -> bool {
        !self.day.starts_with_star && !self.weekday.starts_with_star
    }
}

struct Spec {
    name: &'static str,
    min: u8,
    max: u8,
    /// Names from `min` on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MINUTE: Spec = Spec { name: "minute", min: 0, max: 59, names: &[] };
const HOUR: Spec = Spec { name: "hour", min: 0, max: 23, names: &[] };
const DAY: Spec = Spec { name: "day of month", min: 1, max: 31, names: &[] };
const MONTH: Spec = Spec { name: "month", min: 1, max: 12, names: &MONTHS };
const WEEKDAY: Spec = Spec { name: "day of week", min: 0, max: 7, names: &WEEKDAYS };

const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const FIVE: &str = "the fields are: minute hour day-of-month month day-of-week, as in `30 2 * * *`";

fn error(span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> ScheduleError {
    ScheduleError { message: message.into(), span, help: Some(help.into()) }
}

/// A part of the text with its place.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Part<'a> {
    fn span(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    fn split_once(self, at: char) -> Option<(Self, Self)> {
        let (left, right) = self.text.split_once(at)?;
        let start = self.start + left.len() + at.len_utf8();
        Some((Part { text: left, start: self.start }, Part { text: right, start }))
    }

    fn split(self, is_between: impl Fn(char) -> bool) -> impl Iterator<Item = Part<'a>> {
        // The pieces lie in `text` one after the other with one separator of one byte between.
        let mut start = self.start;
        self.text.split(is_between).map(move |text| {
            let part = Part { text, start };
            start += text.len() + 1;
            part
        })
    }
}

/// The fields; `None` for `@reboot`.
pub(super) fn parse(text: &str) -> Result<Option<Fields>, ScheduleError> {
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control() && *c != '\t') {
        return Err(error(
            at..at + c.len_utf8(),
            format!("a schedule is one line without {c:?}"),
            "write several schedules as a list of texts",
        ));
    }
    let parts: Vec<Part> =
        Part { text, start: 0 }.split(|c| c == ' ' || c == '\t').filter(|p| !p.text.is_empty()).collect();
    match parts.as_slice() {
        [] => Err(error(0..text.len(), "the schedule is empty", FIVE)),
        [name, rest @ ..] if name.text.starts_with('@') => macro_(*name, rest),
        [minute, hour, day, month, weekday] => five([*minute, *hour, *day, *month, *weekday]).map(Some),
        [_, _, _, _, _, excess @ ..] => Err(error(
            excess[0].start..excess[excess.len() - 1].span().end,
            format!("a schedule has five fields, this has {}", parts.len()),
            format!("{FIVE}; there is no field for seconds, years, a user or a command"),
        )),
        [first, .., last] | [first @ last] => Err(error(
            first.start..last.span().end,
            format!("a schedule has five fields, this has {}", parts.len()),
            FIVE,
        )),
    }
}

fn macro_(name: Part, rest: &[Part]) -> Result<Option<Fields>, ScheduleError> {
    if let [first, ..] = rest {
        let help = if name.text.eq_ignore_ascii_case("@every") {
            "for every 20 minutes, write `*/20 * * * *`".to_owned()
        } else {
            format!("write `{}` alone", name.text)
        };
        return Err(error(
            first.start..rest[rest.len() - 1].span().end,
            format!("nothing may follow `{}`", name.text),
            help,
        ));
    }
    if name.text.eq_ignore_ascii_case("@reboot") {
        return Ok(None);
    }
    match MACROS.iter().find(|(known, _)| name.text.eq_ignore_ascii_case(known)) {
        Some((_, fields)) => parse(fields),
        None => Err(error(
            name.span(),
            format!("unknown macro `{}`", name.text),
            "one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, @reboot",
        )),
    }
}

fn five(parts: [Part; 5]) -> Result<Fields, ScheduleError> {
    let [minute, hour, day, month, weekday] = parts;
    let days_and_months = day.start..month.span().end;
    let fields = Fields {
        minute: field(minute, &MINUTE)?,
        hour: field(hour, &HOUR)?,
        day: field(day, &DAY)?,
        month: field(month, &MONTH)?,
        weekday: field(weekday, &WEEKDAY)?,
    };
    match never(&fields) {
        Some(message) => Err(error(days_and_months, message, "give a day that one of the months has")),
        None => Ok(fields),
    }
}

/// Why no date matches, if none does. Each date that there is falls on each weekday in some year, 29 February too.
fn never(fields: &Fields) -> Option<String> {
    let length = |month| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let days: Vec<u8> = (1..=31).filter(|d| fields.day.has(*d)).collect();
    let months: Vec<u8> = (1..=12).filter(|m| fields.month.has(*m)).collect();
    if fields.either_day() || months.iter().any(|m| days.iter().any(|d| *d <= length(*m))) {
        return None;
    }
    let names = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let days: Vec<String> = days.iter().map(u8::to_string).collect();
    let months: Vec<&str> = months.iter().map(|m| names[usize::from(*m) - 1]).collect();
    Some(format!("it can never fire: there is no {} {}", days.join(" or "), months.join(" or ")))
}

fn field(part: Part, spec: &Spec) -> Result<Values, ScheduleError> {
    if let Some((at, c)) = part.text.char_indices().find(|(_, c)| "?#~".contains(*c)) {
        let help = match c {
            '?' => "write `*`: `?` is Quartz's",
            '#' => "the nth weekday of a month is Quartz's; cron's five fields cannot say it",
            _ => "random times are cronie's; a policy's `spread` gives each VM an offset of its own",
        };
        let at = part.start + at;
        return Err(error(at..at + 1, format!("`{c}` is not cron's"), help));
    }
    let mut set = 0;
    for element in part.split(|c| c == ',') {
        if element.text.is_empty() {
            return Err(error(
                part.span(),
                format!("an empty value in the {} field", spec.name),
                takes(spec),
            ));
        }
        set |= self::element(element, spec)?;
    }
    if spec.max == 7 && set & (1 << 7) != 0 {
        // Both 0 and 7 are Sunday.
        set = set & !(1 << 7) | 1;
    }
    Ok(Values { set, starts_with_star: part.text.starts_with('*'), star: part.text.contains('*') })
}

/// `*`, `*/n`, `a`, `a-b`, `a-b/n` as a bit set.
fn element(part: Part, spec: &Spec) -> Result<u64, ScheduleError> {
    let (values, step) = match part.split_once('/') {
        Some((values, step)) => (values, Some(step)),
        None => (part, None),
    };
    let (first, last) = if values.text == "*" {
        (spec.min, spec.max)
    } else if let Some((first, last)) = values.split_once('-') {
        range(values, first, last, spec)?
    } else {
        let only = value(values, spec, part)?;
        if step.is_some() {
            return Err(error(
                part.span(),
                format!("a step needs a range, and `{}` is a single value", values.text),
                format!(
                    "write `{}-{}/…` for \"from {0} on\": a step goes after `*` or `a-b`",
                    values.text, spec.max
                ),
            ));
        }
        (only, only)
    };
    let step = step.map_or(Ok(1), |step| self::step(step, part))?;
    Ok((first..=last).step_by(step).fold(0, |set, v| set | 1 << v))
}

fn step(step: Part, whole: Part) -> Result<usize, ScheduleError> {
    let help = "a step is a whole number from 1 on, as in `*/15`";
    if step.text.is_empty() {
        return Err(error(whole.span(), "there is no step after `/`", help));
    }
    match number(step.text) {
        Some(0) => Err(error(step.span(), "a step of zero never gets anywhere", help)),
        // A step beyond the range leaves its first value, as in cron.
        Some(n) => Ok(usize::from(n)),
        None => Err(error(step.span(), format!("`{}` is no step", step.text), help)),
    }
}

fn range(whole: Part, first: Part, last: Part, spec: &Spec) -> Result<(u8, u8), ScheduleError> {
    if first.text == "*" || last.text == "*" {
        return Err(error(whole.span(), "`*` cannot be part of a range", "`*` alone is the whole range"));
    }
    let low = value(first, spec, whole)?;
    let mut high = value(last, spec, whole)?;
    if spec.max == 7 && high == 0 && low > 0 && last.text.eq_ignore_ascii_case("sun") {
        high = 7;
    }
    if low <= high {
        return Ok((low, high));
    }
    let span = |a: u8, b: u8| if a == b { a.to_string() } else { format!("{a}-{b}") };
    // The weekday 7 is 0 again, so a week ends at 6.
    let top = if spec.max == 7 { 6 } else { spec.max };
    let wrapped = match low {
        7 if spec.max == 7 => span(0, high),
        _ => format!("{},{}", span(low, top), span(spec.min, high)),
    };
    Err(error(
        whole.span(),
        format!("the range `{}` runs backwards", whole.text),
        format!("over the end of the field, write `{wrapped}`"),
    ))
}

/// A number or a name; `around` is what it is a part of, for when it is empty.
fn value(part: Part, spec: &Spec, around: Part) -> Result<u8, ScheduleError> {
    let text = part.text;
    if text.is_empty() {
        return Err(error(around.span(), format!("`{}` lacks a value", around.text), takes(spec)));
    }
    if let Some(index) = spec.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(u8::try_from(index).unwrap_or(u8::MAX) + spec.min);
    }
    if let Some(n) = number(text) {
        return match u8::try_from(n) {
            Ok(n) if (spec.min..=spec.max).contains(&n) => Ok(n),
            _ => Err(error(
                part.span(),
                format!("{text} is out of range for the {} field", spec.name),
                takes(spec),
            )),
        };
    }
    // `L`, `LW`, `15W`, `5L`, `friL`.
    let name = |t: &str| t.is_empty() || WEEKDAYS.iter().any(|w| w.eq_ignore_ascii_case(t));
    let modified = text.trim_start_matches(|c: char| c.is_ascii_digit()).strip_suffix(['L', 'W', 'l', 'w']);
    if modified.is_some_and(|rest| name(rest) || rest.eq_ignore_ascii_case("l")) {
        return Err(error(
            part.span(),
            format!("`{text}` is not cron's"),
            "`L` (last) and `W` (nearest working day) are Quartz's; cron's five fields cannot say it",
        ));
    }
    Err(error(part.span(), format!("`{text}` is no value of the {} field", spec.name), takes(spec)))
}

/// Digits only: no sign, no blanks. What is too large for any field is still a number (and out of range).
fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u16::MAX))
}

fn takes(spec: &Spec) -> String {
    let Spec { name, min, max, names } = spec;
    match names {
        [first, .., last] => format!("the {name} field takes {min} to {max}, and {first} to {last}"),
        _ => format!("the {name} field takes {min} to {max}"),
    }
}
