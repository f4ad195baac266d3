//! `man/virtsnap-policy.5` is run: each display of the page is an example of something, and what it shows is what the
//! program does. A display that no test knows fails, and so does a key that the page does not have.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "all of this is tests, in functions of their own"
)]

#[path = "policy_manual/commands.rs"]
mod commands;
#[path = "policy_manual/files.rs"]
mod files;
#[path = "policy_manual/keys.rs"]
mod keys;
#[path = "policy_manual/metrics.rs"]
mod metrics;
#[path = "policy_manual/page.rs"]
mod page;
#[path = "policy_manual/stays.rs"]
mod stays;
#[path = "policy_manual/times.rs"]
mod times;

use std::{collections::BTreeMap, process::Command};

use page::Example;

/// Makes what a display must show, out of what it is an example of and of its own input (its left columns, its first
/// lines). Panics where the program refuses the input.
type Run = fn(&Page, &Example) -> String;

/// Each kind of example, and what runs it.
const KINDS: &[(&str, Run)] = &[
    ("config", files::config),
    ("rules", files::rules),
    ("broken", files::broken),
    ("says", files::says),
    ("check", files::check),
    ("selectors", files::selectors),
    ("globs", files::globs),
    ("values", files::values),
    ("names", files::names),
    ("why", files::why),
    ("runs", times::runs),
    ("missed", times::missed),
    ("spread", times::spread),
    ("calendar", stays::calendar),
    ("reasons", stays::reasons),
    ("verdicts", stays::verdicts),
    ("shell", commands::shell),
    ("tags", commands::tags),
    ("alerts", metrics::alerts),
    ("json", commands::json),
    ("simulate", commands::simulate),
];

/// The page's examples, some of which refer to others by name.
#[derive(Debug)]
pub(crate) struct Page {
    examples: Vec<Example>,
}

impl Page {
    fn read() -> Self {
        Self { examples: page::examples() }
    }

    /// The example with `name=NAME` in its mark.
    pub(crate) fn named(&self, name: &str) -> &Example {
        let mut found = self.examples.iter().filter(|e| e.get("name") == Some(name));
        let one = found.next().unwrap_or_else(|| panic!("no example is named {name}"));
        assert!(found.next().is_none(), "two examples are named {name}");
        one
    }
}

#[test]
fn every_display_shows_what_the_program_does() {
    let page = Page::read();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for example in &page.examples {
        let (kind, run) = KINDS.iter().find(|(kind, _)| *kind == example.kind).unwrap_or_else(|| {
            panic!("line {}: no test runs examples of kind {}", example.line, example.kind)
        });
        *seen.entry(kind).or_default() += 1;
        let is = run(&page, example);
        if is != example.text {
            wrong.push(format!(
                "line {}, an example of {kind}, shows\n{}\nbut it is\n{is}",
                example.line, example.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unused: Vec<_> = KINDS.iter().filter(|(kind, _)| !seen.contains_key(kind)).map(|(k, _)| k).collect();
    assert!(unused.is_empty(), "no display is an example of {unused:?}");
    println!("{} examples: {seen:?}", page.examples.len());
}

#[test]
fn the_page_is_of_this_version() {
    let title = page::SOURCE.lines().find(|l| l.starts_with(".TH ")).unwrap();
    let version = format!("\"virtsnap {}\"", env!("CARGO_PKG_VERSION"));
    assert!(title.contains(&version), "{title} does not say {version}");
}

#[test]
fn mandoc_has_nothing_to_say_about_the_page() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/man/virtsnap-policy.5");
    let lint = Command::new("mandoc").args(["-T", "lint", "-W", "warning", path]).output();
    let lint = lint.expect("mandoc is not installed (apt install mandoc)");
    let said = String::from_utf8_lossy(&lint.stdout).into_owned() + &String::from_utf8_lossy(&lint.stderr);
    assert!(lint.status.success() && said.is_empty(), "{said}");
}
