//! Hooks: the administrator's programs beside operations. Which files are some, and what they are told.
//!
//! Files are chosen as `run-parts` does it, so that what an editor or a package manager leaves is none.

use super::{
    job::{Failure, Job, Made, Operation, Outcome},
    model::{SnapshotName, words},
};

words! {
    /// When a hook is run.
    Event {
        /// Before anything is touched.
        Before = "before",
        /// The guest's file systems are frozen, and the snapshot comes next: only if the administrator asks for that.
        Frozen = "frozen",
        /// It is done.
        After = "after",
        /// It failed or was stopped, or the daemon ended in the middle of it.
        Failed = "failed",
    }
}

/// What a hook's name ends in if its failure is only told.
const OPTIONAL: &str = ".optional";

/// Whether a file of this name is a hook: letters, digits, `_` and `-`, with `.optional` or nothing at its end.
pub fn is_hook(name: &str) -> bool {
    let base = name.strip_suffix(OPTIONAL).unwrap_or(name);
    !base.is_empty() && base.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether the operation goes on if this one fails before it.
pub fn is_optional(name: &str) -> bool {
    name.ends_with(OPTIONAL)
}

/// Whether hooks are run beside it: what somebody asked for or a policy does, and changes data or takes it.
pub const fn has_hooks(operation: &Operation) -> bool {
    match operation {
        Operation::Create(_)
        | Operation::Delete { .. }
        | Operation::Revert(_)
        | Operation::Branch(_)
        | Operation::Promote { .. }
        | Operation::Prune { .. } => true,
        Operation::Describe { .. }
        | Operation::Forget(_)
        | Operation::Adopt(_)
        | Operation::Repair
        | Operation::Finish
        | Operation::Sweep => false,
    }
}

/// What each hook of this job has in its environment, whenever it is run. `vm`: its name.
pub fn environment(job: &Job, vm: &str) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("VIRTSNAP_OPERATION", job.operation.as_str().to_owned()),
        ("VIRTSNAP_VM", vm.to_owned()),
        ("VIRTSNAP_VM_UUID", job.vm.to_string()),
        ("VIRTSNAP_JOB", job.id.to_string()),
        ("VIRTSNAP_ORIGIN", job.asker.origin.as_str().to_owned()),
    ];
    let snapshot = match &job.operation {
        Operation::Create(create) => create.name.as_ref(),
        Operation::Delete { name, .. } => Some(name),
        Operation::Revert(revert) => Some(&revert.name),
        Operation::Branch(branch) => Some(&branch.name),
        _ => None,
    };
    all.extend(snapshot.map(|name| ("VIRTSNAP_SNAPSHOT", name.as_str().to_owned())));
    if let Operation::Create(create) = &job.operation {
        let policies: Vec<&str> = create.policies.iter().map(super::model::PolicyName::as_str).collect();
        all.push(("VIRTSNAP_POLICIES", policies.join(" ")));
    }
    all
}

/// What comes to it at the end, and the event.
pub fn at_the_end(job: &Job, outcome: &Outcome) -> (Event, Vec<(&'static str, String)>) {
    let failed = |name: &str, text: &str| {
        (Event::Failed, vec![("VIRTSNAP_ERROR_NAME", name.to_owned()), ("VIRTSNAP_ERROR", text.to_owned())])
    };
    match outcome {
        Outcome::Done(Some(Made::Snapshot(name))) if matches!(job.operation, Operation::Create(_)) => {
            (Event::After, vec![("VIRTSNAP_SNAPSHOT", name.as_str().to_owned())])
        }
        Outcome::Done(_) => (Event::After, Vec::new()),
        Outcome::Failed(failure) => failed(failure.name, &failure.message),
        Outcome::Cancelled(text) => failed("Cancelled", text),
    }
}

/// The environment at the end: what came to it replaces what was foreseen.
pub fn with<V>(told: Vec<(&'static str, V)>, more: Vec<(&'static str, V)>) -> Vec<(&'static str, V)> {
    let foreseen = told.into_iter().filter(|(key, _)| more.iter().all(|(k, _)| k != key));
    foreseen.collect::<Vec<_>>().into_iter().chain(more).collect()
}

/// What comes to it while the guest is frozen for this snapshot.
pub fn while_frozen(job: &Job, taken: &SnapshotName) -> Vec<(&'static str, String)> {
    match job.operation {
        Operation::Create(_) => vec![("VIRTSNAP_SNAPSHOT", taken.as_str().to_owned())],
        // It is about another one.
        _ => Vec::new(),
    }
}

/// What the job comes to when one fails before it. `why`: what it did, as the end of a sentence.
pub fn refused(job: &Job, vm: &str, hook: &str, why: &str) -> Failure {
    Failure::new(
        "HookFailed",
        format!(
            "the {} of VM {vm} was not begun, as hook {hook} {why}. Nothing was touched, and the hooks that had been run \
             are told",
            job.operation.as_str()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_and_packages_leave_is_no_hook() {
        for name in ["50-db", "a", "A_b-3", "50-db.optional"] {
            assert!(is_hook(name), "{name}");
        }
        for name in [
            "",
            ".optional",
            "README.md",
            "50-db~",
            ".50-db.swp",
            "50-db.dpkg-old",
            "a b",
            "\u{e4}",
            "a.optional.optional",
        ] {
            assert!(!is_hook(name), "{name}");
        }
        assert!(is_optional("50-db.optional") && !is_optional("50-optional"));
    }

    #[test]
    fn nothing_is_told_twice() {
        let told = vec![("VIRTSNAP_VM", "web"), ("VIRTSNAP_SNAPSHOT", "asked-for")];
        let all = with(told, vec![("VIRTSNAP_SNAPSHOT", "taken"), ("VIRTSNAP_ERROR", "")]);
        assert_eq!(all, [("VIRTSNAP_VM", "web"), ("VIRTSNAP_SNAPSHOT", "taken"), ("VIRTSNAP_ERROR", "")]);
    }
}
