//! Properties that hold for every set of snapshots and policies.

use std::collections::{BTreeMap, BTreeSet, HashSet};

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
struct World {
    snapshots: Vec<Snapshot>,
    policies: Vec<(PolicyName, Retention)>,
    needed: BTreeMap<SnapshotName, Need>,
    vm_max_size: Option<u64>,
    max_chain: Option<u32>,
    now: Timestamp,
}

impl World {
    /// Judges with no `max-delete`, unless `whole` is false.
    fn judge<T>(&self, whole: bool, look: impl FnOnce(&[Verdict<'_>]) -> T) -> T {
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

    fn doomed(&self, whole: bool) -> BTreeSet<SnapshotName> {
        self.judge(whole, |verdicts| {
            let goes = verdicts.iter().zip(doomed(verdicts)).filter(|(_, goes)| *goes);
            goes.map(|(v, _)| v.name.clone()).collect()
        })
    }

    /// Deletes them; children go to the nearest ancestor that is left, and so does "current".
    fn without(&self, gone: &BTreeSet<SnapshotName>) -> Self {
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

fn retention() -> impl Strategy<Value = Retention> {
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

/// One snapshot. `odd`: also pinned, foreign, failed ones and those of several policies.
fn snapshot(odd: bool) -> impl Strategy<Value = Snapshot> {
    let names = || ["p", "q", "gone"].map(policy);
    (time(), 0..100_u32, 0..100_u32, 0..100_u32, 0..100_u32, 0_u64..60).prop_map(
        move |(created, a, b, c, d, size)| {
            let mut s = snap("2026-01-01T00:00");
            (s.created, s.size) = (created, size);
            if odd {
                s.pinned = a >= 92;
                s.managed = b < 92;
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

fn world() -> impl Strategy<Value = World> {
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
fn plain(retention: impl Strategy<Value = Retention>) -> impl Strategy<Value = World> {
    (snapshots(false), retention).prop_map(|(snapshots, p)| World {
        snapshots,
        policies: vec![(policy("p"), p)],
        needed: BTreeMap::new(),
        vm_max_size: None,
        max_chain: None,
        now: at("2027-08-01T00:00"),
    })
}

fn rules_only() -> impl Strategy<Value = Retention> {
    retention().prop_map(|r| Retention { limits: Limits::default(), ..r })
}

/// The definition, word for word, slow, with jiff's own calendar: the names that the rules want.
fn by_definition(snapshots: &[Snapshot], r: &Retention) -> BTreeSet<SnapshotName> {
    let mut newest_first: Vec<&Snapshot> = snapshots.iter().collect();
    newest_first.sort_by(|a, b| (b.created, &b.name).cmp(&(a.created, &a.name)));
    let label = |s: &Snapshot, format: &str| match format {
        "" => s.name.to_string(),
        format => s.created.to_zoned(r.timezone.clone()).strftime(format).to_string(),
    };
    let mut kept = BTreeSet::new();
    if let Some(within) = r.keep.within {
        let wanted =
            newest_first.iter().filter(|s| newest_first[0].created.duration_since(s.created) < within);
        kept.extend(wanted.map(|s| s.name.clone()));
    }
    let k = &r.keep;
    let rules = [
        (k.last, ""),
        (k.hourly, "%Y %m %d %H"),
        (k.daily, "%Y %m %d"),
        (k.weekly, "%G %V"),
        (k.monthly, "%Y %m"),
        (k.yearly, "%Y"),
    ];
    for (n, format) in rules {
        let mut done: HashSet<String> = match r.combine {
            Combine::Union => HashSet::new(),
            Combine::Extend => {
                newest_first.iter().filter(|s| kept.contains(&s.name)).map(|s| label(s, format)).collect()
            }
        };
        for _ in 0..n.unwrap_or(0) {
            let Some(s) = newest_first.iter().find(|s| !done.contains(&label(s, format))) else { break };
            done.insert(label(s, format));
            kept.insert(s.name.clone());
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_do_what_their_definition_says(world in plain(rules_only())) {
        let retention = &world.policies[0].1;
        prop_assume!(!retention.keep.is_empty());
        let mut wanted = by_definition(&world.snapshots, retention);
        let newest = world.snapshots.iter().max_by_key(|s| (s.created, &s.name));
        wanted.extend(newest.map(|s| s.name.clone()));
        let gone = world.doomed(true);
        let kept: BTreeSet<_> =
            world.snapshots.iter().map(|s| s.name.clone()).filter(|n| !gone.contains(n)).collect();
        prop_assert_eq!(kept, wanted);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (world, shuffled) in world().prop_flat_map(|w| {
            (Just(w.clone()), Just(w.snapshots).prop_shuffle())
        }),
        whole: bool,
    ) {
        let other = World { snapshots: shuffled, ..world.clone() };
        let texts = |w: &World| w.judge(whole, |verdicts| {
            assert!(verdicts.iter().map(|v| v.name).eq(w.snapshots.iter().map(|s| &s.name)));
            verdicts.iter().map(|v| (v.name.clone(), v.text())).collect::<BTreeMap<_, _>>()
        });
        prop_assert_eq!(texts(&world), texts(&other));
    }

    #[test]
    fn what_was_kept_is_kept_again(world in world()) {
        let left = world.without(&world.doomed(true));
        prop_assert_eq!(left.doomed(true), BTreeSet::new());
    }

    #[test]
    fn some_are_never_deleted_and_every_verdict_has_its_reasons(world in world(), whole: bool) {
        let newest = |policy: Option<&PolicyName>| {
            let of = |s: &&Snapshot| policy.is_none_or(|p| s.policies.contains(p));
            world.snapshots.iter().filter(|s| good(s)).filter(of).max_by_key(|s| (s.created, &s.name))
        };
        let newest = [newest(None), newest(Some(&policy("p"))), newest(Some(&policy("q")))];
        world.judge(whole, |verdicts| {
            for (s, v) in world.snapshots.iter().zip(verdicts) {
                let safe = s.pinned
                    || !s.managed
                    || s.state != SnapshotState::Ready
                    || s.policies.is_empty()
                    || s.policies.contains(&policy("gone"))
                    || world.needed.contains_key(&s.name)
                    || newest.contains(&Some(s));
                assert!(v.keep || !safe, "{s:?} {v:?}");
                assert!(!v.reasons.is_empty());
                let goes = |r: &Reason<'_>| {
                    ["not-wanted", "max-age", "max-count", "max-size", "vm-max-size", "chain-full"]
                        .contains(&r.rule())
                };
                assert!(v.reasons.iter().all(|r| goes(r) != v.keep), "{v:?}");
            }
        });
    }

    #[test]
    fn more_slots_never_delete_more(
        world in plain(rules_only()),
        which in any::<prop::sample::Index>(),
        more in 1..5_u32,
    ) {
        let mut larger = world.clone();
        let Keep { last, hourly, daily, weekly, monthly, yearly, within } = &mut larger.policies[0].1.keep;
        // A rule that was not there at all is another matter: the first rule of a policy deletes.
        let mut rules: Vec<_> =
            [last, hourly, daily, weekly, monthly, yearly].into_iter().filter_map(Option::as_mut).collect();
        match (which.index(rules.len() + 1).checked_sub(1), within) {
            (Some(i), _) => *rules[i] += more,
            (None, Some(within)) => *within += days(i64::from(more)),
            (None, None) => {}
        }
        let (before, after) = (world.doomed(true), larger.doomed(true));
        // Weeks do not nest in months: under `extend` one more week can take the place of a month's last day.
        let Retention { keep, combine, .. } = &world.policies[0].1;
        let nested = keep.weekly.is_none() || *combine == Combine::Union;
        prop_assert!(after.len() <= before.len(), "{before:?} {after:?}");
        prop_assert!(!nested || after.is_subset(&before), "{before:?} {after:?}");
    }

    #[test]
    fn max_delete_caps_each_policy(world in world()) {
        let (some, all) = (world.doomed(false), world.doomed(true));
        prop_assert!(some.is_subset(&all));
        for (name, retention) in &world.policies {
            let limit = retention.limits.max_delete.map_or(usize::MAX, |n| n as usize);
            let of = world.snapshots.iter().filter(|s| s.policies.contains(name) && some.contains(&s.name));
            prop_assert!(of.count() <= limit);
        }
    }

    #[test]
    fn an_empty_policy_and_a_wrong_clock_delete_nothing(
        mut world in world(),
        empty: bool,
        delete in option::of(0..9_u32),
    ) {
        if empty {
            for (_, retention) in &mut world.policies {
                retention.keep = Keep::default();
                retention.limits = Limits { max_delete: delete, ..Limits::default() };
            }
            world.vm_max_size = None;
        } else {
            world.now = at("2025-11-01T00:00");
            prop_assume!(world.snapshots.iter().any(|s| s.managed));
        }
        prop_assert_eq!(world.doomed(true), BTreeSet::new());
    }

    #[test]
    fn limits_hold_as_far_as_they_may(world in plain(retention())) {
        let limits = &world.policies[0].1.limits;
        let left = world.without(&world.doomed(true)).snapshots;
        // The newest good one stays whatever the limits say.
        let newest = left.iter().map(|s| s.size).max().unwrap_or(0);
        let bytes: u64 = left.iter().map(|s| s.size).sum();
        prop_assert!(limits.max_count.is_none_or(|n| left.len() <= (n as usize).max(1)));
        prop_assert!(limits.max_size.is_none_or(|n| bytes <= n.max(newest)));
    }
}
