//! Who may start now: one job at a time on a VM, so many at once on the host. On a VM it is first come first served; of
//! several VMs' jobs it is those of each user, and what nobody asked for, by turns, so that one user's thousand jobs make
//! no other one wait for all of them. And who may wait.
//!
//! Pure: the machine asks after every event and starts what is admitted.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fmt,
};

use super::{job::JobId, model::VmId};

/// So many jobs that somebody asked for wait at most on one VM. What nobody asked for comes after no more than these.
pub const WAITING_ON_VM: usize = 64;
/// So many do on all VMs together: a policy run by hand on a host's thousand VMs is fewer.
pub const WAITING: usize = 4096;
/// So many of them one user's at most, on one VM: the others are for others. The superuser's are counted for themselves, so
/// that nobody takes their places.
pub const SHARE_ON_VM: usize = WAITING_ON_VM / 2;
/// So many one user's on all VMs together.
pub const SHARE: usize = WAITING / 2;

/// Whose turn it is to have one started: a user's, or, `None`, what nobody asked for.
pub type Who = Option<u32>;

/// A job that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// It.
    pub job: JobId,
    /// Its VM.
    pub vm: VmId,
    /// Who asked for it.
    pub who: Who,
}

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

/// Which of the waiting jobs start, and why the others don't, in their order; and who was served then.
///
/// A job never overtakes an earlier one of its own VM; one whose VM is busy does not hold up other VMs. Who waits behind
/// somebody else's job has a turn all the same: it goes to the one that is in the way. `counted`: how many of those that run
/// count against `max_jobs`. `served`: when somebody had a turn last, by a number that grows; whose was longest ago comes
/// first.
pub fn admit(
    waiting: &[Waiting],
    running: &BTreeMap<JobId, VmId>,
    counted: usize,
    max_jobs: usize,
    served: &BTreeMap<Who, u64>,
) -> (Vec<(JobId, Turn)>, BTreeMap<Who, u64>) {
    let mut holders: BTreeMap<VmId, JobId> = running.iter().map(|(job, vm)| (*vm, *job)).collect();
    let mut heads: BTreeMap<VmId, usize> = BTreeMap::new();
    // Of each, in order: where the job is in the queue, and where the one that has to start for it.
    let mut lines: BTreeMap<Who, VecDeque<(usize, usize)>> = BTreeMap::new();
    let mut turns = Vec::with_capacity(waiting.len());
    for (place, &Waiting { job, vm, who }) in waiting.iter().enumerate() {
        let turn = match holders.entry(vm) {
            Entry::Occupied(holder) => Turn::After(*holder.get()),
            Entry::Vacant(nobody) => {
                // Claimed even when it cannot start, so that a later job of this VM stays behind it.
                nobody.insert(job);
                heads.insert(vm, place);
                Turn::Full(max_jobs)
            }
        };
        turns.push((job, turn));
        if let Some(head) = heads.get(&vm) {
            lines.entry(who).or_default().push_back((place, *head));
        }
    }
    let mut served = served.clone();
    for _ in counted..max_jobs {
        let last = |who: &Who| served.get(who).copied().unwrap_or(0);
        for line in lines.values_mut() {
            while line.front().is_some_and(|(_, head)| turns[*head].1 == Turn::Now) {
                line.pop_front();
            }
        }
        let next = lines.iter().filter_map(|(who, line)| Some((last(who), *line.front()?, *who))).min();
        let Some((_, (_, head), who)) = next else { break };
        turns[head].1 = Turn::Now;
        served.insert(who, served.values().max().map_or(1, |last| last + 1));
    }
    (turns, served)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    /// Jobs of one user.
    fn jobs(all: &[(JobId, u128)]) -> Vec<Waiting> {
        all.iter().map(|(job, n)| Waiting { job: *job, vm: vm(*n), who: Some(0) }).collect()
    }

    #[test]
    fn one_job_per_vm_and_so_many_per_host_in_order() {
        use Turn::{After, Full, Now};
        let waiting = jobs(&[(11, 1), (12, 1), (13, 2), (14, 3)]);
        let turns = |running: &[(JobId, VmId)], max| {
            let running_now = running.iter().copied().collect();
            let (all, _) = admit(&waiting, &running_now, running.len(), max, &BTreeMap::new());
            assert!(all.iter().map(|(job, _)| *job).eq(waiting.iter().map(|waiting| waiting.job)));
            all.into_iter().map(|(_, turn)| turn).collect::<Vec<_>>()
        };
        assert_eq!(turns(&[], 2), [Now, After(11), Now, Full(2)]);
        assert_eq!(turns(&[(1, vm(1))], 3), [After(1), After(1), Now, Now]);
        assert_eq!(turns(&[(1, vm(7)), (2, vm(8))], 2), [Full(2), After(11), Full(2), Full(2)]);
    }

    #[test]
    fn what_does_not_count_leaves_its_place_to_others_and_holds_its_vm() {
        let (waiting, running) = (jobs(&[(11, 1), (12, 2), (13, 3)]), [(1, vm(1))].into());
        let (turns, _) = admit(&waiting, &running, 0, 1, &BTreeMap::new());
        assert_eq!(turns, [(11, Turn::After(1)), (12, Turn::Now), (13, Turn::Full(1))]);
    }

    #[test]
    fn a_job_never_overtakes_an_earlier_one_of_its_vm() {
        let mut waiting = jobs(&[(11, 1), (12, 1)]);
        // Nor where it would be its own turn.
        waiting[1].who = None;
        let served = [(Some(0), 5)].into();
        let turns = |running: &[(JobId, VmId)], max| {
            admit(&waiting, &running.iter().copied().collect(), running.len(), max, &served).0
        };
        assert_eq!(turns(&[(1, vm(9))], 1), [(11, Turn::Full(1)), (12, Turn::After(11))]);
        assert_eq!(turns(&[], 9), [(11, Turn::Now), (12, Turn::After(11))]);
    }

    #[test]
    fn whose_turn_was_longest_ago_comes_first() {
        let mut waiting = jobs(&[(11, 1), (12, 2), (13, 3), (14, 4), (15, 5), (16, 6)]);
        waiting[4].who = None;
        waiting[5].who = Some(1000);
        let started = |max, served: &[(Who, u64)]| {
            let (turns, _) = admit(&waiting, &BTreeMap::new(), 0, max, &served.iter().copied().collect());
            turns.into_iter().filter(|(_, turn)| *turn == Turn::Now).map(|(job, _)| job).collect::<Vec<_>>()
        };
        assert_eq!(started(1, &[]), [11], "first come first served");
        assert_eq!(started(1, &[(Some(0), 1)]), [15]);
        assert_eq!(started(1, &[(Some(0), 1), (None, 2)]), [16]);
        assert_eq!(started(1, &[(Some(0), 1), (None, 2), (Some(1000), 3)]), [11]);
        assert_eq!(started(3, &[(Some(0), 1)]), [11, 15, 16]);
        assert_eq!(started(9, &[]).len(), 6);
    }

    #[test]
    fn who_waits_behind_another_s_job_has_a_turn_for_it_and_pays_for_it() {
        let mut waiting = jobs(&[(11, 1), (12, 2), (13, 3), (14, 4), (15, 3), (16, 4)]);
        // The first four are a flood; these come late, behind two of them.
        waiting[4].who = None;
        waiting[5].who = Some(1000);
        let started = |max, served: &[(Who, u64)]| {
            let (turns, served) =
                admit(&waiting, &BTreeMap::new(), 0, max, &served.iter().copied().collect());
            let now = turns.into_iter().filter(|(_, turn)| *turn == Turn::Now);
            (now.map(|(job, _)| job).collect::<Vec<_>>(), served)
        };
        let flood = (Some(0), 1);
        assert_eq!(started(1, &[flood]), (vec![13], [flood, (None, 2)].into()));
        let others = [flood, (None, 2), (Some(1000), 3)];
        assert_eq!(started(2, &[flood]), (vec![13, 14], others.into()), "each in turn");
        assert_eq!(started(1, &others).0, [11], "and then it is the flood's own");
        // What is in the way starts once, whoever has it do so.
        assert_eq!(started(9, &[flood]).0, [11, 12, 13, 14]);
    }
}
