//! Whatever a file holds, it is read or refused, never more.

use proptest::prelude::*;

use super::{
    super::{Diagnostics, Style, check_against, keys::NAMES, report},
    read,
    shipped::uncommented,
};
use crate::core::select::VmFacts;

const VALID: &str = include_str!("../../../config/examples/all-keys.toml");

/// Reads it, and tries whatever can be tried with the result.
fn survive(text: &str) {
    for name in ["virtsnapd.toml", "p.toml"] {
        let loaded = read(&[(name, text), ("z.toml", "[vm.a]\npolicy.p.keep-last = 3\n")]);
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        report(&loaded, now, Style::Colour);
        match loaded {
            Err(errors) => {
                assert!(errors.has_errors());
                sound(&errors);
            }
            Ok(loaded) => {
                assert!(!loaded.warnings.has_errors());
                sound(&loaded.warnings);
                let tags = std::collections::BTreeSet::new();
                let id = "0b2e4c1a-6f0d-4e8e-9a55-0123456789ab".parse().unwrap();
                let vm = VmFacts { id, name: "a", tags: &tags };
                let plan = loaded.settings.for_vm(&vm);
                assert!(plan.why.iter().all(|e| !e.to_string().is_empty()));
                sound(&check_against(&loaded.settings, &[vm]));
            }
        }
    }
}

/// Every place is in its file, and every message can be shown, where it says it is.
fn sound(diagnostics: &Diagnostics) {
    for d in diagnostics {
        let one: Diagnostics = std::iter::once(d.clone()).collect();
        let shown = one.render(Style::Plain);
        let Some(span) = &d.span else { continue };
        assert!(d.file.text.get(span.clone()).is_some(), "{span:?} is not in {:?}", d.file.text);
        assert!(
            shown.starts_with(&format!("{}: {}", d.severity, d.message.split('\n').next().unwrap())),
            "{shown}"
        );
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!d.line().contains('\n'));
        let (line, _) = d.file.line_column(span.start);
        // A place at the very end is shown at the end of the last line.
        if span.start < d.file.text.len() {
            assert!(shown.contains(&format!("{}:{line}:", d.file.path)), "{shown}");
        }
    }
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"*\"".to_owned()),
        Just("[\"*\", \"!a*\", \"tag:x\"]".to_owned()),
        (0_u32..40).prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (0_u32..500, prop_oneof!["s", "min", "h", "d", "w", "m", "GiB", "kB", "%"])
            .prop_map(|(n, u)| format!("\"{n}{u}\"")),
        prop_oneof![
            "union", "extend", "never", "require", "skip", "running", "paused", "all", "system", "none"
        ]
        .prop_map(|w| format!("\"{w}\"")),
        Just("\"*/7 * 1-5 * mon\"".to_owned()),
        Just("[\"@hourly\", \"0 0 29 2 *\"]".to_owned()),
        Just("\"{vm}-{sequence}\"".to_owned()),
        Just("true".to_owned()),
        "\"[^\"\\\\\u{0}-\u{1f}\u{7f}]{0,12}\"",
    ]
}

fn key() -> impl Strategy<Value = String> {
    proptest::sample::select(NAMES).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn byte_soup(text in "[\\[\\]{}\"'=.,#a-z0-9 \n\r\t\\\\!*ü日\u{feff}\u{1b}]{0,200}") {
        survive(&text);
    }

    #[test]
    fn any_text(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn a_valid_file_cut_or_changed(at in 0..VALID.len(), length in 0_usize..40, with in "[\"'\\[\\]=.\n#a-z0-9ü-]{0,5}") {
        let (bare, _) = uncommented(VALID);
        let from = (0..=at.min(bare.len())).rev().find(|i| bare.is_char_boundary(*i)).unwrap();
        let to = (from + length..=bare.len()).find(|i| bare.is_char_boundary(*i)).unwrap_or(bare.len());
        survive(&bare[..from]);
        survive(&format!("{}{with}{}", &bare[..from], &bare[to..]));
    }

    #[test]
    fn any_keys_with_any_values(
        keys in prop::collection::vec((key(), value()), 0..12),
        own in prop::collection::vec((key(), value()), 0..4),
    ) {
        let mut text = "[policy.p]\n".to_owned();
        for (key, value) in keys {
            text.extend([&key, " = ", &value, "\n"]);
        }
        text += "[vm.a]\n";
        for (key, value) in own {
            text.extend(["policy.p.", &key, " = ", &value, "\n"]);
        }
        survive(&text);
    }
}
