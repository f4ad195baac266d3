//! The daemon's mind: events in, effects out. No I/O, no clock: each event brings the time with it.
//!
//! ```text
//!            Event (with `now`)                            Effect
//!   libvirt ─ Connected, Listed, VmRead, VmGone ─┐   ┌─ List, Read        → the reader
//!   timer ─── Timer ─────────────────────────────┤   ├─ Start, Cancel     → a worker
//!   D-Bus ─── Request ───────────────────────────┼─▶─┼─ Reply             → D-Bus
//!   worker ── Progress, Ended ───────────────────┤   ├─ WakeAt            → the timer
//!   files ─── Settings ──────────────────────────┘   ├─ Remember          → the store
//!                                                    └─ Stopped           → main
//! ```
//!
//! A job's states: `queued → running → done`, or `queued → done` if it is cancelled first. It ends exactly once,
//! with a result, and its view lingers so that nobody misses it.
//!
//! Nothing is due before the inventory is complete: a policy's VMs are not known before. What fell due until
//! then, or while libvirt was away, is caught up as if the host had been off.
//! A policy that fires owes a run to each of its VMs, and that is stored with the time that fired: whatever becomes of
//! the daemon, each run is paid once, by a job that ended.

mod adopt;
mod asked;
mod branching;
mod by_hand;
mod debts;
mod event;
mod failing;
mod inhibiting;
mod jobs;
mod labels;
mod lapsing;
mod memory;
mod mend;
mod note;
mod previewing;
mod published;
mod requests;
mod runs;
mod stale;
mod start;
mod suspended;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

pub use self::asked::{Change, Query, Refusal, Reply, Request, RequestId};
pub use self::event::{Effect, Event};
pub use self::failing::{Effort, Failed};
pub use self::labels::{Edit, Labelled, Whose};
pub use self::memory::{Entry, Owed, Place};
pub use self::note::Note;
pub use self::start::Start;
use self::{
    failing::Failing,
    jobs::Jobs,
    lapsing::Lapsing,
    published::{InVain, Stale},
};
use self::{runs::PolicyRun, stale::WatchList};
use super::{
    health::{Finding, Repair},
    inhibit::Inhibitors,
    inventory::VmRecord,
    model::{PolicyName, VmId},
    select::VmFacts,
    settings::{Settings, VmPlan},
    suspend::Standings,
    view::{DaemonState, ManagerView, View},
};

/// The mind.
#[derive(Debug)]
pub struct Machine {
    settings: Arc<Settings>,
    own_uid: u32,
    /// What is stored, and nothing newer: a preview decides as the prune will.
    last_plausible: Option<Timestamp>,
    fresh_boot: bool,
    /// When it was told that the clock shows a time long past.
    too_early: Option<Timestamp>,
    vms: BTreeMap<VmId, Arc<VmRecord>>,
    /// Those that are branches.
    branched: BTreeSet<VmId>,
    /// Listed and not read yet.
    unread: BTreeSet<VmId>,
    /// Listed and never read, for it failed. Nobody knows which policies are for them.
    unreadable: BTreeSet<VmId>,
    /// What was found wrong with VMs since the jobs at work on them began.
    withheld: BTreeMap<VmId, Vec<Finding>>,
    listed: bool,
    jobs: Jobs,
    /// What the clock that only goes forward shows.
    elapsed: Duration,
    runs: BTreeMap<PolicyName, PolicyRun>,
    /// To be written down at the end of this step.
    journal: Vec<Entry>,
    frozen: BTreeSet<VmId>,
    failing: Failing,
    standings: Standings,
    watch_list: WatchList,
    lapsing: Lapsing,
    inhibitors: Inhibitors,
    /// What a repair was tried for, and when.
    mended: BTreeMap<VmId, (Vec<Repair>, Timestamp)>,
    view: View,
    /// VMs whose view is out of date.
    stale: BTreeSet<VmId>,
    stale_policies: Stale,
    in_vain: InVain,
}

