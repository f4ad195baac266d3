//! Policies whose newest good snapshot of a VM is too old: told once when that begins, and once when it ends.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Entry, Machine, Note, published::Stale};
use crate::core::{
    awaited::{Awaited, SLACK, newest_good, too_old_at},
    model::{PolicyName, VmId},
    retention::EARLIEST,
};

/// A clock that jumped further is not believed; see [`clock_fault`](crate::core::retention::clock_fault).
const FAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// One policy on one VM.
#[derive(Debug, Clone, Copy)]
struct Watched {
    state: Awaited,
    newest: Option<Timestamp>,
    /// When it gets stale.
    at: Timestamp,
}

/// All that is awaited, by VM.
#[derive(Debug, Default)]
pub(super) struct WatchList {
    by_vm: BTreeMap<VmId, BTreeMap<PolicyName, Watched>>,
    /// Something about these changed.
    unjudged: BTreeSet<VmId>,
}

impl WatchList {
    /// Goes on where an earlier life ended.
    pub(super) fn restored(all: BTreeMap<VmId, BTreeMap<PolicyName, Awaited>>) -> Self {
        let watched = |state| Watched { state, newest: None, at: Timestamp::MAX };
        let of_vm =
            |of: BTreeMap<PolicyName, Awaited>| of.into_iter().map(|(p, a)| (p, watched(a))).collect();
        let unjudged = all.keys().copied().collect();
        Self { by_vm: all.into_iter().map(|(vm, of)| (vm, of_vm(of))).collect(), unjudged }
    }

    /// The policies that are stale on a VM, each with its newest good snapshot's time.
    pub(super) fn stale_on(&self, vm: VmId) -> Vec<(PolicyName, Option<Timestamp>)> {
        let all = self.by_vm.get(&vm).into_iter().flatten();
        all.filter(|(_, w)| w.state.stale).map(|(policy, w)| (policy.clone(), w.newest)).collect()
    }

    /// When the next one gets stale.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let all = self.by_vm.values().flat_map(BTreeMap::values);
        all.filter(|w| !w.state.stale).map(|w| w.at).min().filter(|at| *at < Timestamp::MAX)
    }

    fn due(&self, now: Timestamp) -> impl Iterator<Item = VmId> {
        let is_due = move |w: &Watched| !w.state.stale && w.at <= now;
        self.by_vm.iter().filter(move |(_, of)| of.values().any(is_due)).map(|(vm, _)| *vm)
    }
}

impl Machine {
    /// Looks at what changed and at what gets stale now, as far as all is known and the clock can be believed.
    pub(super) fn judge(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.watch_list.unjudged.extend(&self.stale);
        if self.stale_policies == Stale::Wholly {
            self.watch_list.unjudged.extend(self.vms.keys());
        }
        if !self.complete() || self.stopping() || !self.believes(now) {
            return;
        }
        let mut vms = std::mem::take(&mut self.watch_list.unjudged);
        vms.extend(self.watch_list.due(now));
        for vm in vms {
            self.judge_vm(vm, now, out);
        }
    }

    /// Whether the clock can be right.
    pub(super) fn believes(&self, now: Timestamp) -> bool {
        let believable = self.last_plausible.is_none_or(|last| {
            let ahead = now.duration_since(last);
            // Nor one that goes back by more than that.
            ahead >= -SLACK && ahead <= FAR
        });
        now >= EARLIEST && believable
    }

    fn judge_vm(&mut self, vm: VmId, now: Timestamp, out: &mut Vec<Effect>) {
        let mut before = self.watch_list.by_vm.remove(&vm).unwrap_or_default();
        let mut after = BTreeMap::new();
        let record = self.vms.get(&vm).cloned();
        let plan = record.as_ref().map(|record| self.plan_of(record).policies).unwrap_or_default();
        for policy in plan {
            let (Some(limit), Some(record)) = (policy.stale_after, &record) else { continue };
            if !policy.how.when.contains(&record.state) {
                continue;
            }
            let shown = before.remove(&policy.name);
            let old = shown.map(|w| w.state);
            // Nothing was awaited since a time that has not come yet: the clock was wrong then.
            let since = old.map_or(now, |old| old.since.min(now));
            let newest = newest_good(record, &policy.name, now);
            let at = too_old_at(since, newest, limit);
            let state = Awaited { since, stale: at <= now };
            if old != Some(state) {
                self.journal.push(Entry::Awaited(policy.name.clone(), vm, Some(state)));
            }
            if state.stale && shown.is_some_and(|w| w.newest != newest) {
                // As when it was not known yet, after a start.
                self.stale.insert(vm);
            }
            let was_stale = old.is_some_and(|old| old.stale);
            if state.stale != was_stale {
                self.stale.insert(vm);
                let (policy, vm_name) = (policy.name.clone(), record.name.clone());
                out.push(Effect::Log(if state.stale {
                    Note::Stale { policy, vm, vm_name, newest, stale_after: limit }
                } else {
                    Note::Fresh { policy, vm, vm_name }
                }));
            }
            after.insert(policy.name.clone(), Watched { state, newest, at });
        }
        for (policy, old) in before {
            self.journal.push(Entry::Awaited(policy.clone(), vm, None));
            if let (true, Some(record)) = (old.state.stale, &record) {
                self.stale.insert(vm);
                out.push(Effect::Log(Note::Fresh { policy, vm, vm_name: record.name.clone() }));
            }
        }
        if !after.is_empty() {
            self.watch_list.by_vm.insert(vm, after);
        }
    }
}
