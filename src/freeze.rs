//! Freezing a guest's file systems, and above all thawing them again.
//!
//! ```text
//!   status ─▶ intent on disk ─▶ status ─▶ freeze ─▶ (the transaction) ─▶ thaw ─▶ status "thawed" ─▶ intent off disk
//!     │             │              │        │ error or time-out              │ error
//!     │             │              │        └────────────▶ thaw ◀────────────┘
//!     └─────────────│──────────────┴─ frozen by somebody else: refuse, and leave it frozen    │ still an error
//!                   └─ a daemon that dies anywhere from here on thaws at its next start       ▼
//!                                                                        the keeper: on and on, with back-off
//! ```
//!
//! The first status finds an agent that hangs before anything is asked of others; between it and the freeze lies time
//! enough for a backup program to freeze the guest. That one's freeze is left alone: the second status finds it, or the
//! agent, which refuses to freeze what is frozen. Only where an earlier freeze of our own may be on its way it is thawed.
//!
//! Beside it a helper outside this process watches each freeze ([`helper`], [`line`], [`thawer`]): it is ready before the
//! freeze begins, is told when the thaw is proven, and thaws if this process dies or hangs.
//!
//! Two facts shape it (seen on real guests): a freeze that timed out is still carried out when the agent comes back, so
//! an error is no reason not to thaw; and a thaw that *succeeds* proves that no earlier freeze is on its way, because the
//! agent takes its commands in order.
mod chosen;
mod fuse;
pub mod helper;
pub mod line;
mod slots;
mod telling;
#[cfg(test)]
mod tests;
mod thaw;
pub mod thawer;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;

