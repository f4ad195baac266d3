//! The thaw: proven, or tried on and on.

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::{
    COUNTS, Freezer, KEEPER_PAUSE, KEEPERS, News, STATUS_TIMEOUT, THAW_TIMEOUT, THAW_TRIES, helper::Watch,
    slots::Slot, telling,
};
use crate::{
    clock::Clock,
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, FreezeStatus, Hypervisor, Result},
};

/// A guest whose file systems are frozen. Dropped without [`Frozen::thaw`], by a panic say, it thaws.
#[derive(Debug)]
#[must_use = "a frozen guest must be thawed"]
pub(super) struct Frozen<'a> {
    pub(super) freezer: &'a Arc<Freezer>,
    pub(super) vm: VmId,
    pub(super) count: u32,
    /// When it was asked to freeze: from then on it may have been.
    pub(super) since: Duration,
    /// When it said that it is frozen.
    pub(super) from: Duration,
    /// Who thaws it if this process cannot; for as long as it is not proven to be thawed.
    pub(super) watch: Option<Watch>,
    /// Its place among those that may be frozen at once; for as long as it is not proven to be thawed.
    pub(super) slot: Slot,
    /// When it was thawed before this was over, as its transaction took too long.
    pub(super) let_go: Arc<OnceLock<Duration>>,
    pub(super) done: bool,
}

impl Frozen<'_> {
    /// Thaws; what was found, and for how long they were frozen at most.
    pub(super) fn thaw(mut self) -> (Result<Thawed>, Duration) {
        self.end()
    }

    /// Nothing was frozen, and nothing is on its way to be: it is not thawed, as somebody else may have frozen it.
    pub(super) fn never(mut self) {
        self.done = true;
        self.freezer.proven(self.vm);
        self.slot.let_go();
        self.watch.take().into_iter().for_each(Watch::over);
    }

    fn end(&mut self) -> (Result<Thawed>, Duration) {
        let result = self.freezer.thaw_now(self.vm);
        self.done = true;
        let watch = self.watch.take();
        let until = match (self.let_go.get(), &result) {
            (Some(at), _) => *at,
            (None, Ok(thawed)) => thawed.at,
            (None, Err(_)) => self.freezer.clock.elapsed(),
        };
        let held = until.saturating_sub(self.since);
        (self.freezer.report)(self.vm, News::Held(held));
        match &result {
            Err(e) if e.kind != ErrorKind::NoSuchVm && !self.freezer.is_off(self.vm) => {
                let (watches, slots) = (watch.into_iter().collect(), vec![self.slot.clone()]);
                let kept = Kept { watches, slots, from: Some(until), ..Kept::default() };
                self.freezer.keep(self.vm, kept);
            }
            _ => {
                self.slot.let_go();
                watch.into_iter().for_each(Watch::over);
            }
        }
        (result, held)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.done
            && let (Err(e), _) = self.end()
        {
            telling::frozen(self.vm, &e, &"a bug had ended the snapshot; trying on");
        }
    }
}

/// A guest that is thawed on and on.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Who watches it from outside.
    watches: Vec<Watch>,
    /// Its places among those that may be frozen at once, which somebody who may never come back has, too.
    slots: Vec<Slot>,
    /// Until when it was told for how long it was frozen; `None`: whoever froze it still tells that.
    from: Option<Duration>,
    /// Who still tells that learns here when it was thawed.
    let_go: Vec<Arc<OnceLock<Duration>>>,
}

impl Kept {
    /// Frozen for too long by whoever has this place, which is free when it is thawed.
    pub(super) fn overdue(slot: &Slot, let_go: &Arc<OnceLock<Duration>>) -> Self {
        Self { slots: vec![slot.clone()], let_go: vec![Arc::clone(let_go)], ..Self::default() }
    }
}

/// A guest that is proven to be thawed.
#[derive(Debug)]
pub(super) struct Thawed {
    /// How many file systems were frozen until then.
    pub(super) count: u32,
    /// When the agent said that none is any more.
    pub(super) at: Duration,
    /// The guest itself had ended the freeze before.
    pub(super) let_go: bool,
}

/// One way to thaw.
pub(super) type Thaw = fn(&dyn Hypervisor, &dyn Clock, VmId) -> Result<Thawed>;

/// Thaws and asks whether that is so.
pub(super) fn thaw_once(hypervisor: &dyn Hypervisor, clock: &dyn Clock, vm: VmId) -> Result<Thawed> {
    let (count, let_go) = match hypervisor.thaw(vm, THAW_TIMEOUT) {
        Ok(count) => (count, false),
        Err(e) if e.kind == ErrorKind::LetGo => (0, true),
        Err(e) => return Err(e),
    };
    let at = clock.elapsed();
    match hypervisor.thaw_status(vm, STATUS_TIMEOUT)? {
        FreezeStatus::Thawed => Ok(Thawed { count, at, let_go }),
        FreezeStatus::Frozen => {
            Err(Error::new(ErrorKind::AgentFailed, "the agent says it thawed, and that it is frozen"))
        }
    }
}

