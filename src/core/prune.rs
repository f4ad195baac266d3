//! What a prune of a VM would do, and does: preview is execution, because both are this function.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    inventory::VmRecord,
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
    let ctx = Context {
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
    let steps = merge::plan(&snapshots, &goes, at.needed).owned();
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
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use jiff::tz::TimeZone;

    use super::*;
    use crate::{
        config::{Environment, SourceFile, parse_policy},
        core::{
            inventory::{Quality, SnapshotRecord},
            model::{Content, Origin, Snapshot, SnapshotState, VmId, VmState},
            simulate::record,
        },
    };

    /// A VM with a chain of daily snapshots over `below` images.
    fn vm(snapshots: u32, below: u32) -> VmRecord {
        let name = |i: u32| SnapshotName::existing(format!("s{i:02}"));
        let snapshot = |i: u32| Snapshot {
            name: name(i),
            created: format!("2026-11-{:02}T02:00:00Z", i + 1).parse().unwrap(),
            parent: i.checked_sub(1).map(name),
            current: i + 1 == snapshots,
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: BTreeSet::from(["p".parse().unwrap()]),
            pinned: false,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        };
        VmRecord {
            id: VmId(uuid::Uuid::nil()),
            name: "vm".to_owned(),
            state: VmState::Running,
            tags: BTreeSet::new(),
            agent_connected: false,
            chain_depth: snapshots + below,
            images: BTreeSet::new(),
            snapshots: (0..snapshots).map(|i| (name(i), record(snapshot(i)))).collect(),
        }
    }

    fn kept(vm: &VmRecord) -> usize {
        let environment = Environment { timezone: TimeZone::UTC, cores: 1 };
        let file = SourceFile::new("policy", "keep-last = 20\nmax-delete = 99");
        let (policy, _) = parse_policy("p".parse().unwrap(), &file, &environment).unwrap();
        let plan = VmPlan { policies: vec![Arc::new(policy)], disks: None, max_size: None, why: vec![] };
        let at = Circumstances {
            max_chain: Some(16),
            ..Circumstances::new("2026-11-29T00:00:00Z".parse().unwrap())
        };
        decide(vm, &plan, at).sentences.iter().filter(|s| s.keep).count()
    }

    #[test]
    fn room_is_left_for_the_next_snapshot() {
        assert_eq!(kept(&vm(20, 1)), 14, "a base, these and the next make sixteen");
        assert_eq!(kept(&vm(14, 1)), 14);
    }

    #[test]
    fn what_lies_below_the_first_snapshot_takes_room_too() {
        assert_eq!(kept(&vm(20, 3)), 12);
        assert_eq!(kept(&vm(20, 30)), 1, "the newest stays, whatever is below");
    }

    #[test]
    fn no_good_snapshot_gives_way_to_one_that_goes_anyway() {
        let mut vm = vm(15, 1);
        let oldest = SnapshotName::existing("s00");
        let record = vm.snapshots.get_mut(&oldest).unwrap();
        (record.half_deleted, record.snapshot.state) = (true, SnapshotState::Failed);
        assert_eq!(kept(&vm), 14);
    }

    #[test]
    fn by_a_wrong_clock_not_even_a_deletion_that_was_begun_is_finished() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let name = SnapshotName::existing("begun");
        let snapshot = Snapshot {
            name: name.clone(),
            created: at("2026-01-01T00:00:00Z"),
            parent: None,
            current: true,
            state: SnapshotState::Failed,
            origin: Origin::Manual,
            managed: true,
            policies: BTreeSet::new(),
            pinned: false,
            content: Content::Disk,
            storage: Storage::External,
            size: 1,
        };
        let record = SnapshotRecord {
            snapshot,
            description: String::new(),
            quality: Quality::unknown(false),
            images: Vec::new(),
            half_deleted: true,
        };
        let vm = VmRecord {
            id: VmId(uuid::Uuid::from_u128(1)),
            name: "web".to_owned(),
            state: VmState::Running,
            tags: BTreeSet::new(),
            agent_connected: true,
            chain_depth: 1,
            images: BTreeSet::new(),
            snapshots: [(name.clone(), record)].into(),
        };
        let plan = VmPlan { policies: vec![], max_size: None, disks: None, why: vec![] };
        let decided = |now: &str, all| {
            let last_plausible = Some(at("2026-01-02T00:00:00Z"));
            decide(&vm, &plan, Circumstances { last_plausible, all, ..Circumstances::new(at(now)) })
        };
        let right = decided("2026-01-03T00:00:00Z", false);
        assert!(right.clock.is_none() && right.plan.steps.len() == 1 && !right.sentences[0].keep);
        for (now, all) in [("2036-01-01T00:00:00Z", false), ("1970-01-01T00:00:00Z", true)] {
            let wrong = decided(now, all);
            assert!(wrong.clock.is_some() && wrong.plan.steps.is_empty() && wrong.sentences[0].keep, "{now}");
        }
        // A person knows the time; but it is not 1970.
        assert_eq!(decided("2036-01-01T00:00:00Z", true), right);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::{SignedDuration, tz::TimeZone};
    use uuid::Uuid;

    use super::*;
    use crate::{
        config::{self, Environment, FileKind, SourceFile},
        core::{
            inventory::{Quality, SnapshotRecord},
            model::{Content, Origin, Snapshot, SnapshotState, Storage, VmId, VmState},
            select::VmFacts,
        },
    };

    const NOON: Timestamp = Timestamp::constant(1_780_000_000, 0);

    /// A VM with one snapshot an hour from `name<parent` words; the last one is current.
    fn vm(words: &str) -> VmRecord {
        let count = words.split(' ').count();
        let snapshot = |(i, word): (usize, &str)| {
            let (name, parent) = word.split_once('<').map_or((word, None), |(n, p)| (n, Some(p)));
            let name = SnapshotName::existing(name);
            let hours = i64::try_from(count - i).unwrap();
            let snapshot = Snapshot {
                name: name.clone(),
                created: NOON - SignedDuration::from_hours(hours),
                parent: parent.map(SnapshotName::existing),
                current: i + 1 == count,
                state: SnapshotState::Ready,
                origin: Origin::Schedule,
                managed: true,
                policies: ["nightly".parse().unwrap()].into(),
                pinned: false,
                content: Content::Disk,
                storage: Storage::External,
                size: 1,
            };
            let (description, quality) = (String::new(), Quality::unknown(false));
            (name, SnapshotRecord { snapshot, description, quality, half_deleted: false })
        };
        VmRecord {
            id: VmId(Uuid::from_u128(1)),
            name: "web".to_owned(),
            state: VmState::Running,
            tags: BTreeSet::new(),
            agent_connected: true,
            chain_depth: 1,
            snapshots: words.split(' ').enumerate().map(snapshot).collect(),
        }
    }

    /// Each one's name, whether it stays, its rules and its text, the oldest first; then the names that the steps have.
    fn decided(vm: &VmRecord) -> (Vec<String>, Vec<String>) {
        let toml = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nkeep-last = 1\n";
        let environment = Environment { timezone: TimeZone::UTC, cores: 2 };
        let loaded = config::parse(&[(FileKind::Main, SourceFile::new("test.toml", toml))], &environment);
        let settings = loaded.unwrap_or_else(|e| panic!("{}", e.render(config::Style::Plain))).settings;
        let plan = settings.for_vm(&VmFacts { id: vm.id, name: &vm.name, tags: &vm.tags });
        let at = Circumstances { now: NOON, max_chain: 30, last_plausible: None, all: false };
        let decision = decide(vm, &plan, at);
        let line = |s: &Sentence| {
            let rules: Vec<_> = s.reasons.iter().map(|(rule, ..)| rule.as_str()).collect();
            format!("{} {} {}: {}", s.name, if s.keep { "stays" } else { "goes" }, rules.join("+"), s.text)
        };
        let steps = decision.plan.steps.iter().flat_map(|step| match step {
            merge::Step::Merge { run, .. } => run.iter().map(ToString::to_string).collect(),
            merge::Step::DropBranch { snapshot, .. } | merge::Step::DeleteInternal { snapshot, .. } => {
                vec![snapshot.to_string()]
            }
        });
        (decision.sentences.iter().map(line).collect(), steps.collect())
    }

    #[test]
    fn one_that_cannot_go_yet_stays_and_says_what_has_to_happen_first() {
        let mut vm = vm("a x<a b<a c<b d<c");
        vm.snapshots.get_mut(&SnapshotName::existing("x")).unwrap().snapshot.pinned = true;
        let (lines, steps) = decided(&vm);
        assert_eq!(steps, ["b", "c"]);
        assert_eq!(
            lines,
            [
                "a stays not-wanted+held: Goes: no keep rule of policy nightly wants it. It stays for now: Cannot go \
                 yet: other branches are based on it; first has to go: \"x\" (pinned: unpin it).",
                "x stays pinned: Stays: it is pinned.",
                "b goes not-wanted: Goes: no keep rule of policy nightly wants it.",
                "c goes not-wanted: Goes: no keep rule of policy nightly wants it.",
                "d stays newest-good+keep-last: Stays: it is the newest good one; keep-last of policy nightly keeps it, \
                 number 1 from the newest.",
            ]
        );
    }

    #[test]
    fn a_deletion_that_was_begun_is_finished_whatever_the_policies_say() {
        let mut vm = vm("a b<a c<b");
        let b = vm.snapshots.get_mut(&SnapshotName::existing("b")).unwrap();
        (b.half_deleted, b.snapshot.state) = (true, SnapshotState::Failed);
        b.snapshot.policies.clear();
        let (lines, steps) = decided(&vm);
        assert_eq!(steps, ["a", "b"]);
        assert_eq!(
            lines[1],
            "b goes half-deleted: Goes: its deletion was begun and did not end; its data can no longer be trusted."
        );
    }
}
