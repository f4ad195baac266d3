//! Who may start now: one job at a time on a VM, so many at once on the host, first come first served.
//!
//! Pure: the machine asks after every event and starts what is admitted.

use std::collections::BTreeSet;

use super::{job::JobId, model::VmId};

/// Which of the waiting jobs start, in order.
///
/// A job never overtakes an earlier one of its own VM; one whose VM is busy does not hold up other VMs.
pub fn admit(waiting: &[(JobId, VmId)], running: &BTreeSet<VmId>, max_jobs: usize) -> Vec<JobId> {
    let mut busy = running.clone();
    let mut free = max_jobs.saturating_sub(running.len());
    let mut start = Vec::new();
    for &(job, vm) in waiting {
        // Claimed even when it cannot start, so that a later job of this VM stays behind it.
        if busy.insert(vm) && free > 0 {
            free -= 1;
            start.push(job);
        }
    }
    start
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
        let waiting = [(1, vm(1)), (2, vm(1)), (3, vm(2)), (4, vm(3))];
        assert_eq!(admit(&waiting, &BTreeSet::new(), 2), [1, 3]);
        assert_eq!(admit(&waiting, &[vm(1)].into(), 3), [3, 4]);
        assert_eq!(admit(&waiting, &[vm(7), vm(8)].into(), 2), [] as [JobId; 0]);
    }

    #[test]
    fn a_job_never_overtakes_an_earlier_one_of_its_vm() {
        let waiting = [(1, vm(1)), (2, vm(1))];
        assert_eq!(admit(&waiting, &[vm(9)].into(), 1), [] as [JobId; 0]);
        assert_eq!(admit(&waiting, &BTreeSet::new(), 9), [1]);
    }
}
