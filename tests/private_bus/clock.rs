//! The daemon's clock, in a test's hand.

use std::{
    sync::{Arc, Condvar, Mutex, Weak},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use virtsnap::{
    clock::Clock,
    threads::{Bell, SystemBell},
};

/// A clock that a test can set. It goes on by itself, so that no two snapshots have the same time, and far ahead of
/// the system's, so that no timer fires by itself. Its pauses are short.
#[derive(Debug)]
pub struct TestClock {
    start: Instant,
    ahead: Mutex<SignedDuration>,
    /// So much more has passed than really has.
    passed: Mutex<Duration>,
    /// What threads wait with, for time to pass or for each other.
    bells: Mutex<Vec<Weak<SystemBell>>>,
    never: Condvar,
}

impl TestClock {
    /// Noon on a Friday.
    const NOON: Timestamp = Timestamp::constant(2_223_374_400, 0);

    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            ahead: Mutex::default(),
            passed: Mutex::default(),
            bells: Mutex::default(),
            never: Condvar::new(),
        }
    }

    /// Lets time pass, for both clocks, and for who waits for that.
    pub fn pass(&self, time: Duration) {
        *self.passed.lock().unwrap() += time;
        self.bells.lock().unwrap().iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
    }

    /// Sets it forward.
    pub fn advance(&self, by: SignedDuration) {
        *self.ahead.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Self::NOON + *self.ahead.lock().unwrap() + SignedDuration::try_from(self.elapsed()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed() + *self.passed.lock().unwrap()
    }

    fn bell(&self) -> Arc<dyn Bell> {
        let bell = Arc::new(SystemBell::default());
        let mut bells = self.bells.lock().unwrap();
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(&bell));
        bell
    }

    fn pause(&self, _: Duration) {
        let ahead = self.ahead.lock().unwrap();
        drop(self.never.wait_timeout(ahead, Duration::from_millis(5)).unwrap());
    }
}
