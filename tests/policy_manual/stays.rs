//! Examples of what stays and what goes: the worked calendar, and verdicts on lists of snapshots.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use virtsnap::{
    config,
    core::{
        model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
        policy::Policy,
        retention::{Bucket, Context, Need, Reason, Rule, Rules, Verdict, judge},
    },
};

use super::{
    Page,
    files::{environment, read_rules},
    page::{Example, wrapped},
    times::at,
};

fn zone() -> TimeZone {
    environment().timezone
}

fn snapshot(name: &str, created: Timestamp) -> Snapshot {
    Snapshot {
        name: SnapshotName::existing(name),
        created,
        parent: None,
        current: false,
        state: SnapshotState::Ready,
        origin: Origin::Schedule,
        managed: true,
        policies: BTreeSet::from(["nightly".parse().unwrap()]),
        pinned: false,
        expires: None,
        content: Content::Disk,
        storage: Storage::External,
        size: 0,
    }
}

/// One a day, `from=DATE`, `to=DATE`, `at=TIME`.
fn daily(example: &Example) -> Vec<(Date, Snapshot)> {
    let mut day: Date = example.argument("from").parse().unwrap();
    let last: Date = example.argument("to").parse().unwrap();
    let mut all = Vec::new();
    while day <= last {
        let name = format!("{day}T{}", example.argument("at"));
        all.push((day, snapshot(&name, at(&name, &zone()))));
        day = day.tomorrow().unwrap();
    }
    all
}

/// What stays of each day's snapshot: its rules.
type Kept = BTreeMap<Date, Vec<(Rule, Bucket)>>;

/// What stays under the rules of that name: of all the days in one prune, or with `pruned=nightly` of what each night's
/// prune has left for the next.
fn kept(page: &Page, example: &Example, rules: &str) -> Kept {
    let (policy, _) = read_rules(page.named(rules));
    let mut there: Vec<(Date, Snapshot)> = Vec::new();
    let mut kept = Kept::new();
    let days = daily(example);
    let end = days.len();
    for (i, day) in days.into_iter().enumerate() {
        there.push(day);
        if i + 1 == end || example.get("pruned") == Some("nightly") {
            kept = prune(&policy, &there);
            there.retain(|(day, _)| kept.contains_key(day));
        }
    }
    kept
}

fn prune(policy: &Policy, there: &[(Date, Snapshot)]) -> Kept {
    let (days, snapshots): (Vec<Date>, Vec<Snapshot>) = there.iter().cloned().unzip();
    let policies = [Rules { policy: &policy.name, retention: &policy.retention }];
    let context = Context { whole: true, ..Context::new(snapshots.last().unwrap().created, &policies) };
    let verdicts = judge(&snapshots, &context);
    let rules = |verdict: &Verdict<'_>| {
        let rules = verdict.reasons.iter().filter_map(|reason| match reason {
            Reason::Rule { rule, bucket, .. } => Some((*rule, *bucket)),
            _ => None,
        });
        rules.collect()
    };
    days.into_iter().zip(&verdicts).filter(|(_, v)| v.keep).map(|(day, v)| (day, rules(v))).collect()
}

