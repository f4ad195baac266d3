//! Any bytes as the files of the configuration: read or refused, and then whatever can be done with the result.
//!
//! The input is `virtsnapd.toml`, is a file of `policies.d`, is one policy's keys, each on its own; then, cut at lines
//! of `---`, it is the first and several of the second.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use virtsnap::{
    config::{
        self, Diagnostic, Diagnostics, Environment, FileKind, Loaded, SourceFile, Style, VmKey, VmPlan,
        check_against, report,
    },
    core::{
        schedule::{Schedule, next_fire},
        select::VmFacts,
    },
};

use super::is_harmful;

/// 2026-11-21T12:00:00Z
const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);
const MAIN: &str = "virtsnapd.toml";
/// Names of files come from a disk, which takes everything but `/`.
const ODD_NAME: &str = "p\u{1b}[31m\u{9b}1m\n\u{202e}.toml";

/// Panics if these files are more than read or refused.
pub fn run(data: &[u8]) {
    for (kind, name) in [(FileKind::Main, MAIN), (FileKind::DropIn, ODD_NAME)] {
        survive(&[(kind, name, data)]);
    }
    policy(data);
    let parts: Vec<&[u8]> = split(data);
    if parts.len() > 1 {
        let kinds =
            std::iter::once((FileKind::Main, MAIN)).chain(std::iter::repeat((FileKind::DropIn, ODD_NAME)));
        let files: Vec<_> = kinds.zip(&parts).map(|((kind, name), part)| (kind, name, *part)).collect();
        survive(&files);
    }
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    const CUT: &[u8] = b"\n---\n";
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(CUT.len()).position(|w| w == CUT) {
        parts.push(&rest[..=at]);
        rest = &rest[at + CUT.len()..];
    }
    parts.push(rest);
    parts
}

fn environment() -> Environment {
    Environment { timezone: TimeZone::UTC, cores: 4 }
}

fn survive(files: &[(FileKind, &str, &[u8])]) {
    let mut sources = Vec::new();
    for (kind, name, bytes) in files {
        match config::decode(*name, bytes.to_vec()) {
            Ok(file) => sources.push((*kind, file)),
            Err(diagnostic) => {
                assert!(std::str::from_utf8(bytes).is_err());
                sound(&std::iter::once(*diagnostic).collect());
            }
        }
    }
    let loaded = config::parse(&sources, &environment());
    let (plain, colour) = (report(&loaded, NOW, Style::Plain), report(&loaded, NOW, Style::Colour));
    harmless(&plain);
    assert_eq!(without_colours(&colour), plain, "colours are all that differs");
    match &loaded {
        Err(errors) => {
            assert!(errors.has_errors());
            sound(errors);
        }
        Ok(loaded) => {
            assert!(!loaded.warnings.has_errors());
            sound(&loaded.warnings);
            used(loaded);
        }
    }
    let again = config::parse(&sources, &environment());
    assert_eq!(report(&again, NOW, Style::Plain), plain, "read twice, read the same");
    if let (Ok(first), Ok(second)) = (&loaded, &again) {
        assert_eq!(plans(first), plans(second));
    }
}

/// What the daemon does with settings that loaded.
fn used(loaded: &Loaded) {
    let settings = &loaded.settings;
    for (policy, plan) in settings.policies.values().zip(plans(loaded).iter().cycle()) {
        assert!(plan.policies.iter().all(|p| settings.policies.contains_key(&p.name)));
        let zone = &policy.retention.timezone;
        let next = next_fire(&policy.schedules, NOW, zone);
        assert_eq!(next.is_none(), policy.schedules.iter().all(Schedule::is_reboot), "{policy:?}");
        assert!(next.is_none_or(|next| next > NOW));
    }
}

/// What holds for VMs of all the names and UUIDs that the files give, and for one that they hardly know.
fn plans(loaded: &Loaded) -> Vec<VmPlan> {
    let settings = &loaded.settings;
    let tags = BTreeSet::from(["prod".to_owned(), "x".to_owned()]);
    let stranger = "0b2e4c1a-6f0d-4e8e-9a55-0123456789ab".parse().expect("a UUID");
    let mut vms = vec![VmFacts { id: stranger, name: "web1", tags: &tags }];
    vms.extend(settings.vms.keys().map(|key| match key {
        VmKey::Name(name) => VmFacts { id: stranger, name, tags: &tags },
        VmKey::Uuid(id) => VmFacts { id: *id, name: "a", tags: &tags },
    }));
    sound(&check_against(settings, &vms));
    sound(&check_against(settings, &[]));
    let plans: Vec<_> = vms.iter().map(|vm| settings.for_vm(vm)).collect();
    for (vm, plan) in vms.iter().zip(&plans) {
        assert!(plan.why.iter().all(|e| !e.to_string().is_empty()));
        let selected: BTreeSet<_> =
            settings.policies.keys().filter(|name| settings.selects(name, vm)).collect();
        assert_eq!(plan.policies.iter().map(|p| &p.name).collect::<BTreeSet<_>>(), selected);
    }
    plans
}

/// One policy's keys without a table header, as the simulator gets them.
fn policy(data: &[u8]) {
    let Ok(file) = config::decode(ODD_NAME, data.to_vec()) else { return };
    let name = || "p".parse().expect("a name");
    let read = config::parse_policy(name(), &file, &environment());
    match &read {
        Ok((policy, warnings)) => {
            assert!(!warnings.has_errors() && policy.name == name());
            sound(warnings);
        }
        Err(errors) => {
            assert!(errors.has_errors());
            sound(errors);
        }
    }
    assert_eq!(config::parse_policy(name(), &file, &environment()), read);
}

/// Every place is in its file, and every message can be shown and says where it is.
fn sound(diagnostics: &Diagnostics) {
    for d in diagnostics {
        place(d);
        for (other, label) in &d.also {
            inside(&other.file, &other.span);
            harmless(label);
        }
        let one: Diagnostics = std::iter::once(d.clone()).collect();
        let shown = one.render(Style::Plain);
        harmless(&shown);
        assert!(shown.starts_with(&format!("{}: {}", d.severity, d.message)), "{shown}");
        assert_eq!(without_colours(&one.render(Style::Colour)), shown);
        harmless(&d.line());
        assert!(!d.line().contains('\n'), "{:?}", d.line());
    }
    assert_eq!(diagnostics.lines().len(), diagnostics.len());
}

fn place(d: &Diagnostic) {
    let Some(span) = &d.span else { return };
    inside(&d.file, span);
    let (line, column) = d.file.line_column(span.start);
    let text = d.file.text.split('\n').nth(line - 1).expect("the line is there");
    assert!((1..=text.chars().count() + 1).contains(&column), "{line}:{column} of {text:?}");
}

fn inside(file: &Arc<SourceFile>, span: &std::ops::Range<usize>) {
    assert!(file.text.get(span.clone()).is_some(), "{span:?} is not in {:?}", file.text);
}

/// Nothing of the input can do anything to a terminal.
fn harmless(text: &str) {
    assert!(!text.contains(|c: char| is_harmful(c) && c != '\n'), "{text:?}");
}

/// Takes our own escape sequences out: `ESC [ digits and semicolons m`.
fn without_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        out.push_str(&rest[..at]);
        let parameters = rest[at + 2..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = parameters.strip_prefix('m').unwrap_or_else(|| panic!("an odd escape sequence in {text:?}"));
    }
    out + rest
}
