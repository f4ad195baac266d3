//! So many guests may be frozen at once: with each more, each is frozen for longer.

use std::{sync::Arc, time::Duration};

use crate::{clock::Clock, threads::Shared};

/// Who waits longer than this does without: one snapshot that hangs must not hold up those of all other guests.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Slots {
    taken: Shared<u32>,
}

/// One of them, for as long as this lives.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    /// None is taken.
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { taken: Shared::new(0, clock) }
    }

    /// Waits until fewer than `max` are taken; `None` if that takes too long.
    pub(super) fn take(&self, max: u32) -> Option<Slot<'_>> {
        self.take_within(max, PATIENCE)
    }

    fn take_within(&self, max: u32, patience: Duration) -> Option<Slot<'_>> {
        self.taken.wait_within(patience, |taken| {
            (*taken < max.max(1)).then(|| {
                *taken += 1;
                Slot(self)
            })
        })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.taken.change(|taken| *taken -= 1);
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
        drop(second);
        assert!(slots.take_within(0, Duration::ZERO).is_some(), "one is always allowed");
    }
}
