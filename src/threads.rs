//! State that threads share and wait for, and threads of the daemon's own: behind the clock, as waiting is. A simulation's
//! clock runs such threads one at a time, in an order that a seed decides.

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// What a thread does.
pub type Work = Box<dyn FnOnce() + Send>;

/// Tells threads that something may be there that they wait for.
pub trait Bell: Send + Sync + Debug {
    /// How often it rang.
    fn rung(&self) -> u64;

    /// Rings.
    fn ring(&self);

    /// Blocks until it rang more often than `seen`; false if that takes longer than `limit`.
    fn wait(&self, seen: u64, limit: Option<Duration>) -> bool;
}

/// One of the system's.
#[derive(Debug, Default)]
pub struct SystemBell {
    rung: Mutex<u64>,
    news: Condvar,
}

impl Bell for SystemBell {
    fn rung(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.news.notify_all();
    }

    fn wait(&self, seen: u64, limit: Option<Duration>) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = |rung: &mut u64| *rung == seen;
        match limit {
            None => {
                drop(self.news.wait_while(rung, silent).unwrap_or_else(PoisonError::into_inner));
                true
            }
            Some(limit) => {
                let waited = self.news.wait_timeout_while(rung, limit, silent);
                !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
            }
        }
    }
}

/// A thread of the system's.
pub(crate) fn start(name: &str, work: Work) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(|_| ())
}

/// Something that several threads change, and wait for.
#[derive(Debug)]
pub struct Shared<T> {
    state: Mutex<T>,
    news: Arc<dyn Bell>,
    clock: Arc<dyn Clock>,
}

impl<T> Shared<T> {
    /// It is so at first.
    pub fn new(state: T, clock: &Arc<dyn Clock>) -> Self {
        Self { state: Mutex::new(state), news: clock.bell(), clock: Arc::clone(clock) }
    }

    /// Changes it, and wakes those that wait.
    pub fn change<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        let done = act(&mut self.lock());
        self.news.ring();
        done
    }

    /// Looks at it, or changes what nobody waits for.
    pub fn look<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.lock())
    }

    /// Waits until there is something to be had of it.
    pub fn wait<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            // Asked first: what changes after the look rings once more.
            let seen = self.news.rung();
            if let Some(taken) = take(&mut self.lock()) {
                return taken;
            }
            self.news.wait(seen, None);
        }
    }

    /// The same; `None` if that takes too long.
    pub fn wait_within<R>(&self, patience: Duration, take: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        self.wait_until(self.clock.elapsed().saturating_add(patience), take)
    }

    /// The same, with the time by the clock's `elapsed` at which it is too long.
    pub fn wait_until<R>(&self, until: Duration, mut take: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        loop {
            let seen = self.news.rung();
            if let Some(taken) = take(&mut self.lock()) {
                return Some(taken);
            }
            let left = until.saturating_sub(self.clock.elapsed());
            if left.is_zero() {
                return None;
            }
            self.news.wait(seen, Some(left));
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn what_changes_wakes_who_waits_for_it_and_nothing_else_does() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let shared = Arc::new(Shared::new(0, &clock));
        let later = Arc::clone(&shared);
        let waits = std::thread::spawn(move || later.wait(|n| (*n == 2).then_some("two")));
        shared.change(|n| *n = 1);
        shared.change(|n| *n = 2);
        assert_eq!(waits.join().unwrap(), "two");
        assert_eq!(shared.wait_within(Duration::from_millis(1), |n| (*n == 3).then_some(())), None);
        assert_eq!(shared.wait_within(Duration::ZERO, |n| (*n == 2).then_some(())), Some(()), "it is there");
    }
}
