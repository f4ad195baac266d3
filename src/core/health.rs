//! What is wrong with a VM's disks and snapshots, told before anything is done on top of it.
//!
//! Each of these states was produced on running guests: some make libvirt crash or unlink images that are in use at
//! the next deletion or revert, some cost the VM its next start. What can be proven to be safe has a [`Repair`], which
//! changes metadata alone; the rest is told to people.

mod current;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::model::{SnapshotName, words};

pub(super) use current::{current, told};

/// libvirt reads back no metadata that is longer, at its next start: 1 MiB, from 9.0 to 11 at least.
const READ_BACK: usize = 1 << 20;
/// What comes near it is told.
pub(super) const NEAR: usize = READ_BACK / 8 * 7;

words! {
    /// How a VM's disks and snapshots are.
    Health {
        /// As they should be.
        Ok = "ok",
        /// Something wants attention; nothing is lost, and what is refused says why.
        Degraded = "degraded",
        /// A snapshot, or the VM's next start, is lost or in danger.
        Broken = "broken",
    }
}

/// A disk as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts<'a> {
    /// Its target.
    pub target: &'a str,
    /// Its images, from the one that is written to down to the base.
    pub chain: Vec<&'a str>,
    /// The image that the definition names.
    pub configured: Option<&'a str>,
    /// The images that the definition writes out with some below, if it does.
    pub written_out: Option<Written<'a>>,
    /// The last of its images, if that is not there and the VM is off.
    pub lost: Option<&'a str>,
}

/// A disk's images as a definition has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<'a> {
    /// From the one that is written to down.
    pub images: Vec<&'a str>,
    /// The last one is said to lie on nothing. Else the image itself says what it lies on.
    pub ends: bool,
}

/// A snapshot as its metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFacts<'a> {
    /// Its name.
    pub name: &'a SnapshotName,
    /// Its parent.
    pub parent: Option<&'a SnapshotName>,
    /// libvirt calls it the current one.
    pub current: bool,
    /// It is inside its disks' images.
    pub internal: bool,
    /// libvirt began to delete it or its child, and did not end.
    pub marked: bool,
    /// Its external disks: target, overlay, state image.
    pub disks: Vec<(&'a str, &'a str, &'a str)>,
    /// What a revert to it put the disks on, if it says so: target and overlay.
    pub reverted: Vec<(&'a str, &'a str)>,
    /// Its state images that are not there.
    pub lost: Vec<&'a str>,
    /// Its memory file, if that is not there.
    pub memory_lost: Option<&'a str>,
    /// How long its metadata is, in bytes.
    pub xml_bytes: usize,
}

/// All that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The VM's writable disks.
    pub disks: Vec<DiskFacts<'a>>,
    /// Its snapshots.
    pub snapshots: Vec<SnapshotFacts<'a>>,
    /// This libvirt loses data where a snapshot with children that was reverted to does not say what the VM is on.
    pub keeps_revert_disks: bool,
    /// So many images under one disk libvirt can start.
    pub layer_limit: usize,
    /// Something of ours was begun and did not end, and will be ended: until then images and metadata may differ.
    pub unfinished: bool,
}

/// A change of metadata that is proven to be right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Make this snapshot the current one: the only one that the disks' images fit.
    MakeCurrent(SnapshotName),
    /// Let this snapshot say what the VM was put on when it was reverted to: target and overlay.
    SetRevertDisks(SnapshotName, Vec<(String, String)>),
    /// End the QEMU that libvirt's own deletion left, if it is certain that it is that.
    EndLeftOver,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub health: Health,
    /// What it is, and what to do, as sentences.
    pub text: String,
    /// What puts it right, if that is proven.
    pub repair: Option<Repair>,
}

