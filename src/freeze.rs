//! Freezing a guest's file systems, and above all thawing them again.
//!
//! ```text
//!   intent on disk ─▶ status ─▶ freeze ─▶ (the transaction) ─▶ thaw ─▶ status "thawed" ─▶ intent off disk
//!        │              │         │ error or time-out              │ error
//!        │              │         └────────────▶ thaw ◀────────────┘
//!        │              └─ frozen by somebody else: refuse, and leave it frozen    │ still an error
//!        └─ a daemon that dies anywhere from here on thaws at its next start       ▼
//!                                                              the keeper: on and on, with back-off
//! ```
//!
//! Two facts shape it (seen on real guests): a freeze that timed out is still carried out when the agent comes back, so
//! an error is no reason not to thaw; and a thaw that *succeeds* proves that no earlier freeze is on its way, because the
//! agent takes its commands in order.
mod slots;
mod telling;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use self::slots::Slots;
use crate::{
    clock::{self, Clock},
    core::{
        inventory::Quality,
        model::{Consistency, VmId, VmState},
        policy::{How, Memory, Mountpoints, Quiesce},
    },
    hypervisor::{Agent, Error, ErrorKind, FreezeStatus, Hypervisor, Result, Vm},
    store::Store,
};

/// How long a thaw may take to answer, each time.
const THAW_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried while the job waits, before the keeper takes over: nothing else may hang on it.
const THAW_TRIES: u32 = 3;
/// How long a question about the state may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// No guest is kept frozen for longer than this by a snapshot, which takes some hundredths of a second.
const LONGEST: Duration = Duration::from_secs(30);
/// The keeper's pauses: the first and the longest.
const KEEPER_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Report = dyn Fn(VmId, bool) + Send + Sync;

/// Freezes and thaws; one for the whole daemon.
pub struct Freezer {
    hypervisor: Arc<dyn Hypervisor>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    report: Box<Report>,
    kept: Mutex<BTreeSet<VmId>>,
    slots: Slots,
}

impl std::fmt::Debug for Freezer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Freezer").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// A guest whose file systems are frozen. Dropped without [`Frozen::thaw`], by a panic say, it thaws.
#[derive(Debug)]
#[must_use = "a frozen guest must be thawed"]
struct Frozen<'a> {
    freezer: &'a Arc<Freezer>,
    vm: VmId,
    count: u32,
    since: Duration,
    done: bool,
}

