//! Policies that their schedules do not run: on a VM where they failed again and again, or because a person said so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    job::Failure,
    model::{PolicyName, VmId, words},
};

words! {
    /// Who suspended a policy.
    Suspender {
        /// The daemon, after as many failures as `suspend-after` says: a run that works resumes it.
        Failures = "failures",
        /// A person: nobody else resumes it.
        Person = "person",
    }
}

/// A policy that is suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// By whom.
    pub by: Suspender,
    /// Since when.
    pub since: Timestamp,
    /// Why, for people; empty if a person did not say.
    pub reason: String,
}

/// How a policy stands on one VM, or as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Runs by the schedule that failed one after the other. As a whole: 0.
    pub failures: u32,
    /// It is suspended.
    pub suspension: Option<Suspension>,
}

/// Whether such a failure is one of the policy on this VM. The others end without anybody doing anything about either, and
/// may come to all VMs of a host in the same night: then a policy that is tried on costs nothing, and one that is suspended
/// costs the restore points of all the nights after it.
pub fn is_its_own(failure: &Failure) -> bool {
    !matches!(
        failure.name,
        "Busy" | "Cancelled" | "ClockImplausible" | "Disconnected" | "NoSpace" | "NoSuchVM" | "Stopping"
    )
}

/// The standings of one policy: on VMs, and as a whole (`None`). Those that there is nothing to say of are not there.
pub type OfPolicy = BTreeMap<Option<VmId>, Standing>;

/// All of them.
#[derive(Debug, Default)]
pub struct Standings {
    all: BTreeMap<PolicyName, OfPolicy>,
    /// Something was suspended or resumed.
    news: bool,
}

impl Standings {
    /// Goes on where an earlier life ended.
    pub fn restored(all: BTreeMap<PolicyName, OfPolicy>) -> Self {
        Self { all, news: true }
    }

    /// On one VM alone, or as a whole.
    pub fn get(&self, policy: &PolicyName, vm: Option<VmId>) -> Standing {
        self.all.get(policy).and_then(|of| of.get(&vm)).cloned().unwrap_or_default()
    }

    /// As it is now; one that there is nothing to say of goes.
    pub fn set(&mut self, policy: &PolicyName, vm: Option<VmId>, standing: Standing) {
        let of = self.all.entry(policy.clone()).or_default();
        self.news |= of.get(&vm).and_then(|s| s.suspension.as_ref()) != standing.suspension.as_ref();
        if standing == Standing::default() {
            of.remove(&vm);
        } else {
            of.insert(vm, standing);
        }
        if of.is_empty() {
            self.all.remove(policy);
        }
    }

    /// Whether anything was suspended or resumed since this was asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Why the policy does not run on this VM: for itself, or as a whole.
    pub fn suspension(&self, policy: &PolicyName, vm: VmId) -> Option<&Suspension> {
        self.suspended(policy, Some(vm)).or_else(|| self.suspended(policy, None))
    }

    /// The same of one VM alone, or as a whole.
    pub fn suspended(&self, policy: &PolicyName, vm: Option<VmId>) -> Option<&Suspension> {
        self.all.get(policy)?.get(&vm)?.suspension.as_ref()
    }

    /// Where a policy is suspended.
    pub fn where_suspended(&self, policy: &PolicyName) -> Vec<Option<VmId>> {
        let all = self.all.get(policy).into_iter().flatten();
        all.filter(|(_, standing)| standing.suspension.is_some()).map(|(vm, _)| *vm).collect()
    }

    /// Keeps those of these policies; the others, which are forgotten.
    pub fn keep_policies(&mut self, known: impl Fn(&PolicyName) -> bool) -> Vec<PolicyName> {
        let gone = self.all.extract_if(.., |policy, _| !known(policy));
        gone.map(|(policy, _)| policy).inspect(|_| self.news = true).collect()
    }

    /// Keeps those on these VMs; the others, which are forgotten.
    pub fn keep_vms(&mut self, known: impl Fn(VmId) -> bool) -> Vec<(PolicyName, VmId)> {
        let mut gone = BTreeSet::new();
        for (policy, of) in &mut self.all {
            let lost = of.extract_if(.., |vm, _| vm.is_some_and(|vm| !known(vm)));
            gone.extend(lost.filter_map(|(vm, _)| Some((policy.clone(), vm?))));
        }
        self.all.retain(|_, of| !of.is_empty());
        self.news |= !gone.is_empty();
        gone.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    fn suspended(reason: &str) -> Standing {
        let reason = reason.to_owned();
        let since = Timestamp::UNIX_EPOCH;
        Standing { failures: 0, suspension: Some(Suspension { by: Suspender::Person, since, reason }) }
    }

    #[test]
    fn what_passes_by_itself_is_not_held_against_the_vm() {
        let own = |name| is_its_own(&Failure::new(name, ""));
        for name in ["QuiesceFailed", "ChainMismatch", "Denied", "HookFailed", "Unsupported", "Failed"] {
            assert!(own(name), "{name}");
        }
        for name in ["Disconnected", "NoSpace", "Busy", "ClockImplausible"] {
            assert!(!own(name), "{name}");
        }
    }

    #[test]
    fn its_own_reason_goes_before_that_of_the_whole_policy() {
        let (a, b): (PolicyName, PolicyName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut all = Standings::default();
        all.set(&a, None, suspended("all"));
        all.set(&a, Some(vm(1)), suspended("one"));
        all.set(&b, Some(vm(1)), Standing { failures: 2, suspension: None });
        let why = |all: &Standings, policy, n| all.suspension(policy, vm(n)).map(|s| s.reason.clone());
        assert_eq!(why(&all, &a, 1).as_deref(), Some("one"));
        assert_eq!(why(&all, &a, 2).as_deref(), Some("all"));
        assert_eq!(why(&all, &b, 1), None);
        assert_eq!((all.where_suspended(&a), all.where_suspended(&b)), (vec![None, Some(vm(1))], vec![]));

        assert_eq!(all.keep_vms(|id| id != vm(1)), [(a.clone(), vm(1)), (b.clone(), vm(1))]);
        assert_eq!(why(&all, &a, 1).as_deref(), Some("all"), "as a whole it stays suspended without VMs");
        assert_eq!(all.keep_policies(|_| false), [a]);
        assert_eq!(all.get(&b, Some(vm(1))), Standing::default());
    }
}
