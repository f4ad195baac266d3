//! The page as it is written: its displays, each with the comment that says what it is an example of, and its keys.
//!
//! In the source, each display is `.EX` … `.EE`, and the line before it is `.\" example: KIND key=value …`.

use std::collections::BTreeMap;

/// The page's source.
pub const SOURCE: &str = include_str!("../../man/virtsnap-policy.5");

/// What a reader copies from a page must be ASCII, so these are written as escapes in displays.
const ESCAPES: &[(&str, char)] =
    &[("\\e", '\\'), ("\\-", '-'), ("\\(aq", '\''), ("\\(ga", '`'), ("\\(ha", '^'), ("\\(ti", '~')];

/// What a terminal of 80 columns has room for, beside the margin.
const WIDTH: usize = 72;

/// A display with its mark.
#[derive(Debug, Clone)]
pub struct Example {
    /// The line of the page's source in which it begins.
    pub line: usize,
    /// What it is an example of.
    pub kind: String,
    /// What else the mark says.
    pub arguments: BTreeMap<String, String>,
    /// What a reader sees.
    pub text: String,
}

impl Example {
    /// What the mark says of `key`, if it does.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.arguments.get(key).map(String::as_str)
    }

    /// What the mark has to say of `key`.
    pub fn argument(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("line {}: the mark does not say {key}=", self.line))
    }
}

/// The lines of the page's source, from 1.
pub fn lines() -> impl Iterator<Item = (usize, &'static str)> {
    (1..).zip(SOURCE.lines())
}

/// All displays, in order.
pub fn examples() -> Vec<Example> {
    let mut all = Vec::new();
    let mut mark = None;
    let mut open: Option<Example> = None;
    for (line, text) in lines() {
        if let Some(mut example) = open.take() {
            if text == ".EE" {
                all.push(example);
            } else {
                example.text.push_str(&plain(line, text));
                example.text.push('\n');
                open = Some(example);
            }
            continue;
        }
        let marked = mark.take();
        if text == ".EX" {
            let mark: &str = marked.unwrap_or_else(|| panic!("line {line}: no test knows what this shows"));
            open = Some(example(line, mark));
        } else if [".nf", ".EX", ".Bd", ".TS"].iter().any(|m| text.starts_with(m)) {
            panic!("line {line}: a display that is not .EX: no test would run it");
        }
        mark = text.strip_prefix(".\\\" example: ");
        assert!(
            mark.is_some() || !text.contains("example:"),
            "line {line}: not a mark, though it looks like one"
        );
        assert!(marked.is_none() || text == ".EX", "line {line}: a display must follow its mark");
    }
    assert!(open.is_none() && mark.is_none(), "the page ends in a display");
    all
}

fn example(line: usize, mark: &str) -> Example {
    let mut words = mark.split_whitespace();
    let kind = words.next().unwrap_or_default().to_owned();
    let pair = |word: &str| {
        let (key, value) =
            word.split_once('=').unwrap_or_else(|| panic!("line {line}: {word:?} is not key=value"));
        (key.to_owned(), value.to_owned())
    };
    Example { line, kind, arguments: words.map(pair).collect(), text: String::new() }
}

/// A display's line as a reader sees it. What would not arrive as it is written is refused.
fn plain(line: usize, written: &str) -> String {
    let mut out = String::new();
    let mut rest = written.strip_prefix("\\&").unwrap_or(written);
    while let Some(c) = rest.chars().next() {
        if let Some((escape, stands_for)) = ESCAPES.iter().find(|(escape, _)| rest.starts_with(escape)) {
            out.push(*stands_for);
            rest = &rest[escape.len()..];
            continue;
        }
        assert!(!"\\-'`^~".contains(c), "line {line}: {c:?} in a display must be written as an escape");
        assert!(c.is_ascii(), "line {line}: {c:?} cannot be shown everywhere");
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    assert!(!written.starts_with(['.', '\'']), "line {line}: this is a request, not text");
    assert!(out.len() <= WIDTH, "line {line}: wider than a terminal");
    out
}

/// What stands under the headings `.TP` + `.B KEY` of a section, without escapes: for each key its paragraph.
pub fn keys(section: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut inside = false;
    let mut key: Option<String> = None;
    let mut before = "";
    for text in SOURCE.lines() {
        if let Some(name) = text.strip_prefix(".SS ").or_else(|| text.strip_prefix(".SH ")) {
            inside = name.trim_matches('"') == section;
            key = None;
        } else if inside && before == ".TP" {
            let name =
                text.strip_prefix(".B ").unwrap_or_else(|| panic!("a key is written `.B KEY`: {text}"));
            let name = name.replace("\\-", "-");
            assert!(!all.contains_key(&name), "{name} is described twice");
            all.insert(name.clone(), String::new());
            key = Some(name);
        } else if let Some(paragraph) = key.as_ref().and_then(|key| all.get_mut(key)) {
            let text = text.replace("\\-", "-").replace("\\(dq", "\"");
            paragraph.push_str(text.strip_prefix(".B ").or(text.strip_prefix(".BR ")).unwrap_or(&text));
            paragraph.push('\n');
        }
        before = text;
    }
    all
}

/// A line broken at blanks to fit: the first and the further lines are indented so far.
pub fn wrapped(text: &str, first: usize, further: usize) -> String {
    let mut out = " ".repeat(first);
    let mut column = first;
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 && column + 1 + word.len() > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(further));
            column = further;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out + "\n"
}
