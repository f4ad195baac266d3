//! What stays and what goes: (snapshots, policies, now) → a verdict with its reasons for each snapshot.
//!
//! In this order, each step seeing what the earlier ones left:
//!
//! 1. Some stay whatever the policies say: pinned ones, foreign ones, those that are not ready, those that
//!    something else needs, those that no policy in force may let go, and the newest good one of the VM and of
//!    each policy.
//! 2. For each policy its keep rules choose among its successful snapshots (pinned ones included: a pin never
//!    changes what the rules make of the others).
//! 3. Its limits cut what the rules chose, oldest first: `max-age`, `max-count`, `max-size`.
//! 4. What every one of its policies let go goes.
//! 5. The VM's `max-size` cuts over all policies, oldest first; then the chain's length, the finest rule first.
//! 6. One whose own time is over goes, unless step 1 holds it; to the rules it is not there.
//! 7. An implausible clock stops all of it; else `max-delete` stops what is too much for one prune.
//!
//! What something other than the policy holds (a pin, a need, a policy no longer in force, another policy whose
//! newest it is) does not count against `max-count`, but its bytes count against both sizes. Snapshots of equal time are ordered by name, so
//! that the order of the input never matters.

mod bucket;
mod clock;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod guarantees;
mod limits;
mod moment;
#[cfg(test)]
mod props;
mod reason;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod worlds;

use std::{cell::OnceCell, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

pub use self::{
    bucket::Bucket,
    clock::{ClockFault, EARLIEST, clock_fault},
    reason::{Need, Reason, Reasons, Rule, Verdict},
};
use self::{bucket::Wanted, limits::Outcome, moment::Moment};
use super::{
    model::{PolicyName, Snapshot, SnapshotName, SnapshotState},
    policy::{Limits, Retention},
};

/// One policy in force for the VM, with the VM's own exceptions worked in.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Its name.
    pub policy: &'a PolicyName,
    /// What it keeps.
    pub retention: &'a Retention,
}

/// Everything besides the snapshots that a verdict depends on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time now.
    pub now: Timestamp,
    /// The policies in force for this VM. A snapshot's policy that is not among them holds the snapshot.
    pub policies: &'a [Rules<'a>],
    /// The VM's own limit, in bytes, over the snapshots of all these policies.
    pub vm_max_size: Option<u64>,
    /// How many layers the prune may leave under one disk, base included: one less than that many external
    /// snapshots. Who is about to take another one leaves room for it here.
    pub max_chain: Option<u32>,
    /// The newest time that is known to have passed, for instance the last one stored. See [`clock_fault`].
    pub last_plausible: Option<Timestamp>,
    /// A time before which the clock is wrong for sure: [`EARLIEST`] on a real host; `None` to try out how it
    /// would have been in 2018.
    pub earliest: Option<Timestamp>,
    /// The snapshots whose image something else needs. One that another VM is based on needs all its ancestors
    /// too, for the other VM's chain runs through their images: the caller names them all.
    pub needed: &'a BTreeMap<SnapshotName, Need>,
    /// Who pinned what, and why, for people.
    pub pins: &'a BTreeMap<SnapshotName, String>,
    /// A person asked for all of it: `max-delete` does not hold.
    pub whole: bool,
    /// A person says that the clock is right, whatever is known of the time. See [`clock_fault`].
    pub clock_is_right: bool,
}

impl<'a> Context<'a> {
    const NOTHING: &'static BTreeMap<SnapshotName, Need> = &BTreeMap::new();
    const NOBODY: &'static BTreeMap<SnapshotName, String> = &BTreeMap::new();

    /// Policies and a time on a real host, and nothing else that matters.
    pub const fn new(now: Timestamp, policies: &'a [Rules<'a>]) -> Self {
        Self {
            now,
            policies,
            vm_max_size: None,
            max_chain: None,
            last_plausible: None,
            earliest: Some(EARLIEST),
            needed: Self::NOTHING,
            pins: Self::NOBODY,
            whole: false,
            clock_is_right: false,
        }
    }
}

