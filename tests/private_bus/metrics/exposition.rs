//! Prometheus' text format, read as strictly as its description says, and what `promtool check metrics` and the textfile
//! collector ask for on top.

use std::collections::{BTreeMap, BTreeSet};

/// A metric's name, and its labels in the order of their names.
pub type Series = (String, BTreeMap<String, String>);

/// All samples of a file.
///
/// # Panics
///
/// If it is not in the format.
pub fn parse(text: &str) -> BTreeMap<Series, f64> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut all = BTreeMap::new();
    // Of the metric whose samples these are.
    let (mut current, mut kind) = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help has a text");
            assert!(!help.trim().is_empty() && help.ends_with('.'), "{line}");
            assert!(seen.insert(name.to_owned()), "{name} is there twice: its samples must stand together");
            (current, kind) = (String::from(name), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, word) = rest.split_once(' ').expect("a type has a word");
            assert!(name == current && kind.is_empty(), "the type comes after its help, once: {line}");
            assert!(["counter", "gauge"].contains(&word), "{line}");
            assert_eq!(
                word == "counter",
                name.ends_with("_total"),
                "a counter's name ends in _total: {line}"
            );
            kind = String::from(word);
        } else {
            let (series, value) = sample(line);
            assert!(series.0 == current && !kind.is_empty(), "a sample stands under its type: {line}");
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(all.insert(series, value).is_none(), "twice the same: {line}");
        }
    }
    all
}

/// `name{label="value",…} number`, without a time, which the textfile collector does not take.
fn sample(line: &str) -> (Series, f64) {
    let name_end = line.find(['{', ' ']).expect("a sample has a value");
    let (name, mut rest) = line.split_at(name_end);
    assert!(is_name(name, true) && name.starts_with("virtsnap_"), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label has a value");
            assert!(is_name(label, false) && !label.starts_with("__"), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            match after.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("neither another label nor the end of them: {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (((name.to_owned()), labels), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// Up to the quotation mark that is not escaped, and what comes after it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next().expect("a label's value ends") {
            (i, '"') => return (value, &text[i + 1..]),
            (_, '\\') => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                other => panic!("no such escape: {other:?}"),
            }),
            (_, c) => value.push(c),
        }
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(may)
}
