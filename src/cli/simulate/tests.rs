//! The tryout as a user types it.

use clap::Parser as _;
use jiff::tz::TimeZone;

use super::*;
use crate::{
    cli::{
        args::{Cli, Verb},
        console::Screen,
        place::Place,
    },
    clock::SystemClock,
};

/// The exit status, the answer and the complaints of `virtsnap simulate ARGS < INPUT`.
fn run(arguments: &[&str], input: &str) -> (u8, String, String) {
    let cli = match Cli::try_parse_from(["virtsnap", "simulate"].iter().chain(arguments)) {
        Ok(cli) => cli,
        Err(e) => return (2, String::new(), e.to_string()),
    };
    let Verb::Simulate(args) = &cli.verb else { panic!("{cli:?}") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut input.as_bytes(),
        interactive: false,
        screen: Screen { columns: None, clock: &SystemClock::default() },
        json: cli.global.json,
        place: Place::default(),
        watch: Watch {
            zone: TimeZone::get("Europe/Vienna").unwrap(),
            now: "2026-11-21T12:00:00Z".parse().unwrap(),
        },
    };
    let exit = match simulate(args, &mut console) {
        Ok(exit) => exit,
        Err(failure) => {
            console.failure(&failure);
            failure.exit()
        }
    };
    (exit.code(), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn json(arguments: &[&str], input: &str) -> serde_json::Value {
    let (code, out, err) = run(&[arguments, &["--json"]].concat(), input);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

fn kept(answer: &serde_json::Value) -> Vec<&str> {
    let all = answer["verdicts"].as_array().unwrap().iter();
    all.filter(|v| v["keep"] == true).map(|v| v["name"].as_str().unwrap()).collect()
}

const DESIGN: &str = r#"{"now": "2026-11-21T12:00:00+01:00", "timezone": "Europe/Vienna",
    "policy": {"keep-last": 3, "keep-daily": 7, "combine": "union"},
    "snapshots": [{"name": "a", "time": "2026-11-20T02:30:00+01:00", "size": 1048576, "pinned": false,
                   "state": "ready", "parent": null}]}"#;

#[test]
fn the_design_s_example_gets_the_design_s_answer() {
    let answer = json(&[], DESIGN);
    let verdict = &answer["verdicts"][0];
    assert_eq!((&verdict["name"], &verdict["keep"]), (&"a".into(), &true.into()));
    let reasons = verdict["reasons"].as_array().unwrap();
    assert!(
        reasons.contains(&serde_json::json!({"rule": "keep-daily", "bucket": "2026-11-20"})),
        "{reasons:?}"
    );
    assert!(verdict["text"].as_str().unwrap().starts_with("Stays: "));
    assert_eq!(answer["steps"], serde_json::json!([]));
}

#[test]
fn rules_come_from_options_and_times_from_the_zone() {
    let input = r#"{"snapshots": [
        {"name": "old", "time": "2026-11-18", "size": "2GiB"}, {"name": "new", "time": "2026-11-20 05:30:00"}]}"#;
    let answer = json(&["--keep-last", "1", "--timezone", "America/New_York"], input);
    assert_eq!(kept(&answer), ["new"]);
    assert_eq!(answer["verdicts"][0]["time"], "2026-11-18T00:00:00-05:00");
    assert_eq!(
        answer["steps"][0],
        serde_json::json!({"step": "merge", "snapshots": ["old"], "survivor": "new",
            "copies": 2_u64 << 30, "frees": 2_u64 << 30})
    );
    let (code, text, _) = run(&["--keep-last", "1"], input);
    assert_eq!(code, 0);
    assert!(
        text.contains("step: merge old away in one pass, below new: copies at most 2 GiB, frees 2 GiB\n")
    );
    assert!(text.ends_with("1 of 2 snapshots to delete, about 2 GiB\n"), "{text}");
}

