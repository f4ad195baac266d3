//! What is over by itself: pins whose time comes are taken off, and snapshots whose time comes are pruned.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Entry, Machine, Note};
use crate::core::{
    inventory::VmRecord,
    job::{Asker, Operation, Pace},
    label::Pin,
    model::{Origin, Snapshot, SnapshotName, SnapshotState, VmId},
};

/// A prune that left one that is over is tried again after this long, or when there are others.
const AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// When something is over next, by VM.
#[derive(Debug, Default)]
pub(super) struct Lapsing {
    next: BTreeMap<VmId, Timestamp>,
    /// A prune was queued for these, and when it is the next time.
    tried: BTreeMap<VmId, (BTreeSet<SnapshotName>, Timestamp)>,
    /// Something about these changed.
    unjudged: BTreeSet<VmId>,
}

impl Lapsing {
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next.values().min().copied()
    }
}

impl Machine {
    /// Looks at what changed and at what is over now, as far as the clock can be believed.
    pub(super) fn lapse(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.lapsing.unjudged.extend(&self.stale);
        if !self.complete() || self.stopping() || !self.believes(now) {
            return;
        }
        let mut vms = std::mem::take(&mut self.lapsing.unjudged);
        vms.extend(self.lapsing.next.iter().filter(|(_, at)| **at <= now).map(|(vm, _)| *vm));
        for vm in vms {
            self.take_off_pins(vm, now, out);
            self.prune_what_is_over(vm, now);
        }
    }

    fn take_off_pins(&mut self, vm: VmId, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(record) = self.vms.get(&vm) else { return };
        let mut over = Vec::new();
        for (name, snapshot) in &record.snapshots {
            let mut label = snapshot.label.clone();
            let pins = label.lapse(now);
            if let Some(id) = snapshot.id.filter(|_| !pins.is_empty()) {
                label.revision = label.revision.wrapping_add(1);
                over.push((name.clone(), id, label, pins));
            }
        }
        for (name, id, label, pins) in over {
            self.journal.push(Entry::Label(vm, id, label.clone()));
            self.attach(vm, &name, id, label);
            let pins: Vec<String> = pins.iter().map(Pin::to_string).collect();
            let text = format!("is not pinned any more by {}", pins.join(", "));
            let vm_name = self.name_of(vm);
            out.push(Effect::Log(Note::Labelled { vm, vm_name, name, text, by_uid: None }));
        }
    }

    fn prune_what_is_over(&mut self, vm: VmId, now: Timestamp) {
        let Some(record) = self.vms.get(&vm) else {
            self.lapsing.next.remove(&vm);
            self.lapsing.tried.remove(&vm);
            return;
        };
        let mut next = record.snapshots.values().filter_map(|s| s.label.next(now)).min();
        let over = over(record, now);
        let tried = self.lapsing.tried.remove(&vm);
        if !over.is_empty() {
            let waits = tried.filter(|(before, again)| *again > now && over.is_subset(before));
            let again = waits.map_or_else(
                || {
                    self.prune_by_itself(vm, now);
                    now + AGAIN
                },
                |(_, again)| again,
            );
            next = next.into_iter().chain([again]).min();
            self.lapsing.tried.insert(vm, (over, again));
        }
        match next {
            Some(at) => self.lapsing.next.insert(vm, at),
            None => self.lapsing.next.remove(&vm),
        };
    }

    /// Queues a prune that nobody asked for.
    pub(super) fn prune_by_itself(&mut self, vm: VmId, now: Timestamp) {
        let operation = Operation::Prune { all: false, pace: Pace::default() };
        if !self.jobs.waits_for(vm, &operation) {
            self.jobs.add(vm, operation, Asker { origin: Origin::Schedule, uid: self.own_uid }, now);
        }
    }
}

/// The snapshots that are over, and that nothing in the VM itself holds.
fn over(record: &VmRecord, now: Timestamp) -> BTreeSet<SnapshotName> {
    let all = || record.snapshots.values().map(|s| &s.snapshot);
    let good = || all().filter(|s| s.managed && s.state == SnapshotState::Ready);
    let newest = good().max_by_key(|s| (s.created, &s.name)).map(|s| &s.name);
    let is_over =
        |s: &&Snapshot| s.expires.is_some_and(|at| at <= now) && !s.pinned && Some(&s.name) != newest;
    good().filter(is_over).map(|s| s.name.clone()).collect()
}
