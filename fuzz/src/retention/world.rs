//! A VM's snapshots and all that judges them, made of a fuzzer's bytes.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Unstructured};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use virtsnap::core::{
    model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
    policy::{Combine, Keep, Limits, Retention},
    retention::{Context, EARLIEST, Need, Rules, Verdict, judge},
};

/// More would only make each run slower.
const MAX_SNAPSHOTS: usize = 64;
const ZONES: &[&str] = &[
    "UTC",
    "Europe/Vienna",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Pacific/Apia",
    "America/Juneau",
];

/// What the fuzzer says; numbers become what they stand for in [`World`].
#[derive(Debug, Arbitrary)]
struct Raw {
    now: When,
    last_plausible: Option<When>,
    earliest: bool,
    vm_max_size: Option<Amount>,
    max_chain: Option<u8>,
    /// Whether snapshots hang on each other as they say, or each on the one before it.
    tangled: bool,
    policies: Vec<RawPolicy>,
    snapshots: Vec<RawSnapshot>,
}

#[derive(Debug, Arbitrary)]
struct RawPolicy {
    last: Option<u8>,
    hourly: Option<u8>,
    daily: Option<u32>,
    weekly: Option<u8>,
    monthly: Option<u8>,
    yearly: Option<u8>,
    within: Option<Span>,
    extend: bool,
    max_count: Option<u8>,
    max_age: Option<Span>,
    max_size: Option<Amount>,
    max_delete: Option<u8>,
    zone: u8,
}

#[derive(Debug, Arbitrary)]
struct RawSnapshot {
    /// Names may clash if the tree is tangled.
    name: u8,
    parent: Option<u8>,
    created: When,
    size: Amount,
    /// Bits for policies.
    policies: u8,
    /// Which of the rarer things it is; most values are none.
    odd: u8,
    needed: Option<(u8, u8)>,
}

/// A time; times that share hours, days and weeks are likelier than others.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum When {
    Minutes(u16),
    Hours(u16),
    Days(i16),
    Anywhere(i64, u32),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Span {
    Hours(u16),
    Days(u16),
    Nanos(i64),
    Any(i64),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Amount {
    Few(u8),
    Any(u64),
}

impl When {
    fn timestamp(self) -> Timestamp {
        // Around a change of New York's clocks.
        let base = Timestamp::constant(1_762_059_600, 0);
        let hours = |n: i64| SignedDuration::from_hours(n);
        match self {
            Self::Minutes(n) => base + SignedDuration::from_mins(i64::from(n)),
            Self::Hours(n) => base + hours(n.into()),
            Self::Days(n) => base + hours(24 * i64::from(n)),
            Self::Anywhere(seconds, nanos) => {
                let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
                let second = first + (seconds.rem_euclid(last - first));
                Timestamp::new(second, i32::try_from(nanos % 1_000_000_000).expect("it fits"))
                    .unwrap_or(Timestamp::MIN)
            }
        }
    }
}

impl Span {
    fn duration(self) -> SignedDuration {
        match self {
            Self::Hours(n) => SignedDuration::from_hours(n.into()),
            Self::Days(n) => SignedDuration::from_hours(24 * i64::from(n)),
            Self::Nanos(n) => SignedDuration::from_nanos(n.saturating_abs()),
            Self::Any(n) => SignedDuration::from_secs(n.saturating_abs()),
        }
    }
}

impl Amount {
    fn bytes(self) -> u64 {
        match self {
            Self::Few(n) => n.into(),
            Self::Any(n) => n,
        }
    }
}

/// A VM's snapshots and all that `judge` and `plan` look at.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) policies: Vec<(PolicyName, Retention)>,
    pub(super) needed: BTreeMap<SnapshotName, Need>,
    now: Timestamp,
    last_plausible: Option<Timestamp>,
    earliest: Option<Timestamp>,
    vm_max_size: Option<u64>,
    max_chain: Option<u32>,
}

impl Arbitrary<'_> for World {
    fn arbitrary(u: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(Self::from(Raw::arbitrary(u)?))
    }
}

fn policy_names() -> [PolicyName; 4] {
    ["p", "q", "r", "gone"].map(|name| name.parse().expect("a policy's name"))
}

impl From<Raw> for World {
    fn from(mut raw: Raw) -> Self {
        raw.snapshots.truncate(MAX_SNAPSHOTS);
        // The last name is that of a policy that is no longer in force.
        let policies: Vec<_> =
            policy_names().into_iter().take(3).zip(raw.policies.iter().map(RawPolicy::retention)).collect();
        let tangled = raw.tangled;
        let name = |i: usize, s: &RawSnapshot| {
            SnapshotName::existing(if tangled {
                format!("s{}", s.name)
            } else {
                format!("s{:02}", i * 29 % 64)
            })
        };
        let names: Vec<_> = raw.snapshots.iter().enumerate().map(|(i, s)| name(i, s)).collect();
        let mut snapshots = Vec::new();
        let mut needed = BTreeMap::new();
        for (i, s) in raw.snapshots.iter().enumerate() {
            let name = &names[i];
            let parent = match s.parent {
                // Upwards only: a tree, if all of its names are its own.
                Some(n) if !tangled => i.checked_sub(1 + usize::from(n)).map(|at| names[at].clone()),
                None if !tangled => i.checked_sub(1).map(|at| names[at].clone()),
                parent => parent.map(|n| SnapshotName::existing(format!("s{n}"))),
            };
            let current = if tangled { s.odd & 0x40 != 0 } else { i + 1 == names.len() };
            snapshots.push(s.snapshot(name.clone(), parent, current));
            if let Some((kind, of)) = s.needed.filter(|(kind, _)| kind % 8 < 3) {
                needed.insert(name.clone(), super::need(kind, of));
            }
        }
        Self {
            snapshots,
            policies,
            needed,
            now: raw.now.timestamp(),
            last_plausible: raw.last_plausible.map(When::timestamp),
            earliest: raw.earliest.then_some(EARLIEST),
            vm_max_size: raw.vm_max_size.map(Amount::bytes),
            max_chain: raw.max_chain.map(u32::from),
        }
    }
}

