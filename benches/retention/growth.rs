//! How the time grows with the number: on trees that invite a quadratic step, four times as many snapshots may take
//! little more than four times as long (a quadratic step takes sixteen times).

use std::{collections::BTreeMap, time::Duration};

use jiff::tz::TimeZone;
use virtsnap::core::{
    merge::plan,
    model::{PolicyName, Snapshot, SnapshotName, SnapshotState},
    policy::{Combine, Keep, Limits, Retention},
    retention::{Context, Need, Rules, judge},
};

struct Shape {
    what: &'static str,
    /// Turns the snapshot at this place of a plain chain (of so many) into one of this shape.
    bend: fn(&mut Snapshot, usize, &[SnapshotName]),
    goes: fn(usize) -> bool,
    /// Something else needs every one.
    needed: bool,
}

const CHAIN: Shape = Shape { what: "", bend: |_, _, _| {}, goes: |_| true, needed: false };

const SHAPES: &[Shape] = &[
    Shape { what: "a chain, all go", ..CHAIN },
    Shape { what: "a chain, every other goes", goes: |i| i % 2 == 0, ..CHAIN },
    Shape { what: "a chain, all needed elsewhere", needed: true, ..CHAIN },
    Shape { what: "a chain, all half deleted", bend: |s, _, _| s.state = SnapshotState::Deleting, ..CHAIN },
    Shape { what: "all of one time", bend: |s, _, _| s.created = jiff::Timestamp::UNIX_EPOCH, ..CHAIN },
    Shape { what: "a long abandoned branch", bend: |s, i, _| s.current = i == 0, ..CHAIN },
    Shape {
        what: "all on one parent, half of them go",
        bend: |s, i, names| {
            s.parent = (i > 0).then(|| names[0].clone());
            s.current = i == 0;
        },
        goes: |i| i % 2 == 0,
        ..CHAIN
    },
    Shape {
        what: "a chain with a branch at each, held",
        bend: |s, i, names| {
            s.parent = i.checked_sub(2 - i % 2).map(|parent| names[parent].clone());
            s.current = i == (names.len() - 1) / 2 * 2;
        },
        goes: |i| i % 2 == 0,
        ..CHAIN
    },
    Shape {
        what: "one ring",
        bend: |s, i, names| {
            s.parent = Some(names[(i + names.len() - 1) % names.len()].clone());
        },
        ..CHAIN
    },
    Shape { what: "all of one name", bend: |s, _, names| s.name = names[0].clone(), ..CHAIN },
    Shape {
        what: "no parent is there",
        bend: |s, i, _| s.parent = Some(SnapshotName::existing(format!("gone-{i}"))),
        ..CHAIN
    },
];

/// So many at most: where most of it fits into the caches, the steps are what is measured, not the memory.
const MOST: usize = 100_000;

/// Prints a line for each shape, from a shuffled chain of which some are taken, and four times as many.
pub(super) fn print(chain: &[Snapshot]) {
    let mut ordered = chain.to_vec();
    ordered.sort_by_key(|s| s.created);
    ordered.truncate(MOST);
    let few = ordered.len() / 4;
    println!("growth from {few} to {}: about 4 is linear, 16 quadratic", ordered.len());
    for shape in SHAPES {
        let ((judge_few, plan_few), (judge_all, plan_all)) =
            (shape.time(&ordered[..few]), shape.time(&ordered));
        let ratio = |few: Duration, all: Duration| all.as_secs_f64() / few.as_secs_f64().max(1e-9);
        println!(
            "{:<36} judge {judge_few:>9.1?} {judge_all:>9.1?} × {:<5.1} plan {plan_few:>9.1?} {plan_all:>9.1?} × {:.1}",
            shape.what,
            ratio(judge_few, judge_all),
            ratio(plan_few, plan_all),
        );
    }
}

impl Shape {
    /// The best time of `judge` and of `plan`.
    fn time(&self, chain: &[Snapshot]) -> (Duration, Duration) {
        let names: Vec<SnapshotName> = chain.iter().map(|s| s.name.clone()).collect();
        let mut all = chain.to_vec();
        for (i, s) in all.iter_mut().enumerate() {
            s.current = i + 1 == names.len();
            s.parent = i.checked_sub(1).map(|parent| names[parent].clone());
            (self.bend)(s, i, &names);
        }
        let goes: Vec<bool> = (0..all.len()).map(self.goes).collect();
        let need = || Need::OtherVm("db".to_owned());
        let needed = names.iter().filter(|_| self.needed).map(|name| (name.clone(), need()));
        let needed: BTreeMap<_, _> = needed.collect();
        // Every limit there is, and none so low that the first pass ends it.
        let (policies, retention) = (policies(), retention(all.len()));
        let rules: Vec<_> = policies.iter().map(|policy| Rules { policy, retention: &retention }).collect();
        let ctx = Context {
            vm_max_size: Some((all.len() as u64) << 18),
            max_chain: u32::try_from(all.len() / 8).ok(),
            needed: &needed,
            ..Context::new(chain[chain.len() - 1].created, &rules)
        };
        let judging = best(|| judge(&all, &ctx).len());
        (judging, best(|| plan(&all, &goes, &needed).steps.len()))
    }
}

fn policies() -> Vec<PolicyName> {
    ["nightly"].iter().filter_map(|name| name.parse().ok()).collect()
}

fn retention(count: usize) -> Retention {
    let many = u32::try_from(count).ok();
    Retention {
        keep: Keep { last: many.map(|n| n / 2), hourly: many, daily: many, ..Keep::default() },
        combine: Combine::Extend,
        limits: Limits {
            max_count: many.map(|n| n - n / 4),
            max_age: None,
            max_size: Some((count as u64) << 19),
            max_delete: many.map(|n| n / 3),
        },
        timezone: TimeZone::UTC,
    }
}

fn best(mut run: impl FnMut() -> usize) -> Duration {
    (0..5)
        .map(|_| {
            super::spent(|| {
                std::hint::black_box(run());
            })
        })
        .min()
        .unwrap_or_default()
}
