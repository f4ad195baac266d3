//! What is to do now: on time, late, missed, or not yet; and each VM's own offset.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{Schedule, next_fire, previous_fire};
use crate::core::{model::VmId, policy::CatchUp};

/// [`Due::missed`] counts up to here; this many means "this many or more". Enough to say that it was many, and an
/// every-minute policy after a year off does not cost half a million steps.
pub const MISSED_MAX: u32 = 100;

/// A clock that goes back further than this had been wrong before, so what was handled "in the future" does not count.
const CLOCK_SLIP: SignedDuration = SignedDuration::from_hours(24);

/// What a policy has to do now, after start, wake-up, a clock jump or a timer.
///
/// All instants are scheduled ones, without a VM's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The scheduled instant to run for, now: the newest one, which stands for all before it.
    pub fire: Option<Timestamp>,
    /// How many scheduled instants since `last` have no run of their own: coalesced into `fire`, or not caught
    /// up. At most [`MISSED_MAX`].
    pub missed: u32,
    /// The newest instant that passed without any run. With `fire` too if the policy skips what it missed
    /// and one was on time.
    pub skipped: Option<Skipped>,
    /// When to ask again: the next scheduled instant.
    pub next: Option<Timestamp>,
    /// What to hand in as `last` the next time: all up to it is dealt with. To be stored, once `fire` is
    /// journalled, even if nothing fired: else a policy seen for the first time never gets a beginning.
    pub last: Timestamp,
    /// The clock was more than a day behind `last`, which was forgotten.
    pub reset: bool,
}

/// A scheduled instant that nothing ran for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// The instant.
    pub at: Timestamp,
    /// Why.
    pub why: SkipReason,
}

/// Why a missed run is not caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// `catch-up = "skip"`.
    Policy,
    /// It was due longer ago than `catch-up-within`.
    TooLongAgo,
}

/// Decides what a policy has to do.
///
/// `last` is the instant up to which all is dealt with: [`Due::last`] of the decision before. It must be set to the
/// present when a policy's schedules or zone are changed, or its new times since the last run would count as missed.
///
/// - `last` is `None` for a policy never seen before: it has missed nothing, and begins now.
/// - The newest scheduled instant in (`last`, `now`] is what counts; those before it are coalesced into it.
/// - At most `grace` old, it is on time, whatever `catch_up` says: a timer is never exact.
/// - Older, it is run if `catch_up` is `once` and it is at most `within` old; else it is skipped.
/// - If the clock is behind `last`, nothing runs twice: the next run is the first one after `last`. With one exception,
///   so that a clock which had been wrong does not stop a policy for a year: more than a day behind, `last` is forgotten
///   and the policy begins anew at `now`; scheduled instants from there on run, though the wrong clock may have
///   had them before. (It may have been right, too, and the one that is behind wrong: when a clock gets to what was
///   forgotten, it is the caller's to hand that in as `last` again.)
///
/// For a VM with an offset ([`spread_offset`]), hand in `now` less the offset, and add it to `next`: then its whole
/// clock runs later by that much, with grace, lateness and all.
pub fn due(
    schedules: &[Schedule],
    tz: &TimeZone,
    last: Option<Timestamp>,
    now: Timestamp,
    catch_up: CatchUp,
    within: SignedDuration,
    grace: SignedDuration,
) -> Due {
    let nothing = |last: Timestamp, reset| {
        let next = next_fire(schedules, last, tz);
        Due { fire: None, missed: 0, skipped: None, next, last, reset }
    };
    let Some(last) = last else { return nothing(now, false) };
    if last.duration_since(now) > CLOCK_SLIP {
        return nothing(now, true);
    }
    let Some(newest) = previous_fire(schedules, now, tz).filter(|at| *at > last) else {
        // `last` stays: it may be ahead of the clock, and else it is as good as `now`, for nothing is between.
        return nothing(last, false);
    };
    let next = next_fire(schedules, now, tz);
    let mut earlier = Earlier { schedules, tz, at: newest, last }.take(MISSED_MAX as usize).peekable();
    let newest_earlier = earlier.peek().copied();
    let count = |earlier: usize| u32::try_from(earlier).unwrap_or(MISSED_MAX).min(MISSED_MAX);

    let age = now.duration_since(newest);
    let run = Due { fire: Some(newest), missed: 0, skipped: None, next, last: newest, reset: false };
    let skip = |at, why| Some(Skipped { at, why });
    match catch_up {
        CatchUp::Once if age <= grace || age <= within => Due { missed: count(earlier.count()), ..run },
        CatchUp::Skip if age <= grace => {
            let skipped = newest_earlier.and_then(|at| skip(at, SkipReason::Policy));
            Due { missed: count(earlier.count()), skipped, ..run }
        }
        CatchUp::Once | CatchUp::Skip => {
            let why = if catch_up == CatchUp::Skip { SkipReason::Policy } else { SkipReason::TooLongAgo };
            Due { fire: None, missed: count(1 + earlier.count()), skipped: skip(newest, why), ..run }
        }
    }
}

/// The scheduled instants before `at` and after `last`, newest first.
struct Earlier<'a> {
    schedules: &'a [Schedule],
    tz: &'a TimeZone,
    at: Timestamp,
    last: Timestamp,
}

impl Iterator for Earlier<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let before = self.at.checked_sub(SignedDuration::from_nanos(1)).ok()?;
        self.at = previous_fire(self.schedules, before, self.tz).filter(|at| *at > self.last)?;
        Some(self.at)
    }
}

/// How much later than scheduled a VM's runs are: whole seconds, from zero to less than `spread`.
///
/// The same for ever, on every host and in every version: it depends on the UUID alone, through FNV-1a (64 bits) with a
/// final mixing, as its low bits alone are weak. And the same for every policy with that `spread`: those that are due
/// at once on one VM share one snapshot, which they could not if each had an offset of its own.
pub fn spread_offset(vm: VmId, spread: SignedDuration) -> SignedDuration {
    let Ok(seconds @ 1..) = u64::try_from(spread.as_secs()) else { return SignedDuration::ZERO };
    let mut hash = vm.0.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    SignedDuration::from_secs(i64::try_from(hash % seconds).unwrap_or(0))
}