#[test]
fn pins_foreign_ones_failed_ones_and_needs_are_what_they_are_for_the_daemon() {
    let input = r#"{"snapshots": [
        {"name": "a", "time": "2026-11-11", "pinned": true}, {"name": "b", "time": "2026-11-12", "state": "failed"},
        {"name": "c", "time": "2026-11-13", "origin": "foreign"}, {"name": "d", "time": "2026-11-14", "needed-by": "clone"},
        {"name": "e", "time": "2026-11-15"}, {"name": "f", "time": "2026-11-16"}]}"#;
    let answer = json(&["--keep-last", "1"], input);
    assert_eq!(kept(&answer), ["a", "b", "c", "d", "f"]);
    let rules: Vec<_> = (0..4).map(|i| answer["verdicts"][i]["reasons"][0]["rule"].clone()).collect();
    assert_eq!(rules, ["pinned", "not-ready", "foreign", "needed"]);
}

#[test]
fn one_whose_time_is_over_goes_whatever_rules_say() {
    let input = r#"{"now": "2026-11-20T12:00", "snapshots": [
        {"name": "a", "time": "2026-11-11", "expires": "2026-11-20T12:00"},
        {"name": "b", "time": "2026-11-12", "expires": "2026-11-21"}, {"name": "c", "time": "2026-11-13"}]}"#;
    let answer = json(&["--keep-last", "3"], input);
    assert_eq!(kept(&answer), ["b", "c"]);
    assert_eq!(answer["verdicts"][0]["reasons"][0]["rule"], "expired");
}

#[test]
fn max_delete_holds_only_where_it_was_asked_for() {
    let all: Vec<_> =
        (1..=20).map(|d| format!(r#"{{"name": "s{d:02}", "time": "2026-11-{d:02}"}}"#)).collect();
    let input = format!(r#"{{"snapshots": [{}]}}"#, all.join(","));
    assert_eq!(kept(&json(&["--keep-last", "2"], &input)), ["s19", "s20"]);
    assert_eq!(kept(&json(&["--keep-last", "2", "--max-delete", "3"], &input)).len(), 17);
    assert_eq!(kept(&json(&["--keep-last", "2", "--max-delete", "3", "--all"], &input)).len(), 2);
}

#[test]
fn two_policies_let_go_together_and_no_tree_is_invented_where_one_is_given() {
    let input = r#"{"policies": {"day": {"keep-daily": 1}, "week": {"keep-weekly": 2}}, "snapshots": [
        {"name": "a", "time": "2026-11-08", "policies": ["day", "week"]},
        {"name": "b", "time": "2026-11-16", "policies": ["day"], "parent": "a"},
        {"name": "c", "time": "2026-11-17", "policies": ["day", "week"], "parent": "a", "current": true}]}"#;
    let answer = json(&[], input);
    assert_eq!(kept(&answer), ["a", "c"]);
    assert_eq!(answer["verdicts"][0]["reasons"][0]["policy"], "week");
    assert_eq!(answer["steps"][0]["step"], "drop-branch");
}

#[test]
fn time_goes_by_until_the_day_that_was_named() {
    let rules = ["--schedule", "30 2 * * *", "--keep-last", "2", "--until", "2026-11-25", "--size", "1GiB"];
    // Nobody feeds standard input here, and it is not asked.
    let answer = json(&rules, "not JSON");
    assert_eq!(answer["now"], "2026-11-25T23:59:59+01:00");
    let days = answer["days"].as_array().unwrap();
    assert_eq!(days.len(), 4);
    assert_eq!(days[3]["taken"], serde_json::json!(["simulated-20261125T013000Z"]));
    assert_eq!(days[3]["deleted"][0]["name"], "simulated-20261123T013000Z");
    assert_eq!(days[3]["bytes"], 2_u64 << 30);
    assert_eq!(kept(&answer), ["simulated-20261124T013000Z", "simulated-20261125T013000Z"]);
    let (_, text, _) = run(&rules, "");
    assert!(
        text.starts_with("DATE  ") && text.contains("\nThen there are, at 2026-11-25T23:59:59+01:00:\n"),
        "{text}"
    );
}

#[test]
fn a_file_s_policies_are_those_for_the_vm_with_its_exceptions() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let text = "[daemon]\nmax-chain = 14\n[policy.a]\nvms = [\"web*\"]\nschedule = \"@daily\"\nkeep-last = 5\n\
                [policy.b]\nvms = [\"tag:x\"]\nschedule = \"@daily\"\nkeep-last = 6\n[vm.web1]\npolicy.a.keep-last = 1\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let input =
        r#"{"snapshots": [{"name": "a", "time": "2026-11-18"}, {"name": "b", "time": "2026-11-19"}]}"#;
    assert_eq!(kept(&json(&["--policy-file", file, "--vm", "web1"], input)), ["b"]);
    assert_eq!(kept(&json(&["--policy-file", file, "--vm", "web1", "--tag", "x"], input)), ["a", "b"]);
    assert_eq!(kept(&json(&["--policy-file", file, "--policy", "a"], input)), ["a", "b"]);
    let (code, _, err) = run(&["--policy-file", file, "--vm", "db"], input);
    assert_eq!(code, 3);
    assert!(err.contains("no policy is for a VM named \"db\""), "{err}");
}