impl RawPolicy {
    fn retention(&self) -> Retention {
        let zone = ZONES[usize::from(self.zone) % ZONES.len()];
        let n = |n: Option<u8>| n.map(u32::from);
        Retention {
            keep: Keep {
                last: n(self.last),
                hourly: n(self.hourly),
                daily: self.daily,
                weekly: n(self.weekly),
                monthly: n(self.monthly),
                yearly: n(self.yearly),
                within: self.within.map(Span::duration),
            },
            combine: if self.extend { Combine::Extend } else { Combine::Union },
            limits: Limits {
                max_count: n(self.max_count),
                max_age: self.max_age.map(Span::duration),
                max_size: self.max_size.map(Amount::bytes),
                max_delete: n(self.max_delete),
            },
            timezone: TimeZone::get(zone).expect("the zone is known"),
        }
    }
}

impl RawSnapshot {
    fn snapshot(&self, name: SnapshotName, parent: Option<SnapshotName>, current: bool) -> Snapshot {
        let rare = self.odd & 0x3f;
        Snapshot {
            name,
            created: self.created.timestamp(),
            parent,
            current,
            state: match rare {
                1..=5 => SnapshotState::ALL[usize::from(rare - 1)],
                _ => SnapshotState::Ready,
            },
            origin: Origin::Schedule,
            managed: rare != 6,
            policies: (0..)
                .zip(policy_names())
                .filter(|(i, _)| self.policies >> i & 1 == 1)
                .map(|(_, p)| p)
                .collect(),
            pinned: rare == 7,
            expires: None,
            content: Content::Disk,
            storage: if self.odd & 0x80 != 0 { Storage::Internal } else { Storage::External },
            size: self.size.bytes(),
        }
    }
}

impl World {
    pub(super) fn with_context<T>(&self, whole: bool, look: impl FnOnce(&Context<'_>) -> T) -> T {
        let rules: Vec<_> =
            self.policies.iter().map(|(policy, retention)| Rules { policy, retention }).collect();
        look(&Context {
            vm_max_size: self.vm_max_size,
            max_chain: self.max_chain,
            last_plausible: self.last_plausible,
            earliest: self.earliest,
            needed: &self.needed,
            whole,
            ..Context::new(self.now, &rules)
        })
    }

    pub(super) fn judge<T>(&self, whole: bool, look: impl FnOnce(&[Verdict<'_>]) -> T) -> T {
        self.with_context(whole, |ctx| look(&judge(&self.snapshots, ctx)))
    }

    pub(super) fn names(&self) -> BTreeSet<SnapshotName> {
        self.snapshots.iter().map(|s| s.name.clone()).collect()
    }

    pub(super) fn get(&self, name: &SnapshotName) -> &Snapshot {
        self.snapshots.iter().find(|s| s.name == *name).expect("the snapshot is there")
    }

    pub(super) fn has_unique_names(&self) -> bool {
        self.names().len() == self.snapshots.len()
    }

    /// The same in another order.
    pub(super) fn turned(&self) -> Self {
        let mut turned = self.clone();
        turned.snapshots.reverse();
        let third = turned.snapshots.len() / 3;
        turned.snapshots.rotate_left(third);
        turned
    }

    /// All that a deletion must be able to rely on: one current one, parents that are there, no circle, one storage.
    pub(super) fn tree_makes_sense(&self) -> bool {
        let parents: BTreeMap<_, _> = self.snapshots.iter().map(|s| (&s.name, s.parent.as_ref())).collect();
        let currents = self.snapshots.iter().filter(|s| s.current).count();
        let internal = self.snapshots.iter().filter(|s| s.storage == Storage::Internal).count();
        self.has_unique_names()
            && (currents == 1 || self.snapshots.is_empty())
            && parents.keys().all(|name| has_root(&parents, name))
            && (internal == 0 || internal == self.snapshots.len())
    }

    /// True if what a chain holds can be told; a bare list of times is such a case.
    pub(super) fn makes_sense(&self) -> bool {
        let bare = self.snapshots.iter().all(|s| s.parent.is_none() && !s.current);
        self.has_unique_names() && (bare || self.tree_makes_sense())
    }

    /// Deletes them; children go to the nearest ancestor that is left, and so does "current".
    pub(super) fn without(&self, gone: &BTreeSet<SnapshotName>) -> Self {
        let parents: BTreeMap<_, _> = self.snapshots.iter().map(|s| (&s.name, &s.parent)).collect();
        let left = |mut name: Option<SnapshotName>| {
            while let Some(n) = name.as_ref().filter(|n| gone.contains(n)) {
                name.clone_from(&parents[n].clone());
            }
            name
        };
        let current = left(self.snapshots.iter().find(|s| s.current).map(|s| s.name.clone()));
        let mut world = self.clone();
        world.snapshots.retain(|s| !gone.contains(&s.name));
        for s in &mut world.snapshots {
            s.parent = left(s.parent.take());
            s.current = Some(&s.name) == current.as_ref();
        }
        world
    }
}

/// True if the way up from a snapshot ends at one without a parent.
fn has_root<'a>(
    parents: &BTreeMap<&'a SnapshotName, Option<&'a SnapshotName>>,
    mut at: &'a SnapshotName,
) -> bool {
    for _ in 0..=parents.len() {
        match parents.get(at) {
            None => return false,
            Some(None) => return true,
            Some(Some(parent)) => at = parent,
        }
    }
    false
}