impl Machine {
    /// A machine that knows its settings and nothing of the world.
    pub fn new(start: Start) -> Self {
        let manager = ManagerView {
            state: DaemonState::Starting,
            hypervisor_uri: start.settings.daemon.uri.clone(),
            hypervisor_version: String::new(),
            hypervisor_connected: false,
            next_run: None,
            clock_implausible: false,
            troubles: Arc::default(),
            warnings: start.settings.warnings.clone().into(),
            inhibitors: Arc::default(),
        };
        let mut machine = Self {
            own_uid: start.own_uid,
            last_plausible: start.last_plausible,
            fresh_boot: start.fresh_boot,
            too_early: None,
            vms: BTreeMap::new(),
            branched: BTreeSet::new(),
            unread: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            withheld: BTreeMap::new(),
            listed: false,
            jobs: Jobs::default(),
            elapsed: Duration::ZERO,
            runs: BTreeMap::new(),
            journal: Vec::new(),
            frozen: start.frozen,
            failing: Failing::restored(start.failed),
            standings: Standings::restored(start.standings),
            watch_list: WatchList::restored(start.watched),
            lapsing: Lapsing::default(),
            inhibitors: Inhibitors::default(),
            mended: BTreeMap::new(),
            view: View {
                manager: Arc::new(manager),
                vms: BTreeMap::new(),
                policies: BTreeMap::new(),
                jobs: BTreeMap::new(),
                counts: Arc::default(),
            },
            stale: BTreeSet::new(),
            stale_policies: Stale::Wholly,
            in_vain: InVain::default(),
            settings: start.settings,
        };
        machine.restore_runs(start.places, start.owed);
        machine.jobs.restore(start.deferred);
        machine.jobs.publish(&mut machine.view.jobs);
        machine.forget_standings();
        machine.refresh_policies();
        machine
    }

