//! What a person has policies do, and how a person's snapshots are taken.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Effect, Machine, Note, Refusal, Reply};
use crate::core::{
    job::{Asker, CreateJob},
    label::Label,
    model::{Origin, PolicyName, SnapshotName, VmId, VmState},
    policy::{How, Memory, Mountpoints, Policy, Quiesce},
    settings::operation_name,
    suspend::{Standing, Suspender, Suspension},
    view::DaemonState,
};

/// Longer reasons are none that anybody reads.
const REASON_MAX: usize = 1024;

impl Machine {
    pub(super) fn run_by_hand(
        &mut self,
        name: &PolicyName,
        vm: Option<VmId>,
        uid: u32,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        if self.view.manager.state == DaemonState::Starting {
            let text =
                "the daemon is starting, and has not seen all VMs: nothing was begun; ask again in a moment";
            return Err(Refusal::new("Disconnected", text));
        }
        let policy = self.policy(name)?;
        let vms = self.those_of(&policy, vm)?;
        let asker = Asker { origin: Origin::Manual, uid };
        // All or none: whoever runs a policy does not want some of its VMs.
        let more = |vm: &VmId| self.is_one_more(&policy, *vm, asker, None);
        self.may_wait(&vms.iter().copied().filter(more).collect::<Vec<_>>(), uid)?;
        self.runs.entry(name.clone()).or_default().begin(now);
        Ok(Reply::Jobs(
            vms.into_iter().filter_map(|vm| self.enqueue_policy(&policy, vm, asker, None, now)).collect(),
        ))
    }

    /// What a policy takes before this operation, if it is before one.
    pub(super) fn takes_before(
        &self,
        policy: &PolicyName,
        vm: VmId,
        operation: Option<&str>,
    ) -> Option<CreateJob> {
        let mut create = self.takes(policy, vm)?;
        if let Some(operation) = operation {
            // Only letters, digits and hyphens: nothing that a template takes for a placeholder.
            create.how.name = create.how.name.replace("{operation}", operation);
        }
        Some(create)
    }

    /// Whether that makes a job: not where it is the same as one that waits already, nor where the policy takes nothing.
    fn is_one_more(&self, policy: &Policy, vm: VmId, asker: Asker, operation: Option<&str>) -> bool {
        let create = self.takes_before(&policy.name, vm, operation);
        create.is_some_and(|create| self.jobs.is_one_more(vm, &create, asker))
    }

    /// Runs each policy on a VM that is to run before this operation, suspended or not: who announces one would go on
    /// without a way back, and nobody would know. Those that wait for the same share a snapshot.
    pub(super) fn before(
        &mut self,
        vm: VmId,
        operation: &str,
        (uid, now): (u32, Timestamp),
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        operation_name(operation).map_err(|e| Refusal::new("InvalidArgument", e))?;
        let record = self.known(vm)?;
        let (plan, vm_name, state) = (self.plan_of(record), record.name.clone(), record.state);
        let asker = Asker { origin: Origin::Operation, uid };
        let policies: Vec<_> = plan.policies.iter().filter(|p| p.before.contains(operation)).collect();
        if policies.iter().any(|policy| self.is_one_more(policy, vm, asker, Some(operation))) {
            self.may_wait(&[vm], uid)?;
        }
        let mut jobs = BTreeSet::new();
        for policy in policies {
            if let Some(job) = self.enqueue_policy(policy, vm, asker, Some(operation), now) {
                self.runs.entry(policy.name.clone()).or_default().begin(now);
                jobs.insert(job);
            } else {
                let (policy, operation) = (policy.name.clone(), operation.to_owned());
                let vm_name = vm_name.clone();
                out.push(Effect::Log(Note::NotBefore { policy, vm, vm_name, operation, state }));
            }
        }
        Ok(Reply::Jobs(jobs.into_iter().collect()))
    }

