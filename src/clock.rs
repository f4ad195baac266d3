//! The only place that asks what time it is, and the only one that waits for time to pass.
//!
//! The engine sleeps on the wall clock with a `timerfd` that is cancelled when somebody sets the clock, so that
//! a jump is noticed at once and nothing polls. After a suspend the timer is late, and fires at once.

use std::{
    io,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

/// The time, as an input.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// A clock that only goes forward, for measuring.
    fn elapsed(&self) -> Duration;

    /// Blocks the calling thread: for back-off between tries on a worker's thread, never on a task.
    fn pause(&self, time: Duration);
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

/// Far enough: libvirt and this daemon will have been restarted by then. A timer that is not armed would not be
/// cancelled by a jump of the clock either.
const FAR: i64 = 365 * 24 * 3600;

/// Wakes somebody at a time on the wall clock, and whenever the wall clock is set.
#[derive(Debug)]
pub struct WakeUp {
    timer: Arc<TimerFd>,
}

impl WakeUp {
    /// A timer with a thread that waits for it, and calls back from there.
    pub fn start(woken: impl Fn() + Send + 'static) -> io::Result<Self> {
        let timer = Arc::new(TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?);
        let waiting = Arc::clone(&timer);
        std::thread::Builder::new().name("timer".into()).spawn(move || {
            loop {
                let mut expirations = [0_u8; 8];
                match nix::unistd::read(waiting.as_fd(), &mut expirations) {
                    // ECANCELED: somebody set the clock. The timer is still armed.
                    Ok(_) | Err(Errno::ECANCELED) => woken(),
                    Err(Errno::EINTR) => {}
                    Err(e) => {
                        tracing::error!(error = %e, "the timer is broken; nothing is scheduled any more");
                        break;
                    }
                }
            }
        })?;
        Ok(Self { timer })
    }

    /// Sets the time to wake up at.
    pub fn arm(&self, at: Option<Timestamp>, now: Timestamp) -> io::Result<()> {
        let at = at.unwrap_or_else(|| now + jiff::SignedDuration::from_secs(FAR));
        // All zeroes would disarm it; and a time in the past fires at once.
        let spec = TimeSpec::new(at.as_second(), i64::from(at.subsec_nanosecond().max(1)));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        match self.timer.set(Expiration::OneShot(spec), flags) {
            // The clock was set since the last wait: armed all the same, and the next wait says so.
            Ok(()) | Err(Errno::ECANCELED) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
