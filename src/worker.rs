//! One job's blocking steps, on a thread of its own. What must survive a crash is in the store before the step
//! that it is about, and out of it after the step's result is certain.

mod adopt;
mod beside;
mod branch;
mod create;
mod cut_short;
mod delete;
mod drop;
mod forget;
mod hooked;
mod how;
mod left_over;
mod memory;
mod merge;
mod promote;
mod prune;
mod redefine;
mod repair;
mod revert;
mod space;
mod sweep;

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

pub use self::cut_short::CutShort;
pub(crate) use self::promote::unsure;
pub(crate) use self::{
    branch::{settle as settle_branch, tidy as tidy_branches},
    drop::settle as settle_drop,
    hooked::left_over as settle_hooks,
    memory::never_kept,
    merge::is_woken,
    redefine::settle as settle_redefined,
    revert::settle as settle_revert,
};
use crate::{
    access::Access,
    clock::Clock,
    core::{
        job::{Copied, Failure, Far, Job, JobId, Made, Operation, Outcome, Pace},
        model::SnapshotName,
        retention::Need,
        settings::Settings,
    },
    freeze::Freezer,
    hypervisor::{Error, ErrorKind, Hypervisor, Vm},
    logging::message,
    rooms::Rooms,
    store::{Store, StoreError},
};

/// What a worker works with.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The store.
    pub store: Arc<Store>,
    /// The way to the right to merge a confined VM's images.
    pub access: Arc<dyn Access>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Freezes and thaws.
    pub freezer: Arc<Freezer>,
    /// The room that jobs at work have reserved.
    pub rooms: Arc<Rooms>,
    /// Who counts what was cut short.
    pub cut_short: CutShort,
}

/// What a worker tells while it works.
#[derive(Debug)]
pub struct Progress {
    /// The job.
    pub job: JobId,
    /// What it does now.
    pub phase: String,
    /// How far it is.
    pub far: Far,
    /// The snapshot it works on now.
    pub snapshot: Option<SnapshotName>,
    /// Nothing stops what it does now: the hypervisor does it by itself.
    pub to_its_end: bool,
}

/// The thread's end of the wire to the engine.
pub struct Wire {
    /// Set when the job should stop at its next safe point.
    pub cancel: Arc<AtomicBool>,
    /// Takes progress.
    pub progress: Box<dyn Fn(Progress) + Send>,
    /// Takes the bytes that merged images held.
    pub merged: Box<dyn Fn(u64) + Send>,
    /// Takes the time that is stored now as the newest one known to have passed.
    pub passed: Box<dyn Fn(Timestamp) + Send>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

/// Why a job's steps ended early.
enum Stop {
    Failed(Failure),
    /// Why, and what is so now.
    Cancelled(String),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Failed(Failure::new(e.kind.as_str(), e.message))
    }
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        let kind = if matches!(e, StoreError::Pinned(_)) { "Pinned" } else { "Failed" };
        Self::Failed(Failure::new(kind, e.to_string()))
    }
}

/// A job at work.
struct Work<'a> {
    tools: &'a Tools,
    settings: &'a Settings,
    job: &'a Job,
    needed: &'a BTreeMap<SnapshotName, Need>,
    wire: &'a Wire,
    /// When it was told last that it goes on, and how much was copied by then.
    told: Cell<(Duration, Copied)>,
    /// What is run beside it, once that has begun.
    hooks: OnceCell<hooked::Beside>,
}

