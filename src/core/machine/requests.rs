//! What clients ask, checked and turned into jobs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Change, Effect, Machine, Query, Refusal, Reply, Request,
    by_hand::{before_revert, manual},
    labels::attachable,
};
use crate::core::{
    inventory::{self, SnapshotRecord, VmRecord},
    job::{Asker, CreateJob, JobId, JobState, Operation, Pace, RevertJob},
    label::{check_description, check_expiry},
    model::{Origin, SnapshotName, SnapshotState, VmId},
    policy::{How, Quiesce},
    prune::{Circumstances, Sentence, decide},
    retention::Need,
    select::VmFacts,
    settings::VmPlan,
};

impl Machine {
    /// What a prune of this VM would do now.
    pub fn preview(&self, vm: VmId, all: bool, now: Timestamp) -> Option<Vec<Sentence>> {
        let record = self.vms.get(&vm)?;
        Some(self.sentences(record, &self.plan_of(record), all, now))
    }

    /// What a prune would do with what is so on this VM.
    pub(super) fn sentences(
        &self,
        record: &VmRecord,
        plan: &VmPlan,
        all: bool,
        now: Timestamp,
    ) -> Vec<Sentence> {
        let at = Circumstances {
            max_chain: Some(self.settings.daemon.max_chain),
            last_plausible: self.last_plausible,
            needed: &self.needed_of(record.id),
            all,
            ..Circumstances::new(now)
        };
        decide(record, plan, at).sentences
    }

    /// The snapshots of this VM that others are built on.
    pub fn needed_of(&self, vm: VmId) -> BTreeMap<SnapshotName, Need> {
        let others = self.vms.values().map(AsRef::as_ref);
        self.vms.get(&vm).map(|record| inventory::needed(record, others)).unwrap_or_default()
    }

    pub(super) fn on_request(
        &mut self,
        id: super::RequestId,
        request: Request,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        // What is attached to a snapshot is stored before anybody is told that it is.
        match self.answer(request, now, out) {
            Ok(Reply::Stored(labelled)) => out.push(Effect::Label(id, labelled)),
            answer => out.push(Effect::Reply(id, answer)),
        }
    }

    fn answer(&mut self, request: Request, now: Timestamp, out: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let (change, uid) = match request {
            Request::Query(Query::PreviewPrune { vm, all }) => {
                return self.preview(vm, all, now).map(Reply::Preview).ok_or_else(|| no_such_vm(vm));
            }
            Request::Query(Query::Explain(vm)) => {
                let record = self.known(vm)?;
                let facts = VmFacts { id: record.id, name: &record.name, tags: &record.tags };
                return Ok(Reply::Explained(self.settings.explain(&facts)));
            }
            Request::Query(Query::PreviewPolicy { policy, vm, next }) => {
                return self.foresee(&policy, vm, next, now).map(Reply::Foreseen);
            }
            Request::Change(change, uid) => (change, uid),
        };
        if self.stopping() && !matches!(&change, Change::Cancel(id) if self.jobs.is_deferred(*id)) {
            return Err(Refusal::new("Stopping", "the daemon is stopping; nothing new is begun"));
        }
        // What would wait for libvirt without a word is asked for again instead, when whoever asks still wants it.
        if !self.view.manager.hypervisor_connected && !change.is_ours_alone() {
            let text = "there is no connection to libvirt: nothing was begun; the daemon keeps trying, so ask again later";
            return Err(Refusal::new("Disconnected", text));
        }
        match change {
            Change::Create { vm, name, description, quiesce, memory, disks, label } => {
                attachable(check_description(&description))?;
                attachable(check_expiry(label.expires, now))?;
                let record = self.known(vm)?;
                if let Some(taken) = name.as_ref().filter(|n| record.snapshots.contains_key(*n)) {
                    return Err(Refusal::new(
                        "Exists",
                        format!("VM {} already has a snapshot {taken}; choose another name", record.name),
                    ));
                }
                let plan = self.plan_of(record);
                let how = How { quiesce: quiesce.unwrap_or(Quiesce::Prefer), memory, ..manual() };
                let create = CreateJob {
                    name,
                    description,
                    policies: BTreeSet::new(),
                    how,
                    disks: disks.or(plan.disks),
                    label,
                };
                self.queue(vm, Operation::Create(create), uid, now)
            }
            Change::Delete { vm, name, pace, foreign } => {
                let found = self.snapshot(vm, &name)?;
                if !found.snapshot.managed && !foreign {
                    return Err(Refusal::new(
                        "NotManaged",
                        format!(
                            "snapshot {name} of VM {} was not made by virtsnap, which deletes such ones only on explicit \
                             request (`virtsnap delete --foreign`, the option \"foreign\")",
                            self.known(vm)?.name
                        ),
                    ));
                }
                self.unpinned(vm, &name)?;
                in_time(pace, now)?;
                self.queue(vm, Operation::Delete { name, pace, foreign }, uid, now)
            }
            Change::Forget { vm, name } => {
                self.unpinned(vm, &name)?;
                self.queue(vm, Operation::Forget(name), uid, now)
            }
            Change::Label { vm, name, edit } => self.label(vm, &name, edit, uid, now),
            Change::Describe { vm, name, description } => self.describe(vm, name, description, uid, now),
            Change::Adopt { vm, adopt } => self.adopt(vm, adopt, uid, now),
            Change::Revert { vm, name, then, definition, safety } => {
                self.can_be_reverted_to(vm, &name)?;
                let safety = safety.then(|| before_revert(&name));
                let revert = RevertJob { name, then, definition, safety };
                self.queue(vm, Operation::Revert(Box::new(revert)), uid, now)
            }
            Change::Branch { vm, job } => {
                let operation = self.branch(vm, job)?;
                self.queue(vm, operation, uid, now)
            }
            Change::Promote { vm, pace } => {
                self.known(vm)?;
                in_time(pace, now)?;
                self.queue(vm, Operation::Promote { pace }, uid, now)
            }
            Change::Prune { vm, all, pace } => {
                self.known(vm)?;
                in_time(pace, now)?;
                self.queue(vm, Operation::Prune { all, pace }, uid, now)
            }
            Change::Run { policy, vm } => self.run_by_hand(&policy, vm, uid, now),
            Change::Suspend { policy, vm, reason } => {
                self.suspend_by_hand(&policy, vm, reason, (uid, now), out)
            }
            Change::Resume { policy, vm } => self.resume_by_hand(&policy, vm, uid, out),
            Change::Cancel(job) => self.cancel(job, now, out),
            Change::Before { vm, operation } => self.before(vm, &operation, (uid, now), out),
            Change::Inhibit { who, why } => self.inhibit(who, why, (uid, now), out),
        }
    }

