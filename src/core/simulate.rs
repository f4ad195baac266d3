//! Trying policies out on a VM that need not exist: the daemon's own decisions, now and in days to come.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{
    inventory::{Quality, SnapshotRecord, VmRecord},
    label::Label,
    merge::{Plan, Step},
    model::{Content, Origin, Snapshot, SnapshotName, SnapshotState, Storage},
    naming::{self, Parts},
    policy::Policy,
    prune::{Circumstances, Decision, decide},
    retention::Need,
    schedule::next_fire,
    settings::VmPlan,
};

/// A VM, its policies, and what else a decision needs.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The VM with its snapshots.
    pub vm: VmRecord,
    /// What holds for it.
    pub plan: VmPlan,
    /// `max-chain`; `None`: any length.
    pub max_chain: Option<u32>,
    /// The snapshots whose image something else needs.
    pub needed: BTreeMap<SnapshotName, Need>,
    /// `max-delete` does not hold.
    pub all: bool,
}

/// How far to go on.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Up to this instant.
    pub until: Timestamp,
    /// The zone whose days are told apart.
    pub zone: TimeZone,
    /// The bytes of each snapshot that will be taken.
    pub size: u64,
}

/// One day on which something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// Which.
    pub date: Date,
    /// The snapshots taken, in order.
    pub taken: Vec<SnapshotName>,
    /// Those that went, each with the sentence that says why.
    pub deleted: Vec<(SnapshotName, String)>,
    /// How many there are at the day's end.
    pub snapshots: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no outlook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Endless {
    /// Too many runs.
    #[error("there are more than {MOST_RUNS} runs until then, {MOST_RUNS} of them by {0}")]
    Runs(Timestamp),
    /// Too many snapshots at once, which no disk's chain could hold.
    #[error("there would be more than {MOST_SNAPSHOTS} snapshots by {0}: nothing deletes enough of them")]
    Snapshots(Timestamp),
    /// A policy's template gives no name.
    #[error("no name can be made for a snapshot of policy {0}")]
    NoName(String),
}

/// An hourly policy for ten years is less.
const MOST_RUNS: usize = 100_000;
/// Each run decides on all of them.
const MOST_SNAPSHOTS: usize = 300;

impl Scene {
    /// What a prune would do.
    ///
    /// No clock is too old for it: that a time lies in 2018 is what was asked for.
    pub fn decide(&self, now: Timestamp) -> Decision {
        let at = Circumstances {
            max_chain: self.max_chain,
            earliest: None,
            needed: &self.needed,
            all: self.all,
            ..Circumstances::new(now)
        };
        decide(&self.vm, &self.plan, at)
    }

    /// Lets time go by from `now`: takes what is due, prunes after each, and returns the days on which something
    /// happened. The scene is that of `outlook.until` then.
    ///
    /// Each run comes in its time and succeeds; a VM's own offset (`spread`) is left out. A merge is taken to
    /// change no size, as if the same blocks had been written again and again.
    pub fn forward(&mut self, now: Timestamp, outlook: &Outlook) -> Result<Vec<Day>, Endless> {
        let policies = self.plan.policies.clone();
        let after = |policy: &Policy, at| next_fire(&policy.schedules, at, &policy.retention.timezone);
        let mut next: Vec<Option<Timestamp>> = policies.iter().map(|p| after(p, now)).collect();
        let mut days: Vec<Day> = Vec::new();
        let mut runs = 0;
        while let Some(at) = next.iter().flatten().min().copied().filter(|at| *at <= outlook.until) {
            runs += 1;
            if runs > MOST_RUNS {
                return Err(Endless::Runs(at));
            }
            let date = at.to_zoned(outlook.zone.clone()).date();
            if days.last().is_none_or(|day| day.date != date) {
                days.push(Day { date, taken: vec![], deleted: vec![], snapshots: 0, bytes: 0 });
            }
            let mut due = Vec::new();
            for (policy, next) in policies.iter().zip(&mut next).filter(|(_, next)| **next == Some(at)) {
                due.push(policy);
                *next = after(policy, at);
            }
            let Some(day) = days.last_mut() else { break };
            day.taken.extend(self.take(&due, at, outlook.size)?);
            let decision = self.decide(at);
            self.apply(&decision.plan);
            let gone = decision.sentences.into_iter().filter(|s| !self.vm.snapshots.contains_key(&s.name));
            day.deleted.extend(gone.map(|s| (s.name, s.text)));
            (day.snapshots, day.bytes) = (self.vm.snapshots.len(), self.vm.snapshot_bytes());
            if day.snapshots > MOST_SNAPSHOTS {
                return Err(Endless::Snapshots(at));
            }
        }
        Ok(days)
    }

