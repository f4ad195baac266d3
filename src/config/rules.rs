//! What keep rules and limits come to, and where they undo each other.

use jiff::SignedDuration;

use super::{
    contradiction::Checked,
    diagnostic::Diagnostics,
    pace::{Bucket, Pace},
    settings::Daemon,
    values::show_duration,
};
use crate::core::policy::{Combine, Keep, Policy};

const KEEP: &[&str] =
    &["keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly", "keep-last", "keep-within"];

/// The most snapshots that keep rules can want; `None` without a rule, or where it cannot be told.
pub(super) fn wanted(policy: &Policy, pace: Option<&Pace>) -> Option<u32> {
    let retention = &policy.retention;
    let keep = &retention.keep;
    let within = match keep.within {
        Some(span) => pace.and_then(|pace| pace.most_within(span)),
        None => None,
    };
    if keep.is_empty() || (keep.within.is_some() && within.is_none()) {
        return None;
    }
    if retention.combine == Combine::Extend {
        let counts = counted(keep).into_iter().filter_map(|(.., n)| n);
        return Some(counts.chain(keep.last).chain(within).fold(0, u32::saturating_add));
    }
    // Rules that count runs, in effect: of these the largest keeps what the others keep.
    let by_run = |bucket: Bucket| pace.is_some_and(|pace| pace.at_most_once_a(bucket));
    let (mut newest, mut total, mut rules) = (keep.last.max(within), 0_u32, 0);
    for (bucket, _, count) in counted(keep) {
        match count {
            Some(n) if by_run(bucket) => newest = newest.max(Some(n)),
            Some(n) if covering(keep, bucket, n).is_none() => {
                total = total.saturating_add(n);
                rules += 1;
            }
            _ => {}
        }
    }
    if let Some(n) = newest {
        total = total.saturating_add(n);
        rules += 1;
    }
    // The newest of all is what every rule keeps first.
    Some(total.saturating_sub(u32::saturating_sub(rules, 1)))
}

/// Finds all contradictions among a policy's rules and limits. `pace` is known if only schedules make it run.
pub(super) fn check(checked: &Checked<'_>, pace: Option<&Pace>, daemon: &Daemon, out: &mut Diagnostics) {
    too_fine(checked, pace, out);
    too_short(checked, pace, out);
    redundant(checked, out);
    limits(checked, pace, daemon, out);
}

