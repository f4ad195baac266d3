//! Properties that hold for every set of snapshots and policies.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::{option, prelude::*};

use super::{
    fixtures::{at, days},
    worlds::{World, plain, retention, rules_only, world},
    *,
};
use crate::core::{
    model::Storage,
    policy::{Combine, Keep},
};

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
    fn the_verdicts_are_a_permutation_of_the_input(world in world(), whole: bool) {
        let mut names = world.judge(whole, |all| all.iter().map(|v| v.name.clone()).collect::<Vec<_>>());
        let mut input: Vec<_> = world.snapshots.iter().map(|s| s.name.clone()).collect();
        names.sort();
        input.sort();
        prop_assert_eq!(names, input);
    }

    #[test]
    fn a_shared_one_goes_only_when_every_policy_lets_go(world in world()) {
        // Rules alone: exactly those stay that one of their policies wants.
        let rules = world.clone().unlimited();
        let mut stay = rules.safe();
        for (name, retention) in &rules.policies {
            let of = rules.snapshots.iter().filter(|s| good(s) && s.policies.contains(name));
            let of: Vec<_> = of.cloned().collect();
            if retention.keep.is_empty() {
                stay.extend(of.iter().map(|s| s.name.clone()));
            } else {
                stay.extend(by_definition(&of, retention));
            }
        }
        let gone = rules.doomed(true);
        let kept: BTreeSet<_> =
            rules.snapshots.iter().map(|s| s.name.clone()).filter(|n| !gone.contains(n)).collect();
        prop_assert_eq!(kept, stay);
        // With limits: what goes says so for each of its policies, unless one above them says it.
        world.judge(true, |verdicts| {
            for (s, v) in world.snapshots.iter().zip(verdicts).filter(|(_, v)| !v.keep) {
                let words = ["vm-max-size", "chain-full", "expired"];
                let above = v.reasons.iter().any(|r| words.contains(&r.rule()));
                let by: BTreeSet<_> = v.reasons.iter().filter_map(Reason::policy).cloned().collect();
                assert!(above || by == s.policies, "{s:?} {v:?}");
            }
        });
    }

    #[test]
    fn what_was_kept_is_kept_again(world in world()) {
        let left = world.without(&world.doomed(true));
        prop_assert_eq!(left.doomed(true), BTreeSet::new());
    }

    #[test]
    fn some_are_never_deleted_and_every_verdict_has_its_reasons(world in world(), whole: bool) {
        let safe = world.safe();
        world.judge(whole, |verdicts| {
            for v in verdicts {
                assert!(v.keep || !safe.contains(v.name), "{v:?}");
                assert!(!v.reasons.is_empty());
                let goes = |r: &Reason<'_>| {
                    let words =
                        ["not-wanted", "max-age", "max-count", "max-size", "vm-max-size", "chain-full", "expired"];
                    words.contains(&r.rule())
                };
                assert!(v.reasons.iter().all(|r| goes(r) != v.keep), "{v:?}");
            }
        });
    }

    #[test]
    fn more_slots_never_delete_more_of_what_several_policies_share(
        world in world(),
        which in any::<prop::sample::Index>(),
        more in 1..5_u32,
    ) {
        let mut world = world.unlimited();
        let Retention { keep, combine, .. } = &mut world.policies[0].1;
        if *combine == Combine::Extend {
            // See below: weeks do not nest in months.
            keep.weekly = None;
        }
        let mut larger = world.clone();
        let Keep { last, hourly, daily, weekly, monthly, yearly, within: _ } = &mut larger.policies[0].1.keep;
        let mut rules: Vec<_> =
            [last, hourly, daily, weekly, monthly, yearly].into_iter().filter_map(Option::as_mut).collect();
        prop_assume!(!rules.is_empty());
        let which = which.index(rules.len());
        *rules[which] += more;
        let (before, after) = (world.doomed(true), larger.doomed(true));
        prop_assert!(after.is_subset(&before), "{before:?} {after:?}");
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
            // What was given its own end is over whatever policies say.
            world.snapshots.iter_mut().for_each(|s| s.expires = None);
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

    #[test]
    fn limits_over_all_policies_hold_as_far_as_they_may(world in world()) {
        let (gone, safe) = (world.doomed(true), world.safe());
        let left: Vec<_> = world.snapshots.iter().filter(|s| !gone.contains(&s.name)).collect();
        // In force for this VM, and ready: others count for no policy.
        let counts = |s: &&&Snapshot| good(s) && world.policies.iter().any(|(p, _)| s.policies.contains(p));
        let free = |s: &Snapshot| !safe.contains(&s.name);
        let bytes: u64 = left.iter().filter(counts).map(|s| s.size).sum();
        if world.vm_max_size.is_some_and(|limit| bytes > limit) {
            prop_assert!(!left.iter().any(|s| free(s)));
        }
        let layers = left.iter().filter(|s| s.storage == Storage::External).count();
        if world.max_chain.is_some_and(|limit| layers + 1 > limit as usize) {
            // A policy that is empty gives nothing away for the chain's sake.
            let none = Limits::default();
            let empty = |s: &Snapshot| {
                let of = |(p, r): &(PolicyName, Retention)| {
                    s.policies.contains(p) && r.keep.is_empty() && none == Limits { max_delete: None, ..r.limits.clone() }
                };
                world.policies.iter().any(of)
            };
            prop_assert!(left.iter().all(|s| s.storage == Storage::Internal || !free(s) || empty(s)));
        }
    }
}
