//! A snapshot's place in time, packed so that a million of them sort fast.

use jiff::{SignedDuration, Timestamp};

use crate::core::model::Snapshot;

/// A time and the index of a snapshot, in one number that orders by time: no name and no snapshot has to be
/// fetched to compare two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u128);

impl Moment {
    pub(super) fn new(time: Timestamp, index: u32) -> Self {
        // jiff cuts off towards 1970; here a second is the one that has begun.
        let (mut second, mut nano) = (time.as_second(), time.subsec_nanosecond());
        if nano < 0 {
            (second, nano) = (second - 1, nano + 1_000_000_000);
        }
        let second = (second ^ i64::MIN).cast_unsigned();
        Self(u128::from(second) << 64 | u128::from(nano.cast_unsigned()) << 32 | u128::from(index))
    }

    /// The snapshot's index.
    #[expect(clippy::cast_possible_truncation, reason = "the lowest 32 bits are what is wanted")]
    pub(super) const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// Whole seconds since 1970, rounded down.
    pub(super) const fn second(self) -> i64 {
        ((self.0 >> 64) as u64).cast_signed() ^ i64::MIN
    }

    /// True if `older` is less than `span` older than this.
    pub(super) fn is_within(self, span: SignedDuration, older: Self) -> bool {
        let age = self.nanos() - older.nanos();
        age < span.as_nanos()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the middle 32 bits are what is wanted")]
    fn nanos(self) -> i128 {
        i128::from(self.second()) * 1_000_000_000 + i128::from((self.0 >> 32) as u32)
    }

    /// Only the time, to compare with others' time.
    pub(super) const fn time(self) -> u128 {
        self.0 >> 32
    }
}

/// Newest first; of equal time the greater name first.
pub(super) fn sort(moments: &mut [Moment], snapshots: &[Snapshot]) {
    moments.sort_unstable_by(|a, b| b.cmp(a));
    for equal in moments.chunk_by_mut(|a, b| a.time() == b.time()).filter(|equal| equal.len() > 1) {
        equal.sort_unstable_by(|a, b| snapshots[b.index()].name.cmp(&snapshots[a.index()].name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_orders_as_time_does() {
        let times = ["-000044-03-15T12:00:00.5Z", "1969-12-31T23:59:58.5Z", "1969-12-31T23:59:59Z"]
            .into_iter()
            .chain(["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000001Z", "2026-11-20T02:30:00.25Z"])
            .map(|t| t.parse::<Timestamp>().unwrap());
        let moments: Vec<_> = (0..).zip(times.clone()).map(|(i, t)| Moment::new(t, 9 - i)).collect();
        assert!(moments.is_sorted());
        for (i, (moment, time)) in moments.iter().zip(times).enumerate() {
            assert_eq!(moment.index(), 9 - i);
            assert_eq!(i128::from(moment.second()), time.as_nanosecond().div_euclid(1_000_000_000));
        }
    }
}