/// The rules that count buckets, the finest first.
fn counted(keep: &Keep) -> [(Bucket, &'static str, Option<u32>); 5] {
    [
        (Bucket::Hour, "keep-hourly", keep.hourly),
        (Bucket::Day, "keep-daily", keep.daily),
        (Bucket::Week, "keep-weekly", keep.weekly),
        (Bucket::Month, "keep-monthly", keep.monthly),
        (Bucket::Year, "keep-yearly", keep.yearly),
    ]
}

/// Rules that count hours where there is one run a day, and so on.
fn too_fine(checked: &Checked<'_>, pace: Option<&Pace>, out: &mut Diagnostics) {
    let Some(pace) = pace else { return };
    for (bucket, key, count) in counted(&checked.policy.retention.keep) {
        let Some(count) = count else { continue };
        let coarser = Bucket::ALL.into_iter().rev().find(|b| *b > bucket && pace.at_most_once_a(*b));
        if let Some(coarser) = coarser {
            let coarser = coarser.as_str();
            checked.warn(
                &[key],
                &format!(
"{key} = {count} can never keep more than one a {coarser}: the schedule runs at most once a \
{coarser}"
),
                &format!(
"every one of the last {count} runs is kept; say so with keep-last, or let the schedule run more \
often"
),
                out,
            );
        }
    }
}

/// A span so short that the newest is alone in it.
fn too_short(checked: &Checked<'_>, pace: Option<&Pace>, out: &mut Diagnostics) {
    let within = checked.policy.retention.keep.within;
    let (Some(within), Some(gap)) = (within, pace.and_then(Pace::shortest_gap)) else { return };
    if within <= gap {
        checked.warn(
            &["keep-within"],
            &format!(
                "keep-within = {} never keeps more than the newest: runs are at least {} apart",
                show_duration(within),
                show_duration(gap)
            ),
            "a longer one keeps several; keep-last = 1 says the same as this",
            out,
        );
    }
}

/// How many buckets of the finer kind one of the coarser kind has at most; `None` where a finer one can lie in
/// two.
fn at_most(fine: Bucket, coarse: Bucket) -> Option<u32> {
    Some(match (fine, coarse) {
        // The day on which clocks go back has 25 hours.
        (Bucket::Hour, Bucket::Day) => 25,
        (Bucket::Hour, Bucket::Week) => 7 * 24 + 1,
        (Bucket::Hour, Bucket::Month) => 31 * 24 + 1,
        (Bucket::Hour, Bucket::Year) => 366 * 24 + 1,
        (Bucket::Day, Bucket::Week) => 7,
        (Bucket::Day, Bucket::Month) => 31,
        (Bucket::Day, Bucket::Year) => 366,
        (Bucket::Month, Bucket::Year) => 12,
        _ => return None,
    })
}

/// The rule that keeps all that `n` of `coarse` keep, whatever the snapshots.
fn covering(keep: &Keep, coarse: Bucket, n: u32) -> Option<&'static str> {
    // The newest of the newest bucket is the newest of all, which any other rule keeps.
    if n == 1 && keep.last.is_some() {
        return Some("keep-last");
    }
    counted(keep).into_iter().take_while(|(fine, ..)| *fine < coarse).find_map(|(fine, key, m)| {
        let needed = if n == 1 { 1 } else { (n - 1).checked_mul(at_most(fine, coarse)?)?.checked_add(1)? };
        (m? >= needed).then_some(key)
    })
}

fn redundant(checked: &Checked<'_>, out: &mut Diagnostics) {
    let retention = &checked.policy.retention;
    // When rules extend each other, none repeats another.
    if retention.combine == Combine::Extend {
        return;
    }
    for (bucket, key, count) in counted(&retention.keep) {
        let Some(count) = count else { continue };
        if let Some(by) = covering(&retention.keep, bucket, count) {
            let reach = if count == 1 {
                format!("{key} = 2 also keeps the newest of the {} before", bucket.as_str())
            } else {
                format!("a higher {key} reaches further back")
            };
            checked.warn(
                &[key, by],
                &format!("{key} = {count} adds nothing: {by} always keeps the same"),
                &format!("{reach}; or write combine = \"extend\", or omit it"),
                out,
            );
        }
    }
}

fn limits(checked: &Checked<'_>, pace: Option<&Pace>, daemon: &Daemon, out: &mut Diagnostics) {
    let policy = checked.policy;
    let (keep, limits) = (&policy.retention.keep, &policy.retention.limits);
    let wanted = wanted(policy, pace);
    let room = daemon.room();
    if let (Some(count), Some(last)) = (limits.max_count, keep.last.filter(|n| limits.max_count < Some(*n))) {
        checked.warn(
            &["max-count", "keep-last"],
            &format!("max-count = {count} is below keep-last = {last}: only {count} stay"),
            "limits cut what the rules kept",
            out,
        );
    } else if let (Some(count), Some(wanted)) =
        (limits.max_count, wanted.filter(|n| limits.max_count < Some(*n)))
    {
        checked.warn(
            &joined(&[&["max-count"], KEEP, &["combine"]]),
            &format!("max-count = {count} is below the {wanted} snapshots that the keep rules can want"),
            "limits cut what the rules kept, the oldest first",
            out,
        );
    }
    age(checked, pace, out);
    let most = match (wanted, limits.max_count) {
        (Some(wanted), Some(count)) => Some(wanted.min(count)),
        (wanted, count) => wanted.or(count),
    };
    if let Some(most) = most.filter(|n| *n > room) {
        let finest = ["keep-last", "keep-within"]
            .into_iter()
            .chain(counted(keep).map(|(_, key, _)| key))
            .find(|key| has(keep, key));
        let effect = match finest {
            Some(key) => format!("when the chain is full, {key} gives way first, its oldest first"),
            None => "when the chain is full, the oldest goes first".to_owned(),
        };
        checked.warn(
            &joined(&[KEEP, &["combine", "max-count"]]),
            &format!(
                "it can keep {most} snapshots, but a chain of max-chain = {} layers holds {room} beside its \
base and the next one",
                daemon.max_chain
            ),
            &format!("{effect}; so at most {room} stay"),
            out,
        );
    }
    let limited = limits.max_count.is_some() || limits.max_age.is_some() || limits.max_size.is_some();
    if keep.is_empty() && !limited && !policy.schedules.is_empty() {
        checked.warn(
            &joined(&[KEEP, &["max-count", "max-age", "max-size", "schedule"]]),
            // Nothing is pruned to leave room for the next.
            &format!(
                "it deletes nothing: after {} snapshots the chain is full and its runs fail",
                daemon.max_chain.saturating_sub(1)
            ),
            "give a keep rule such as keep-daily = 7, or a limit such as max-count = 10",
            out,
        );
    }
}

