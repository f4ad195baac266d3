//! What clients ask, checked and turned into jobs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Edit, Effect, Labelled, Machine,
    by_hand::{before_revert, manual},
    labels::attachable,
};
use crate::core::{
    branch::BranchJob,
    inventory::{self, SnapshotRecord, VmRecord},
    job::{AdoptJob, Asker, CreateJob, Failure, JobId, JobState, Operation, Pace, RevertJob},
    label::{Label, check_description, check_expiry},
    model::{Origin, PolicyName, SnapshotName, SnapshotState, VmId},
    policy::{How, Memory, Quiesce},
    prune::{Circumstances, Sentence, decide},
    retention::Need,
    revert::{DefinitionOf, Then},
    select::VmFacts,
    settings::Explanation,
};

/// A request's number, by which its answer finds the way back.
pub type RequestId = u64;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To be told something.
    Query(Query),
    /// To have something changed, and the user who asks. Whether it may was settled before.
    Change(Change, u32),
}

/// What changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// What a prune would do.
    PreviewPrune {
        /// This VM.
        vm: VmId,
        /// Beyond `max-delete`.
        all: bool,
    },
    /// What holds for this VM, and why.
    Explain(VmId),
}

/// What changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A snapshot by hand.
    Create {
        /// Of this VM.
        vm: VmId,
        /// With this name, or one that is made up.
        name: Option<SnapshotName>,
        /// With this description.
        description: String,
        /// Whether to freeze; `None`: as usual (`prefer`).
        quiesce: Option<Quiesce>,
        /// Whether the memory is part of it.
        memory: Memory,
        /// Of these disks only.
        disks: Option<Vec<String>>,
        /// With this attached to it.
        label: Label,
    },
    /// The end of a snapshot.
    Delete {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// At this pace.
        pace: Pace,
        /// Also one that others made.
        foreign: bool,
    },
    /// The end of a snapshot's metadata, where its images are gone.
    Forget {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
    },
    /// Something else attached to a snapshot.
    Label {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// What changes.
        edit: Edit,
    },
    /// Another description of a snapshot.
    Describe {
        /// Of this VM.
        vm: VmId,
        /// This one.
        name: SnapshotName,
        /// The text.
        description: String,
    },
    /// What others made is ours from then on.
    Adopt {
        /// On this VM.
        vm: VmId,
        /// What, and for whom.
        adopt: AdoptJob,
    },
    /// A VM put back to a snapshot.
    Revert {
        /// This VM.
        vm: VmId,
        /// To this one.
        name: SnapshotName,
        /// What it is to be after it.
        then: Then,
        /// Which definition it gets.
        definition: DefinitionOf,
        /// Whether a snapshot is taken before.
        safety: bool,
    },
    /// Another VM on a snapshot.
    Branch {
        /// Of this VM.
        vm: VmId,
        /// What it is.
        job: BranchJob,
    },
    /// A VM made independent of other VMs' images.
    Promote {
        /// This VM.
        vm: VmId,
        /// At this pace.
        pace: Pace,
    },
    /// A prune of a VM.
    Prune {
        /// This VM.
        vm: VmId,
        /// Beyond `max-delete`, and by the clock whatever is known of the time.
        all: bool,
        /// At this pace.
        pace: Pace,
    },
    /// A run of a policy, now.
    Run {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
    },
    /// A policy's schedule runs it no more, until somebody resumes it.
    Suspend {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
        /// Why; may be empty.
        reason: String,
    },
    /// It does so again.
    Resume {
        /// This policy.
        policy: PolicyName,
        /// On this VM only.
        vm: Option<VmId>,
    },
    /// The end of a job that waits.
    Cancel(JobId),
}

impl Change {
    /// It needs nothing of libvirt.
    const fn is_ours_alone(&self) -> bool {
        matches!(self, Self::Cancel(_) | Self::Suspend { .. } | Self::Resume { .. } | Self::Label { .. })
    }
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One job was queued, or is already there for the same.
    Job(JobId),
    /// These jobs were.
    Jobs(Vec<JobId>),
    /// This is what a prune would do.
    Preview(Vec<Sentence>),
    /// This holds, and why.
    Explained(Vec<Explanation>),
    /// It is done when this is stored: the machine's own, which no client gets.
    Stored(Box<Labelled>),
    /// It is done.
    Done,
}

/// Why a request was refused; the same shape as a job's failure.
pub type Refusal = Failure;

impl Machine {
    /// What a prune of this VM would do now.
    pub fn preview(&self, vm: VmId, all: bool, now: Timestamp) -> Option<Vec<Sentence>> {
        let record = self.vms.get(&vm)?;
        let at = Circumstances {
            max_chain: Some(self.settings.daemon.max_chain),
            last_plausible: self.last_plausible,
            needed: &self.needed_of(vm),
            all,
            ..Circumstances::new(now)
        };
        Some(decide(record, &self.plan_of(record), at).sentences)
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
            Request::Change(change, uid) => (change, uid),
        };
        if self.stopping() {
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
                Ok(self.queue(vm, Operation::Create(create), uid, now))
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
                Ok(self.queue(vm, Operation::Delete { name, pace, foreign }, uid, now))
            }
            Change::Forget { vm, name } => {
                self.unpinned(vm, &name)?;
                Ok(self.queue(vm, Operation::Forget(name), uid, now))
            }
            Change::Label { vm, name, edit } => self.label(vm, &name, edit, uid, now),
            Change::Describe { vm, name, description } => self.describe(vm, name, description, uid, now),
            Change::Adopt { vm, adopt } => self.adopt(vm, adopt, uid, now),
            Change::Revert { vm, name, then, definition, safety } => {
                if self.snapshot(vm, &name)?.snapshot.state == SnapshotState::Failed {
                    return Err(Refusal::new(
                        "Unsupported",
                        format!(
                            "the data of snapshot {name} of VM {} cannot be trusted: its deletion was begun and did not \
                             end. Nothing was touched; a prune ends it, and another snapshot is the way back",
                            self.known(vm)?.name
                        ),
                    ));
                }
                let safety = safety.then(|| before_revert(&name));
                let revert = RevertJob { name, then, definition, safety };
                Ok(self.queue(vm, Operation::Revert(Box::new(revert)), uid, now))
            }
            Change::Branch { vm, job } => {
                let operation = self.branch(vm, job)?;
                Ok(self.queue(vm, operation, uid, now))
            }
            Change::Promote { vm, pace } => {
                self.known(vm)?;
                in_time(pace, now)?;
                Ok(self.queue(vm, Operation::Promote { pace }, uid, now))
            }
            Change::Prune { vm, all, pace } => {
                self.known(vm)?;
                in_time(pace, now)?;
                Ok(self.queue(vm, Operation::Prune { all, pace }, uid, now))
            }
            Change::Run { policy, vm } => self.run_by_hand(&policy, vm, uid, now),
            Change::Suspend { policy, vm, reason } => {
                self.suspend_by_hand(&policy, vm, reason, (uid, now), out)
            }
            Change::Resume { policy, vm } => self.resume_by_hand(&policy, vm, uid, out),
            Change::Cancel(job) => self.cancel(job, now, out),
        }
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

    pub(super) fn queue(&mut self, vm: VmId, operation: Operation, uid: u32, now: Timestamp) -> Reply {
        let same = self.jobs.same_queued(vm, &operation);
        let asker = Asker { origin: Origin::Manual, uid };
        Reply::Job(same.unwrap_or_else(|| self.jobs.add(vm, operation, asker, now)))
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
