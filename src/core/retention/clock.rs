//! When the clock cannot be believed. Then nothing is deleted.

use std::fmt::{self, Write as _};

use jiff::{SignedDuration, Timestamp};

use super::Context;
use crate::core::{
    model::{Snapshot, SnapshotName},
    text::for_shell,
};

/// How far two honest readings may lie apart: time daemons step clocks by less.
const SLACK: SignedDuration = SignedDuration::from_mins(10);

/// This program did not exist before: 2025-01-01T00:00:00Z. A machine without a clock battery wakes in 1970,
/// or on its firmware's birthday.
pub const EARLIEST: Timestamp = Timestamp::constant(1_735_689_600, 0);

/// A host may have been off this long; a greater jump forward is taken for a wrong clock.
const FAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// What is wrong with the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockFault {
    /// It shows a time at which this program cannot have run.
    TooEarly {
        /// What it shows.
        now: Timestamp,
    },
    /// It shows a time before one that is known to have passed.
    Backward {
        /// What it shows.
        now: Timestamp,
        /// The newest time known to have passed.
        last: Timestamp,
    },
    /// It shows a time more than a year after the newest one known.
    FarForward {
        /// What it shows.
        now: Timestamp,
        /// The newest time known to have passed.
        last: Timestamp,
    },
    /// One of our snapshots is from the future.
    FutureSnapshot {
        /// What it shows.
        now: Timestamp,
        /// The one that is furthest ahead.
        name: SnapshotName,
        /// Its time.
        created: Timestamp,
    },
}

impl ClockFault {
    /// What a person can do, for the VM of this name, as the end of a sentence.
    pub fn way_out(&self, vm: &str) -> String {
        let mut text = "set the clock right".to_owned();
        match self {
            Self::TooEarly { .. } => return text,
            Self::Backward { .. } | Self::FarForward { .. } => {}
            Self::FutureSnapshot { name, .. } => {
                let _ = write!(text, ", or delete {:?} if its time is the wrong one", name.as_str());
            }
        }
        let _ = write!(
            text,
            "; if the time is right, `virtsnap prune --all {}` says so and prunes",
            for_shell(vm)
        );
        text
    }
}

impl fmt::Display for ClockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooEarly { now } => write!(f, "it shows {now:.0}, long past"),
            Self::Backward { now, last } => write!(f, "it shows {now:.0}, but {last:.0} has passed already"),
            Self::FarForward { now, last } => {
                write!(f, "it shows {now:.0}, more than a year after {last:.0}, the last time known")
            }
            Self::FutureSnapshot { now, name, created } => {
                let name = name.as_str();
                write!(f, "it shows {now:.0}, but the snapshot {name:?} is of {created:.0}")
            }
        }
    }
}

/// What is wrong with the clock, if anything is.
///
/// A jump forward of less than a year cannot be told from the host having been off. It does little harm: keep
/// rules count occupied buckets, wherever now is; only `max-age` looks at the clock, and the newest good one
/// outlives that too. After more than a year a person has to say that the time is right
/// ([`Context::clock_is_right`]), and the caller moves [`Context::last_plausible`] to it, be it on or back.
pub fn clock_fault(snapshots: &[Snapshot], ctx: &Context<'_>) -> Option<ClockFault> {
    let now = ctx.now;
    if ctx.earliest.is_some_and(|earliest| now < earliest) {
        // Nobody can be right who says that it is: this program did not exist.
        return Some(ClockFault::TooEarly { now });
    }
    if ctx.clock_is_right {
        return None;
    }
    if let Some(last) = ctx.last_plausible {
        let ahead = now.duration_since(last);
        if ahead < -SLACK {
            return Some(ClockFault::Backward { now, last });
        }
        if ahead > FAR {
            return Some(ClockFault::FarForward { now, last });
        }
    }
    // Others' snapshots may have been imported from a host with another idea of the time.
    let newest = snapshots.iter().filter(|s| s.managed).max_by_key(|s| (s.created, &s.name))?;
    (newest.created.duration_since(now) > SLACK).then(|| ClockFault::FutureSnapshot {
        now,
        name: newest.name.clone(),
        created: newest.created,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_can_be_pasted() {
        let fault = ClockFault::Backward { now: Timestamp::UNIX_EPOCH, last: Timestamp::UNIX_EPOCH };
        assert!(fault.way_out("web 1").contains("`virtsnap prune --all 'web 1'`"));
    }
}
