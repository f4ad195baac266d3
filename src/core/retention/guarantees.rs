//! Worked tables of what is promised whatever the rules say.

use super::{fixtures::*, *};
use crate::core::policy::{Combine, Keep};

fn last(n: u32) -> Retention {
    retention(Keep { last: Some(n), ..Keep::default() }, Combine::Union, "UTC")
}

#[test]
fn a_shared_one_stays_until_every_policy_lets_go() {
    let mut s = daily("2026-11-10", "2026-11-14", "12:00", "UTC");
    for s in &mut s {
        s.policies.extend([policy("q")]);
    }
    let (p, q) = (policy("p"), policy("q"));
    let (two, three) = (last(2), last(3));
    let policies = [Rules { policy: &p, retention: &two }, Rules { policy: &q, retention: &three }];
    let text = |ctx: &Context<'_>| judge(&s, ctx).iter().map(Verdict::text).collect::<Vec<_>>();
    let ctx = Context::new(at("2026-11-20T12:00"), &policies);
    let both = text(&ctx);
    assert_eq!(both[1], "Goes: no keep rule of policy p wants it; no keep rule of policy q wants it.");
    assert_eq!(both[2], "Stays: keep-last of policy q keeps it, number 3 from the newest.");
    assert_eq!(
        both[3],
        "Stays: keep-last of policy p keeps it, number 2 from the newest; keep-last of policy q keeps it, number 2 \
         from the newest."
    );
    // A policy that is no longer in force lets nothing go.
    let one = text(&Context { policies: &policies[..1], ..ctx });
    assert_eq!(one[1], "Stays: its policy q is no longer in force.");
}

#[test]
fn each_policys_newest_good_one_stays_and_the_vms() {
    let mut s = daily("2026-11-10", "2026-11-15", "12:00", "UTC");
    // The newest of all is no restore point, the next one is nobody's that counts, p's and q's come after.
    s[5].state = SnapshotState::Failed;
    s[4].policies = [policy("gone")].into();
    s[2].policies = [policy("q")].into();
    let (p, q) = (policy("p"), policy("q"));
    let none = last(0);
    let policies = [Rules { policy: &p, retention: &none }, Rules { policy: &q, retention: &none }];
    let ctx = Context {
        vm_max_size: Some(0),
        max_chain: Some(1),
        ..Context::new(at("2026-11-20T12:00"), &policies)
    };
    let verdicts = judge(&s, &ctx);
    let lines: Vec<_> = verdicts.iter().map(Verdict::text).collect();
    assert_eq!(lines[0], "Goes: no keep rule of policy p wants it.");
    assert_eq!(lines[1], "Goes: no keep rule of policy p wants it.");
    assert_eq!(lines[2], "Stays: it is the newest good one.");
    assert_eq!(lines[3], "Stays: it is the newest good one.");
    assert_eq!(lines[4], "Stays: its policy gone is no longer in force; it is the newest good one.");
    assert_eq!(lines[5], "Stays: it is failed, so no policy judges it.");
}

#[test]
fn a_size_counts_for_each_policy_by_itself_and_for_the_vm_over_all() {
    let mut s = daily("2026-11-10", "2026-11-15", "12:00", "UTC");
    s.iter_mut().step_by(2).for_each(|s| s.policies = [policy("q")].into());
    let (p, q) = (policy("p"), policy("q"));
    let (mut small, large) = (last(9), last(9));
    small.limits.max_size = Some(25);
    let policies = [Rules { policy: &p, retention: &small }, Rules { policy: &q, retention: &large }];
    let ctx = Context::new(at("2026-11-20T12:00"), &policies);
    let cut = |ctx: &Context<'_>| judge(&s, ctx).iter().filter(|v| !v.keep).map(line).collect::<Vec<_>>();
    // Each has 30 bytes.
    assert_eq!(cut(&ctx), ["2026-11-11 max-size"]);
    assert_eq!(
        cut(&Context { vm_max_size: Some(40), ..ctx }),
        ["2026-11-10 vm-max-size", "2026-11-11 max-size"]
    );
}

#[test]
fn max_delete_of_one_policy_stops_what_it_shares() {
    let mut s = daily("2026-11-10", "2026-11-14", "12:00", "UTC");
    s[0].policies.extend([policy("q")]);
    s[1].policies.extend([policy("q")]);
    let (p, q) = (policy("p"), policy("q"));
    let (mut one, none) = (last(1), last(0));
    one.limits.max_delete = Some(3);
    let mut few = none;
    few.limits.max_delete = Some(0);
    let policies = [Rules { policy: &p, retention: &one }, Rules { policy: &q, retention: &few }];
    let verdicts = judge(&s, &Context::new(at("2026-11-20T12:00"), &policies));
    let lines: Vec<_> = verdicts.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "2026-11-10 max-delete",
            // q's newest, which nothing deletes.
            "2026-11-11",
            "2026-11-12 not-wanted",
            "2026-11-13 not-wanted",
            "2026-11-14 keep-last=1",
        ]
    );
}