/// Rules that reach further back than anything may be old.
fn age(checked: &Checked<'_>, pace: Option<&Pace>, out: &mut Diagnostics) {
    let retention = &checked.policy.retention;
    let Some(max_age) = retention.limits.max_age else { return };
    let age = show_duration(max_age);
    let gap = pace.and_then(Pace::shortest_gap);
    if let Some(gap) = gap.filter(|gap| max_age <= *gap) {
        checked.warn(
            &["max-age", "schedule"],
            &format!(
                "max-age = {age} is not longer than the time between two runs, at least {}: only the newest stays",
                show_duration(gap)
            ),
            "a max-age of several times that keeps several; or say it with max-count = 1",
            out,
        );
        return;
    }
    let runs = pace.and_then(|pace| pace.most_within(max_age));
    let last = retention.keep.last.map(|n| ("keep-last", n, None));
    let counted = counted(&retention.keep).into_iter().filter_map(|(b, key, n)| Some((key, n?, Some(b))));
    for (key, count, bucket) in last.into_iter().chain(counted) {
        let long = bucket.filter(|bucket| {
            let hours = match bucket {
                Bucket::Hour => 1,
                // The day on which clocks go forward.
                Bucket::Day => 23,
                Bucket::Week => 7 * 24 - 1,
                Bucket::Month => 28 * 24 - 1,
                Bucket::Year => 365 * 24 - 1,
            };
            // Between the newest of the first and of the last bucket lie at least the ones between.
            SignedDuration::from_hours(i64::from(count.saturating_sub(2)) * hours) >= max_age
        });
        let help = match (long, runs) {
            (Some(bucket), _) => format!("{count} {}s take longer than {age}", bucket.as_str()),
            (None, Some(runs)) if runs < count => format!("no more than {runs} runs come within {age}"),
            _ => continue,
        };
        let message = format!("max-age = {age} never lets {key} = {count} be reached");
        checked.warn(&["max-age", key], &message, &help, out);
    }
    if let Some(within) = retention.keep.within.filter(|within| *within > max_age) {
        checked.warn(
            &["max-age", "keep-within"],
            &format!("max-age = {age} cuts keep-within = {}", show_duration(within)),
            "limits cut what the rules kept",
            out,
        );
    }
}

/// True if there is a keep rule of that key.
fn has(keep: &Keep, key: &str) -> bool {
    match key {
        "keep-last" => keep.last.is_some(),
        "keep-within" => keep.within.is_some(),
        _ => counted(keep).into_iter().any(|(_, name, count)| name == key && count.is_some()),
    }
}

fn joined(keys: &[&[&'static str]]) -> Vec<&'static str> {
    keys.concat()
}
