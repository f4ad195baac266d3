//! So many guests may be frozen at once: with each more, each is frozen for longer.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Who waits longer than this does without: one snapshot that hangs must not hold up those of all other guests.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: Mutex<u32>,
    freed: Condvar,
}

/// One of them, for as long as this lives.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    /// Waits until fewer than `max` are taken; `None` if that takes too long.
    pub(super) fn take(&self, max: u32) -> Option<Slot<'_>> {
        self.take_within(max, PATIENCE)
    }

    fn take_within(&self, max: u32, patience: Duration) -> Option<Slot<'_>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, waited) = self
            .freed
            .wait_timeout_while(taken, patience, |taken| *taken >= max.max(1))
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *taken += 1;
        Some(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_no_more() {
        let slots = Slots::default();
        let first = slots.take(2);
        let second = slots.take_within(2, Duration::ZERO);
        assert!(first.is_some() && second.is_some());
        assert!(slots.take_within(2, Duration::ZERO).is_none());
        assert!(slots.take_within(3, Duration::ZERO).is_some(), "who may be one of three is");
        drop(first);
        assert!(slots.take_within(2, Duration::ZERO).is_some());
        drop(second);
        assert!(slots.take_within(0, Duration::ZERO).is_some(), "one is always allowed");
    }
}
