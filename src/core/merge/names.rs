//! Finding snapshots by name, of which there may be a million.
//!
//! A map of strings would do, were it not for the memory: at each look-up it waits for a bucket, then for the
//! snapshot, then for the letters of its name. Here each pass does one of these for a whole batch, so that the
//! processor fetches many at a time.

use std::hash::{BuildHasher, RandomState};

use super::hold::Breakage;
use crate::core::model::SnapshotName;

/// The names of a tree's snapshots, each once.
pub(super) struct Names<'a, H = RandomState> {
    all: Vec<&'a str>,
    /// Keyed at random: nobody can choose names that all fall into one place.
    key: H,
    /// A power of two of them, at least half of them free. An entry has the upper half of the name's hash in its upper
    /// half, and in the lower one the name's index, plus one; it stands at the hash's place or next after it.
    slots: Vec<u64>,
}

const FREE: u64 = 0;
/// Small enough for the nearest cache.
const BATCH: usize = 512;

impl<'a> Names<'a> {
    pub(super) fn new(all: Vec<&'a str>) -> Result<Self, Breakage> {
        Self::hashed(all, RandomState::new())
    }
}

impl<'a, H: BuildHasher> Names<'a, H> {
    fn hashed(all: Vec<&'a str>, key: H) -> Result<Self, Breakage> {
        let slots = vec![FREE; (2 * all.len() + 1).next_power_of_two()];
        let mut names = Self { all, key, slots };
        let mut twice: Option<&str> = None;
        for start in (0..names.all.len()).step_by(BATCH) {
            let batch = start..names.all.len().min(start + BATCH);
            let hashes: Vec<u64> = names.all[batch.clone()].iter().map(|n| names.key.hash_one(n)).collect();
            for (at, hash) in batch.zip(hashes) {
                match names.search(hash, |i| names.all[i] == names.all[at]) {
                    Err(free) => names.slots[free] = tag(hash) << 32 | (at as u64 + 1),
                    // Of several faults always the same one is told, whatever the order of the input.
                    Ok(i) => twice = Some(twice.map_or(names.all[i], |other| other.min(names.all[i]))),
                }
            }
        }
        twice.map_or(Ok(names), |name| Err(Breakage::TwoOfOneName(SnapshotName::existing(name))))
    }

    /// The index of one.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.search(self.key.hash_one(name), |i| self.all[i] == name).ok()
    }

    /// The indices of many.
    pub(super) fn find_all(&self, wanted: &[Option<&str>]) -> Vec<Option<u32>> {
        let mut found = Vec::with_capacity(wanted.len());
        for batch in wanted.chunks(BATCH) {
            let hashes = batch.iter().map(|name| name.map(|name| self.key.hash_one(name)));
            let hashes: Vec<Option<u64>> = hashes.collect();
            let guesses = hashes.into_iter().map(|hash| self.search(hash?, |_| true).ok());
            let guesses: Vec<Option<usize>> = guesses.collect();
            let there = guesses.iter().map(|guess| guess.map_or("", |i| self.all[i]));
            let there: Vec<&str> = there.collect();
            for ((&name, guess), there) in batch.iter().zip(guesses).zip(there) {
                let sure = name.and_then(|name| if name == there { guess } else { self.find(name) });
                found.push(sure.and_then(|i| u32::try_from(i).ok()));
            }
        }
        found
    }

    /// The first one of this hash that `is` it, or the slot where it would stand.
    fn search(&self, hash: u64, is: impl Fn(usize) -> bool) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = low(hash) & mask;
        loop {
            match self.slots[slot] {
                FREE => return Err(slot),
                entry if tag(entry) == tag(hash) && is(low(entry) - 1) => return Ok(low(entry) - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

const fn tag(number: u64) -> u64 {
    number >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(number: u64) -> usize {
    number as u32 as usize
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, Hasher};

    use super::*;

    /// Finds one place for all names.
    #[derive(Default)]
    struct Same;

    impl Hasher for Same {
        fn finish(&self) -> u64 {
            7
        }
        fn write(&mut self, _: &[u8]) {}
    }

    fn find<H: BuildHasher>(count: u32, key: H) {
        let all: Vec<_> = (0..count).map(|i| format!("s{i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut wanted: Vec<_> = all.iter().copied().map(Some).collect();
        wanted.extend([None, Some(""), Some("x"), Some("s00")]);
        let expected: Vec<_> = (0..count).map(Some).chain([None; 4]).collect();
        let names = Names::hashed(all.clone(), key).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(names.find_all(&wanted), expected);
        assert!(all.iter().enumerate().all(|(i, name)| names.find(name) == Some(i)));
        assert_eq!(names.find("x"), None);
    }

    #[test]
    fn every_name_is_found_at_its_place_and_no_other_is() {
        for count in [0, 1, 2, 3, 511, 512, 513, 3_000] {
            find(count, RandomState::new());
        }
    }

    #[test]
    fn names_of_one_hash_are_told_apart() {
        for count in [1, 2, 3, 100] {
            find(count, BuildHasherDefault::<Same>::default());
        }
    }

    #[test]
    fn of_several_that_come_twice_the_first_by_name_is_told() {
        for all in [["b", "c", "a", "c", "a"], ["c", "a", "c", "a", "b"]] {
            let same = Names::hashed(all.to_vec(), BuildHasherDefault::<Same>::default()).err();
            let twice = Some(Breakage::TwoOfOneName(SnapshotName::existing("a")));
            assert_eq!((Names::new(all.to_vec()).err(), same), (twice.clone(), twice));
        }
    }
}
