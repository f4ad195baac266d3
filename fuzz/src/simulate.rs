//! Any text as the input of `virtsnap simulate`, from the command line to what is written.
//!
//! If the first line is a number, so many hours (of a few days) go by first.

use std::{
    collections::BTreeSet,
    pin::pin,
    task::{Context, Poll, Waker},
};

use clap::Parser as _;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use virtsnap::{
    cli::{
        self,
        args::Cli,
        console::{Console, Screen},
        place::Place,
        render::{Watch, safe_lines},
    },
    clock::SystemClock,
};

use super::is_harmful;

/// 2026-11-21T12:00:00Z
const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);
/// A policy of every minute has 1440 runs a day, and each is decided.
const MOST_HOURS: u64 = 30;

/// Panics if the input is more than answered or refused.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let first = text.split_once('\n').and_then(|(first, rest)| Some((first.parse::<u64>().ok()?, rest)));
    let (hours, input) = first.map_or((None, text), |(hours, rest)| (Some(hours % MOST_HOURS), rest));
    for zone in [TimeZone::UTC, TimeZone::get("America/New_York").expect("the zone is known")] {
        let (code, shown, complaint) = simulate(hours, &zone, false, input);
        for text in [&shown, &complaint] {
            assert!(!text.contains(|c: char| is_harmful(c) && c != '\n'), "{text:?}");
        }
        let (json_code, json, json_complaint) = simulate(hours, &zone, true, input);
        assert_eq!((json_code, json_complaint.is_empty()), (code, complaint.is_empty()), "both say the same");
        for line in json_complaint.lines() {
            let told: Value = serde_json::from_str(line).expect("an object a line");
            let message = told["error"]["message"].as_str().or(told["warning"]["message"].as_str());
            assert!(complaint.contains(&safe_lines(message.expect("a message"))), "{told}: {complaint}");
        }
        match code {
            0 => answered(&json, input, hours.is_some()),
            2 => assert!(shown.is_empty() && json.is_empty() && !complaint.is_empty()),
            code => panic!("exit status {code}: {complaint}"),
        }
        assert_eq!(simulate(hours, &zone, true, input).1, json, "asked twice, answered the same");
    }
}

/// The exit status, the answer and the complaints of `virtsnap simulate`.
fn simulate(hours: Option<u64>, zone: &TimeZone, json: bool, input: &str) -> (u8, String, String) {
    let mut words = vec!["virtsnap".to_owned(), "simulate".to_owned()];
    if let Some(hours) = hours {
        let until = NOW + jiff::SignedDuration::from_hours(i64::try_from(hours).expect("it fits"));
        words.extend(["--now".to_owned(), NOW.to_string(), "--until".to_owned(), until.to_string()]);
    }
    let cli = Cli::try_parse_from(words).expect("these options are known");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut input.as_bytes(),
        interactive: false,
        screen: Screen { columns: None, clock: &SystemClock::default() },
        json,
        place: Place::default(),
        watch: Watch { zone: zone.clone(), now: NOW },
    };
    let exit = {
        let mut done = pin!(cli::run(&cli, None, &mut console));
        match done.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(exit) => exit,
            Poll::Pending => panic!("it waits for something"),
        }
    };
    let text = |bytes| String::from_utf8(bytes).expect("what is written is text");
    (exit.code(), text(out), text(err))
}

/// The answer has a verdict for each snapshot, with its reasons, and steps for those that go and for no other.
fn answered(json: &str, input: &str, went_by: bool) {
    let answer: Value = serde_json::from_str(json).expect("the answer is JSON");
    let input: Value = serde_json::from_str(input).expect("JSON alone is answered");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (verdicts, given) = (list(&answer["verdicts"]), list(&input["snapshots"]));
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    if !went_by {
        let names = |list: &[Value]| list.iter().map(name).collect::<BTreeSet<_>>();
        assert_eq!(names(&verdicts), names(&given));
        assert_eq!(verdicts.len(), given.len());
    }
    let mut goes = BTreeSet::new();
    for verdict in &verdicts {
        assert!(!list(&verdict["reasons"]).is_empty() && !verdict["text"].as_str().unwrap_or("").is_empty());
        if verdict["keep"] == false {
            goes.insert(name(verdict));
        }
    }
    for snapshot in &given {
        let not_ready = snapshot["state"].as_str().is_some_and(|state| state != "ready");
        let safe = snapshot["pinned"] == true
            || snapshot["origin"] == "foreign"
            || snapshot["needed-by"].is_string()
            || not_ready;
        assert!(!safe || !goes.contains(&name(snapshot)), "{snapshot} goes");
        let there = verdicts.iter().any(|verdict| name(verdict) == name(snapshot));
        assert!(!safe || there, "{snapshot} went by and by");
    }
    for step in list(&answer["steps"]) {
        for gone in list(&step["snapshots"]) {
            assert!(goes.remove(gone.as_str().expect("a name")), "{gone} stays, or goes twice");
        }
    }
}
