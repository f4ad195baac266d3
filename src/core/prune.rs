//! What a prune of a VM would do, and does: preview is execution, because both are this function.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    inventory::{SnapshotRecord, VmRecord},
    merge::{self, Held},
    model::{SnapshotName, Storage},
    retention::{self, ClockFault, Context, Need, Rules},
    settings::VmPlan,
};

/// Facts from outside that a decision needs.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The time now.
    pub now: Timestamp,
    /// `max-chain`; `None`: any length.
    pub max_chain: Option<u32>,
    /// The newest time that is known to have passed.
    pub last_plausible: Option<Timestamp>,
    /// A time before which the clock is wrong for sure.
    pub earliest: Option<Timestamp>,
    /// The snapshots whose image something else needs.
    pub needed: &'a BTreeMap<SnapshotName, Need>,
    /// A person said that all that is to go goes: `max-delete` does not hold, and the clock is right.
    pub all: bool,
}

impl Circumstances<'_> {
    const NOTHING: &'static BTreeMap<SnapshotName, Need> = &BTreeMap::new();

    /// A time on a real host, and nothing else that matters.
    pub const fn new(now: Timestamp) -> Self {
        Self {
            now,
            max_chain: None,
            last_plausible: None,
            earliest: Some(retention::EARLIEST),
            needed: Self::NOTHING,
            all: false,
        }
    }
}

/// What becomes of one snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// The snapshot.
    pub name: SnapshotName,
    /// It stays.
    pub keep: bool,
    /// The reasons, as words: rule, policy, bucket (the latter two may be empty).
    pub reasons: Vec<(String, String, String)>,
    /// The same, for people.
    pub text: String,
}

/// What a prune does.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// One for each snapshot, the oldest first.
    pub sentences: Vec<Sentence>,
    /// The steps, in order.
    pub plan: merge::Plan,
    /// The clock cannot be believed: there are no steps, and the time it shows has not passed.
    pub clock: Option<ClockFault>,
}

/// Decides.
pub fn decide(vm: &VmRecord, plan: &VmPlan, at: Circumstances<'_>) -> Decision {
    let mut snapshots = vm.for_policies();
    snapshots.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
    let rules: Vec<Rules<'_>> =
        plan.policies.iter().map(|p| Rules { policy: &p.name, retention: &p.retention }).collect();
    let held_by = |record: &SnapshotRecord| Some((record.snapshot.name.clone(), record.label.held_by()?));
    let pins = vm.snapshots.values().filter_map(held_by).collect();
    let ctx = Context {
        pins: &pins,
        vm_max_size: plan.max_size,
        max_chain: at.max_chain.map(|layers| layers_left(vm, layers)),
        last_plausible: at.last_plausible,
        earliest: at.earliest,
        needed: at.needed,
        whole: at.all,
        clock_is_right: at.all,
        ..Context::new(at.now, &rules)
    };
    let clock = retention::clock_fault(&snapshots, &ctx);
    let verdicts = retention::judge(&snapshots, &ctx);
    // What another VM has under it is looked for when it is deleted, against the chains of that moment.
    // What was begun is finished: such a snapshot is no good to anybody, and its layer only makes the chain longer.
    // But by no clock that is wrong: then nothing is deleted at all, which is easier to rely on.
    let half_deleted =
        |name: &SnapshotName| clock.is_none() && vm.snapshots.get(name).is_some_and(|s| s.half_deleted);
    let goes: Vec<bool> = verdicts.iter().map(|v| !v.keep || half_deleted(v.name)).collect();
    let mut steps = merge::plan(&snapshots, &goes, at.needed).owned();
    if let Some(ground) = &vm.ground {
        steps = ground.allow(steps, &snapshots.iter().map(|s| (&s.name, s.size)).collect());
        steps.held.sort_by_key(|held| snapshots.iter().position(|s| s.name == held.name));
    }
    let held: BTreeMap<&SnapshotName, &Held> = steps.held.iter().map(|h| (&h.name, h)).collect();
    let sentences = verdicts
        .iter()
        .map(|v| {
            let held = held.get(v.name);
            let mut reasons: Vec<_> = v
                .reasons
                .iter()
                .map(|r| {
                    let policy = r.policy().map(ToString::to_string).unwrap_or_default();
                    let bucket = r.bucket().map(|b| b.to_string()).unwrap_or_default();
                    (r.rule().to_owned(), policy, bucket)
                })
                .collect();
            let mut text = v.text();
            if half_deleted(v.name) {
                reasons = vec![("half-deleted".to_owned(), String::new(), String::new())];
                "Goes: its deletion was begun and did not end; its data can no longer be trusted."
                    .clone_into(&mut text);
            }
            if let Some(held) = held {
                reasons.push(("held".to_owned(), String::new(), String::new()));
                text = format!("{text} It stays for now: {}", held.text());
            }
            Sentence {
                name: v.name.clone(),
                keep: (v.keep && !half_deleted(v.name)) || held.is_some(),
                reasons,
                text,
            }
        })
        .collect();
    Decision { sentences, plan: steps, clock }
}

/// How many layers the verdicts may leave, when the image at the bottom counts as one.
///
/// One is left for the snapshot that comes next. What lies below the oldest snapshot besides the base (a template
/// that the VM was cloned from, an overlay without metadata) takes room, too; what is half deleted goes anyway.
fn layers_left(vm: &VmRecord, max_chain: u32) -> u32 {
    let mut on_chain = 0_u32;
    let mut going = 0_u32;
    let mut next = vm.snapshots.values().find(|s| s.snapshot.current);
    while let Some(record) = next
        // A tree that makes no sense may go round in a circle.
        && on_chain as usize <= vm.snapshots.len()
    {
        on_chain += u32::from(record.snapshot.storage == Storage::External);
        going += u32::from(record.half_deleted);
        next = record.snapshot.parent.as_ref().and_then(|parent| vm.snapshots.get(parent));
    }
    let below = vm.chain_depth.saturating_sub(1).saturating_sub(on_chain);
    // The newest one stays whatever the limit says.
    max_chain.saturating_sub(1).saturating_sub(below).saturating_add(going).max(2)
}

#[cfg(test)]
mod tests;
