//! Randomness that is the same at every run: a test of the rules, not a search.

use virtsnap::core::policy::Keep;

/// Where every oracle's dice start; a failure names it.
pub(super) const SEED: u64 = 0x5EED_0F0D_D15C_A5E5;

/// A xorshift generator.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// One stream of its own for each `salt`.
    pub(super) fn new(salt: u64) -> Self {
        Self((SEED ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of a xorshift are its poorest.
        (self.0 >> 11) % end
    }

    /// True so many times in a hundred.
    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// A number of `-end..=end`.
    pub(super) fn around(&mut self, end: i64) -> i64 {
        i64::try_from(self.below(end.unsigned_abs() * 2 + 1)).unwrap() - end
    }

    /// Random counting rules, at least one of which keeps something. Small numbers, so that most run out of slots
    /// within a history, and now and then a zero and a number that no history reaches.
    pub(super) fn keep(&mut self) -> Keep {
        let mut slots = || match self.below(100) {
            0..45 => None,
            45..50 => Some(0),
            50..95 => u32::try_from(1 + self.below(9)).ok(),
            _ => Some(500),
        };
        let mut keep = Keep {
            last: slots(),
            hourly: slots(),
            daily: slots(),
            weekly: slots(),
            monthly: slots(),
            yearly: slots(),
            within: None,
        };
        let all = [keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly];
        if all.iter().all(|n| n.unwrap_or(0) == 0) {
            keep.daily = Some(4);
        }
        keep
    }
}
