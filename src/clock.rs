//! The only place that asks what time it is, and the only one that waits for time to pass.
//!
//! The engine sleeps on the wall clock with a `timerfd` that is cancelled when somebody sets the clock, so that
//! a jump is noticed at once and nothing polls. After a suspend the timer is late, and fires at once. The system's zone
//! is part of the time, too: [`watch_entry`] tells when /etc/localtime becomes another one.

use std::{
    ffi::OsStr,
    io,
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use crate::{
    logging::message,
    threads::{self, Bell, Shared, SystemBell, Work},
};

/// The time, as an input.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// A clock that only goes forward, for measuring.
    fn elapsed(&self) -> Duration;

    /// Blocks the calling thread: for back-off between tries on a worker's thread, never on a task.
    fn pause(&self, time: Duration);

    /// Starts a thread of the daemon's own.
    fn start(&self, name: &str, work: Work) -> io::Result<()> {
        threads::start(name, work)
    }

    /// What the daemon's threads wait for each other with.
    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(SystemBell::default())
    }

    /// A timer that is not set yet, and what it calls, from a thread of its own.
    fn wake_up(&self, woken: Box<dyn Fn() + Send + Sync>) -> io::Result<Box<dyn WakeUp>> {
        Ok(Box::new(Timer::start(woken)?))
    }
}

/// Wakes somebody at a time on the wall clock, and whenever the wall clock is set.
pub trait WakeUp: Send + std::fmt::Debug {
    /// Sets the time to wake up at.
    fn arm(&self, at: Option<Timestamp>, now: Timestamp) -> io::Result<()>;
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place for them")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self, time: Duration) {
        pause(time);
    }
}

/// Blocks the calling thread for so long in real time: for back-off where a hypervisor's real connection is at stake.
#[expect(clippy::disallowed_methods, reason = "this is the place for it")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Does something if a time passes in which nobody drops this.
#[derive(Debug)]
pub struct Alarm {
    dropped: Arc<Shared<bool>>,
}

impl Alarm {
    /// Does it on a thread of its own, after so long by this clock.
    pub fn set(
        clock: &Arc<dyn Clock>,
        after: Duration,
        ring: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let dropped = Arc::new(Shared::new(false, clock));
        let set = Self { dropped: Arc::clone(&dropped) };
        // From now on, and not from when the thread gets its turn.
        let until = clock.elapsed().saturating_add(after);
        clock.start(
            "alarm",
            Box::new(move || {
                if dropped.wait_until(until, |dropped| dropped.then_some(())).is_none() {
                    ring();
                }
            }),
        )?;
        Ok(set)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.dropped.change(|dropped| *dropped = true);
    }
}

/// Far enough: libvirt and this daemon will have been restarted by then. A timer that is not armed would not be
/// cancelled by a jump of the clock either.
const FAR: i64 = 365 * 24 * 3600;

/// The system's own, which is cancelled when the clock is set.
struct Timer {
    timer: Arc<TimerFd>,
    woken: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").field("timer", &self.timer).finish_non_exhaustive()
    }
}

impl Timer {
    /// With a thread that waits for it, and calls back from there.
    fn start(woken: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let woken: Arc<dyn Fn() + Send + Sync> = Arc::new(woken);
        let call = Arc::clone(&woken);
        let timer = Arc::new(TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?);
        let waiting = Arc::clone(&timer);
        std::thread::Builder::new().name("timer".into()).spawn(move || {
            loop {
                let mut expirations = [0_u8; 8];
                match nix::unistd::read(waiting.as_fd(), &mut expirations) {
                    // ECANCELED: somebody set the clock. The timer is still armed.
                    Ok(_) | Err(Errno::ECANCELED) => call(),
                    Err(Errno::EINTR) => {}
                    Err(e) => {
                        tracing::error!(
                            MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                            "the timer is broken; nothing is scheduled any more"
                        );
                        break;
                    }
                }
            }
        })?;
        Ok(Self { timer, woken })
    }

    /// What came of arming.
    fn armed(&self, result: nix::Result<()>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            // The clock was set since the last wait. It is armed all the same; but the kernel has told of the jump
            // here, and does not tell again where the thread waits.
            Err(Errno::ECANCELED) => {
                (self.woken)();
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl WakeUp for Timer {
    fn arm(&self, at: Option<Timestamp>, now: Timestamp) -> io::Result<()> {
        let at = at.unwrap_or_else(|| now + jiff::SignedDuration::from_secs(FAR));
        // All zeroes would disarm it; and a time in the past fires at once.
        let spec = TimeSpec::new(at.as_second(), i64::from(at.subsec_nanosecond().max(1)));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        self.armed(self.timer.set(Expiration::OneShot(spec), flags))
    }
}

/// Calls back, from a thread of its own, each time the entry `name` of `directory` was made, replaced or written. What it
/// links to is not looked at.
pub fn watch_entry(directory: &Path, name: &OsStr, changed: impl Fn() + Send + 'static) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    // Not its going away: who replaces it in two steps is not done yet.
    let news = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB;
    inotify.add_watch(directory, news)?;
    let name = name.to_owned();
    std::thread::Builder::new().name("zone".into()).spawn(move || {
        loop {
            match inotify.read_events() {
                // What comes together is told once. After an overflow anything may have happened.
                Ok(events) => {
                    let lost = |mask: AddWatchFlags| mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                    if events.iter().any(|e| e.name.as_ref() == Some(&name) || lost(e.mask)) {
                        changed();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "a new system time zone is not noticed any more; a reload takes it");
                    break;
                }
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::mpsc};

    use super::*;

    #[test]
    fn a_jump_of_the_clock_that_is_told_while_arming_wakes_all_the_same() {
        let (send, woken) = mpsc::channel();
        let send = std::sync::Mutex::new(send);
        let wake = Timer::start(move || send.lock().unwrap().send(()).unwrap()).unwrap();
        wake.armed(Ok(())).unwrap();
        assert!(woken.try_recv().is_err());
        wake.armed(Err(Errno::ECANCELED)).unwrap();
        woken.try_recv().expect("woken at once");
        assert!(wake.armed(Err(Errno::EINVAL)).is_err());
    }

    #[test]
    fn an_entry_that_is_replaced_is_told_and_its_neighbours_are_not() {
        const DEADLINE: Duration = Duration::from_secs(20);
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        symlink("/usr/share/zoneinfo/UTC", at("localtime")).unwrap();
        let (send, changes) = mpsc::channel();
        watch_entry(directory.path(), OsStr::new("localtime"), move || {
            let _ = send.send(());
        })
        .unwrap();
        std::fs::write(at("passwd"), "").unwrap();
        symlink("/usr/share/zoneinfo/Europe/Vienna", at("new")).unwrap();
        // As `timedatectl set-timezone` does it.
        std::fs::rename(at("new"), at("localtime")).unwrap();
        changes.recv_timeout(DEADLINE).expect("replaced");
        // Nothing was told of what came before, for that would have been one more.
        assert_eq!(changes.try_recv(), Err(mpsc::TryRecvError::Empty));
        // As an administrator does it.
        std::fs::remove_file(at("localtime")).unwrap();
        symlink("/usr/share/zoneinfo/UTC", at("localtime")).unwrap();
        changes.recv_timeout(DEADLINE).expect("made");
    }
}
