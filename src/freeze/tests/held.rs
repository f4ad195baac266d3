//! For how long a guest was frozen is told whatever becomes of the snapshot, and of the thaw.

use std::sync::{atomic::AtomicU64, mpsc};

use jiff::Timestamp;

use super::*;

/// A clock on which each look takes a second, and a pause nothing.
#[derive(Debug, Default)]
struct Looked(AtomicU64);

impl Clock for Looked {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::SeqCst))
    }

    fn pause(&self, _: Duration) {}
}

/// Takes a snapshot that fails, of a guest whose thaw fails so often first: what was told.
fn told(failing_thaws: u32) -> Vec<News> {
    let World { sim, ear, .. } = world("ready\n");
    let store = Arc::new(Store::in_memory().unwrap());
    let (send, news) = mpsc::channel();
    let send = Mutex::new(send);
    let report = Box::new(move |_, told| send.lock().unwrap().send(told).unwrap());
    let freezer = Freezer::new(sim.clone(), store, Arc::new(Looked::default()), ear, report);
    let refused = Mishap::Refuse(Error::new(ErrorKind::AgentFailed, "on request"));
    sim.inject(Fault::new(Op::Thaw, refused).times(failing_thaws));
    let failed = || Err(Error::new(ErrorKind::Failed, "on request"));
    around(&freezer, &sim, Quiesce::Require, failed).unwrap_err();
    // Whoever thaws it on and on has it, too.
    drop(freezer);
    let mut all = Vec::new();
    loop {
        match news.recv_timeout(DEADLINE) {
            Ok(told) => all.push(told),
            Err(mpsc::RecvTimeoutError::Disconnected) => return all,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it is never thawed: {all:?}"),
        }
    }
}

fn held(all: &[News]) -> Vec<bool> {
    let times =
        all.iter().filter_map(|n| if let News::Held(time) = n { Some(!time.is_zero()) } else { None });
    times.collect()
}

#[test]
fn what_a_failed_snapshot_cost_the_guest_is_told_once() {
    assert_eq!(held(&told(0)), [true]);
}

#[test]
fn the_time_after_a_thaw_that_failed_is_told_when_it_is_thawed_at_last() {
    let all = told(THAW_TRIES);
    assert_eq!(held(&all), [true, true], "{all:?}");
    assert!(
        matches!(all[..], [News::Frozen, News::Held(_), News::Frozen, News::Thawed, News::Held(_)]),
        "{all:?}"
    );
}
