//! One `key = value` of a file, read as what it has to be; what it is not is noted with its place.

use std::{
    collections::BTreeSet,
    fmt,
    ops::{Range, RangeInclusive},
    str::FromStr,
    sync::Arc,
};

use jiff::SignedDuration;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, SourceFile, quoted},
    similar::closest,
    values::{self, ValueError},
};
use crate::core::model::UnknownWord;

/// A key with its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) file: &'a Arc<SourceFile>,
    key: &'a Spanned<DeString<'a>>,
    value: &'a Spanned<DeValue<'a>>,
}

/// The items of a table in the order of the file.
pub(super) fn items<'a>(file: &'a Arc<SourceFile>, table: &'a DeTable<'a>) -> Vec<Item<'a>> {
    let mut items: Vec<_> = table.iter().map(|(key, value)| Item { file, key, value }).collect();
    items.sort_by_key(|item| item.key.span().start);
    items
}

impl<'a> Item<'a> {
    pub(super) fn key(&self) -> &'a str {
        self.key.get_ref()
    }

    pub(super) fn key_place(&self) -> Place {
        Place::new(self.file, self.key.span())
    }

    pub(super) fn place(&self) -> Place {
        Place::new(self.file, self.value.span())
    }

    /// Notes that there is no such key here; `what` is the table.
    pub(super) fn unknown(&self, what: &str, allowed: &[&'static str], out: &mut Diagnostics) {
        let mut error =
            Diagnostic::error(&self.key_place(), format!("unknown key {} in {what}", quoted(self.key())))
                .help(format!("allowed here: {}", allowed.join(", ")));
        if let Some(near) = closest(self.key(), allowed.iter().copied()) {
            error = error.label(format!("did you mean `{near}`?"));
        }
        out.push(error);
    }

    /// Notes that the value is of the wrong kind.
    fn mismatch<T>(&self, wanted: &str, out: &mut Diagnostics) -> Option<T> {
        mismatch(self.file, self.key(), self.value, wanted, out);
        None
    }

    /// Notes what is wrong with the text of the value.
    fn bad_text<T>(&self, error: &ValueError, out: &mut Diagnostics) -> Option<T> {
        out.push(bad_text(self.file, self.key(), self.value, error));
        None
    }

    pub(super) fn table(&self, wanted: &str, out: &mut Diagnostics) -> Option<&'a DeTable<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => self.mismatch(wanted, out),
        }
    }

    pub(super) fn bool(&self, out: &mut Diagnostics) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.mismatch("true or false", out),
        }
    }

    /// A whole number of `range`; `zero` is what is said about 0 in particular.
    pub(super) fn number(
        &self,
        range: RangeInclusive<u32>,
        zero: Option<&str>,
        out: &mut Diagnostics,
    ) -> Option<u32> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return self.mismatch("a whole number", out);
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        if let Some(number) = u32::try_from(number).ok().filter(|n| range.contains(n)) {
            return Some(number);
        }
        let (from, to) = range.into_inner();
        let mut error = Diagnostic::error(
            &self.place(),
            format!("`{}` must be a whole number from {from} to {to}, not {integer}", self.key()),
        );
        if let (0, Some(help)) = (number, zero) {
            error = error.help(help);
        }
        out.push(error);
        None
    }

    pub(super) fn string(&self, wanted: &str, out: &mut Diagnostics) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.mismatch(wanted, out),
        }
    }

    /// True if the value is just this word.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.value.get_ref(), DeValue::String(text) if text == word)
    }

    /// A text, read by `read`.
    pub(super) fn text<T>(
        &self,
        wanted: &str,
        read: impl FnOnce(&str) -> Result<T, ValueError>,
        out: &mut Diagnostics,
    ) -> Option<T> {
        match read(self.string(wanted, out)?) {
            Ok(value) => Some(value),
            Err(error) => self.bad_text(&error, out),
        }
    }

    pub(super) fn size(&self, out: &mut Diagnostics) -> Option<u64> {
        self.text("a size such as \"200GiB\"", values::size, out)
    }

    pub(super) fn duration(
        &self,
        range: RangeInclusive<SignedDuration>,
        out: &mut Diagnostics,
    ) -> Option<SignedDuration> {
        let duration = self.text("a duration such as \"20min\"", values::duration, out)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let (from, to) = range.into_inner();
        let bounds = if to == SignedDuration::MAX {
            format!("at least {}", values::show_duration(from))
        } else {
            format!("from {} to {}", values::show_duration(from), values::show_duration(to))
        };
        out.push(Diagnostic::error(&self.place(), format!("`{}` must be {bounds}", self.key())));
        None
    }

    /// One of an enumeration's words.
    pub(super) fn word<T>(&self, allowed: &[T], out: &mut Diagnostics) -> Option<T>
    where
        T: FromStr<Err = UnknownWord> + fmt::Display,
    {
        let words: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        self.text(&one_of(&words), |text| text.parse().map_err(|_| unknown_word(text, &words)), out)
    }

    /// A list of texts, each read by `read` and each there once. All bad ones are noted, not only the first.
    pub(super) fn texts<T>(
        &self,
        wanted: &str,
        read: impl Fn(&str) -> Result<T, ValueError>,
        out: &mut Diagnostics,
    ) -> Option<Vec<(T, Place)>> {
        let DeValue::Array(array) = self.value.get_ref() else { return self.mismatch(wanted, out) };
        let mut seen = BTreeSet::new();
        let mut list = Vec::new();
        let mut good = true;
        for value in array {
            let DeValue::String(text) = value.get_ref() else {
                mismatch(self.file, self.key(), value, wanted, out);
                good = false;
                continue;
            };
            match read(text) {
                Ok(read) => list.push((read, Place::new(self.file, value.span()))),
                Err(error) => {
                    out.push(bad_text(self.file, self.key(), value, &error));
                    good = false;
                }
            }
            if !seen.insert(text) {
                out.push(Diagnostic::error(
                    &Place::new(self.file, value.span()),
                    format!("{} stands twice in `{}`", quoted(text), self.key()),
                ));
                good = false;
            }
        }
        good.then_some(list)
    }

    /// A text or a list of them.
    pub(super) fn text_or_texts<T>(
        &self,
        wanted: &str,
        read: impl Fn(&str) -> Result<T, ValueError>,
        out: &mut Diagnostics,
    ) -> Option<Vec<(T, Place)>> {
        match self.value.get_ref() {
            DeValue::String(_) => self.text(wanted, read, out).map(|value| vec![(value, self.place())]),
            _ => self.texts(wanted, read, out),
        }
    }

    /// An error about the value as a whole.
    pub(super) fn error(&self, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic::error(&self.place(), message)
    }
}