pub use self::window::Called;
use self::{
    fuse::Fuse,
    helper::{Helper, Watch},
    line::{Reply, Word},
    slots::{Slot, Slots},
    thaw::{Frozen, Kept},
};
use crate::{
    clock::Clock,
    core::{
        inventory::Quality,
        model::{Consistency, VmId, VmState},
        policy::{How, Memory, Quiesce},
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
/// Windows' own snapshot service ends a freeze after this, whatever becomes of the snapshot.
const WINDOWS_HOLDS: Duration = Duration::from_secs(10);
/// So much later than this process would have thawed itself the helper does.
const GRACE: Duration = Duration::from_secs(10);
/// So many guests that are thawed on and on are asked at the same time: libvirt takes five questions on a connection.
const KEEPERS: u32 = 2;
/// For so long a guest that is thawed on and on counts as frozen: one whose agent is dead uses none of what the number of
/// those is limited for, and must not take freezing away from all others for ever.
const COUNTS: Duration = Duration::from_mins(2);
/// The keeper's pauses: the first and the longest.
const KEEPER_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Report = dyn Fn(VmId, News) + Send + Sync;

/// What is told of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Its file systems may be frozen from now on.
    Frozen,
    /// They surely are not any more.
    Thawed,
    /// They were frozen for so long at most, for whatever became of the snapshot.
    Held(Duration),
}

/// Freezes and thaws; one for the whole daemon.
pub struct Freezer {
    hypervisor: Arc<dyn Hypervisor>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    report: Box<Report>,
    helper: Arc<dyn Helper>,
    /// It was said that there is none.
    alone: AtomicBool,
    /// Who is proven to be thawed, and the store could not be told: what it says costs a thaw at the next start.
    unnoted: Mutex<BTreeSet<VmId>>,
    /// What is thawed on and on, and who watches it from outside.
    kept: Mutex<BTreeMap<VmId, Kept>>,
    /// Who may be asked to thaw on and on at the same time: agents that hang must not be in the way of a thaw.
    keepers: Slots,
    slots: Slots,
}

impl std::fmt::Debug for Freezer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Freezer").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Freezer {
    /// `report` is told whenever a VM may be frozen, when it surely is not any more, and for how long it was.
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        helper: Arc<dyn Helper>,
        report: Box<Report>,
    ) -> Arc<Self> {
        Arc::new(Self {
            hypervisor,
            store,
            report,
            helper,
            alone: AtomicBool::new(false),
            unnoted: Mutex::default(),
            kept: Mutex::default(),
            keepers: Slots::new(&clock),
            slots: Slots::new(&clock),
            clock,
        })
    }

    /// Calls the helper for a guest that will be frozen, if it is to be and can be: it may have to be started, which is
    /// better done while there is something else to do.
    pub fn call(&self, vm: &Vm, how: &How) -> Called<'static> {
        let wanted = how.quiesce != Quiesce::Never;
        if !wanted || vm.state != VmState::Running || vm.agent != Agent::Connected {
            return Called::new(Ok(None));
        }
        Called::new(Watch::ask(self.helper.as_ref(), vm.id))
    }

    /// Runs `transaction` with the guest's file systems frozen as far as policy and guest allow, and says what was
    /// reached. Whatever happens in between, the guest is thawed, or on its way to be.
    pub fn around<T>(
        self: &Arc<Self>,
        vm: &Vm,
        how: &How,
        targets: &[String],
        max_frozen: u32,
        mut called: Called<'_>,
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
        // Asked before a place is waited for: it has one itself.
        if self.is_kept(vm.id) {
            let why = "an earlier freeze of this guest is not proven to be over; it is still being thawed, which would end \
                       another freeze, too";
            return Self::without(how, Error::new(ErrorKind::Busy, why), quality, transaction);
        }
        let window = called.window(self, vm.id);
        let Some(slot) = self.slots.take(max_frozen) else {
            let why = format!("{max_frozen} other guests are frozen, and have been for too long");
            let why = Error::new(ErrorKind::Busy, why);
            if how.quiesce == Quiesce::Require {
                // Nothing is wrong with this guest: a policy puts it off, and is not at fault.
                return Err(why.context("the file systems could not be frozen, which was required"));
            }
            return Self::without(how, why, quality, transaction);
        };
        let (frozen, lacks) = match self.freeze(vm, how, targets, called, slot) {
            Ok(frozen) => frozen,
            Err(e) => return Self::without(how, e, quality, transaction),
        };
        let (count, from) = (frozen.count, frozen.from);
        let fuse = Fuse::set(&frozen);
        let result = window.pass().and_then(|()| transaction());
        let overdue = fuse.over();
        let (thawed, time) = frozen.thaw();
        quality.frozen = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        let value = result.map_err(|e| {
            if self.is_kept(vm.id) {
                e.context("the guest may be frozen still, and its thaw is tried on")
            } else {
                e
            }
        })?;
        match thawed {
            Ok(thawed) => match lacks.or(overdue).or_else(|| self.not_held(vm.id, count, &thawed, from)) {
                None => quality.reached = Consistency::Filesystem,
                Some(why) => quality.note = why,
            },
            Err(e) => {
                let held = overdue.unwrap_or_else(|| "nobody knows whether the freeze had held".to_owned());
                let on = if self.is_kept(vm.id) { "; it is tried on" } else { "" };
                quality.note = format!("the thaw failed, and {held}: {e}{on}");
            }
        }
        Ok((value, quality))
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

    fn freeze<'a>(
        self: &'a Arc<Self>,
        vm: &Vm,
        how: &How,
        targets: &[String],
        called: Called<'_>,
        slot: Slot,
    ) -> Result<(Frozen<'a>, Option<String>)> {
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
        self.not_frozen(vm.id, limit)?;
        let chosen = self.choose(vm, how, targets, limit)?;
        let lacks = chosen.lacks();
        if let Some(why) = lacks.as_ref().filter(|_| how.quiesce == Quiesce::Require) {
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let watch = self.watch(called.watch)?;
        let stored = self.store.freeze_begins(vm.id, self.clock.now());
        let first = stored.map_err(|e| {
            Error::new(ErrorKind::Failed, format!("the intent to freeze could not be stored: {e}"))
        })?;
        // A row that is there for want of a note alone is no earlier freeze's.
        let first = self.unnoted().remove(&vm.id) || first;
        // Much time has passed since.
        if let Err(e) = self.not_frozen(vm.id, limit) {
            if first {
                self.proven(vm.id);
            }
            return Err(e);
        }
        (self.report)(vm.id, News::Frozen);
        let since = self.clock.elapsed();
        let mut frozen = Frozen {
            freezer: self,
            vm: vm.id,
            count: 0,
            since,
            from: since,
            watch,
            slot,
            let_go: Arc::default(),
            done: false,
        };
        self.tell(&mut frozen, &Word::Freezing(limit + GRACE));
        match self.hypervisor.freeze(vm.id, chosen.mountpoints.as_deref(), limit) {
            Ok(0) => {
                let (thawed, _) = frozen.thaw();
                Err(Error::new(ErrorKind::AgentFailed, "the agent froze no file system")
                    .and_rollback(&thawed, "the thaw"))
            }
            Ok(count) => {
                frozen.count = count;
                frozen.from = self.clock.elapsed();
                self.tell(&mut frozen, &Word::Frozen(LONGEST + GRACE));
                Ok((frozen, lacks))
            }
            // The agent has taken the command and does not do it, as it does while it is frozen: by somebody else, as no
            // earlier freeze of ours is unproven.
            Err(e) if e.kind == ErrorKind::Refused && first => {
                frozen.never();
                Err(e.context(
                    "the agent refuses to freeze, as where somebody else has frozen before; left as it is",
                ))
            }
            // Thawed as well: hooks may hold a database's lock, and a late freeze may be on its way.
            Err(e) => {
                let (thawed, _) = frozen.thaw();
                Err(e.and_rollback(&thawed, "the thaw"))
            }
        }
    }

    /// An error if the guest is frozen: then it is somebody else's.
    fn not_frozen(&self, vm: VmId, limit: Duration) -> Result<()> {
        match self.hypervisor.freeze_status(vm, limit.min(STATUS_TIMEOUT))? {
            FreezeStatus::Thawed => Ok(()),
            FreezeStatus::Frozen => Err(Error::new(
                ErrorKind::Busy,
                "the file systems are already frozen, by somebody else; left as they are",
            )),
        }
    }

    /// Waits until the helper watches. Without one the guest is frozen all the same: should this process die, its unit's
    /// last command thaws, and its next start.
    fn watch(&self, called: io::Result<Option<Watch>>) -> Result<Option<Watch>> {
        let answered = called.and_then(|watch| {
            let Some(mut watch) = watch else { return Ok(None) };
            let reply = watch.answer()?;
            Ok(Some((watch, reply)))
        });
        match answered {
            Ok(None) => Ok(None),
            Ok(Some((watch, Reply::Ready))) => {
                self.alone.store(false, Ordering::Relaxed);
                Ok(Some(watch))
            }
            Ok(Some((_, Reply::Busy))) => {
                let why = "an earlier freeze is not proven to be over; it is still being thawed";
                Err(Error::new(ErrorKind::Busy, why))
            }
            Ok(Some((_, Reply::No(why)))) => Ok(self.alone(&why)),
            Err(e) => Ok(self.alone(&e)),
        }
    }

    /// Says once that nobody watches.
    fn alone(&self, why: &dyn Display) -> Option<Watch> {
        if !self.alone.swap(true, Ordering::Relaxed) {
            telling::alone(why);
        }
        None
    }

    fn tell(&self, frozen: &mut Frozen<'_>, word: &Word) {
        if let Some(watch) = &mut frozen.watch
            && let Err(e) = watch.say(word)
        {
            frozen.watch = self.alone(&e);
        }
    }
}
