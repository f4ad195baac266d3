//! Settings held against the VMs that there are: what the files alone cannot show.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, Severity},
    pace::Pace,
    rules::wanted,
    selectors::PATTERN,
    settings::{Detail, Settings, VmKey},
};
use crate::core::{
    model::PolicyName,
    policy::{Matcher, Policy},
    select::VmFacts,
};

/// What of `settings` has no effect on `vms`, which must be all of a host's: policies for none, names that
/// none has, exceptions that never hold; and policies that want too much of one VM together.
pub fn check_against(settings: &Settings, vms: &[VmFacts<'_>]) -> Diagnostics {
    let mut out = Diagnostics::default();
    for (name, policy) in &settings.policies {
        let Some(detail) = settings.details.get(name) else { continue };
        if !policy.vms.is_empty() && !vms.iter().any(|vm| settings.selects(name, vm)) {
            let message = format!("policy {name} is for no VM that is there");
            let place = detail.keys.get("vms").map(|given| &given.place);
            out.push(warning(place, policy, &message).help(known(vms)));
            continue;
        }
        for (index, selector) in policy.vms.iter().enumerate() {
            let what = match &selector.matcher {
                Matcher::Name(glob) if !glob.contains(PATTERN) => format!("no VM is named {glob}"),
                Matcher::Uuid(id) => format!("no VM has the UUID {id}"),
                // What leaves VMs out by a tag is often there before the first VM that has it.
                Matcher::Tag(tag) if !selector.exclude => format!("no VM has the tag {tag}"),
                Matcher::Name(_) | Matcher::Tag(_) => continue,
            };
            let help = match &selector.matcher {
                Matcher::Tag(_) => known_tags(vms),
                _ => known(vms),
            };
            if !vms.iter().any(|vm| settings.selector_matches(name, index, vm)) {
                out.push(warning(detail.selector_places.get(index), policy, &what).help(help));
            }
        }
    }
    for (key, entry) in &settings.vms {
        let vm = vms.iter().find(|vm| match key {
            VmKey::Name(name) => vm.name == name,
            VmKey::Uuid(id) => vm.id == *id,
        });
        let Some(vm) = vm else {
            let mut warning =
                Diagnostic::warning(&entry.place, format!("there is no VM {key}")).help(known(vms));
            if let VmKey::Name(name) = key
                && name.contains(PATTERN)
            {
                warning = warning.label("this is a name, not a pattern");
            }
            out.push(warning);
            continue;
        };
        for (policy, (place, _)) in &entry.exceptions {
            if settings.policies.contains_key(policy) && !settings.selects(policy, vm) {
                let message = format!("policy {policy} is not for VM {key}: its exceptions have no effect");
                out.push(Diagnostic::warning(place, message));
            }
        }
    }
    together(settings, vms, &mut out);
    out
}

/// Policies that fit a chain each, but not together: once for each combination, with the first such VM.
fn together(settings: &Settings, vms: &[VmFacts<'_>], out: &mut Diagnostics) {
    let room = settings.daemon.room();
    let most: BTreeMap<&PolicyName, u32> =
        settings.policies.iter().filter_map(|(name, policy)| Some((name, most(policy)?))).collect();
    let mut seen = BTreeMap::new();
    for vm in vms {
        let of: Vec<_> = most.iter().filter(|(name, _)| settings.selects(name, vm)).collect();
        let sum = of.iter().fold(0_u32, |sum, (_, n)| sum.saturating_add(**n));
        if of.len() > 1 && sum > room && of.iter().all(|(_, n)| **n <= room) {
            let names: Vec<_> = of.iter().map(|(name, _)| **name).collect();
            seen.entry(names).or_insert((vm.name, sum));
        }
    }
    for (names, (vm, sum)) in seen {
        let Some(policy) = settings.policies.get(names[0]) else { continue };
        let place = settings.details.get(names[0]).and_then(|detail: &Detail| detail.place.as_ref());
        let list = names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the policies {list} together can keep {sum} snapshots of VM {vm}, but a chain of max-chain = {} \
layers holds {room} beside its base and the next one",
            settings.daemon.max_chain
        );
        out.push(
            warning(place, policy, &message).help("when the chain is full, the finest rule gives way first"),
        );
    }
}

fn most(policy: &Policy) -> Option<u32> {
    let pace = Pace::of(&policy.schedules, &policy.retention.timezone).filter(|_| policy.before.is_empty());
    match (wanted(policy, pace.as_ref()), policy.retention.limits.max_count) {
        (Some(wanted), Some(count)) => Some(wanted.min(count)),
        (wanted, count) => wanted.or(count),
    }
}

fn warning(place: Option<&Place>, policy: &Policy, message: &str) -> Diagnostic {
    match place {
        Some(place) => Diagnostic::warning(place, message),
        None => Diagnostic::of_file(Severity::Warning, &policy.source.file, message),
    }
}

fn known(vms: &[VmFacts<'_>]) -> String {
    listed("VM", &vms.iter().map(|vm| vm.name).collect::<Vec<_>>())
}

fn known_tags(vms: &[VmFacts<'_>]) -> String {
    let tags: BTreeSet<_> = vms.iter().flat_map(|vm| vm.tags).map(String::as_str).collect();
    listed("tag", &tags.into_iter().collect::<Vec<_>>())
}

fn listed(what: &str, names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let first = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => format!("there is no {what} at all"),
        n if n > SHOWN => format!("there are {first}, … ({n} in all)"),
        _ => format!("there are {first}"),
    }
}
