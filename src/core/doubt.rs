//! Snapshots that are older than the journal: it was lost, or a VM came with its snapshots from elsewhere.
//!
//! What was noted of them is gone: which were half merged, and so hold newer data than they say. To delete others because
//! of those would be to trust what nobody knows.

use jiff::Timestamp;

use super::{
    health::{Finding, Health},
    inventory::SnapshotRecord,
    model::Origin,
    text::for_shell,
};

/// Since when the journal knows what happens, if one of these is ours and older.
pub fn since<'a>(
    snapshots: impl IntoIterator<Item = &'a SnapshotRecord>,
    known: Option<Timestamp>,
) -> Option<Timestamp> {
    let known = known?;
    // One that was taken over had no merge of ours before that.
    let ours = |s: &SnapshotRecord| s.snapshot.managed && s.snapshot.origin != Origin::Foreign;
    // Of one that was taken with the clock set back the journal knows all the same.
    let noted = |s: &SnapshotRecord| s.quality.requested.is_some();
    let older = |s: &SnapshotRecord| ours(s) && !noted(s) && s.snapshot.created < known;
    snapshots.into_iter().any(older).then_some(known)
}

/// What a person should know of it.
pub fn finding(vm: &str, since: Timestamp) -> Finding {
    let text = format!(
        "The VM has snapshots that are older than the state database, which begins at {since}: what was noted of them is \
         lost, and with it which of them a merge may have spoiled that was cut short. They are shown as they are, and \
         nothing is pruned until somebody says so: {}.",
        way_out(vm)
    );
    Finding { health: Health::Degraded, text, repair: None }
}

/// How a person says that it is to be pruned all the same.
pub fn way_out(vm: &str) -> String {
    format!("look at them, then `virtsnap prune {} --all`", for_shell(vm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        model::{Content, Snapshot, SnapshotName, SnapshotState, Storage},
        policy::Quiesce,
        simulate::record,
    };

    #[test]
    fn what_was_taken_with_the_clock_set_back_is_not_older_than_the_journal_that_knows_it() {
        let [before, begun] = [1, 2].map(|s| Timestamp::from_second(s).unwrap());
        let mut one = record(Snapshot {
            name: SnapshotName::existing("s"),
            created: before,
            parent: None,
            current: true,
            state: SnapshotState::Ready,
            origin: Origin::Schedule,
            managed: true,
            policies: [].into(),
            pinned: false,
            expires: None,
            content: Content::Disk,
            storage: Storage::External,
            size: 0,
        });
        one.quality.requested = None;
        assert_eq!(since([&one], Some(begun)), Some(begun));
        one.quality.requested = Some(Quiesce::Prefer);
        assert_eq!(since([&one], Some(begun)), None);
    }

    #[test]
    fn the_way_out_can_be_pasted() {
        let found = finding("web 1", Timestamp::UNIX_EPOCH);
        assert!(found.text.ends_with("then `virtsnap prune 'web 1' --all`."), "{}", found.text);
    }
}
