//! Examples of what stands in the files: whole ones, single values, selectors; and what is said about them.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use jiff::tz::TimeZone;
use virtsnap::{
    config::{
        self, About, ConfigRoots, Diagnostics, Environment, FileKind, Loaded, SourceFile, Style, duration,
        show_duration, size,
    },
    core::{
        model::{SnapshotName, VmId},
        naming::{Parts, snapshot_name},
        policy::{Policy, Selector},
        select::{SelectorSet, Verdict, VmFacts},
    },
};

use super::{
    Page,
    page::{Example, wrapped},
    times,
};

/// The system that the page's examples are of.
pub fn environment() -> Environment {
    Environment { timezone: TimeZone::get("Europe/Vienna").unwrap(), cores: 4 }
}

/// The columns of a table: two blanks or more are between them.
pub fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect()
}

/// An example as the file that it would be, in the place that its name says.
fn file(example: &Example) -> (FileKind, Arc<SourceFile>) {
    let name = example.argument("name");
    let (kind, path) = match name {
        "virtsnapd" => (FileKind::Main, "/etc/virtsnap/virtsnapd.toml".to_owned()),
        _ => (FileKind::DropIn, format!("/etc/virtsnap/policies.d/{name}.toml")),
    };
    (kind, SourceFile::new(path, example.text.as_str()))
}

/// An example read together with those that it builds on (`with=NAME,…`).
pub fn load(page: &Page, example: &Example) -> Result<Loaded, Diagnostics> {
    let mut files = vec![file(example)];
    files.extend(
        example.get("with").into_iter().flat_map(|l| l.split(',')).map(|name| file(page.named(name))),
    );
    config::parse(&files, &environment())
}

/// A configuration that is without a fault, and of which everything has an effect in this version.
pub fn config(page: &Page, example: &Example) -> String {
    let loaded = load(page, example).unwrap_or_else(|e| panic!("line {}:\n{e}", example.line));
    assert!(loaded.warnings.is_empty(), "line {}:\n{}", example.line, loaded.warnings);
    let (kind, text) = file(example);
    let others =
        example.get("with").into_iter().flat_map(|l| l.split(',')).map(|name| file(page.named(name)).1);
    assert_eq!(without_effect(kind, &text.text, others), [""; 0], "line {}", example.line);
    example.text.clone()
}

/// What is said to have no effect in this version, of files as the daemon reads them.
pub fn without_effect(
    kind: FileKind,
    text: &str,
    others: impl IntoIterator<Item = Arc<SourceFile>>,
) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let drop_ins = directory.path().join(config::DROP_INS);
    std::fs::create_dir(&drop_ins).unwrap();
    let path = match kind {
        FileKind::Main => directory.path().join(config::MAIN_FILE),
        FileKind::DropIn => drop_ins.join("this.toml"),
    };
    std::fs::write(path, text).unwrap();
    for (i, other) in others.into_iter().enumerate() {
        std::fs::write(drop_ins.join(format!("{i}.toml")), &other.text).unwrap();
    }
    let loaded = config::load(&ConfigRoots::new([directory.path()])).unwrap_or_else(|e| panic!("{e}"));
    loaded.warnings.lines().into_iter().filter(|line| line.contains("this version")).collect()
}

/// The keys of one policy; `warned=yes` if something is said about them, which the page then shows.
pub fn rules(_: &Page, example: &Example) -> String {
    let (_, warnings) = read_rules(example);
    assert_eq!(!warnings.is_empty(), example.get("warned").is_some(), "line {}: {warnings}", example.line);
    example.text.clone()
}

/// The policy of such keys.
pub fn read_rules(example: &Example) -> (Policy, Diagnostics) {
    let name = example.get("policy").unwrap_or("nightly").parse().unwrap();
    let file = SourceFile::new("policy.toml", example.text.as_str());
    config::parse_policy(name, &file, &environment())
        .unwrap_or_else(|e| panic!("line {}:\n{e}", example.line))
}

/// A configuration with which something is wrong; the page shows what is said about it.
pub fn broken(page: &Page, example: &Example) -> String {
    let name = example.argument("name");
    let shown = page.examples.iter().any(|e| e.kind == "says" && e.get("about") == Some(name));
    assert!(shown, "line {}: the page does not show what is said about {name}", example.line);
    example.text.clone()
}

