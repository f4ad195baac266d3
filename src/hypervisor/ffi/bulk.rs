//! Many questions in a row, with the event loop out of their way.
//!
//! For each question that is asked on another thread libvirt's client library takes the connection out of the loop's poll,
//! and puts it back: that wakes the loop's thread three times a question, and takes longer than the question. A loop that
//! rests meanwhile is not woken; what comes on its own is told when it has rested.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::clock;

/// So long the loop rests between two rounds: so much later an event is told while many questions are asked.
const REST: Duration = Duration::from_millis(10);

static ASKING: AtomicUsize = AtomicUsize::new(0);

/// As long as one of these is there, many questions are asked.
#[derive(Debug)]
pub(in crate::hypervisor) struct Bulk(());

impl Bulk {
    pub(in crate::hypervisor) fn begin() -> Self {
        ASKING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        ASKING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The loop's thread, after a round.
pub(super) fn rest() {
    if ASKING.load(Ordering::Relaxed) > 0 {
        clock::pause(REST);
    }
}
