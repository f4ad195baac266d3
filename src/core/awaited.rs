//! Good snapshots that a policy awaits of a VM: how old the newest may be.

use jiff::{SignedDuration, Timestamp};

use super::{
    inventory::VmRecord,
    model::{PolicyName, SnapshotState},
};

/// So far ahead of us another clock may be.
pub const SLACK: SignedDuration = SignedDuration::from_mins(10);

/// What a policy awaits of a VM, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Since when: before, the policy was not for the VM, or the VM in no state for the policy.
    pub since: Timestamp,
    /// The newest one is too old, and this was told.
    pub stale: bool,
}

/// The newest good snapshot of a VM that counts for a policy. One that was taken at a time that has not come yet, by a
/// clock that was wrong, says nothing of how old it is, and is none.
pub fn newest_good(vm: &VmRecord, policy: &PolicyName, now: Timestamp) -> Option<Timestamp> {
    let snapshots = vm.snapshots.values().map(|s| &s.snapshot);
    let good =
        snapshots.filter(|s| s.managed && s.state == SnapshotState::Ready && s.policies.contains(policy));
    good.map(|s| s.created).filter(|created| created.duration_since(now) <= SLACK).max()
}

/// From when on the newest one is too old. One that was never taken, or before it was awaited, is as old as the waiting.
pub fn too_old_at(since: Timestamp, newest: Option<Timestamp>, stale_after: SignedDuration) -> Timestamp {
    newest.max(Some(since)).unwrap_or(since).checked_add(stale_after).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_that_of_the_newest_or_of_the_waiting() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let hour = SignedDuration::from_hours(1);
        assert_eq!(too_old_at(at(100), None, hour), at(3700));
        assert_eq!(too_old_at(at(100), Some(at(50)), hour), at(3700));
        assert_eq!(too_old_at(at(100), Some(at(200)), hour), at(3800));
        assert_eq!(too_old_at(at(100), None, SignedDuration::MAX), Timestamp::MAX);
    }
}