/// What a step knows about a snapshot that an earlier one found out; a set of bits.
mod flag {
    /// Held by something other than a policy: not counted against `max-count`, never deleted.
    pub(super) const HELD: u8 = 1;
    /// The newest good one of the VM or of a policy: never deleted.
    pub(super) const NEWEST: u8 = 2;
    /// Counts for at least one policy in force.
    pub(super) const COUNTS: u8 = 4;
    /// One of its policies has neither rule nor limit: not for the chain's length either.
    pub(super) const EMPTY: u8 = 8;
    /// Never deleted.
    pub(super) const STAYS: u8 = HELD | NEWEST;
}

/// The snapshots, as the steps look at them.
struct Field<'a> {
    snapshots: &'a [Snapshot],
    flags: Vec<u8>,
    /// All of them, newest first; made when it is first asked for, since most prunes never do.
    order: OnceCell<Vec<Moment>>,
}

impl Field<'_> {
    /// The indices of all snapshots, the oldest first.
    fn oldest_first(&self) -> impl Iterator<Item = usize> {
        let order = self.order.get_or_init(|| {
            let mut all: Vec<_> = (0..).zip(self.snapshots).map(|(i, s)| Moment::new(s.created, i)).collect();
            moment::sort(&mut all, self.snapshots);
            all
        });
        order.iter().rev().map(|moment| moment.index())
    }
}

/// What becomes of each snapshot, and why; in the order of the input.
///
/// O(n log n) in the snapshots for a given set of policies.
pub fn judge<'a>(snapshots: &'a [Snapshot], ctx: &Context<'a>) -> Vec<Verdict<'a>> {
    let index: BTreeMap<&PolicyName, usize> =
        ctx.policies.iter().enumerate().map(|(i, rules)| (rules.policy, i)).collect();
    let mut field = Field { snapshots, flags: vec![0; snapshots.len()], order: OnceCell::new() };
    let mut verdicts = Vec::with_capacity(snapshots.len());
    let candidates = sift(&mut field, ctx, &index, &mut verdicts);
    for (rules, candidates) in ctx.policies.iter().zip(&candidates) {
        apply(*rules, candidates, &mut field, ctx.now, &mut verdicts);
    }
    if let Some(limit) = ctx.vm_max_size {
        limits::vm_size(&field, limit, &mut verdicts);
    }
    if let Some(limit) = ctx.max_chain {
        limits::chain(&field, limit, &mut verdicts);
    }
    if let Some(fault) = clock_fault(snapshots, ctx) {
        let why = Arc::new(fault);
        for verdict in verdicts.iter_mut().filter(|v| !v.keep) {
            verdict.stay(Reason::ImplausibleClock { why: Arc::clone(&why) });
        }
    } else if !ctx.whole {
        limits::max_delete(&field, ctx.policies, &index, &mut verdicts);
    }
    verdicts
}

/// For each whether it goes: what [`plan`](super::merge::plan) takes.
pub fn doomed(verdicts: &[Verdict<'_>]) -> Vec<bool> {
    verdicts.iter().map(|v| !v.keep).collect()
}

/// True for a restore point of ours.
fn good(s: &Snapshot) -> bool {
    s.managed && s.state == SnapshotState::Ready
}

/// Its own time is over.
fn is_over(s: &Snapshot, now: Timestamp) -> bool {
    s.expires.is_some_and(|at| at <= now)
}

/// The reasons to stay that no policy can outweigh, but for the newest good one's.
fn hold<'a>(
    s: &'a Snapshot,
    ctx: &Context<'a>,
    index: &BTreeMap<&PolicyName, usize>,
    verdict: &mut Verdict<'a>,
) {
    if !s.managed {
        verdict.stay(Reason::Foreign);
    }
    if s.pinned {
        verdict.stay(Reason::Pinned(ctx.pins.get(&s.name).map(String::as_str)));
    }
    if let Some(need) = ctx.needed.get(&s.name) {
        verdict.stay(Reason::Needed(need));
    }
    if s.managed {
        if s.state != SnapshotState::Ready {
            verdict.stay(Reason::NotReady(s.state));
        }
        if is_over(s, ctx.now) {
            return;
        }
        if s.policies.is_empty() {
            verdict.stay(Reason::NoPolicy { policy: None });
        }
        for policy in s.policies.iter().filter(|p| !index.contains_key(p)) {
            verdict.stay(Reason::NoPolicy { policy: Some(policy) });
        }
    }
}