impl Freezer {
    /// `report` is told whenever a VM may be frozen, and when it surely is not any more.
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        report: Box<Report>,
    ) -> Arc<Self> {
        Arc::new(Self { hypervisor, store, clock, report, kept: Mutex::default(), slots: Slots::default() })
    }

    /// Runs `transaction` with the guest's file systems frozen as far as policy and guest allow, and says what was
    /// reached. Whatever happens in between, the guest is thawed, or on its way to be.
    pub fn around<T>(
        self: &Arc<Self>,
        vm: &Vm,
        how: &How,
        targets: &[String],
        max_frozen: u32,
        transaction: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Quality)> {
        let mut quality = Quality {
            reached: Consistency::Crash,
            requested: Some(how.quiesce),
            memory: how.memory != Memory::Never,
            note: String::new(),
            frozen: SignedDuration::ZERO,
        };
        match vm.state {
            VmState::ShutOff => {
                quality.reached = Consistency::Offline;
                return Ok((transaction()?, quality));
            }
            _ if how.quiesce == Quiesce::Never => return Ok((transaction()?, quality)),
            VmState::Running => {}
            state => {
                let why = format!("the VM is {state}, so its guest agent cannot answer");
                return Self::without(
                    how,
                    Error::new(ErrorKind::AgentUnavailable, why),
                    quality,
                    transaction,
                );
            }
        }
        let Some(slot) = self.slots.take(max_frozen) else {
            let why = format!("{max_frozen} other guests are frozen, and have been for too long");
            return Self::without(how, Error::new(ErrorKind::Busy, why), quality, transaction);
        };
        let frozen = match self.freeze(vm, how, targets) {
            Ok(frozen) => frozen,
            Err(e) => {
                drop(slot);
                return Self::without(how, e, quality, transaction);
            }
        };
        let count = frozen.count;
        let fuse = self.fuse(vm.id);
        let result = transaction();
        drop(fuse);
        let (thawed, time) = frozen.thaw();
        drop(slot);
        quality.frozen = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let value = result?;
        match thawed {
            Ok(n) if n >= count => quality.reached = Consistency::Filesystem,
            Ok(n) => {
                quality.note = format!(
                    "{count} file systems were frozen, but {n} were when the snapshot was over: somebody thawed them before"
                );
            }
            Err(e) => {
                quality.note = format!(
                    "the thaw failed, so nobody knows whether the freeze had held: {e}; it is tried on"
                );
            }
        }
        Ok((value, quality))
    }

    /// Thaws the guest when the transaction takes too long, as on storage that hangs: whoever waits for the transaction
    /// cannot, and a thaw gets through beside it.
    fn fuse(self: &Arc<Self>, vm: VmId) -> Option<clock::Alarm> {
        let this = Arc::clone(self);
        let blown = move || {
            telling::overdue(vm, LONGEST);
            this.keep_thawing(vm);
        };
        clock::Alarm::set(LONGEST, blown).inspect_err(telling::no_fuse).ok()
    }

    /// No freeze was to be had: on without it, or not at all.
    fn without<T>(
        how: &How,
        why: Error,
        mut quality: Quality,
        transaction: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Quality)> {
        if how.quiesce == Quiesce::Require {
            let why = why.context("the file systems could not be frozen, which was required");
            return Err(Error { kind: ErrorKind::QuiesceFailed, ..why });
        }
        quality.note = format!("the file systems were not frozen: {why}");
        Ok((transaction()?, quality))
    }

    fn freeze<'a>(self: &'a Arc<Self>, vm: &Vm, how: &How, targets: &[String]) -> Result<Frozen<'a>> {
        match vm.agent {
            Agent::Absent => {
                return Err(Error::new(
                    ErrorKind::AgentUnavailable,
                    "the VM has no channel for the QEMU guest agent",
                ));
            }
            Agent::Disconnected => {
                return Err(Error::new(
                    ErrorKind::AgentUnavailable,
                    "the QEMU guest agent is not running in the guest",
                ));
            }
            Agent::Connected => {}
        }
        let limit = Duration::try_from(how.freeze_timeout).unwrap_or(STATUS_TIMEOUT);
        // Asked first, with the same limit: an agent that hangs is found before anything can be left frozen.
        if self.hypervisor.freeze_status(vm.id, limit.min(STATUS_TIMEOUT))? == FreezeStatus::Frozen {
            return Err(Error::new(
                ErrorKind::Busy,
                "the file systems are already frozen, by somebody else; left as they are",
            ));
        }
        let mountpoints = self.mountpoints(vm, how, targets, limit)?;
        let stored = self.store.freeze_begins(vm.id, self.clock.now());
        stored.map_err(|e| {
            Error::new(ErrorKind::Failed, format!("the intent to freeze could not be stored: {e}"))
        })?;
        (self.report)(vm.id, true);
        let since = self.clock.elapsed();
        let mut frozen = Frozen { freezer: self, vm: vm.id, count: 0, since, done: false };
        match self.hypervisor.freeze(vm.id, mountpoints.as_deref(), limit) {
            Ok(0) => {
                let (thawed, _) = frozen.thaw();
                Err(Error::new(ErrorKind::AgentFailed, "the agent froze no file system")
                    .and_rollback(&thawed, "the thaw"))
            }
            Ok(count) => {
                frozen.count = count;
                Ok(frozen)
            }
            // Thawed as well: hooks may hold a database's lock, and a late freeze may be on its way.
            Err(e) => {
                let (thawed, _) = frozen.thaw();
                Err(e.and_rollback(&thawed, "the thaw"))
            }
        }
    }

    fn mountpoints(
        &self,
        vm: &Vm,
        how: &How,
        targets: &[String],
        limit: Duration,
    ) -> Result<Option<Vec<String>>> {
        match &how.mountpoints {
            Mountpoints::All => Ok(None),
            Mountpoints::List(list) => Ok(Some(list.clone())),
            Mountpoints::Auto => {
                let all = vm.disks.iter().filter(|d| d.writable).all(|d| targets.contains(&d.target));
                if all {
                    return Ok(None);
                }
                let mut wanted = Vec::new();
                for fs in self.hypervisor.file_systems(vm.id, limit)? {
                    // One whose disk is not known is frozen too: too much does no harm to the data.
                    if fs.disks.is_empty() || fs.disks.iter().any(|d| targets.contains(d)) {
                        wanted.push(fs.mountpoint);
                    }
                }
                Ok(Some(wanted))
            }
        }
    }

    /// Thaws, once more if need be, and proves it. How many were frozen, and when the agent said that none is.
    fn thaw_now(&self, vm: VmId) -> Result<(u32, Duration)> {
        let mut tries = 1;
        let mut pause = Duration::from_millis(100);
        loop {
            match self.thaw_once(vm) {
                Ok(thawed) => {
                    self.proven(vm);
                    return Ok(thawed);
                }
                // A VM that is off or gone has nothing frozen.
                Err(e) if e.kind == ErrorKind::NoSuchVm || self.is_off(vm) => {
                    self.proven(vm);
                    return Err(e);
                }
                Err(e) if tries >= THAW_TRIES => return Err(e),
                // A hung agent has used up the job's time; asking again is the keeper's.
                Err(e) if e.kind == ErrorKind::AgentTimeout => return Err(e),
                Err(_) => {
                    tries += 1;
                    self.clock.pause(pause);
                    pause *= 4;
                }
            }
        }
    }

    fn thaw_once(&self, vm: VmId) -> Result<(u32, Duration)> {
        let count = self.hypervisor.thaw(vm, THAW_TIMEOUT)?;
        let at = self.clock.elapsed();
        match self.hypervisor.freeze_status(vm, STATUS_TIMEOUT)? {
            FreezeStatus::Thawed => Ok((count, at)),
            FreezeStatus::Frozen => {
                Err(Error::new(ErrorKind::AgentFailed, "the agent says it thawed, and that it is frozen"))
            }
        }
    }

    fn is_off(&self, vm: VmId) -> bool {
        self.hypervisor.vm(vm).is_ok_and(|v| v.state == VmState::ShutOff)
    }

    fn proven(&self, vm: VmId) {
        if let Err(e) = self.store.freeze_ended(vm) {
            // Only costs a needless thaw at the next start.
            telling::not_noted(vm, &e);
        }
        (self.report)(vm, false);
    }

    /// Thaws a VM that may be frozen, on and on, on a thread of its own, until it is proven.
    pub fn keep_thawing(self: &Arc<Self>, vm: VmId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.insert(vm) {
            return;
        }
        drop(kept);
        (self.report)(vm, true);
        let this = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("thaw".into()).spawn(move || {
            let mut pause = KEEPER_PAUSE.0;
            loop {
                match this.thaw_now(vm) {
                    Ok((count, _)) => {
                        telling::thawed_late(vm, count);
                        break;
                    }
                    Err(e) if e.kind == ErrorKind::NoSuchVm => break,
                    Err(e) => {
                        if this.is_off(vm) {
                            break;
                        }
                        telling::frozen(vm, &e, &format_args!("trying again in {pause:?}"));
                    }
                }
                this.clock.pause(pause);
                pause = (pause * 2).min(KEEPER_PAUSE.1);
            }
            this.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
        });
        if let Err(e) = spawned {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
            telling::frozen(vm, &e, &"there is no thread for the thaw; the next start tries again");
        }
    }

    /// Thaws every VM that an earlier life of the daemon may have left frozen: one try each, here and now. What is
    /// still not thawed is returned.
    pub fn thaw_left_over(&self, vms: &BTreeSet<VmId>) -> BTreeSet<VmId> {
        vms.iter()
            .copied()
            .filter(|vm| match self.thaw_now(*vm) {
                Ok((count, _)) => {
                    telling::thawed_left_over(*vm, count);
                    false
                }
                Err(e) => e.kind != ErrorKind::NoSuchVm && !self.is_off(*vm),
            })
            .collect()
    }
}

impl Frozen<'_> {
    /// Thaws; how many file systems were frozen until then, and for how long at most.
    fn thaw(mut self) -> (Result<u32>, Duration) {
        let (result, until) = match self.end() {
            Ok((count, at)) => (Ok(count), at),
            Err(e) => (Err(e), self.freezer.clock.elapsed()),
        };
        (result, until.saturating_sub(self.since))
    }

    fn end(&mut self) -> Result<(u32, Duration)> {
        let result = self.freezer.thaw_now(self.vm);
        self.done = true;
        if let Err(e) = &result
            && e.kind != ErrorKind::NoSuchVm
            && !self.freezer.is_off(self.vm)
        {
            self.freezer.keep_thawing(self.vm);
        }
        result
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.done
            && let Err(e) = self.end()
        {
            telling::frozen(self.vm, &e, &"a bug had ended the snapshot; trying on");
        }
    }
}
