//! Random VMs, snapshots and policies for the properties.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use proptest::{option, prelude::*, sample::select};

use super::{
    fixtures::{at, days, policy, snap},
    *,
};
use crate::core::{
    model::Storage,
    policy::{Combine, Keep},
};

/// A VM's snapshots and all that `judge` looks at.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) policies: Vec<(PolicyName, Retention)>,
    pub(super) needed: BTreeMap<SnapshotName, Need>,
    pub(super) vm_max_size: Option<u64>,
    pub(super) max_chain: Option<u32>,
    pub(super) now: Timestamp,
}

impl World {
    /// Judges with no `max-delete`, unless `whole` is false.
    pub(super) fn judge<T>(&self, whole: bool, look: impl FnOnce(&[Verdict<'_>]) -> T) -> T {
        let rules: Vec<_> =
            self.policies.iter().map(|(policy, retention)| Rules { policy, retention }).collect();
        let ctx = Context {
            vm_max_size: self.vm_max_size,
            max_chain: self.max_chain,
            needed: &self.needed,
            whole,
            ..Context::new(self.now, &rules)
        };
        look(&judge(&self.snapshots, &ctx))
    }

    pub(super) fn doomed(&self, whole: bool) -> BTreeSet<SnapshotName> {
        self.judge(whole, |verdicts| {
            let goes = verdicts.iter().zip(doomed(verdicts)).filter(|(_, goes)| *goes);
            goes.map(|(v, _)| v.name.clone()).collect()
        })
    }

    /// Those that nothing may delete: held by something other than a policy, or the newest good one.
    pub(super) fn safe(&self) -> BTreeSet<SnapshotName> {
        let newest = |policy: Option<&PolicyName>| {
            let of = |s: &&Snapshot| policy.is_none_or(|p| s.policies.contains(p));
            self.snapshots.iter().filter(|s| good(s)).filter(of).max_by_key(|s| (s.created, &s.name))
        };
        let newest: Vec<_> =
            self.policies.iter().map(|(p, _)| newest(Some(p))).chain([newest(None)]).collect();
        let held = |s: &Snapshot| {
            s.pinned
                || !s.managed
                || s.state != SnapshotState::Ready
                || !is_over(s, self.now) && (s.policies.is_empty() || s.policies.contains(&policy("gone")))
                || self.needed.contains_key(&s.name)
        };
        let safe = self.snapshots.iter().filter(|s| held(s) || newest.contains(&Some(s)));
        safe.map(|s| s.name.clone()).collect()
    }

    /// Without any limit.
    pub(super) fn unlimited(mut self) -> Self {
        (self.vm_max_size, self.max_chain) = (None, None);
        self.snapshots.iter_mut().for_each(|s| s.expires = None);
        self.policies.iter_mut().for_each(|(_, retention)| retention.limits = Limits::default());
        self
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

fn keep() -> impl Strategy<Value = Keep> {
    let n = || option::weighted(0.4, 0_u32..6);
    let within = option::weighted(0.2, (0_i64..40).prop_map(days));
    (n(), n(), n(), n(), n(), n(), within).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
        },
    )
}

fn combine() -> impl Strategy<Value = Combine> {
    select(Combine::ALL)
}

fn zone() -> impl Strategy<Value = TimeZone> {
    let names = ["UTC", "Europe/Vienna", "America/St_Johns", "Australia/Lord_Howe", "Antarctica/Troll"];
    select(names.to_vec()).prop_map(|name| TimeZone::get(name).unwrap())
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        option::weighted(0.3, 0_u32..12),
        option::weighted(0.2, (0_i64..500).prop_map(days)),
        option::weighted(0.3, 0_u64..500),
        option::weighted(0.3, 0_u32..6),
    )
        .prop_map(|(max_count, max_age, max_size, max_delete)| Limits {
            max_count,
            max_age,
            max_size,
            max_delete,
        })
}

pub(super) fn retention() -> impl Strategy<Value = Retention> {
    (keep(), combine(), limits(), zone()).prop_map(|(keep, combine, limits, timezone)| Retention {
        keep,
        combine,
        limits,
        timezone,
    })
}

/// Times that share hours, days, weeks and months often, some equal, around a change of the clocks.
fn time() -> impl Strategy<Value = Timestamp> {
    let base = at("2025-11-02T05:00");
    prop_oneof![0_i64..300, 0_i64..3_000, 0_i64..60_000, 0_i64..900_000]
        .prop_map(move |minutes| base + (minutes / 10 * 10).minutes())
}

/// One snapshot. `odd`: also pinned, foreign, failed, expired ones and those of several policies.
fn snapshot(odd: bool) -> impl Strategy<Value = Snapshot> {
    let names = || ["p", "q", "gone"].map(policy);
    (time(), 0..100_u32, 0..100_u32, 0..100_u32, 0..100_u32, 0_u64..60).prop_map(
        move |(created, a, b, c, d, size)| {
            let mut s = snap("2026-01-01T00:00");
            (s.created, s.size) = (created, size);
            if odd {
                s.pinned = a >= 92;
                s.managed = b < 92;
                s.expires =
                    ["2027-07-01T00:00", "2027-09-01T00:00"].get(b as usize % 16).map(|time| at(time));
                if c >= 90 {
                    s.state = *SnapshotState::ALL.iter().cycle().nth(c as usize).unwrap();
                }
                let some = [0b01, 0b01, 0b01, 0b10, 0b10, 0b11, 0b11, 0b11, 0b101, 0b00][d as usize / 10];
                s.policies = (0..3).filter(|i| some >> i & 1 == 1).map(|i| names()[i].clone()).collect();
                if size % 16 == 15 {
                    s.storage = Storage::Internal;
                }
            }
            s
        },
    )
}

fn snapshots(odd: bool) -> impl Strategy<Value = Vec<Snapshot>> {
    prop::collection::vec(snapshot(odd), 0..40).prop_map(|mut all| {
        // A chain in the order of time, named out of it.
        all.sort_by_key(|s| s.created);
        let count = all.len();
        let mut parent = None;
        for (i, s) in all.iter_mut().enumerate() {
            s.name = SnapshotName::existing(format!("s{:02}", i * 17 % count.next_power_of_two()));
            s.parent = parent.replace(s.name.clone());
            s.current = i + 1 == count;
        }
        all
    })
}

pub(super) fn world() -> impl Strategy<Value = World> {
    (
        snapshots(true),
        retention(),
        retention(),
        prop::collection::btree_set(0_usize..40, 0..3),
        option::weighted(0.2, 0_u64..1_500),
        option::weighted(0.2, 1_u32..20),
    )
        .prop_map(|(snapshots, p, q, needed, vm_max_size, max_chain)| World {
            needed: needed
                .into_iter()
                .filter_map(|i| snapshots.get(i))
                .map(|s| (s.name.clone(), Need::OtherVm("other".to_owned())))
                .collect(),
            snapshots,
            policies: vec![(policy("p"), p), (policy("q"), q)],
            vm_max_size,
            max_chain,
            now: at("2027-08-01T00:00"),
        })
}

/// One policy, nothing odd: for what holds of the rules alone.
pub(super) fn plain(retention: impl Strategy<Value = Retention>) -> impl Strategy<Value = World> {
    (snapshots(false), retention).prop_map(|(snapshots, p)| World {
        snapshots,
        policies: vec![(policy("p"), p)],
        needed: BTreeMap::new(),
        vm_max_size: None,
        max_chain: None,
        now: at("2027-08-01T00:00"),
    })
}

pub(super) fn rules_only() -> impl Strategy<Value = Retention> {
    retention().prop_map(|r| Retention { limits: Limits::default(), ..r })
}
