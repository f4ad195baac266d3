//! So many guests may be frozen at once: with each more, each is frozen for longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{clock::Clock, threads::Shared};

/// Who waits longer than this does without: one snapshot that hangs must not hold up those of all other guests.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Slots {
    taken: Arc<Shared<u32>>,
}

/// One of them, until it is let go of, by whoever of those that have it: or until the last of them is dropped.
#[derive(Debug, Clone)]
pub(super) struct Slot(Arc<Place>);

#[derive(Debug)]
struct Place {
    taken: Arc<Shared<u32>>,
    over: AtomicBool,
}

impl Slots {
    /// None is taken.
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { taken: Arc::new(Shared::new(0, clock)) }
    }

    /// Waits until fewer than `max` are taken; `None` if that takes too long.
    pub(super) fn take(&self, max: u32) -> Option<Slot> {
        self.take_within(max, PATIENCE)
    }

    /// The same as [`take`](Self::take); `None` if it takes longer than this.
    pub(super) fn take_within(&self, max: u32, patience: Duration) -> Option<Slot> {
        let free = self.taken.wait_within(patience, |taken| (*taken < max.max(1)).then(|| *taken += 1));
        free.map(|()| self.one())
    }

    /// For who is frozen already, however many are.
    pub(super) fn add(&self) -> Slot {
        self.taken.change(|taken| *taken += 1);
        self.one()
    }

    fn one(&self) -> Slot {
        Slot(Arc::new(Place { taken: Arc::clone(&self.taken), over: AtomicBool::new(false) }))
    }
}

impl Slot {
    /// Somebody else may have it: once, whoever says so.
    pub(super) fn let_go(&self) {
        self.0.let_go();
    }
}

impl Place {
    fn let_go(&self) {
        if !self.over.swap(true, Ordering::SeqCst) {
            self.taken.change(|taken| *taken -= 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn there_are_so_many_and_no_more() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let slots = Slots::new(&clock);
        let first = slots.take(2);
        let second = slots.take_within(2, Duration::ZERO);
        assert!(first.is_some() && second.is_some());
        assert!(slots.take_within(2, Duration::ZERO).is_none());
        assert!(slots.take_within(3, Duration::ZERO).is_some(), "who may be one of three is");
        drop(first);
        assert!(slots.take_within(2, Duration::ZERO).is_some());
        let both = second.clone().unwrap();
        drop(second);
        assert!(slots.take_within(1, Duration::ZERO).is_none(), "somebody has it still");
        both.let_go();
        let other = slots.take_within(1, Duration::ZERO);
        drop(both);
        assert!(slots.take_within(1, Duration::ZERO).is_none(), "that was not his any more");
        drop(other);
        assert!(slots.take_within(0, Duration::ZERO).is_some(), "one is always allowed");
    }
}