    fn can_be_reverted_to(&self, vm: VmId, name: &SnapshotName) -> Result<(), Refusal> {
        if self.snapshot(vm, name)?.snapshot.state != SnapshotState::Failed {
            return Ok(());
        }
        Err(Refusal::new(
            "Unsupported",
            format!(
                "the data of snapshot {name} of VM {} cannot be trusted: its deletion was begun and did not end. Nothing was \
                 touched; a prune ends it, and another snapshot is the way back",
                self.known(vm)?.name
            ),
        ))
    }

    /// A VM's snapshot, if there is one of that name.
    pub(super) fn snapshot(&self, vm: VmId, name: &SnapshotName) -> Result<&SnapshotRecord, Refusal> {
        let record = self.known(vm)?;
        record.snapshots.get(name).ok_or_else(|| {
            Refusal::new("NoSuchSnapshot", format!("VM {} has no snapshot {name}", record.name))
        })
    }

    pub(super) fn known(&self, vm: VmId) -> Result<&VmRecord, Refusal> {
        self.vms.get(&vm).map(AsRef::as_ref).ok_or_else(|| no_such_vm(vm))
    }

    pub(super) fn queue(
        &mut self,
        vm: VmId,
        operation: Operation,
        uid: u32,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        if let Some(same) = self.jobs.same_queued(vm, &operation, Origin::Manual) {
            return Ok(Reply::Job(same));
        }
        self.may_wait(&[vm], uid)?;
        let asker = Asker { origin: Origin::Manual, uid };
        Ok(Reply::Job(self.jobs.add(vm, operation, asker, now)))
    }

    fn cancel(&mut self, id: JobId, now: Timestamp, out: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let stops = self.jobs.stops(id);
        match self.jobs.get(id).map(|(_, state)| state) {
            None => Err(Refusal::new("NoSuchJob", format!("there is no job {id} (any more)"))),
            Some(JobState::Queued) => {
                self.cancel_queued(id, now, out);
                Ok(Reply::Done)
            }
            Some(JobState::Running) if stops => {
                out.push(Effect::Cancel(id));
                Ok(Reply::Done)
            }
            Some(JobState::Running) => Err(Refusal::new(
                "NotCancelable",
                format!(
                    "job {id} is at work and cannot be stopped without leaving things half done; it will end by itself"
                ),
            )),
            Some(JobState::Done) => {
                Err(Refusal::new("NotCancelable", format!("job {id} has ended; there is nothing to cancel")))
            }
        }
    }
}

/// What is to end before it begins is not begun.
fn in_time(pace: Pace, now: Timestamp) -> Result<(), Refusal> {
    match pace.until {
        Some(until) if until <= now => {
            Err(Refusal::new("InvalidArgument", format!("option \"until\": {until} has passed already")))
        }
        _ => Ok(()),
    }
}

pub(super) fn no_such_vm(vm: VmId) -> Refusal {
    Refusal::new("NoSuchVM", format!("there is no VM {vm}"))
}