/// The same, of a guest that was asked before and may not have answered in time. Where it says that it is thawed, it has
/// done all that it was asked for: it takes its commands in order. One whose hook takes longer than a thaw may would never
/// be proven else, and run that hook on and on.
pub(super) fn thaw_again(hypervisor: &dyn Hypervisor, clock: &dyn Clock, vm: VmId) -> Result<Thawed> {
    match hypervisor.thaw_status(vm, STATUS_TIMEOUT) {
        Ok(FreezeStatus::Thawed) => Ok(Thawed { count: 0, at: clock.elapsed(), let_go: false }),
        Ok(FreezeStatus::Frozen) | Err(_) => thaw_once(hypervisor, clock, vm),
    }
}

impl Freezer {
    /// Thaws, once more if need be, and proves it.
    fn thaw_now(&self, vm: VmId) -> Result<Thawed> {
        self.thaw_by(thaw_once, vm)
    }

    fn thaw_by(&self, thaw: Thaw, vm: VmId) -> Result<Thawed> {
        let mut tries = 1;
        let mut pause = Duration::from_millis(100);
        loop {
            match thaw(self.hypervisor.as_ref(), self.clock.as_ref(), vm) {
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

    /// It is thawed on and on, and whatever freezes it now would be thawed, too.
    pub(super) fn is_kept(&self, vm: VmId) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&vm)
    }

    fn is_off(&self, vm: VmId) -> bool {
        self.hypervisor.vm(vm).is_ok_and(|v| v.state == VmState::ShutOff)
    }

    pub(super) fn proven(&self, vm: VmId) {
        match self.store.freeze_ended(vm) {
            Ok(()) => drop(self.unnoted().remove(&vm)),
            Err(e) => {
                // Only costs a needless thaw at the next start.
                telling::not_noted(vm, &e);
                self.unnoted().insert(vm);
            }
        }
        (self.report)(vm, News::Thawed);
    }

    /// Who is thawed, and the store could not be told.
    pub fn thawed_unnoted(&self) -> BTreeSet<VmId> {
        self.unnoted().clone()
    }

    /// Tells the store now, for who holds the VM: nobody freezes it meanwhile.
    pub fn note_thawed(&self, vm: VmId) {
        if self.store.freeze_ended(vm).is_ok() {
            self.unnoted().remove(&vm);
        }
    }

    pub(super) fn unnoted(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.unnoted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Thaws a VM that may be frozen, on and on, on a thread of its own, until it is proven. An earlier life of the daemon
    /// froze it, so that it has no place yet among those that may be frozen at once.
    pub fn keep_thawing(self: &Arc<Self>, vm: VmId) {
        if !self.is_kept(vm) {
            self.keep(vm, Kept { slots: vec![self.slots.add()], ..Kept::default() });
        }
    }

    /// The same; who watches from outside does so until then.
    pub(super) fn keep(self: &Arc<Self>, vm: VmId, new: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(already) = kept.get_mut(&vm) {
            already.watches.extend(new.watches);
            already.slots.extend(new.slots);
            already.let_go.extend(new.let_go);
            already.from = already.from.or(new.from);
            return;
        }
        kept.insert(vm, new);
        drop(kept);
        let began = self.clock.elapsed();
        (self.report)(vm, News::Frozen);
        let this = Arc::clone(self);
        let work = move || {
            let mut pause = KEEPER_PAUSE.0;
            let at = loop {
                let turn = this.keepers.take(KEEPERS);
                let thawed = this.thaw_by(thaw_again, vm);
                drop(turn);
                match thawed {
                    Ok(thawed) => {
                        telling::thawed_late(vm, thawed.count);
                        break thawed.at;
                    }
                    Err(e) if e.kind == ErrorKind::NoSuchVm => break this.clock.elapsed(),
                    Err(e) => {
                        if this.is_off(vm) {
                            break this.clock.elapsed();
                        }
                        telling::frozen(vm, &e, &format_args!("trying again in {pause:?}"));
                    }
                }
                if this.clock.elapsed().saturating_sub(began) >= COUNTS {
                    this.uncount(vm);
                }
                this.clock.pause(pause);
                pause = (pause * 2).min(KEEPER_PAUSE.1);
            };
            let kept =
                this.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm).unwrap_or_default();
            if let Some(from) = kept.from {
                (this.report)(vm, News::Held(at.saturating_sub(from)));
            }
            // The first to say so is the one that thawed it.
            for let_go in &kept.let_go {
                let _ = let_go.set(at);
            }
            kept.slots.iter().for_each(Slot::let_go);
            kept.watches.into_iter().for_each(Watch::over);
        };
        if let Err(e) = self.clock.start("thaw", Box::new(work)) {
            // Who watches from outside finds the line broken, and has a thread.
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
            telling::frozen(vm, &e, &"there is no thread for the thaw; the next start tries again");
        }
    }

    /// Others may be frozen in its stead.
    fn uncount(&self, vm: VmId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = kept.get_mut(&vm).map(|kept| std::mem::take(&mut kept.slots)).unwrap_or_default();
        drop(kept);
        slots.iter().for_each(Slot::let_go);
    }

    /// Thaws every VM that an earlier life of the daemon may have left frozen: one try each, here and now. What is
    /// still not thawed is returned.
    pub fn thaw_left_over(&self, vms: &BTreeSet<VmId>) -> BTreeSet<VmId> {
        vms.iter()
            .copied()
            .filter(|vm| match self.thaw_now(*vm) {
                Ok(thawed) => {
                    telling::thawed_left_over(*vm, thawed.count);
                    false
                }
                Err(e) => e.kind != ErrorKind::NoSuchVm && !self.is_off(*vm),
            })
            .collect()
    }
}