#[test]
fn bad_input_is_refused_with_what_is_wrong() {
    for (arguments, input, said) in [
        (&[][..], "", "the input is empty"),
        (&[], "{", "line 1 column 1"),
        (&[], r#"{"snapshots": []}"#, "no policy to try"),
        (&["--keep-last", "1"], DESIGN, "the policy is given more than once"),
        (&["--keep-last", "x"], r#"{"snapshots": []}"#, "`keep-last` must be a whole number"),
        (&["--keep-last", "1\nkeep-daily = 2"], r#"{"snapshots": []}"#, "must be a whole number"),
        (&["--vm", "x", "--keep-last", "1"], r#"{"snapshots": []}"#, "--policy and --vm choose from"),
        (
            &["--now", "yesterday", "--keep-last", "1"],
            r#"{"snapshots": []}"#,
            "--now: \"yesterday\" is no time",
        ),
        (&["--timezone", "Vienna", "--keep-last", "1"], r#"{"snapshots": []}"#, "no time zone \"Vienna\""),
        (&["--until", "2020-01-01", "--keep-last", "1"], "", "lies before now"),
        (
            &["--until", "2036-01-01", "--schedule", "* * * * *", "--max-chain", "9999"],
            "",
            "nothing deletes enough",
        ),
        (&[], r#"{"policy": {"keep-lst": 1}, "snapshots": []}"#, "did you mean `keep-last`?"),
        (&[], r#"{"policy": {"keep-last": null}, "snapshots": []}"#, "\"keep-last\" of the policy is null"),
        (&[], r#"{"policy": {"keep-last": 1}, "snapshot": []}"#, "unknown field `snapshot`"),
        (&[], r#"{"policy": {"keep-last": 1}, "snapshots": [{"name": "a"}]}"#, "missing field `time`"),
        (
            &[],
            r#"{"policy": {"keep-last": 1}, "snapshots": [{"name": "a\u001b[2J", "time": "?"}]}"#,
            "the time of snapshot \"a\\u{1b}[2J\": \"?\" is no time",
        ),
        (
            &["--keep-last", "1"],
            r#"{"snapshots": [{"name": "a", "time": "2026-01-01"}, {"name": "a", "time": "2026-01-02"}]}"#,
            "snapshot \"a\" is there twice",
        ),
    ] {
        let (code, out, err) = run(arguments, input);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?} {input}: {err}");
        assert!(err.starts_with("error: ") && err.contains(said), "{arguments:?} {input}: {err}");
    }
}
