//! Jobs that nothing is heard of any more: told as stuck, and in nobody's way but their own VM's.
//!
//! A call that libvirt never answers, as where the VM's QEMU hangs, has its thread for ever, and nothing here can end
//! it. So what it holds is told, with the way out; it holds its VM on, as nobody knows what of it is done; and it ends
//! by itself when the call returns. A job tells each of its phases, and while it copies, each minute in which something
//! was copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Entry, Jobs};
use crate::core::{
    health::{Finding, Health},
    job::{Job, JobId, Operation},
    machine::{Effect, Machine, Note},
    model::{Content, SnapshotName, VmId},
    policy::Memory,
    text::for_shell,
};

/// What a phase may take that is some calls, each answered at once or after libvirt's own half a minute for a VM that
/// something else has.
const CALLS: Duration = Duration::from_mins(10);
/// What begins or ends a copy has QEMU write out what it holds.
const COPY: Duration = Duration::from_mins(30);
/// All of a VM's memory is written or read in one call.
const MEMORY: Duration = Duration::from_hours(4);

/// So many do not count against `max-jobs` at most. libvirt answers five questions of one connection at a time
/// (`max_client_requests`), and those that it never answers must not be all of them.
const UNCOUNTED: usize = 3;

impl Jobs {
    /// How many jobs run that count against `max-jobs`.
    pub(super) fn counted(&self) -> usize {
        self.running.len() - self.stuck.len().min(UNCOUNTED)
    }

    /// What is seen of a running job's phase.
    pub(super) fn phase(&self, id: JobId, entry: &Entry) -> String {
        match self.stuck.get(&id) {
            None => entry.phase.clone(),
            Some(silence) => {
                format!("stuck: no answer from libvirt for {}: {}", minutes(*silence), entry.phase)
            }
        }
    }

    /// All that run are stuck.
    pub(super) fn only_stuck_run(&self) -> bool {
        self.running.keys().all(|id| self.stuck.contains_key(id))
    }
}

impl Machine {
    /// The clock that only goes forward shows this now: silence is measured by it, as the other one may be set.
    pub fn passes(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// Tells which jobs are stuck from now on, and which are not any more.
    pub(in crate::core::machine) fn judge_silence(&mut self, out: &mut Vec<Effect>) {
        if self.jobs.running.is_empty() && self.jobs.stuck.is_empty() {
            return;
        }
        let mut now = BTreeMap::new();
        for id in self.jobs.running.keys() {
            let Some(entry) = self.jobs.table.get(id) else { continue };
            let limit = patience(&entry.job, |name| self.holds_memory(entry.job.vm, name));
            if self.elapsed.saturating_sub(entry.heard) >= limit {
                now.insert(*id, limit);
            }
        }
        let before = std::mem::replace(&mut self.jobs.stuck, now);
        let changed: BTreeSet<JobId> = before
            .keys()
            .chain(self.jobs.stuck.keys())
            .copied()
            .filter(|id| before.contains_key(id) != self.jobs.stuck.contains_key(id))
            .collect();
        for id in changed {
            let Some(entry) = self.jobs.table.get_mut(&id) else { continue };
            entry.stale = true;
            let (job, phase) = (entry.job.clone(), entry.phase.clone());
            let (vm, operation) = (job.vm, job.operation.as_str());
            let vm_name = self.name_of(vm);
            self.stale.insert(vm);
            let note = if let Some(silence) = self.jobs.stuck.get(&id) {
                let text = text(&job, &vm_name, &phase, *silence);
                self.failing.stuck(vm, text.clone());
                Note::Stuck { job: id, vm, vm_name, text }
            } else {
                self.failing.goes_on(vm);
                Note::GoesOn { job: id, vm, vm_name, operation }
            };
            out.push(Effect::Log(note));
        }
    }

    /// What a stuck job makes of its VM's health.
    pub(in crate::core::machine) fn stuck_finding(&self, vm: VmId) -> Option<Finding> {
        let text = self.failing.is_stuck(vm)?.to_owned();
        Some(Finding { health: Health::Degraded, text, repair: None })
    }

    fn holds_memory(&self, vm: VmId, name: &SnapshotName) -> bool {
        let snapshot = self.vms.get(&vm).and_then(|record| record.snapshots.get(name));
        snapshot.is_none_or(|s| s.snapshot.content == Content::Full)
    }
}

/// For how long nothing may be heard of it. `holds_memory`: whether the memory is part of a snapshot.
fn patience(job: &Job, holds_memory: impl Fn(&SnapshotName) -> bool) -> Duration {
    match &job.operation {
        Operation::Create(create) if create.how.memory != Memory::Never => MEMORY,
        Operation::Revert(revert) if holds_memory(&revert.name) => MEMORY,
        Operation::Delete { .. }
        | Operation::Prune { .. }
        | Operation::Finish
        | Operation::Promote { .. } => COPY,
        Operation::Create(_)
        | Operation::Revert(_)
        | Operation::Branch(_)
        | Operation::Forget(_)
        | Operation::Adopt(_)
        | Operation::Describe { .. }
        | Operation::Repair
        | Operation::Sweep => CALLS,
    }
}

fn text(job: &Job, vm: &str, phase: &str, silence: Duration) -> String {
    let (id, operation, shell) = (job.id, job.operation.as_str(), for_shell(vm));
    format!(
        "job {id} ({operation} of VM {vm}) is stuck: libvirt has not answered for {} (\"{phase}\"), as where the VM's QEMU \
         hangs. Nothing else is begun on this VM until it does; other VMs go on. `virsh domcontrol {shell}` says since \
         when QEMU has been busy, and `pgrep -af {}` whether it is there; if it waits for storage, it goes on when that \
         is back. Else `virsh destroy {shell}`, which takes the VM's power away, ends the call; where virsh gets no answer \
         either, a restart of libvirtd does, through which VMs run on. What was begun is then taken back or finished",
        minutes(silence),
        for_shell(&format!("guest={vm},")),
    )
}

fn minutes(time: Duration) -> String {
    match time.as_secs() / 60 {
        n if n >= 120 => format!("{} h", n / 60),
        n => format!("{n} min"),
    }
}
