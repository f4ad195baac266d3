//! The page has every key, with its default, and says of each that has no effect yet that it has none.

use std::{collections::BTreeSet, sync::Arc};

use virtsnap::config::{self, FileKind, Loaded, SourceFile};

use super::{
    files::{environment, without_effect},
    page,
};

fn read(kind: FileKind, text: &str) -> Result<Loaded, config::Diagnostics> {
    config::parse(&[(kind, SourceFile::new("test.toml", text))], &environment())
}

/// What the reader of the files says is allowed in a table: it knows best.
fn allowed(table: &str) -> BTreeSet<String> {
    let kind = if table == "daemon" { FileKind::Main } else { FileKind::DropIn };
    let errors = read(kind, &format!("[{table}]\nno-such-key = 1\n")).unwrap_err();
    let help = errors.iter().find_map(|d| d.help.as_deref()?.strip_prefix("allowed here: "));
    help.unwrap().split(", ").map(str::to_owned).collect()
}

fn described(section: &str) -> BTreeSet<String> {
    page::keys(section).into_keys().collect()
}

#[test]
fn every_key_is_described_and_no_other() {
    let policies: BTreeSet<String> = ["Which VMs", "When", "How", "What stays", "When it fails"]
        .iter()
        .flat_map(|s| described(s))
        .collect();
    assert_eq!(policies, allowed("policy.x"));
    assert_eq!(described("The daemon"), allowed("daemon"));
    assert_eq!(
        described("One VM"),
        allowed("vm.x")
            .into_iter()
            .map(|k| match k.as_str() {
                "policy" => "policy.NAME.KEY".to_owned(),
                _ => k,
            })
            .collect()
    );
}

/// What the page says after `Default:`, up to the full stop.
fn default(paragraph: &str) -> Option<String> {
    let (_, rest) = paragraph.split_once("Default:\n")?;
    Some(rest.lines().next()?.trim_end_matches(" .").trim_end_matches('.').to_owned())
}

#[test]
fn a_default_that_is_said_is_the_default() {
    let policy = |key: &str| {
        let text = format!("[policy.p]\nvms = \"*\"\n{key}\n");
        Arc::clone(
            read(FileKind::DropIn, &text)
                .unwrap_or_else(|e| panic!("{e}"))
                .settings
                .policies
                .values()
                .next()
                .unwrap(),
        )
    };
    let daemon = |key: &str| {
        read(FileKind::Main, &format!("[daemon]\n{key}\n")).unwrap_or_else(|e| panic!("{e}")).settings.daemon
    };
    let mut said = 0;
    for section in ["Which VMs", "When", "How", "What stays", "When it fails", "The daemon"] {
        for (key, paragraph) in page::keys(section) {
            let default = default(&paragraph).unwrap_or_else(|| panic!("{key} has no `Default:`"));
            if default == "none" {
                continue;
            }
            let given = format!("{key} = {default}");
            if section == "The daemon" {
                assert_eq!(daemon(&given), daemon(""), "{given}");
            } else {
                assert_eq!(policy(&given), policy(""), "{given}");
            }
            said += 1;
        }
    }
    assert!(said >= 20, "{said}");
}

#[test]
fn a_range_that_is_said_is_the_range() {
    let taken = |key: &str, n: u32| read(FileKind::Main, &format!("[daemon]\n{key} = {n}\n")).is_ok();
    let mut said = 0;
    for (key, paragraph) in page::keys("The daemon") {
        let Some((_, range)) = paragraph.split_once("Number from ") else { continue };
        let numbers: Vec<u32> =
            range.split([' ', ',', ':']).filter_map(|word| word.parse().ok()).take(2).collect();
        let [from, to] = numbers[..] else { panic!("{key}: {range}") };
        assert!(taken(&key, from) && taken(&key, to), "{key}: {from} to {to}");
        assert!(!taken(&key, from - 1) && !taken(&key, to + 1), "{key} takes more than {from} to {to}");
        said += 1;
    }
    assert_eq!(said, 3);
}

/// Each key that may be without effect, with a value that would have one.
const OTHERWISE: &[(&str, &str)] = &[
    ("before", "\"upgrade\""),
    ("skip-unchanged", "true"),
    ("memory", "\"prefer\""),
    ("quiesce", "\"never\""),
    ("mountpoints", "\"all\""),
    ("freeze-timeout", "\"5s\""),
    ("when", "\"running\""),
    ("spread", "\"1min\""),
    ("metrics-textfile", "\"/run/virtsnap/virtsnap.prom\""),
    ("hooks", "\"/etc/virtsnap/other.d\""),
    ("hooks-frozen", "true"),
    ("min-free", "\"20%\""),
    ("max-chain", "8"),
    ("max-jobs", "1"),
    ("max-frozen", "1"),
];

#[test]
fn what_has_no_effect_yet_is_said_to_have_none() {
    let mut described = page::keys("The daemon");
    for section in ["When", "How"] {
        described.extend(page::keys(section));
    }
    for (key, value) in OTHERWISE {
        let (kind, text) = if allowed("daemon").contains(*key) {
            (FileKind::Main, format!("[daemon]\n{key} = {value}\n"))
        } else {
            (FileKind::DropIn, format!("[policy.p]\nvms = \"*\"\n{key} = {value}\n"))
        };
        let idle = !without_effect(kind, &text, []).is_empty();
        assert_eq!(described[*key].contains("No effect in this version"), idle, "{key}");
    }
}
