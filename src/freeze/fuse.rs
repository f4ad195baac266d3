//! Whether a guest holds still until the transaction is over: what thaws it where that takes too long, and what else ends
//! a freeze before.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Freezer, LONGEST, STATUS_TIMEOUT, WINDOWS_HOLDS, telling,
    thaw::{Frozen, Kept, Thawed},
};
use crate::{clock::Alarm, core::model::VmId, hypervisor::GuestSystem};

/// Thaws the guest when the transaction takes too long, as on storage that hangs: whoever waits for the transaction
/// cannot, and a thaw gets through beside it. Then the guest has its place among those that may be frozen at once until
/// it is thawed, and not until the transaction ends, which it may never do.
#[derive(Debug)]
#[must_use = "dropped, it does nothing"]
pub(super) struct Fuse {
    _alarm: Option<Alarm>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Set,
    Blown,
    /// The transaction was over before: what thaws on and on would end the next one's freeze.
    Over,
}

impl Fuse {
    /// For this guest, from now on.
    pub(super) fn set(frozen: &Frozen<'_>) -> Self {
        let freezer = Arc::clone(frozen.freezer);
        let (vm, clock) = (frozen.vm, Arc::clone(&freezer.clock));
        let kept = Kept::overdue(&frozen.slot, &frozen.let_go);
        let state = Arc::new(Mutex::new(State::Set));
        let at = Arc::clone(&state);
        let blow = move || {
            let mut state = lock(&at);
            if *state == State::Set {
                *state = State::Blown;
                telling::overdue(vm, LONGEST);
                freezer.keep(vm, kept);
            }
        };
        let alarm = Alarm::set(&clock, LONGEST, blow).inspect_err(telling::no_fuse).ok();
        Self { _alarm: alarm, state }
    }

    /// The transaction is over: what that means for it, if it was too late.
    pub(super) fn over(self) -> Option<String> {
        let blown = *lock(&self.state) == State::Blown;
        blown.then(|| {
            format!(
                "the snapshot took longer than {} s, so the file systems were thawed before it was over",
                LONGEST.as_secs()
            )
        })
    }
}

/// Also where a bug ends the transaction.
impl Drop for Fuse {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if *state == State::Set {
            *state = State::Over;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Freezer {
    /// Why the file systems may have been written to before the transaction was over, if they may.
    pub(super) fn not_held(&self, vm: VmId, count: u32, thawed: &Thawed, from: Duration) -> Option<String> {
        let held = thawed.at.saturating_sub(from);
        // Asked after the thaw, as the agent answers no such question while it is frozen, and before it costs time.
        let windows = || self.hypervisor.guest_system(vm, STATUS_TIMEOUT) == Ok(GuestSystem::Windows);
        if thawed.let_go || held > WINDOWS_HOLDS && windows() {
            return Some(format!(
                "Windows lets go of frozen file systems after {} s, and these were to be held for {:.1} s",
                WINDOWS_HOLDS.as_secs(),
                held.as_secs_f64()
            ));
        }
        let n = thawed.count;
        (n < count).then(|| {
            format!(
                "{count} file systems were frozen, but {n} were when the snapshot was over: somebody thawed them before"
            )
        })
    }
}