/// One pass over all: what stays whatever the policies say, and for each policy its successful snapshots, newest
/// first.
fn sift<'a>(
    field: &mut Field<'a>,
    ctx: &Context<'a>,
    index: &BTreeMap<&PolicyName, usize>,
    verdicts: &mut Vec<Verdict<'a>>,
) -> Vec<Vec<Moment>> {
    let mut candidates = vec![Vec::new(); ctx.policies.len()];
    let mut newest = None;
    let mut any_over = false;
    for ((i, s), flags) in (0..).zip(field.snapshots).zip(&mut field.flags) {
        let mut verdict = Verdict { name: &s.name, keep: false, reasons: Reasons::default() };
        hold(s, ctx, index, &mut verdict);
        if verdict.keep {
            *flags |= flag::HELD;
        }
        if let Some(at) = s.expires.filter(|_| is_over(s, ctx.now)) {
            verdict.let_go(Reason::Expired { at });
            any_over = true;
        }
        verdicts.push(verdict);
        if !good(s) {
            continue;
        }
        let moment = Moment::new(s.created, i);
        newest = newest.max(Some((moment.time(), &s.name, moment)));
        for &policy in s.policies.iter().filter_map(|p| index.get(p)) {
            *flags |= flag::COUNTS;
            candidates[policy].push(moment);
        }
    }
    for candidates in &mut candidates {
        moment::sort(candidates, field.snapshots);
    }
    let newest = newest.map(|(_, _, moment)| moment);
    for i in candidates.iter().filter_map(|c| c.first()).chain(&newest).map(|moment| moment.index()) {
        if field.flags[i] & flag::NEWEST == 0 {
            field.flags[i] |= flag::NEWEST;
            verdicts[i].stay(Reason::NewestGood);
        }
    }
    // It takes no slot from those that stay longer.
    for candidates in candidates.iter_mut().filter(|_| any_over) {
        candidates.retain(|c| !is_over(&field.snapshots[c.index()], ctx.now));
    }
    candidates
}

/// What one policy says of its snapshots.
fn apply<'a>(
    Rules { policy, retention }: Rules<'a>,
    candidates: &[Moment],
    field: &mut Field<'a>,
    now: Timestamp,
    verdicts: &mut [Verdict<'a>],
) {
    let Limits { max_count, max_age, max_size, max_delete: _ } = &retention.limits;
    let limited = max_count.is_some() || max_age.is_some() || max_size.is_some();
    if retention.keep.is_empty() && !limited {
        for i in candidates.iter().map(|c| c.index()) {
            verdicts[i].stay(Reason::EmptyPolicy { policy });
            field.flags[i] |= flag::EMPTY;
        }
        return;
    }
    let wanted = Wanted::new(candidates, retention);
    let mut outcomes = vec![Outcome::NotAsked; field.snapshots.len()];
    for (position, candidate) in candidates.iter().enumerate() {
        let outcome = if wanted.at(position) { Outcome::Wanted } else { Outcome::NotWanted };
        outcomes[candidate.index()] = outcome;
    }
    limits::cut(&mut outcomes, candidates, field, &retention.limits, now);
    // In the order of the input, in which the verdicts lie in memory; then the few that are wanted.
    for (verdict, outcome) in verdicts.iter_mut().zip(&outcomes) {
        match outcome {
            Outcome::NotAsked | Outcome::Wanted => {}
            Outcome::NotWanted => verdict.let_go(Reason::NotWanted { policy }),
            Outcome::TooOld => verdict.let_go(Reason::MaxAge { policy }),
            Outcome::TooMany => verdict.let_go(Reason::MaxCount { policy }),
            Outcome::TooBig => verdict.let_go(Reason::MaxSize { policy }),
        }
    }
    for (position, i) in candidates.iter().map(|c| c.index()).enumerate() {
        if outcomes[i] != Outcome::Wanted {
            continue;
        }
        if retention.keep.is_empty() {
            verdicts[i].stay(Reason::NoRule { policy });
        }
        for (rule, bucket) in wanted.rules(position) {
            verdicts[i].stay(Reason::Rule { policy, rule, bucket });
        }
    }
}
