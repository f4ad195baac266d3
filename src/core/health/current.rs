//! Which snapshot the VM goes on from, and whether libvirt knows it.

use std::collections::BTreeSet;

use super::{Facts, Finding, Health, Repair, SnapshotFacts};
use crate::core::{
    chain::{self, Mismatch, Part, Told},
    layer,
    model::SnapshotName,
};

/// What the snapshots say of a disk if `current` is the current one.
pub(in crate::core) fn told<'a>(facts: &Facts<'a>, current: &SnapshotFacts<'a>, target: &str) -> Told<'a> {
    let mut line = vec![current.name];
    let mut at = Some(current.name);
    while let Some(parent) =
        at.and_then(|n| facts.snapshots.iter().find(|s| s.name == n)).and_then(|s| s.parent)
    {
        line.push(parent);
        at = Some(parent);
    }
    let part = |s: &SnapshotFacts<'a>| {
        let (_, overlay, state_image) = s.disks.iter().find(|(t, ..)| *t == target)?;
        let reverted = s.reverted.iter().find(|(t, _)| *t == target).map(|(_, path)| *path);
        Some(Part { snapshot: s.name, overlay, state_image, reverted })
    };
    let of = |name: &SnapshotName| facts.snapshots.iter().find(|s| s.name == name).and_then(part);
    Told {
        current: part(current).is_some(),
        beside: facts.snapshots.iter().filter(|s| !line.contains(&s.name)).filter_map(part).collect(),
        line: line.into_iter().filter_map(of).collect(),
    }
}

/// Whether the VM runs on what this one and all before it say.
fn fits<'a>(facts: &Facts<'a>, current: &SnapshotFacts<'a>) -> Result<(), Mismatch> {
    facts.disks.iter().try_for_each(|disk| {
        chain::links(disk.target, &disk.chain, &told(facts, current, disk.target)).map(drop)
    })
}

/// libvirt's "current" must be what the VM runs on: libvirt 11 goes by it when it unlinks images.
pub(in crate::core) fn current(facts: &Facts<'_>) -> Option<Finding> {
    let external: Vec<_> = facts.snapshots.iter().filter(|s| !s.internal).collect();
    if external.is_empty() {
        return None;
    }
    let says = match facts.snapshots.iter().find(|s| s.current) {
        None => "No snapshot is the current one, and libvirt crashes when one is reverted to or deleted then"
            .to_owned(),
        Some(current) if current.internal => return None,
        Some(current) => match fits(facts, current) {
            Ok(()) => return None,
            Err(mismatch) => format!("{} is the current snapshot, but {mismatch}", current.name),
        },
    };
    // A snapshot says of a disk that it does not have nothing at all, so it must have one to prove anything.
    let proven = |s: &&&SnapshotFacts<'_>| !s.current && !s.disks.is_empty() && fits(facts, s).is_ok();
    let mut candidates = external.iter().filter(proven);
    let repair = match (candidates.next(), candidates.next()) {
        (Some(only), None) => Some(Repair::MakeCurrent(only.name.clone())),
        _ => None,
    };
    let text = match (&repair, lies_on(facts)) {
        (Some(Repair::MakeCurrent(name)), _) => format!("{says}. The VM goes on from {name}."),
        (_, Some(name)) => format!(
            "{says}. The VM is on layers that belong to no snapshot, and those lie on {name}: after `virsh \
             snapshot-current` of that one `virtsnap adopt --layers` makes a snapshot of each; until then nothing is \
             merged, deleted or reverted."
        ),
        _ if layer::unnamed(facts).is_ok_and(|layers| !layers.is_empty()) => format!(
            "{says}: there are layers that belong to no snapshot. `virtsnap adopt --layers` makes a snapshot of each; \
             until then nothing is merged, deleted or reverted."
        ),
        _ => format!(
            "{says}. Which snapshot the VM goes on from cannot be told: nothing is merged, deleted or reverted until \
             the chain is what the snapshots say."
        ),
    };
    Some(Finding { repair, ..Finding::new(Health::Broken, text) })
}

/// Where no snapshot is the current one: the only one on which the VM's layers can lie that belong to none. It is not made
/// the current one by itself, as libvirt 11 would take the images on top for its.
fn lies_on<'a>(facts: &Facts<'a>) -> Option<&'a SnapshotName> {
    if facts.snapshots.iter().any(|s| s.current) {
        return None;
    }
    let fits = |name: &&SnapshotName| {
        let mut with = facts.clone();
        with.snapshots.iter_mut().for_each(|s| s.current = s.name == *name);
        layer::unnamed(&with).is_ok_and(|layers| !layers.is_empty())
    };
    let mut names = facts.snapshots.iter().map(|s| s.name).filter(fits);
    names.next().filter(|_| names.next().is_none())
}

/// libvirt 11 unlinks images under other snapshots where this is missing.
pub(super) fn forgotten_revert(facts: &Facts<'_>) -> Option<Finding> {
    let current = facts.snapshots.iter().find(|s| s.current && !s.internal)?;
    let has_children = facts.snapshots.iter().any(|s| s.parent == Some(current.name));
    if !facts.keeps_revert_disks || !has_children || fits(facts, current).is_err() {
        return None;
    }
    let active = |(target, overlay, _): &(&str, &str, &str)| {
        let disk = facts.disks.iter().find(|d| d.target == *target)?;
        let on = disk.chain.first()?;
        (on != overlay).then(|| ((*target).to_owned(), (*on).to_owned()))
    };
    let should: Vec<(String, String)> = current.disks.iter().filter_map(active).collect();
    let says: BTreeSet<(&str, &str)> = current.reverted.iter().copied().collect();
    if should.iter().all(|(target, on)| says.contains(&(target.as_str(), on.as_str()))) {
        return None;
    }
    let text = format!(
        "The VM was reverted to {}, which has snapshots after it, and does not say on which images the VM is since: a \
         deletion or a revert by other tools would remove images that those snapshots need.",
        current.name
    );
    let repair = Some(Repair::SetRevertDisks(current.name.clone(), should));
    Some(Finding { repair, ..Finding::new(Health::Broken, text) })
}