impl Finding {
    fn new(health: Health, text: String) -> Self {
        Self { health, text, repair: None }
    }
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Health {
    let is = |health| findings.iter().any(|f| f.health == health);
    if is(Health::Broken) {
        Health::Broken
    } else if is(Health::Degraded) {
        Health::Degraded
    } else {
        Health::Ok
    }
}

/// All of them in one text; empty if there are none.
pub fn reason(findings: &[Finding]) -> String {
    findings.iter().map(|f| f.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// What puts right what can be, in a fixed order.
pub fn repairs(findings: &[Finding]) -> Vec<Repair> {
    let mut all: Vec<Repair> = findings.iter().filter_map(|f| f.repair.clone()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// All that is wrong, in the order in which a person should look at it.
pub fn examine(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(facts.disks.iter().filter_map(misconfigured));
    found.extend(facts.disks.iter().filter(|_| !facts.unfinished).filter_map(stale));
    found.extend(facts.disks.iter().filter_map(|disk| too_deep(disk, facts.layer_limit)));
    found.extend(facts.disks.iter().filter_map(cannot_start));
    found.extend(facts.snapshots.iter().filter_map(lost));
    found.extend(facts.snapshots.iter().filter_map(lost_memory));
    match lineage(facts) {
        Ok(()) if facts.unfinished => {}
        Ok(()) => {
            found.extend(current(facts));
            found.extend(current::forgotten_revert(facts));
        }
        Err(text) => found.push(Finding::new(Health::Broken, text)),
    }
    found.extend(mixed(facts));
    found.extend(facts.snapshots.iter().filter(|s| s.marked).map(|s| {
        let text = format!(
            "A deletion of {} or of its child was begun and did not end; what it was to delete is no longer what it \
             was. `virtsnap delete` of that one ends it, also where `virsh snapshot-delete` fails, or crashes the VM \
             because AppArmor confines it.",
            s.name
        );
        Finding::new(Health::Degraded, text)
    }));
    found.extend(facts.snapshots.iter().filter_map(long));
    found.sort_by_key(|f| f.health != Health::Broken);
    found
}

/// QEMU has done its part of something, and libvirt, which ended there, does not know.
pub fn adrift(snapshot: &SnapshotName) -> Finding {
    let text = format!(
        "The VM's QEMU writes to images that libvirt does not know of, since libvirtd ended in the middle of work on \
         snapshot {snapshot}. Its definition names them, so nothing is lost: shut the VM down and start it again. Until \
         then nothing can be done to its snapshots, by nobody (a reboot from inside is not enough; do not migrate it)."
    );
    Finding::new(Health::Broken, text)
}

/// The same, and libvirt takes the VM for off.
pub fn lost_sight(snapshot: &SnapshotName) -> Finding {
    let text = format!(
        "libvirtd ended just when the VM's QEMU was to leave the image of snapshot {snapshot}, and now calls the VM shut \
         off, though its QEMU may run on (`pgrep -af qemu`). The image below was written to later than the one that the VM \
         would start on. Do not start it before that is looked at: the next job that is asked for says which images they \
         are, and what to do."
    );
    Finding::new(Health::Broken, text)
}

/// The VM would start on something else than it runs on.
fn misconfigured(disk: &DiskFacts<'_>) -> Option<Finding> {
    let (runs_on, named) = (disk.chain.first()?, disk.configured?);
    let text = format!(
        "Disk {} runs on {runs_on}, but the VM's definition names {named}: its next start would be without what was \
         written since. Before it is stopped, let the definition name what it runs on (`virsh edit`).",
        disk.target
    );
    (*runs_on != named).then(|| Finding::new(Health::Broken, text))
}

/// QEMU would be told to open images that are no part of the disk any more, or not all that are.
fn stale(disk: &DiskFacts<'_>) -> Option<Finding> {
    let is_right = |written: &&Written<'_>| {
        if written.ends { written.images == disk.chain } else { disk.chain.starts_with(&written.images) }
    };
    let named = &disk.written_out.as_ref().filter(|written| !is_right(written))?.images;
    let text = format!(
        "Disk {} runs on {}, but the VM's definition writes out {}: its next start fails, or is on old data. Before that, \
         take the disk's <backingStore> out of the definition (`virsh edit`).",
        disk.target,
        disk.chain.join(" → "),
        named.join(" → ")
    );
    let of_it = disk.lost.is_none() && named.first() == disk.chain.first();
    of_it.then(|| Finding::new(Health::Broken, text))
}

/// Nor can anything be merged that such an image may lie on.
fn cannot_start(disk: &DiskFacts<'_>) -> Option<Finding> {
    let lost = disk.lost?;
    let text = format!(
        "Disk {} lies on {lost}, which is not there: the VM cannot start. As nobody can tell what that lay on, images of \
         other VMs may have to stay unmerged. Put it back; or, if it is gone for good, take the disk out of the VM's \
         definition (`virsh detach-disk --config`), or undefine the VM.",
        disk.target
    );
    Some(Finding::new(Health::Broken, text))
}

fn too_deep(disk: &DiskFacts<'_>, limit: usize) -> Option<Finding> {
    let text = format!(
        "Disk {} has {} images, and this libvirt cannot work with more than {limit}: it can neither merge them nor \
         start the VM again, and its own restart may kill it. Shut it down from inside, and shorten the chain with \
         `qemu-img commit` or `qemu-img rebase`.",
        disk.target,
        disk.chain.len()
    );
    (disk.chain.len() > limit).then(|| Finding::new(Health::Broken, text))
}

pub(super) fn lost(snapshot: &SnapshotFacts<'_>) -> Option<Finding> {
    let text = format!(
        "Snapshot {} is lost: {} is not there. If it lies somewhere else, put it back; else \
         `virtsnap delete --metadata-only` forgets the snapshot.",
        snapshot.name,
        snapshot.lost.join(", ")
    );
    (!snapshot.lost.is_empty()).then(|| Finding::new(Health::Broken, text))
}

/// Its disks are all there.
fn lost_memory(snapshot: &SnapshotFacts<'_>) -> Option<Finding> {
    let memory = snapshot.memory_lost.filter(|_| snapshot.lost.is_empty())?;
    let text = format!(
        "The memory of snapshot {} is lost: {memory} is not there. If it lies somewhere else, put it back; else only its \
         disks can be reverted to (`virtsnap revert --off`).",
        snapshot.name
    );
    Some(Finding::new(Health::Degraded, text))
}

/// Every parent is there, and none is its own ancestor.
pub(super) fn lineage(facts: &Facts<'_>) -> Result<(), String> {
    let parents: BTreeMap<_, _> = facts.snapshots.iter().map(|s| (s.name, s.parent)).collect();
    for snapshot in &facts.snapshots {
        let (mut at, mut steps) = (snapshot, 0);
        while let Some(parent) = at.parent {
            let next = facts.snapshots.iter().find(|s| s.name == parent);
            at = next.ok_or_else(|| {
                format!("{}'s parent {parent} is not there: the snapshots are no tree any more.", at.name)
            })?;
            steps += 1;
            if steps > parents.len() {
                return Err(format!("The parents of {} form a ring.", snapshot.name));
            }
        }
    }
    Ok(())
}

pub(super) fn mixed(facts: &Facts<'_>) -> Option<Finding> {
    let internal = facts.snapshots.iter().find(|s| s.internal)?;
    let external = facts.snapshots.iter().find(|s| !s.internal)?;
    let text = format!(
        "Internal and external snapshots are mixed ({} and {}): libvirt loses data when one of them is deleted. \
         Neither is taken or merged until one kind is gone.",
        internal.name, external.name
    );
    Some(Finding::new(Health::Degraded, text))
}

fn long(snapshot: &SnapshotFacts<'_>) -> Option<Finding> {
    let health = if snapshot.xml_bytes >= READ_BACK { Health::Broken } else { Health::Degraded };
    let text = format!(
        "The metadata of {} is {} KiB long, and libvirt forgets at its next start what has 1 MiB or more: shorten the \
         descriptions, or delete it.",
        snapshot.name,
        snapshot.xml_bytes / 1024
    );
    (snapshot.xml_bytes >= NEAR).then(|| Finding::new(health, text))
}