/// What is said `about=NAME`.
pub fn says(page: &Page, example: &Example) -> String {
    let about = page.named(example.argument("about"));
    let said = match about.kind.as_str() {
        "rules" => read_rules(about).1,
        _ => load(page, about).map_or_else(|errors| errors, |loaded| loaded.warnings),
    };
    assert!(!said.is_empty(), "line {}: nothing is said about it", example.line);
    said.render(Style::Plain).lines().fold(String::new(), |out, line| out + &wrapped(line, 0, 4))
}

/// What `virtsnapd --check` prints about `about=NAME`, `now=TIME`.
pub fn check(page: &Page, example: &Example) -> String {
    let loaded = load(page, page.named(example.argument("about")));
    config::report(&loaded, times::at(example.argument("now"), &environment().timezone), Style::Plain)
}

const ID: &str = "6f2c6d1e-0a4b-4c1c-9d55-2f7c3f1f9a01";

/// Each VM (its name, its tags) and what `about=NAME` makes of it.
pub fn selectors(page: &Page, example: &Example) -> String {
    let settings = load(page, page.named(example.argument("about"))).unwrap().settings;
    let mut out = String::new();
    for line in example.text.lines() {
        let [name, tags, ..] = columns(line)[..] else { panic!("{line:?} has no name and tags") };
        if name == "VM" {
            let _ = writeln!(out, "{line}");
            continue;
        }
        let all: BTreeSet<String> = tags.split(',').filter(|t| *t != "-").map(str::to_owned).collect();
        let plan = settings.for_vm(&VmFacts { id: ID.parse().unwrap(), name, tags: &all });
        let [why] = &plan.why[..] else { panic!("one policy, and no exceptions") };
        let says = match (why.about, &why.instead_of) {
            (About::Selected, _) => format!("yes: {}", why.text),
            (About::Excluded, Some((although, _))) => format!("no: {}, though {although}", why.text),
            _ => "no: none matches".to_owned(),
        };
        let _ = writeln!(out, "{name:<14}{tags:<14}{says}");
    }
    out
}

/// Patterns, with names that they match and names that they do not.
pub fn globs(_: &Page, example: &Example) -> String {
    for line in example.text.lines() {
        let [pattern, yes, no] = columns(line)[..] else { panic!("{line:?} has not three columns") };
        if pattern == "pattern" {
            continue;
        }
        let set = SelectorSet::new(&[Selector::parse(pattern).unwrap()]);
        let none = BTreeSet::new();
        for (names, expected) in [(yes, true), (no, false)] {
            for name in names.split(' ') {
                let matches = set.verdict(&VmFacts { id: ID.parse().unwrap(), name, tags: &none });
                assert_eq!(matches == Verdict::Selected(0), expected, "{pattern:?} and {name:?}");
            }
        }
    }
    example.text.clone()
}

/// Sizes and durations, with what they come to.
pub fn values(_: &Page, example: &Example) -> String {
    let mut out = String::new();
    for line in example.text.lines() {
        let text = columns(line)[0];
        let is = match (size(text), duration(text)) {
            (Ok(bytes), _) => format!("{bytes} bytes"),
            (_, Ok(span)) if example.argument("of") == "durations" => {
                format!("{} s, shown as {}", span.as_secs(), show_duration(span))
            }
            (size, duration) => {
                let error = if example.argument("of") == "sizes" { size.err() } else { duration.err() };
                format!("error: {}", error.unwrap().message)
            }
        };
        let _ = writeln!(out, "{text:<14}{is}");
    }
    out
}

/// Templates, with the names made of them.
pub fn names(_: &Page, example: &Example) -> String {
    let parts = Parts {
        policy: example.argument("policy"),
        vm: example.argument("vm"),
        operation: "manual",
        at: example.argument("at").parse().unwrap(),
        sequence: 3,
    };
    let taken = |name: &SnapshotName| example.get("taken") == Some(name.as_str());
    let mut out = String::new();
    for line in example.text.lines() {
        let template = columns(line)[0];
        let _ = writeln!(out, "{template:<34}{}", snapshot_name(template, &parts, taken).unwrap());
    }
    out
}

/// Why `vm=NAME` has what it has, as it is explained.
pub fn why(page: &Page, example: &Example) -> String {
    let settings = load(page, page.named(example.argument("about"))).unwrap().settings;
    let id: VmId = ID.parse().unwrap();
    let plan = settings.for_vm(&VmFacts { id, name: example.argument("vm"), tags: &BTreeSet::new() });
    plan.why.iter().fold(String::new(), |out, why| {
        out + &why.to_string().replace("/etc/virtsnap/policies.d/", "") + "\n"
    })
}