    /// Takes the snapshots of policies that are due at once: one for all that take it the same way.
    pub(super) fn take(
        &mut self,
        due: &[&Arc<Policy>],
        at: Timestamp,
        size: u64,
    ) -> Result<Vec<SnapshotName>, Endless> {
        let mut groups: Vec<Vec<&Arc<Policy>>> = Vec::new();
        for policy in due {
            match groups.iter_mut().find(|group| group[0].how.takes_the_same(&policy.how)) {
                Some(group) => group.push(policy),
                None => groups.push(vec![policy]),
            }
        }
        let mut taken = Vec::new();
        for group in groups {
            let policy = group.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join("+");
            let sequence = self.vm.snapshots.len() + 1;
            let parts = Parts { policy: &policy, vm: &self.vm.name, operation: "manual", at, sequence };
            let snapshots = &mut self.vm.snapshots;
            let name = naming::snapshot_name(&group[0].how.name, &parts, |n| snapshots.contains_key(n))
                .map_err(|_| Endless::NoName(policy.clone()))?;
            let parent = current(snapshots);
            if let Some(parent) = parent.as_ref().and_then(|name| snapshots.get_mut(name)) {
                parent.snapshot.current = false;
            }
            let snapshot = Snapshot {
                name: name.clone(),
                created: at,
                parent,
                current: true,
                state: SnapshotState::Ready,
                origin: Origin::Schedule,
                managed: true,
                policies: group.iter().map(|p| p.name.clone()).collect(),
                pinned: false,
                expires: None,
                content: Content::Disk,
                storage: Storage::External,
                size,
            };
            snapshots.insert(name.clone(), record(snapshot));
            taken.push(name);
        }
        Ok(taken)
    }

    /// Takes the steps of a plan: what went is no more, and its children hang on its parent.
    pub fn apply(&mut self, plan: &Plan) {
        for step in &plan.steps {
            match step {
                Step::Merge { run, .. } => run.iter().for_each(|name| self.remove(name)),
                Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
                    self.remove(snapshot);
                }
            }
        }
    }

    fn remove(&mut self, name: &SnapshotName) {
        let Some(SnapshotRecord { snapshot: gone, .. }) = self.vm.snapshots.remove(name) else { return };
        for child in self.vm.snapshots.values_mut().map(|r| &mut r.snapshot) {
            if child.parent.as_ref() == Some(name) {
                child.parent.clone_from(&gone.parent);
            }
        }
        if gone.current
            && let Some(parent) = gone.parent.and_then(|parent| self.vm.snapshots.get_mut(&parent))
        {
            parent.snapshot.current = true;
        }
    }
}

/// A snapshot of which no more is known than what policies look at.
pub fn record(snapshot: Snapshot) -> SnapshotRecord {
    let quality = Quality::unknown(snapshot.content == Content::Full);
    SnapshotRecord {
        snapshot,
        id: None,
        label: Label::default(),
        description: String::new(),
        quality,
        images: Vec::new(),
        held: 0,
        half_deleted: false,
    }
}