    /// Suspends a policy, as a whole or on one VM. What waits or runs already goes on.
    pub(super) fn suspend_by_hand(
        &mut self,
        name: &PolicyName,
        vm: Option<VmId>,
        reason: String,
        (uid, now): (u32, Timestamp),
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let policy = self.policy(name)?;
        if reason.len() > REASON_MAX {
            let text = format!("the reason has {} bytes, more than {REASON_MAX}", reason.len());
            return Err(Refusal::new("InvalidArgument", text));
        }
        if let Some(vm) = vm {
            self.is_for(&policy, vm)?;
        }
        let suspension = Suspension { by: Suspender::Person, since: now, reason };
        let mut standing = self.standings.get(name, vm);
        standing.suspension = Some(suspension.clone());
        self.set_standing(name, vm, standing);
        let on = vm.map(|vm| (vm, self.name_of(vm)));
        let note = Note::Suspended { policy: name.clone(), on, suspension, by_uid: Some(uid) };
        out.push(Effect::Log(note));
        Ok(Reply::Done)
    }

    /// Resumes a policy: on one VM, or wherever it is suspended. Its next run is the next one by the schedule.
    pub(super) fn resume_by_hand(
        &mut self,
        name: &PolicyName,
        vm: Option<VmId>,
        uid: u32,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let policy = self.policy(name)?;
        let suspended = match vm {
            None => self.standings.where_suspended(name),
            Some(vm) if self.standings.suspended(name, Some(vm)).is_some() => vec![Some(vm)],
            Some(vm) => {
                self.is_for(&policy, vm)?;
                vec![]
            }
        };
        if vm.is_some() && self.standings.suspended(name, None).is_some() {
            let text = format!(
                "policy {name} is suspended for all of its VMs, so that it cannot be resumed on one alone: resume it as a \
                 whole (`virtsnap resume {name}`), or run it on that VM by hand (`virtsnap run {name} --vm`)"
            );
            return Err(Refusal::new("InvalidArgument", text));
        }
        for vm in suspended {
            self.set_standing(name, vm, Standing::default());
            let on = vm.map(|vm| (vm, self.name_of(vm)));
            out.push(Effect::Log(Note::Resumed { policy: name.clone(), on, by_uid: Some(uid) }));
        }
        Ok(Reply::Done)
    }

    /// The VMs that it is for, or this one of them.
    pub(super) fn those_of(&self, policy: &Policy, vm: Option<VmId>) -> Result<Vec<VmId>, Refusal> {
        let Some(vm) = vm else { return Ok(self.covered(&policy.name)) };
        self.is_for(policy, vm).map(|()| vec![vm])
    }

    pub(super) fn policy(&self, name: &PolicyName) -> Result<Arc<Policy>, Refusal> {
        self.settings.policies.get(name).cloned().ok_or_else(|| {
            Refusal::new("NoSuchPolicy", format!("there is no policy {name}; `virtsnap policies` lists them"))
        })
    }

    fn covered(&self, name: &PolicyName) -> Vec<VmId> {
        self.view.policies.get(name).map(|p| p.vms.clone()).unwrap_or_default()
    }

    fn is_for(&self, policy: &Policy, vm: VmId) -> Result<(), Refusal> {
        let name = &policy.name;
        if self.covered(name).contains(&vm) {
            return Ok(());
        }
        let record = self.known(vm)?;
        Err(Refusal::new(
            "InvalidArgument",
            format!("policy {name} is not for VM {} (its `vms` at {})", record.name, policy.source),
        ))
    }
}

/// The snapshot that makes a revert to this one revertible. Which disks it has is seen when it is taken.
pub(super) fn before_revert(name: &SnapshotName) -> CreateJob {
    let title = name.as_str();
    CreateJob {
        name: None,
        description: format!("before the revert to {title}"),
        policies: BTreeSet::new(),
        // A name may hold what a template takes for a placeholder.
        how: How {
            name: format!("before-revert-{}-{{timestamp}}", title.replace(['{', '}'], "_")),
            ..manual()
        },
        disks: None,
        label: Label::default(),
    }
}

/// How a snapshot by hand is taken unless said otherwise.
pub(super) fn manual() -> How {
    How {
        quiesce: Quiesce::Prefer,
        freeze_timeout: SignedDuration::from_secs(8),
        mountpoints: Mountpoints::Auto,
        memory: Memory::Never,
        when: [VmState::Running, VmState::Paused, VmState::ShutOff].into(),
        skip_unchanged: false,
        name: "manual-{timestamp}".to_owned(),
    }
}
