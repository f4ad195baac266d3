//! The limits that cut what the keep rules kept, and the one that stops a prune from cutting too much.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{Field, Reason, Rule, Rules, Verdict, flag, moment::Moment};
use crate::core::{
    model::{PolicyName, Storage},
    policy::Limits,
};

/// What one policy makes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It does not count for the policy.
    NotAsked,
    /// A rule wants it, or there is no rule.
    Wanted,
    /// No rule wants it.
    NotWanted,
    /// Wanted, but too old.
    TooOld,
    /// Wanted, but too many.
    TooMany,
    /// Wanted, but too many bytes.
    TooBig,
}

/// Applies one policy's limits to its candidates (newest first), the oldest first.
pub(super) fn cut(
    outcomes: &mut [Outcome],
    candidates: &[Moment],
    field: &Field<'_>,
    limits: &Limits,
    now: Timestamp,
) {
    let flags = |candidate: Moment| field.flags[candidate.index()];
    let oldest_first = || candidates.iter().rev().copied();
    let may_go = |outcomes: &[Outcome], c: Moment| {
        outcomes[c.index()] == Outcome::Wanted && flags(c) & flag::STAYS == 0
    };

    // Before the beginning of time: nothing is that old.
    if let Some(before) = limits.max_age.and_then(|age| now.checked_sub(age).ok()) {
        let before = Moment::new(before, 0).time();
        for c in oldest_first().take_while(|c| c.time() < before) {
            if may_go(outcomes, c) {
                outcomes[c.index()] = Outcome::TooOld;
            }
        }
    }
    if let Some(limit) = limits.max_count {
        // What others hold does not count; the policy's own newest does, though it cannot go.
        let newest = candidates.first().copied();
        let not_counted = |c: Moment| if Some(c) == newest { flag::HELD } else { flag::STAYS };
        let counted = |c: &Moment| outcomes[c.index()] == Outcome::Wanted && flags(*c) & not_counted(*c) == 0;
        let mut count = oldest_first().filter(counted).count();
        for c in oldest_first() {
            if u32::try_from(count).is_ok_and(|count| count <= limit) {
                break;
            }
            if may_go(outcomes, c) {
                outcomes[c.index()] = Outcome::TooMany;
                count -= 1;
            }
        }
    }
    if let Some(limit) = limits.max_size {
        // Beside each other: the snapshots themselves lie in another order.
        let sizes: Vec<u64> = field.snapshots.iter().map(|s| s.size).collect();
        let size = |c: Moment| u128::from(sizes[c.index()]);
        let stays = |c: &Moment| flags(*c) & flag::STAYS != 0 || outcomes[c.index()] == Outcome::Wanted;
        let mut bytes: u128 = oldest_first().filter(stays).map(size).sum();
        for c in oldest_first() {
            if bytes <= u128::from(limit) {
                break;
            }
            if may_go(outcomes, c) {
                outcomes[c.index()] = Outcome::TooBig;
                bytes -= size(c);
            }
        }
    }
}

/// The VM's own limit over the snapshots of all its policies, the oldest first. It is the administrator's word
/// about the VM, so it holds for a policy without rules too.
pub(super) fn vm_size(field: &Field<'_>, limit: u64, verdicts: &mut [Verdict<'_>]) {
    let size = |i: usize| u128::from(field.snapshots[i].size);
    let counts = |i: usize, keep: bool| keep && field.flags[i] & flag::COUNTS != 0;
    let mut bytes: u128 = (0..verdicts.len()).filter(|&i| counts(i, verdicts[i].keep)).map(size).sum();
    for i in field.oldest_first() {
        if bytes <= u128::from(limit) {
            break;
        }
        let verdict = &mut verdicts[i];
        if counts(i, verdict.keep) && field.flags[i] & flag::STAYS == 0 {
            verdict.overrule(Reason::VmMaxSize);
            bytes -= size(i);
        }
    }
}