fn current(snapshots: &BTreeMap<SnapshotName, SnapshotRecord>) -> Option<SnapshotName> {
    snapshots.values().map(|r| &r.snapshot).find(|s| s.current).map(|s| s.name.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        config::{Environment, SourceFile, parse_policy},
        core::model::{VmId, VmState},
    };

    fn scene(policies: &[(&str, &str)]) -> Scene {
        let environment = Environment { timezone: TimeZone::get("Europe/Vienna").unwrap(), cores: 2 };
        let policies = policies.iter().map(|(name, text)| {
            let file = SourceFile::new("policy", *text);
            Arc::new(parse_policy(name.parse().unwrap(), &file, &environment).unwrap().0)
        });
        Scene {
            vm: VmRecord {
                id: VmId(uuid::Uuid::nil()),
                name: "vm".to_owned(),
                state: VmState::Running,
                tags: BTreeSet::new(),
                agent_connected: false,
                chain_depth: 1,
                images: BTreeSet::new(),
                ground: None,
                stem: None,
                findings: Vec::new(),
                strays: Vec::new(),
                known_since: None,
                forgotten: Vec::new(),
                snapshots: BTreeMap::new(),
            },
            plan: VmPlan { policies: policies.collect(), disks: None, max_size: None, why: vec![] },
            max_chain: Some(16),
            needed: BTreeMap::new(),
            all: false,
        }
    }

    fn outlook(until: &str) -> Outlook {
        Outlook {
            until: until.parse().unwrap(),
            zone: TimeZone::get("Europe/Vienna").unwrap(),
            size: 1 << 20,
        }
    }

    fn names(scene: &Scene) -> Vec<&str> {
        scene.vm.snapshots.keys().map(SnapshotName::as_str).collect()
    }

    #[test]
    fn days_go_by_and_the_policy_keeps_what_it_says() {
        let mut scene = scene(&[("n", "schedule = \"30 2 * * *\"\nkeep-last = 2\nkeep-weekly = 2")]);
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let days = scene.forward(now, &outlook("2026-11-27T12:00:00Z")).unwrap();
        assert_eq!(days.len(), 7);
        assert_eq!(days[0].date.to_string(), "2026-11-21");
        assert_eq!(days[0].snapshots, 1);
        // The two last, and the last of the week before, a Sunday.
        assert_eq!(names(&scene), ["n-20261122T013000Z", "n-20261126T013000Z", "n-20261127T013000Z"]);
        let gone: Vec<_> = days.iter().flat_map(|d| &d.deleted).map(|(n, _)| n.as_str()).collect();
        assert_eq!(
            gone,
            ["n-20261121T013000Z", "n-20261123T013000Z", "n-20261124T013000Z", "n-20261125T013000Z"]
        );
        assert!(days[2].deleted[0].1.starts_with("Goes: "), "{days:?}");
        assert_eq!(days[6].bytes, 3 << 20);
    }

    #[test]
    fn policies_due_at_once_share_a_snapshot_and_the_tree_stays_a_chain() {
        // What they name it, and how long they wait, is no reason to take it twice.
        let day = "schedule = \"0 3 * * *\"\nkeep-daily = 3\nfreeze-timeout = \"3s\"";
        let week = "schedule = \"0 3 * * sun\"\nkeep-weekly = 2";
        let mut scene = scene(&[("day", day), ("week", week)]);
        let days =
            scene.forward("2026-11-20T12:00:00Z".parse().unwrap(), &outlook("2026-12-08T00:00:00Z")).unwrap();
        assert_eq!(days[1].taken[0].as_str(), "day+week-20261122T020000Z");
        assert_eq!(scene.vm.snapshots.len(), 4, "three days, of which a Sunday, and the Sunday before");
        let mut at = current(&scene.vm.snapshots);
        let mut length = 0;
        while let Some(name) = at {
            at = scene.vm.snapshots[&name].snapshot.parent.clone();
            length += 1;
        }
        assert_eq!(length, 4, "from the current one all are reached");
    }

    #[test]
    fn a_policy_that_deletes_nothing_ends_with_an_error_and_not_with_the_patience() {
        let mut scene = scene(&[("n", "schedule = \"* * * * *\"")]);
        scene.max_chain = None;
        let end = scene.forward(Timestamp::UNIX_EPOCH, &outlook("2026-12-08T00:00:00Z"));
        assert!(matches!(end, Err(Endless::Snapshots(_))), "{end:?}");
    }

    #[test]
    fn as_many_snapshots_stay_as_a_chain_is_said_to_have_room_for() {
        for max_chain in [3, 4, 16, 25] {
            let mut scene = scene(&[("n", "schedule = \"30 2 * * *\"\nkeep-daily = 30")]);
            scene.max_chain = Some(max_chain);
            scene.forward("2026-11-20T12:00:00Z".parse().unwrap(), &outlook("2026-12-30T12:00:00Z")).unwrap();
            assert_eq!(scene.vm.snapshots.len(), crate::core::settings::room(max_chain) as usize);
        }
    }

    #[test]
    fn sizes_that_no_number_holds_are_the_largest_that_one_does() {
        let mut scene = scene(&[("n", "schedule = \"@daily\"\nkeep-last = 3")]);
        let outlook = Outlook { size: u64::MAX, ..outlook("2026-11-23T12:00:00Z") };
        let days = scene.forward("2026-11-20T12:00:00Z".parse().unwrap(), &outlook).unwrap();
        assert_eq!(days.last().map(|day| (day.snapshots, day.bytes)), Some((3, u64::MAX)));
    }

    #[test]
    fn no_schedule_means_that_nothing_happens() {
        let mut scene = scene(&[("n", "keep-last = 3")]);
        assert_eq!(scene.forward(Timestamp::UNIX_EPOCH, &outlook("2026-12-08T00:00:00Z")), Ok(vec![]));
    }
}
