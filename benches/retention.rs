//! How long a million verdicts take. `cargo bench --bench retention [COUNT]`
//!
//! One policy with every counting rule, a snapshot every two minutes (almost four years), in order and shuffled:
//! the input comes from libvirt, which promises no order. Then how the time grows with the number, on trees that invite
//! quadratic steps. Beside it, in the same run, plain Python on as many, and restic on a few thousand of its own.
#![allow(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

#[path = "retention/growth.rs"]
mod growth;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use nix::time::{ClockId, clock_gettime};
use virtsnap::core::{
    merge::plan,
    model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
    policy::{Combine, Keep, Limits, Retention},
    retention::{Context, Rules, doomed, judge},
};

#[path = "retention/peers.rs"]
mod peers;

/// The bar of the design, for a million.
const BAR: Duration = Duration::from_millis(250);
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let policy: PolicyName = "nightly".parse()?;
    let end: Timestamp = "2026-11-21T12:00:00Z".parse()?;
    let ordered = snapshots(count, end, &policy);
    let shuffled = shuffle(&ordered);
    println!(
        "{count} snapshots, {ROUNDS} rounds, best and median processor time; the bar for a million is {BAR:?}"
    );
    for combine in [Combine::Union, Combine::Extend] {
        let timezone = TimeZone::get("Europe/Vienna")?;
        let retention = Retention { keep: keep(), combine, limits: Limits::default(), timezone };
        let limits = Limits { max_count: Some(60), max_size: Some(50 << 20), ..Limits::default() };
        let limited = Retention { limits, ..retention.clone() };
        for (what, snapshots, retention) in [
            ("in order", &ordered, &retention),
            ("shuffled", &shuffled, &retention),
            ("shuffled, with limits", &shuffled, &limited),
        ] {
            let rules = [Rules { policy: &policy, retention }];
            let ctx = Context::new(end, &rules);
            let mut kept = 0;
            let (best, median) =
                time(|| kept = judge(snapshots, &ctx).into_iter().filter(|v| v.keep).count());
            println!("judge  {combine:<6} {what:<22} best {best:>9.1?}  median {median:>9.1?}  kept {kept}");
        }
        let rules = [Rules { policy: &policy, retention: &retention }];
        for (what, snapshots) in [("in order", &ordered), ("shuffled", &shuffled)] {
            let goes = doomed(&judge(snapshots, &Context::new(end, &rules)));
            let mut steps = 0;
            let needed = BTreeMap::new();
            let (best, median) = time(|| steps = plan(snapshots, &goes, &needed).steps.len());
            println!(
                "plan   {combine:<6} {what:<22} best {best:>9.1?}  median {median:>9.1?}  steps {steps}"
            );
        }
    }
    growth::print(&shuffled);
    beside_python(count, end, &policy)?;
    beside_restic(end, &policy)
}

/// The rules of all that is measured here.
fn keep() -> Keep {
    Keep {
        last: Some(10),
        hourly: Some(24),
        daily: Some(30),
        weekly: Some(12),
        monthly: Some(24),
        yearly: Some(5),
        within: None,
    }
}

/// Our best time for these, and the number kept.
fn ours(
    snapshots: &[Snapshot],
    end: Timestamp,
    policy: &PolicyName,
) -> Result<(Duration, usize), jiff::Error> {
    let timezone = TimeZone::get("Europe/Vienna")?;
    let retention = Retention { keep: keep(), combine: Combine::Union, limits: Limits::default(), timezone };
    let rules = [Rules { policy, retention: &retention }];
    let ctx = Context::new(end, &rules);
    let mut kept = 0;
    let (best, _) = time(|| kept = judge(snapshots, &ctx).into_iter().filter(|v| v.keep).count());
    Ok((best, kept))
}

fn beside_python(
    count: usize,
    end: Timestamp,
    policy: &PolicyName,
) -> Result<(), Box<dyn std::error::Error>> {
    let peers = match peers::python(count, end) {
        Ok(peers) => peers,
        Err(e) => {
            println!("python3 is missing, or without zones: {e}");
            return Ok(());
        }
    };
    let ordered = snapshots(count, end, policy);
    let shuffled = shuffle(&ordered);
    for ((what, snapshots), (python, kept)) in
        [("in order", &ordered), ("shuffled", &shuffled)].into_iter().zip(peers)
    {
        let (best, our_kept) = ours(snapshots, end, policy)?;
        assert_eq!(kept, our_kept, "Python's verdicts are not ours");
        println!("{count} {what}: judge {best:.1?}, python {python:.1?}: ratio {:.3}", ratio(best, python));
    }
    Ok(())
}

fn beside_restic(end: Timestamp, policy: &PolicyName) -> Result<(), Box<dyn std::error::Error>> {
    let (whole, net) = match peers::restic_forget(end) {
        Ok(times) => times,
        Err(e) => {
            println!("restic is missing, or cannot: {e}");
            return Ok(());
        }
    };
    let (best, _) = ours(&snapshots(peers::RESTIC, end, policy), end, policy)?;
    println!(
        "{}: judge {best:.1?}, restic forget {whole:.1?}, {net:.1?} without its start-up (it reads a file for each): \
         ratio {:.5}",
        peers::RESTIC,
        ratio(best, net)
    );
    Ok(())
}

/// What part of the peer's time ours is.
fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

/// A chain, oldest first.
fn snapshots(count: usize, end: Timestamp, policy: &PolicyName) -> Vec<Snapshot> {
    let mut parent = None;
    let mut all: Vec<Snapshot> = (0..count)
        .rev()
        .map(|age| {
            let created = end - i64::try_from(age * 2).unwrap_or(i64::MAX).minutes();
            let name = SnapshotName::existing(format!("nightly-{created:.0}"));
            Snapshot {
                parent: parent.replace(name.clone()),
                name,
                created,
                current: age == 0,
                state: SnapshotState::Ready,
                origin: Origin::Schedule,
                managed: true,
                policies: BTreeSet::from([policy.clone()]),
                pinned: false,
                expires: None,
                content: Content::Disk,
                storage: Storage::External,
                size: 1 << 20,
            }
        })
        .collect();
    all.shrink_to_fit();
    all
}

/// The same in an order without pattern, the same at every run.
fn shuffle(all: &[Snapshot]) -> Vec<Snapshot> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for i in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let j = usize::try_from(state % (i as u64 + 1)).unwrap_or(0);
        order.swap(i, j);
    }
    order.into_iter().map(|i| all[i].clone()).collect()
}

/// The time that the processor spends on it: on a machine with other work the clock on the wall says little.
fn spent(run: impl FnOnce()) -> Duration {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let start = now();
    run();
    now().saturating_sub(start)
}

/// Best and median time of some rounds.
fn time(mut run: impl FnMut()) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| spent(&mut run)).collect();
    times.sort_unstable();
    (times[0], times[ROUNDS / 2])
}