/// While something is copied, that is told so often at least: who watches wants to see how fast that is, and a job of
/// which nothing is heard is taken for one that hangs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl Work<'_> {
    fn phase(&self, phase: &str, progress: Option<f64>, snapshot: Option<&SnapshotName>) {
        self.copies(phase, Far { share: progress, ..Far::default() }, snapshot);
    }

    /// The same, of what copies.
    fn copies(&self, phase: &str, mut far: Far, snapshot: Option<&SnapshotName>) {
        // QEMU says one byte of one where there is nothing to copy.
        if far.copied.total <= 1 {
            far.copied = Copied::default();
        }
        (self.wire.progress)(Progress {
            job: self.job.id,
            phase: phase.to_owned(),
            far,
            snapshot: snapshot.cloned(),
            to_its_end: false,
        });
        self.told.set((self.tools.clock.elapsed(), far.copied));
    }

    /// Whether it is to be told once more that it goes on: something was copied, and that was told long ago.
    fn is_news(&self, copied: Copied) -> bool {
        let ((at, then), now) = (self.told.get(), self.tools.clock.elapsed());
        copied != then && now.saturating_sub(at) >= SIGN_OF_LIFE
    }

    /// What comes now nobody can stop.
    fn phase_to_its_end(&self, phase: &str, snapshot: &SnapshotName) {
        (self.wire.progress)(Progress {
            job: self.job.id,
            phase: phase.to_owned(),
            far: Far::default(),
            snapshot: Some(snapshot.clone()),
            to_its_end: true,
        });
    }

    /// The journal knows that a snapshot is gone.
    fn told_deleted(&self, vm: &Vm, name: &SnapshotName) {
        tracing::info!(
            MESSAGE_ID = message::SNAPSHOT_DELETED, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            VIRTSNAP_SNAPSHOT = %name, VIRTSNAP_JOB = self.job.id, "snapshot {name} of VM {} deleted", vm.name
        );
    }

    /// The journal knows of a merge that was cut short, now or in an earlier life. `what`: became of it.
    fn told_merge(&self, vm: &Vm, name: &SnapshotName, merged: &str, what: &str) {
        tracing::warn!(
            MESSAGE_ID = message::INTERRUPTED, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            VIRTSNAP_SNAPSHOT = %name, VIRTSNAP_JOB = self.job.id, "the merge of {merged} of VM {} {what}", vm.name
        );
    }

    /// A place where stopping leaves nothing half done.
    fn safe_point(&self) -> Result<(), Stop> {
        if self.stopped() {
            Err(self.cancelled("nothing is left half done, and what it had done until then stays"))
        } else {
            Ok(())
        }
    }

    /// What it ends with when it stops. `state`: what is so then.
    fn cancelled(&self, state: impl std::fmt::Display) -> Stop {
        let told = self.wire.cancel.load(Ordering::SeqCst);
        let why = match self.pace().until.filter(|_| !told) {
            Some(until) => format!("stopped, as its time was over at {until:.0}"),
            None => "was told to stop".to_owned(),
        };
        Stop::Cancelled(format!("{why}: {state}"))
    }

    /// It was told to stop, or its time is over.
    fn stopped(&self) -> bool {
        let over = self.pace().until.is_some_and(|until| self.tools.clock.now() >= until);
        over || self.wire.cancel.load(Ordering::SeqCst)
    }

    fn pace(&self) -> Pace {
        match self.job.operation {
            Operation::Delete { pace, .. } | Operation::Prune { pace, .. } | Operation::Promote { pace } => {
                pace
            }
            _ => Pace::default(),
        }
    }
}

/// Does the job. `needed`: the VM's snapshots that others are built on, as far as the engine knows. Always returns, a panic included: a job without an end would hold its VM for ever.
pub fn run(
    tools: &Tools,
    settings: &Settings,
    job: &Job,
    needed: &BTreeMap<SnapshotName, Need>,
    wire: &Wire,
) -> Outcome {
    let work = Work { tools, settings, job, needed, wire, told: Cell::default(), hooks: OnceCell::new() };
    // What ran before a panic in the job has to run after it, too.
    caught(&work, || hooked::around(&work, || caught(&work, || perform(&work))))
}

fn perform(work: &Work<'_>) -> Outcome {
    let mut outcome = once(work);
    let busy = matches!(&outcome, Outcome::Failed(failure) if failure.name == ErrorKind::Busy.as_str());
    // Where it cannot be told what the VM is busy with, that stands.
    if busy && left_over::end(work).unwrap_or(false) {
        outcome = once(work);
    }
    drop::settle_named(work.tools, work.job.vm);
    outcome
}

fn once(work: &Work<'_>) -> Outcome {
    let done = match &work.job.operation {
        Operation::Create(create) => create::run(work, create).map(|name| Some(Made::Snapshot(name))),
        Operation::Delete { name, foreign, .. } => delete::run(work, name, *foreign).map(|()| None),
        Operation::Forget(name) => forget::run(work, name).map(|()| None),
        Operation::Describe { name, description } => adopt::rewrite(work, name, description).map(|()| None),
        Operation::Adopt(adopt) => adopt::run(work, adopt).map(|()| None),
        Operation::Revert(revert) => revert::run(work, revert).map(|safety| safety.map(Made::Snapshot)),
        Operation::Branch(branch) => branch::run(work, branch).map(|vm| Some(Made::Vm(vm))),
        Operation::Promote { .. } => promote::run(work).map(|()| None),
        Operation::Prune { all, .. } => prune::run(work, *all).map(|()| None),
        Operation::Repair => repair::run(work).map(|()| None),
        Operation::Finish => merge::finish_all(work).map(|()| None),
        Operation::Sweep => sweep::run(work).map(|()| None),
    };
    match done {
        Ok(made) => Outcome::Done(made),
        Err(Stop::Failed(failure)) => Outcome::Failed(failure),
        Err(Stop::Cancelled(text)) => Outcome::Cancelled(text),
    }
}

fn caught(work: &Work<'_>, steps: impl FnOnce() -> Outcome) -> Outcome {
    let (tools, job) = (work.tools, work.job);
    catch_unwind(AssertUnwindSafe(steps)).unwrap_or_else(|_| {
        Outcome::Failed(Failure::new(
            "Failed",
            format!(
                "a bug in virtsnapd ended the {} of VM {} early (a panic; the journal has it). The guest was thawed; \
                 what was begun is checked at the daemon's next start: `systemctl restart virtsnapd`",
                job.operation.as_str(),
                tools.hypervisor.vm(job.vm).map_or_else(|_| job.vm.to_string(), |vm| vm.name)
            ),
        ))
    })
}
