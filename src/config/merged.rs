//! All files put together: two that say the same thing contradict, and what is named must be there.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Environment,
    contradiction::{self, Checked},
    diagnostic::{Diagnostic, Diagnostics, Place},
    fragment::{Fragment, PolicyFragment, VmFragment},
    keys::{Setting, apply_all, defaults},
    pace::Pace,
    settings::{Daemon, Detail, Settings, VmEntry, VmKey},
    similar::closest,
};
use crate::core::{
    model::PolicyName,
    policy::{Policy, VmSettings},
};

/// Puts fragments together.
pub(super) fn merge(fragments: Vec<Fragment>, environment: &Environment, out: &mut Diagnostics) -> Settings {
    let any_broken = fragments.iter().any(|f| f.broken);
    let mut daemon = None;
    let mut policies: BTreeMap<PolicyName, PolicyFragment> = BTreeMap::new();
    let mut vms: BTreeMap<VmKey, VmEntry> = BTreeMap::new();
    for fragment in fragments {
        // Only virtsnapd.toml has one, and there is only one of that.
        daemon = daemon.or(fragment.daemon);
        for policy in fragment.policies {
            match policies.get(&policy.name) {
                Some(first) => out.push(
                    Diagnostic::error(&policy.place, format!("there are two policies named {}", policy.name))
                        .label("here again")
                        .also(&first.place, "first here")
                        .help(
                            "to replace a packaged file, put one of its name into /etc/virtsnap/policies.d",
                        ),
                ),
                None => {
                    policies.insert(policy.name.clone(), policy);
                }
            }
        }
        for vm in fragment.vms {
            add_vm(&mut vms, vm, out);
        }
    }
    let mut settings = Settings::new(daemon.unwrap_or_else(|| Daemon::defaults(environment)), []);
    let mut usable = BTreeMap::new();
    let mut paces = BTreeMap::new();
    for (name, fragment) in policies {
        usable.insert(name.clone(), !fragment.broken);
        let policy = Arc::new(build(&fragment, &settings.daemon));
        if !fragment.broken {
            missing(&fragment, out);
            let pace = Pace::of(&policy.schedules, &policy.retention.timezone);
            let checked = Checked::policy(&policy, &fragment.keys, &fragment.place);
            contradiction::check(&checked, pace.as_ref(), &settings.daemon, out);
            paces.extend(pace.map(|pace| (name.clone(), pace)));
        }
        let selector_places = match fragment.keys.get("vms").map(|given| &given.setting) {
            Some(Setting::Vms(list)) => list.iter().map(|(_, place)| place.clone()).collect(),
            _ => Vec::new(),
        };
        let detail = Detail::new(&policy, fragment.keys, Some(fragment.place), selector_places);
        settings.details.insert(name.clone(), detail);
        settings.policies.insert(name, policy);
    }
    for (key, entry) in &vms {
        check_exceptions(key, entry, &settings, (&usable, &paces), any_broken, out);
    }
    settings.vms = vms;
    settings
}

/// A policy as its file says it.
pub(super) fn build(fragment: &PolicyFragment, daemon: &Daemon) -> Policy {
    let policy = defaults(fragment.name.clone(), daemon.timezone.clone(), fragment.source());
    let mut policy = Arc::new(policy);
    apply_all(&mut policy, fragment.keys.values());
    Arc::unwrap_or_clone(policy)
}

fn missing(fragment: &PolicyFragment, out: &mut Diagnostics) {
    match fragment.keys.get("vms") {
        None => out.push(
            Diagnostic::error(
                &fragment.place,
                format!("policy {} does not say which VMs it is for", fragment.name),
            )
            .label("`vms` is missing")
            .help("vms = [\"*\"] is for all"),
        ),
        Some(given) if matches!(&given.setting, Setting::Vms(list) if list.is_empty()) => {
            out.push(Diagnostic::warning(
                &given.place,
                format!("policy {} is for no VM: `vms` is empty", fragment.name),
            ));
        }
        Some(_) => {}
    }
}

/// Several files may speak of one VM, if each says something else.
fn add_vm(vms: &mut BTreeMap<VmKey, VmEntry>, fragment: VmFragment, out: &mut Diagnostics) {
    let VmFragment { key, place, disks, max_size, exceptions } = fragment;
    let entry = vms.entry(key.clone()).or_insert_with(|| VmEntry {
        settings: VmSettings { source: place.source(), ..VmSettings::default() },
        place,
        disks: None,
        max_size: None,
        exceptions: BTreeMap::new(),
    });
    if let Some((list, place)) = disks
        && first_time(entry.disks.as_ref(), &place, &key, "disks", out)
    {
        entry.settings.disks = Some(list);
        entry.disks = Some(place);
    }
    if let Some((size, place)) = max_size
        && first_time(entry.max_size.as_ref(), &place, &key, "max-size", out)
    {
        entry.settings.max_size = Some(size);
        entry.max_size = Some(place);
    }
    for (policy, place, keys) in exceptions {
        let (_, all) = entry.exceptions.entry(policy.clone()).or_insert_with(|| (place, BTreeMap::new()));
        for (name, given) in keys {
            let earlier = all.get(name).map(|given| &given.key_place);
            if first_time(earlier, &given.key_place, &key, &format!("policy.{policy}.{name}"), out) {
                all.insert(name, given);
            }
        }
    }
}

fn first_time(earlier: Option<&Place>, here: &Place, vm: &VmKey, what: &str, out: &mut Diagnostics) -> bool {
    if let Some(earlier) = earlier {
        out.push(
            Diagnostic::error(here, format!("`{what}` of VM {vm} is set twice"))
                .label("here again")
                .also(earlier, "first here"),
        );
    }
    earlier.is_none()
}

fn check_exceptions(
    vm: &VmKey,
    entry: &VmEntry,
    settings: &Settings,
    (usable, paces): (&BTreeMap<PolicyName, bool>, &BTreeMap<PolicyName, Pace>),
    any_broken: bool,
    out: &mut Diagnostics,
) {
    for (name, (place, keys)) in &entry.exceptions {
        match usable.get(name) {
            Some(true) => {}
            // Its own errors are enough.
            Some(false) => continue,
            // It may stand in the file that could not be read.
            None if any_broken => continue,
            None => {
                let mut error = Diagnostic::error(place, format!("there is no policy {name}"));
                if let Some(near) = closest(name.as_str(), usable.keys().map(PolicyName::as_str)) {
                    error = error.label(format!("did you mean `{near}`?"));
                }
                out.push(error.help(match usable.len() {
                    0 => "no policy is defined".to_owned(),
                    _ => format!("defined are: {}", known(usable.keys())),
                }));
                continue;
            }
        }
        let (Some(policy), Some(detail)) = (settings.policies.get(name), settings.details.get(name)) else {
            continue;
        };
        let mut own = Arc::clone(policy);
        apply_all(&mut own, keys.values());
        let checked = Checked::exception(&own, &detail.keys, keys, place, vm);
        contradiction::check(&checked, paces.get(name), &settings.daemon, out);
    }
}

/// The first of them: with a thousand policies and as many slips, all would be a million names.
fn known<'a>(policies: impl ExactSizeIterator<Item = &'a PolicyName>) -> String {
    const SHOWN: usize = 8;
    let all = policies.len();
    let names: Vec<_> = policies.take(SHOWN).map(PolicyName::as_str).collect();
    match all {
        0..=SHOWN => names.join(", "),
        _ => format!("{}, … ({all} in all)", names.join(", ")),
    }
}
