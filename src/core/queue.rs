//! Who may start now: one job at a time on a VM, so many at once on the host, first come first served.
//!
//! Pure: the machine asks after every event and starts what is admitted.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{job::JobId, model::VmId};

/// What becomes of a waiting job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It starts.
    Now,
    /// After this one, which has its VM or comes before it there.
    After(JobId),
    /// When one of as many jobs as may run at once has ended.
    Full(usize),
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("starting"),
            Self::After(job) => write!(f, "waiting for job {job} of the same VM"),
            Self::Full(1) => f.write_str("waiting: one job at a time (max-jobs)"),
            Self::Full(max) => write!(f, "waiting: {max} jobs run, which is max-jobs"),
        }
    }
}

/// Which of the waiting jobs start, and why the others don't, in their order.
///
/// A job never overtakes an earlier one of its own VM; one whose VM is busy does not hold up other VMs. `counted`: how many
/// of those that run count against `max_jobs`.
pub fn admit(
    waiting: &[(JobId, VmId)],
    running: &BTreeMap<JobId, VmId>,
    counted: usize,
    max_jobs: usize,
) -> Vec<(JobId, Turn)> {
    let mut holders: BTreeMap<VmId, JobId> = running.iter().map(|(job, vm)| (*vm, *job)).collect();
    let mut free = max_jobs.saturating_sub(counted);
    let turn = |&(job, vm): &(JobId, VmId)| {
        let turn = match holders.entry(vm) {
            Entry::Occupied(holder) => Turn::After(*holder.get()),
            Entry::Vacant(nobody) => {
                // Claimed even when it cannot start, so that a later job of this VM stays behind it.
                nobody.insert(job);
                if free > 0 {
                    free -= 1;
                    Turn::Now
                } else {
                    Turn::Full(max_jobs)
                }
            }
        };
        (job, turn)
    };
    waiting.iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    #[test]
    fn one_job_per_vm_and_so_many_per_host_in_order() {
        use Turn::{After, Full, Now};
        let waiting = [(11, vm(1)), (12, vm(1)), (13, vm(2)), (14, vm(3))];
        let turns = |running: &[(JobId, VmId)], max| {
            let all = admit(&waiting, &running.iter().copied().collect(), running.len(), max);
            assert!(all.iter().map(|(job, _)| *job).eq(waiting.iter().map(|(job, _)| *job)));
            all.into_iter().map(|(_, turn)| turn).collect::<Vec<_>>()
        };
        assert_eq!(turns(&[], 2), [Now, After(11), Now, Full(2)]);
        assert_eq!(turns(&[(1, vm(1))], 3), [After(1), After(1), Now, Now]);
        assert_eq!(turns(&[(1, vm(7)), (2, vm(8))], 2), [Full(2), After(11), Full(2), Full(2)]);
    }

    #[test]
    fn what_does_not_count_leaves_its_place_to_others_and_holds_its_vm() {
        let (waiting, running) = ([(11, vm(1)), (12, vm(2)), (13, vm(3))], [(1, vm(1))].into());
        let turns = admit(&waiting, &running, 0, 1);
        assert_eq!(turns, [(11, Turn::After(1)), (12, Turn::Now), (13, Turn::Full(1))]);
    }

    #[test]
    fn a_job_never_overtakes_an_earlier_one_of_its_vm() {
        let waiting = [(11, vm(1)), (12, vm(1))];
        let turns = |running: &[(JobId, VmId)], max| {
            admit(&waiting, &running.iter().copied().collect(), running.len(), max)
        };
        assert_eq!(turns(&[(1, vm(9))], 1), [(11, Turn::Full(1)), (12, Turn::After(11))]);
        assert_eq!(turns(&[], 9), [(11, Turn::Now), (12, Turn::After(11))]);
    }
}
