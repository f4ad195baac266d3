//! How fast a job copies, over the last seconds, and how long that will still take.
//!
//! The hypervisor's own numbers jump, and what a cache took in at first says nothing of what comes: only the last seconds
//! count. Nothing is said before that is known, nor of what stands still.

use std::{collections::VecDeque, time::Duration};

use super::{
    props::Job,
    render::{size, span},
};

/// So far it is looked back.
const WINDOW: Duration = Duration::from_secs(10);
/// What was looked at for a shorter time is no rate.
const LEAST: Duration = Duration::from_millis(900);

/// What is known of one job.
#[derive(Debug, Default)]
pub(super) struct Rate {
    phase: String,
    total: u64,
    /// How much was copied, and when that was heard.
    heard: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Takes in how far the job is at this time, by a clock that only goes forward.
    pub(super) fn feel(&mut self, job: &Job, at: Duration) {
        let done = job.bytes_done;
        let before = self.heard.back().map_or(0, |(_, before)| *before);
        // Another disk is another matter, and so is the same one that is begun anew.
        if job.phase != self.phase || job.bytes_total == 0 || done < before {
            self.heard.clear();
            job.phase.clone_into(&mut self.phase);
        }
        self.total = job.bytes_total;
        if self.total > 0 && (self.heard.is_empty() || done > before) {
            self.heard.push_back((at, done));
        }
        while self.heard.get(1).is_some_and(|(next, _)| at.saturating_sub(*next) >= WINDOW) {
            self.heard.pop_front();
        }
    }

    /// Something is copied of which it is known how much.
    pub(super) fn is_felt(&self) -> bool {
        !self.heard.is_empty()
    }

    /// `1.2 GiB of 4.8 GiB`, `210 MiB/s`, `17 s left`; what is not known is left out.
    pub(super) fn parts(&self, at: Duration) -> Vec<String> {
        let Some((_, done)) = self.heard.back() else { return vec![] };
        let mut parts = vec![format!("{} of {}", size(*done), size(self.total))];
        if let Some(rate) = self.rate(at) {
            let left = self.total.saturating_sub(*done).div_ceil(rate);
            parts.push(format!("{}/s", size(rate)));
            parts.push(format!("{} left", span(left.saturating_mul(1_000_000))));
        }
        parts
    }

    /// Bytes a second.
    fn rate(&self, at: Duration) -> Option<u64> {
        let ((from, first), (_, last)) = (self.heard.front()?, self.heard.back()?);
        let time = at.checked_sub(*from).filter(|time| *time >= LEAST)?;
        let rate = u128::from(last - first) * 1_000_000 / time.as_micros();
        u64::try_from(rate).ok().filter(|rate| *rate > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What is said when one disk after the other is heard of: the second, the disk, MiB done and of how many.
    fn said(heard: &[(u64, &str, u64, u64)]) -> Vec<String> {
        let mut rate = Rate::default();
        let each = heard.iter().map(|(second, phase, done, total)| {
            let (bytes_done, bytes_total) = (done * MIB, total * MIB);
            let job = Job { phase: (*phase).to_owned(), bytes_done, bytes_total, ..Job::default() };
            let at = Duration::from_secs(*second);
            rate.feel(&job, at);
            rate.parts(at).join(", ")
        });
        each.collect()
    }

    #[test]
    fn nothing_is_said_before_it_is_known() {
        let said =
            said(&[(5, "vda", 0, 0), (6, "vda", 100, 4900), (6, "vda", 200, 4900), (7, "vda", 300, 4900)]);
        assert_eq!(
            said,
            ["", "100 MiB of 4.8 GiB", "200 MiB of 4.8 GiB", "300 MiB of 4.8 GiB, 200 MiB/s, 23 s left"]
        );
    }

    #[test]
    fn the_last_seconds_count() {
        let fast_then_slow: Vec<_> =
            (0..=30).map(|s| (s, "vda", if s <= 10 { s * 100 } else { 990 + s }, 2020)).collect();
        let said = said(&fast_then_slow);
        assert_eq!(said[10], "1000 MiB of 2 GiB, 100 MiB/s, 11 s left");
        assert_eq!(said[30], "1020 MiB of 2 GiB, 1 MiB/s, 16 min 40 s left");
    }

    #[test]
    fn what_stands_still_has_no_rate_for_long_and_another_disk_begins_anew() {
        let said = said(&[
            (0, "vda", 0, 100),
            (5, "vda", 50, 100),
            (10, "vda", 50, 100),
            (60, "vda", 50, 100),
            (61, "vdb", 10, 100),
            (62, "vdb", 20, 100),
            (63, "vdb", 5, 100),
        ]);
        assert_eq!(
            said,
            [
                "0 B of 100 MiB",
                "50 MiB of 100 MiB, 10 MiB/s, 5 s left",
                "50 MiB of 100 MiB, 5 MiB/s, 10 s left",
                "50 MiB of 100 MiB",
                "10 MiB of 100 MiB",
                "20 MiB of 100 MiB, 10 MiB/s, 8 s left",
                "5 MiB of 100 MiB",
            ]
        );
    }
}
