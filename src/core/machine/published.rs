//! Keeping what is published right: the parts of the view that an event made out of date, and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Effect, Machine, Note};
use crate::core::{
    inventory::VmRecord,
    model::{PolicyName, SnapshotState, VmId},
    select::VmFacts,
    settings::check_against,
    trouble::Trouble,
    view::{DaemonState, VmView},
};

/// What is out of date of the policies' views.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stale {
    Not,
    /// The VMs that each has: there are others.
    Members,
    /// All, and what VMs show of them: there are other settings.
    Wholly,
}

/// What the settings say in vain, given the VMs there are.
#[derive(Debug)]
pub(super) struct InVain {
    /// Settings or VMs changed since it was looked for.
    stale: bool,
    found: Vec<String>,
    /// The log has these.
    told: BTreeSet<String>,
    /// What comes before all of that.
    troubles: Troubles,
}

/// Why the daemon does not do what it is there for.
#[derive(Debug, Default)]
struct Troubles {
    store: Option<String>,
    configuration: Option<String>,
}

impl Troubles {
    fn all(&self) -> Vec<Trouble> {
        let store = self.store.iter().cloned().map(Trouble::Store);
        store.chain(self.configuration.iter().cloned().map(Trouble::Configuration)).collect()
    }
}

impl Default for InVain {
    fn default() -> Self {
        Self { stale: true, found: Vec::new(), told: BTreeSet::new(), troubles: Troubles::default() }
    }
}

impl InVain {
    /// Whether what is begun can be written down is the first that is to be known.
    pub(super) fn store(&mut self, trouble: Option<String>) {
        self.troubles.store = trouble;
        self.stale = true;
    }

    /// The settings in force are not those that are in the files.
    pub(super) fn refused(&mut self, why: String) {
        self.troubles.configuration = Some(why);
        self.stale = true;
    }

    /// Of other settings nothing is known yet.
    pub(super) fn forget(&mut self) {
        self.found.clear();
        self.troubles.configuration = None;
        self.stale = true;
    }
}

impl Machine {
    pub(super) fn refresh_view(&mut self, out: &mut Vec<Effect>) {
        if self.view.manager.state == DaemonState::Starting && self.complete() {
            self.manager(|m| m.state = DaemonState::Running);
        }
        // While all VMs are read, each would be held against each policy as often as there are VMs.
        let reading = self.listed && !self.unread.is_empty();
        let bearable = if reading { Stale::Members } else { Stale::Not };
        if self.stale_policies > bearable {
            if self.stale_policies == Stale::Wholly {
                self.stale.extend(self.vms.keys());
            }
            self.stale_policies = Stale::Not;
            self.refresh_policies();
            self.in_vain.stale = true;
        }
        for id in std::mem::take(&mut self.stale) {
            let Some(view) = self.vm_view(id) else {
                self.view.vms.remove(&id);
                Arc::make_mut(&mut self.view.counts).forget(id);
                continue;
            };
            let old = self.view.vms.get(&id);
            if old.is_none_or(|old| **old != view) {
                let health = Note::of_health(old.map(|old| old.record.as_ref()), &view.record);
                out.extend(health.map(Effect::Log));
                self.view.vms.insert(id, view.into());
            }
        }
        if self.standings.take_news() {
            self.refresh_suspensions();
        }
        self.refresh_runs();
        self.jobs.publish(&mut self.view.jobs);
        let next = self.next_run();
        let clock_implausible = self.waits_for_the_clock();
        self.manager(|m| (m.next_run, m.clock_implausible) = (next, clock_implausible));
        if self.in_vain.stale {
            self.refresh_warnings(out);
        }
    }

    /// Counts the runs that the log is told did not happen.
    pub(super) fn count_missed(&mut self, out: &[Effect]) {
        for effect in out {
            if let Effect::Log(Note::Skipped { policy, .. } | Note::Dropped { policy, done: false, .. }) =
                effect
            {
                Arc::make_mut(&mut self.view.counts).missed(policy);
            }
        }
    }

    /// Holds the settings against the VMs as soon as all of these are known; until then what was found before holds.
    fn refresh_warnings(&mut self, out: &mut Vec<Effect>) {
        if self.complete() {
            let vms: Vec<_> =
                self.vms.values().map(|r| VmFacts { id: r.id, name: &r.name, tags: &r.tags }).collect();
            let found = check_against(&self.settings, &vms).lines();
            let told = std::mem::replace(&mut self.in_vain.told, found.iter().cloned().collect());
            let new = found.iter().filter(|line| !told.contains(*line));
            out.extend(new.map(|line| Effect::Log(Note::Warning(line.clone()))));
            self.in_vain.found = found;
            self.in_vain.stale = false;
        }
        let troubles = self.in_vain.troubles.all();
        let warnings = self.settings.warnings.iter().chain(&self.in_vain.found).cloned();
        let all: Vec<_> = troubles.iter().map(Trouble::text).chain(warnings).collect();
        self.manager(|m| {
            if *m.troubles != *troubles {
                m.troubles = troubles.into();
            }
            if *m.warnings != *all {
                m.warnings = all.into();
            }
        });
    }

    /// What clients see of a VM; `None` if there is none.
    fn vm_view(&self, id: VmId) -> Option<VmView> {
        let record = self.vms.get(&id)?;
        let shown = self.stuck_finding(id).map_or_else(
            || Arc::clone(record),
            |stuck| {
                let mut with = VmRecord::clone(record);
                with.findings.push(stuck);
                Arc::new(with)
            },
        );
        let last_success = record
            .snapshots
            .values()
            .filter(|s| s.snapshot.managed && s.snapshot.state == SnapshotState::Ready)
            .map(|s| s.snapshot.created)
            .max();
        let plan = self.plan_of(record);
        let policies: Vec<_> = plan.policies.iter().map(|p| p.name.clone()).collect();
        let mut before: BTreeMap<String, Vec<PolicyName>> = BTreeMap::new();
        for policy in &plan.policies {
            for operation in &policy.before {
                before.entry(operation.clone()).or_default().push(policy.name.clone());
            }
        }
        let suspended =
            policies.iter().filter_map(|p| Some((p.clone(), self.standings.suspension(p, id)?.clone())));
        let suspended = suspended.collect();
        Some(VmView {
            record: shown,
            before,
            suspended,
            stale: self.watch_list.stale_on(id),
            policies,
            frozen: self.frozen.contains(&id),
            last_success,
            last_error: self.failing.text(id),
            deleting: self.jobs.deleting(id),
            reverting: self.jobs.reverting(id),
            branches: self.branches_of(id),
        })
    }
}
