//! Snapshots that are older than the journal: it was lost, or a VM came with its snapshots from elsewhere.
//!
//! What was noted of them is gone: which were half merged, and so hold newer data than they say. To delete others because
//! of those would be to trust what nobody knows.

use jiff::Timestamp;

use super::{
    health::{Finding, Health},
    inventory::SnapshotRecord,
    model::Origin,
};

/// Since when the journal knows what happens, if one of these is ours and older.
pub fn since<'a>(
    snapshots: impl IntoIterator<Item = &'a SnapshotRecord>,
    known: Option<Timestamp>,
) -> Option<Timestamp> {
    let known = known?;
    // One that was taken over had no merge of ours before that.
    let ours = |s: &SnapshotRecord| s.snapshot.managed && s.snapshot.origin != Origin::Foreign;
    let older = |s: &SnapshotRecord| ours(s) && s.snapshot.created < known;
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
    format!("look at them, then `virtsnap prune {vm} --all`")
}