/// `"a", "b" or "c"`
fn one_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("{one:?}"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|w| format!("{w:?}")).collect();
            format!("{} or {last:?}", first.join(", "))
        }
    }
}

/// That `text` is none of `words`.
pub(super) fn unknown_word(text: &str, words: &[String]) -> ValueError {
    let help = match closest(text, words.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}? Allowed: {}", one_of(words)),
        None => format!("allowed: {}", one_of(words)),
    };
    ValueError { message: format!("{} is not known here", quoted(text)), span: None, help }
}

fn mismatch(
    file: &Arc<SourceFile>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    out: &mut Diagnostics,
) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    out.push(
        Diagnostic::error(
            &Place::new(file, value.span()),
            format!("{} must be {wanted}, not {found}", quoted(key)),
        )
        .label(format!("expected {wanted}")),
    );
}

fn bad_text(
    file: &Arc<SourceFile>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    error: &ValueError,
) -> Diagnostic {
    let place = match (&error.span, value.get_ref()) {
        (Some(span), DeValue::String(text)) => inside(file, value.span(), text, span),
        _ => Place::new(file, value.span()),
    };
    Diagnostic::error(&place, format!("`{key}`: {}", error.message)).help(&error.help)
}

/// The place of a part of a string. Where escapes make the file's text differ from the string's, all of it.
fn inside(file: &Arc<SourceFile>, whole: Range<usize>, decoded: &str, part: &Range<usize>) -> Place {
    let place = Place::new(file, whole);
    let raw = place.text();
    // A line break right after three quotes is no part of the string.
    let before = ["\"\"\"\r\n", "\"\"\"\n", "\"\"\"", "\"", "'''\r\n", "'''\n", "'''", "'"];
    let quotes = before.into_iter().find(|quotes| raw.starts_with(quotes)).unwrap_or("").len();
    match raw.get(quotes..) {
        Some(rest) if rest.starts_with(decoded) => {
            let start = place.span.start + quotes;
            Place::new(file, start + part.start..start + part.end)
        }
        _ => place,
    }
}
