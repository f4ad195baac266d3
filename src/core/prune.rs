//! What a prune of a VM would do, and does: preview is execution, because both are this function.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    inventory::VmRecord,
    merge,
    model::SnapshotName,
    retention::{self, Context, Need, Rules},
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
    /// A person said that `max-delete` does not hold.
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
}

/// Decides.
pub fn decide(vm: &VmRecord, plan: &VmPlan, at: Circumstances<'_>) -> Decision {
    let mut snapshots = vm.for_policies();
    snapshots.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
    let rules: Vec<Rules<'_>> =
        plan.policies.iter().map(|p| Rules { policy: &p.name, retention: &p.retention }).collect();
    let verdicts = retention::judge(
        &snapshots,
        &Context {
            vm_max_size: plan.max_size,
            // One layer is left for the snapshot that comes next.
            max_chain: at.max_chain.map(|layers| layers.saturating_sub(1).max(2)),
            last_plausible: at.last_plausible,
            earliest: at.earliest,
            needed: at.needed,
            whole: at.all,
            ..Context::new(at.now, &rules)
        },
    );
    // What another VM has under it is looked for when it is deleted, against the chains of that moment.
    // What was begun is finished: such a snapshot is no good to anybody, and its layer only makes the chain longer.
    let half_deleted = |name: &SnapshotName| vm.snapshots.get(name).is_some_and(|s| s.half_deleted);
    let mut doomed = retention::doomed(&verdicts);
    doomed.extend(snapshots.iter().map(|s| &s.name).filter(|name| half_deleted(name)).cloned());
    let steps = merge::plan(&snapshots, &doomed, at.needed);
    let sentences = verdicts
        .iter()
        .map(|v| {
            let held = steps.held.iter().find(|h| h.name == *v.name);
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
    Decision { sentences, plan: steps }
}