/// A calendar for each of `left=RULES` and `right=RULES`: the day and its first rule's letter if it stays, else a dot.
pub fn calendar(page: &Page, example: &Example) -> String {
    let (left, right) = (example.argument("left"), example.argument("right"));
    let of = [kept(page, example, left), kept(page, example, right)];
    let days: Vec<Date> = daily(example).into_iter().map(|(day, _)| day).collect();
    let mut out = format!("{:15}{left:<31}{right}\n", "");
    let names = "Mo  Tu  We  Th  Fr  Sa  Su";
    let _ = writeln!(out, "{:7}{names}     {names}", "");
    for week in days.chunks(7) {
        let mut line = format!("{:<6}", week[0].strftime("W%V").to_string());
        for kept in &of {
            for day in week {
                let cell = match kept.get(day).and_then(|rules| rules.first()) {
                    Some((rule, _)) => {
                        format!("{:>3}{}", day.day(), &rule.as_str()["keep-".len()..][..1].to_uppercase())
                    }
                    None => "  . ".to_owned(),
                };
                line.push_str(&cell);
            }
            line.push_str(&"    ".repeat(7 - week.len()));
            line.push_str("   ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The same as a list of those that stay under either, the newest first, with all their rules; `until=DATE`: without
/// the newer ones.
pub fn reasons(page: &Page, example: &Example) -> String {
    let (left, right) = (example.argument("left"), example.argument("right"));
    let of = [kept(page, example, left), kept(page, example, right)];
    let days: BTreeSet<&Date> = of.iter().flat_map(BTreeMap::keys).collect();
    let cell = |rules: Option<&Vec<(Rule, Bucket)>>| match rules {
        None => "-".to_owned(),
        Some(rules) => {
            let words: Vec<_> = rules.iter().map(|(rule, _)| &rule.as_str()["keep-".len()..]).collect();
            words.join(", ")
        }
    };
    let mut out = format!("{:16}{left:<32}{right}\n", "");
    let until: Option<Date> = example.get("until").map(|day| day.parse().unwrap());
    for day in days.into_iter().rev().filter(|day| until.is_none_or(|until| **day <= until)) {
        let first = day.strftime("%a %Y-%m-%d").to_string();
        let _ = writeln!(out, "{first:<16}{:<32}{}", cell(of[0].get(day)), cell(of[1].get(day)));
    }
    let _ = writeln!(out, "{:<16}{:<32}{}", "in all", of[0].len(), of[1].len());
    out
}

/// Snapshots, each in a line with what is special about it, and under it what becomes of it and why.
///
/// The mark says `now=TIME`, `rules=NAME,…`, and perhaps `chain=LAYERS` as `max-chain`, `last=TIME` (known to have
/// passed), `vm-max-size=SIZE`.
pub fn verdicts(page: &Page, example: &Example) -> String {
    let mut needed = BTreeMap::new();
    let inputs: Vec<&str> = example.text.lines().filter(|l| !l.starts_with(' ')).collect();
    let snapshots: Vec<Snapshot> = inputs.iter().map(|line| read(line, &mut needed)).collect();
    let policies: Vec<Policy> =
        example.argument("rules").split(',').map(|name| read_rules(page.named(name)).0).collect();
    let rules: Vec<Rules<'_>> =
        policies.iter().map(|p| Rules { policy: &p.name, retention: &p.retention }).collect();
    let context = Context {
        needed: &needed,
        // As the daemon does: one layer is left for the next snapshot.
        max_chain: example.get("chain").map(|n| n.parse::<u32>().unwrap() - 1),
        last_plausible: example.get("last").map(|text| at(text, &zone())),
        vm_max_size: example.get("vm-max-size").map(|text| config::size(text).unwrap()),
        ..Context::new(at(example.argument("now"), &zone()), &rules)
    };
    let verdicts = judge(&snapshots, &context);
    inputs
        .iter()
        .zip(&verdicts)
        .fold(String::new(), |out, (line, verdict)| out + line + "\n" + &wrapped(&verdict.text(), 4, 4))
}

/// `2026-11-20 02:30  10GiB, pinned`: a snapshot, named after its time.
fn read(line: &str, needed: &mut BTreeMap<SnapshotName, Need>) -> Snapshot {
    let (time, special) = line.split_once("  ").unwrap_or((line, ""));
    let mut s = snapshot(time, at(time, &zone()));
    for word in special.trim().split(", ").filter(|word| !word.is_empty()) {
        if let Some(policies) = word.strip_prefix("of ") {
            s.policies = policies.split(" and ").map(|p| p.parse::<PolicyName>().unwrap()).collect();
        } else if let Some(vm) = word.strip_prefix("used by VM ") {
            needed.insert(s.name.clone(), Need::OtherVm(vm.to_owned()));
        } else if let Ok(bytes) = config::size(word) {
            s.size = bytes;
        } else {
            match word {
                "pinned" => s.pinned = true,
                "by hand" => (s.policies, s.origin) = (BTreeSet::new(), Origin::Manual),
                "made with virsh" => {
                    (s.managed, s.origin, s.policies) = (false, Origin::Foreign, BTreeSet::new());
                }
                "failed" => s.state = SnapshotState::Failed,
                _ => panic!("{word:?} says nothing about a snapshot"),
            }
        }
    }
    s
}

#[test]
fn a_week_row_begins_on_monday() {
    // The grid prints seven cells a row under the names of the days.
    for example in Page::read().examples.iter().filter(|e| e.kind == "calendar") {
        let from: Date = example.argument("from").parse().unwrap();
        assert_eq!(from.weekday(), jiff::civil::Weekday::Monday, "line {}", example.line);
        assert!(from + 6.days() < example.argument("to").parse().unwrap());
    }
}