/// A disk's chain holds only so many layers: the base, and one for each external snapshot. While too many
/// would stay, the finest rule gives way, its oldest first; a snapshot falls with the coarsest rule that wants it.
pub(super) fn chain(field: &Field<'_>, limit: u32, verdicts: &mut [Verdict<'_>]) {
    let room = limit.saturating_sub(1) as usize;
    let external = |i: usize| field.snapshots[i].storage == Storage::External;
    let staying = |verdicts: &[Verdict<'_>], i: usize| verdicts[i].keep && external(i);
    // Nearly always enough, and much cheaper than to find out which of them are on the chain.
    if (0..verdicts.len()).filter(|&i| staying(verdicts, i)).count() <= room {
        return;
    }
    let Some(on_chain) = active_chain(field) else { return };
    let mut excess =
        (0..verdicts.len()).filter(|&i| on_chain[i] && staying(verdicts, i)).count().saturating_sub(room);
    let may_go = flag::STAYS | flag::EMPTY | flag::COUNTS;
    for rank in std::iter::once(None).chain(Rule::ALL.map(Some)) {
        for i in field.oldest_first() {
            if excess == 0 {
                return;
            }
            if !on_chain[i] || !staying(verdicts, i) || field.flags[i] & may_go != flag::COUNTS {
                continue;
            }
            if let Some((policy, rule)) = coarsest(&verdicts[i])
                && rule == rank
            {
                verdicts[i].overrule(Reason::ChainFull { policy, rule });
                excess -= 1;
            }
        }
    }
}

/// The coarsest rule that wants a snapshot.
fn coarsest<'a>(verdict: &Verdict<'a>) -> Option<(&'a PolicyName, Option<Rule>)> {
    let rules = verdict.reasons.iter().filter_map(|reason| match reason {
        Reason::Rule { policy, rule, .. } => Some((*policy, Some(*rule))),
        Reason::NoRule { policy } => Some((*policy, None)),
        _ => None,
    });
    rules.max_by_key(|(_, rule)| *rule)
}

/// Which snapshots are layers under the disks as the VM has them now: the current one and its ancestors.
///
/// With no current one and no parents at all (a bare list of times, as the simulator gets it) all are; in a
/// tree that makes no sense it is unknown, and nothing is deleted for the chain's sake.
fn active_chain(field: &Field<'_>) -> Option<Vec<bool>> {
    let snapshots = field.snapshots;
    let mut current = snapshots.iter().enumerate().filter(|(_, s)| s.current).map(|(i, _)| i);
    let Some(mut at) = current.next() else {
        return snapshots.iter().all(|s| s.parent.is_none()).then(|| vec![true; snapshots.len()]);
    };
    if current.next().is_some() {
        return None;
    }
    let by_name: HashMap<_, _> = snapshots.iter().enumerate().map(|(i, s)| (&s.name, i)).collect();
    let mut on_chain = vec![false; snapshots.len()];
    loop {
        if std::mem::replace(&mut on_chain[at], true) {
            return None;
        }
        match &snapshots[at].parent {
            Some(parent) => at = *by_name.get(parent)?,
            None => return Some(on_chain),
        }
    }
}

/// Each policy deletes at most so many in one prune, the oldest first; a shared snapshot counts for each of its
/// policies, and each can stop it.
pub(super) fn max_delete<'a>(
    field: &Field<'a>,
    policies: &[Rules<'a>],
    index: &BTreeMap<&PolicyName, usize>,
    verdicts: &mut [Verdict<'a>],
) {
    let mut left: Vec<Option<u32>> = policies.iter().map(|rules| rules.retention.limits.max_delete).collect();
    if left.iter().all(Option::is_none) {
        return;
    }
    for i in field.oldest_first() {
        if verdicts[i].keep {
            continue;
        }
        let of = || field.snapshots[i].policies.iter().filter_map(|p| index.get(p).copied());
        if let Some(full) = of().find(|&p| left[p] == Some(0)) {
            verdicts[i].stay(Reason::MaxDelete { policy: policies[full].policy });
        } else {
            for p in of() {
                left[p] = left[p].map(|n| n - 1);
            }
        }
    }
}