    /// What clients see now.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The settings in force.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Takes an event in, and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Connected { uri, version } => {
                self.manager(|m| {
                    m.hypervisor_connected = true;
                    m.hypervisor_uri = uri;
                    m.hypervisor_version = version;
                });
                self.listed = false;
                out.push(Effect::List);
            }
            Event::Disconnected => {
                self.listed = false;
                self.manager(|m| m.hypervisor_connected = false);
            }
            Event::Listed(ids) => self.on_listed(&ids, out),
            Event::Changed(vm) => out.push(Effect::Read(vm)),
            Event::VmRead(record) => {
                let vm = record.id;
                self.on_read(*record);
                self.mend(vm, now);
            }
            Event::VmUnreadable(vm, why) => {
                self.unread.remove(&vm);
                self.withheld.remove(&vm);
                if self.vms.contains_key(&vm) {
                    self.failing.unreadable(vm, why);
                    self.stale.insert(vm);
                } else {
                    self.unreadable.insert(vm);
                }
            }
            Event::VmGone(vm) => self.forget(vm, now, out),
            Event::Frozen(vm, frozen) => {
                let changed = if frozen { self.frozen.insert(vm) } else { self.frozen.remove(&vm) };
                if changed {
                    self.stale.insert(vm);
                }
            }
            Event::Timer => {}
            Event::Settings(settings) => {
                self.in_vain.forget();
                self.on_settings(settings, now);
            }
            Event::Request(id, request) => self.on_request(id, request, now, out),
            Event::Labelled(id, labelled, stored) => self.on_labelled(id, *labelled, stored, out),
            Event::Progress { job, phase, far, snapshot, to_its_end } => {
                self.on_progress(job, (phase, far, to_its_end), snapshot);
            }
            Event::Unfinished(vm) => self.finish_merges(vm, now),
            Event::QuarantineOver(vm) => self.sweep(vm, now),
            Event::Passed(at) => self.last_plausible = Some(at),
            Event::Held(vm, time) => Arc::make_mut(&mut self.view.counts).held(vm, time),
            Event::Merged(vm, bytes) => Arc::make_mut(&mut self.view.counts).merged(vm, bytes),
            Event::Interrupted(operation) => {
                Arc::make_mut(&mut self.view.counts).interrupted(operation);
            }
            Event::Stored(trouble) => self.in_vain.store(trouble),
            Event::Refused(why) => self.in_vain.refused(why),
            Event::Ended(job, outcome) => self.on_ended(job, outcome, now, out),
            Event::Released(id) => self.release(id, now, out),
            Event::Stop => self.on_stop(now, out),
            Event::Deferred(stored) => self.on_deferred(stored, now, out),
        }
        if !self.stopping() {
            self.take_up(now, out);
        }
        if self.complete() && !self.stopping() {
            self.run_due(now, out);
        }
        self.judge(now, out);
        self.remind(now, out);
        self.lapse(now, out);
        self.save_runs(out);
        self.judge_silence(out);
        self.start_jobs(now, out);
        self.count_missed(out);
        self.refresh_view(out);
        out.push(Effect::WakeAt(self.next_wake(now)));
        if self.stopping() && self.jobs.at_rest() {
            out.push(Effect::Stopped);
        }
        effects
    }

    fn plan_of(&self, record: &VmRecord) -> VmPlan {
        self.settings.for_vm(&VmFacts { id: record.id, name: &record.name, tags: &record.tags })
    }

    /// Every VM that is there was read.
    fn complete(&self) -> bool {
        self.listed && self.unread.is_empty() && self.view.manager.hypervisor_connected
    }

    fn stopping(&self) -> bool {
        self.view.manager.state == DaemonState::Stopping
    }

    fn on_listed(&mut self, ids: &[VmId], out: &mut Vec<Effect>) {
        // A listing of the same VMs again, to find what no event tells, does not make those known unknown.
        let again = std::mem::replace(&mut self.listed, true);
        let known = |id: &VmId| self.vms.contains_key(id) || self.unreadable.contains(id);
        self.unread = ids.iter().filter(|id| !(again && known(id))).copied().collect();
        let ids_now: BTreeSet<VmId> = ids.iter().copied().collect();
        let gone: Vec<VmId> = self.vms.keys().filter(|id| !ids_now.contains(id)).copied().collect();
        for vm in self.unreadable.difference(&ids_now).copied().collect::<Vec<_>>() {
            self.can_tell(vm);
        }
        self.journal.extend(self.failing.keep(&ids_now));
        self.forget_standings_on(|vm| ids_now.contains(&vm));
        for vm in gone {
            self.branched_off(vm, None);
            self.vms.remove(&vm);
            self.stale.insert(vm);
            self.stale_policies = self.stale_policies.max(Stale::Members);
        }
        out.extend(ids.iter().map(|id| Effect::Read(*id)));
    }

    fn on_read(&mut self, mut record: VmRecord) {
        let id = record.id;
        self.settle_findings(&mut record);
        self.unread.remove(&id);
        if self.failing.read(id) {
            self.stale.insert(id);
        }
        let old = self.vms.get(&id);
        old.inspect(|old| labels::keep(old, &mut record));
        if old.is_some_and(|o| **o == record) {
            return;
        }
        if old.is_none_or(|o| o.name != record.name || o.tags != record.tags) {
            self.stale_policies = self.stale_policies.max(Stale::Members);
        }
        // What it is called is shown where it was branched off.
        self.branched_off(id, record.stem.as_ref());
        self.vms.insert(id, Arc::new(record));
        self.stale.insert(id);
        self.can_tell(id);
    }

    fn forget(&mut self, vm: VmId, now: Timestamp, out: &mut Vec<Effect>) {
        self.unread.remove(&vm);
        self.withheld.remove(&vm);
        self.can_tell(vm);
        self.journal.extend(self.failing.forget(vm));
        self.forget_standings_on(|known| known != vm);
        self.mended.remove(&vm);
        self.branched_off(vm, None);
        if self.vms.remove(&vm).is_some() {
            self.stale.insert(vm);
            self.stale_policies = self.stale_policies.max(Stale::Members);
        }
        self.end_queued_of(vm, now, out);
    }

    fn manager(&mut self, change: impl FnOnce(&mut ManagerView)) {
        let mut manager = (*self.view.manager).clone();
        change(&mut manager);
        if manager != *self.view.manager {
            self.view.manager = Arc::new(manager);
        }
    }
}
