//! What can be read but hardly was meant: keys that cannot have an effect, limits that undo rules. Warnings,
//! with the numbers.

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place},
    fragment::Keys,
    pace::Pace,
    rules,
    settings::{Daemon, VmKey},
    values::show_duration,
};
use crate::core::{
    model::VmState,
    policy::{CatchUp, Memory, Policy, Quiesce},
};

/// A policy to be checked, and where it says what it says.
pub(super) struct Checked<'a> {
    pub(super) policy: &'a Policy,
    keys: &'a Keys,
    place: &'a Place,
    /// The exceptions of one VM: then only what involves these is said, the rest was said of the policy.
    exceptions: Option<(&'a Keys, &'a VmKey)>,
    /// True for a policy that only judges what is there: it need not run.
    judges_only: bool,
}

impl<'a> Checked<'a> {
    /// A policy as its file says it.
    pub(super) fn policy(policy: &'a Policy, keys: &'a Keys, place: &'a Place) -> Self {
        Self { policy, keys, place, exceptions: None, judges_only: false }
    }

    /// A policy with one VM's exceptions; `place` is where these begin.
    pub(super) fn exception(
        policy: &'a Policy,
        keys: &'a Keys,
        exceptions: &'a Keys,
        place: &'a Place,
        vm: &'a VmKey,
    ) -> Self {
        Self { policy, keys, place, exceptions: Some((exceptions, vm)), judges_only: false }
    }

    /// A policy that only judges snapshots that are there.
    pub(super) fn judge(policy: &'a Policy, keys: &'a Keys, place: &'a Place) -> Self {
        Self { judges_only: true, ..Self::policy(policy, keys, place) }
    }

    fn says(&self, key: &str) -> bool {
        self.keys.contains_key(key) || self.exceptions.is_some_and(|(keys, _)| keys.contains_key(key))
    }

    /// Warns at the first of the keys that is there.
    pub(super) fn warn(&self, keys: &[&str], message: &str, help: &str, out: &mut Diagnostics) {
        let given = match self.exceptions {
            Some((own, _)) => match keys.iter().find_map(|key| own.get(key)) {
                Some(given) => Some(given),
                None => return,
            },
            None => keys.iter().find_map(|key| self.keys.get(key)),
        };
        let place = given.map_or_else(
            || self.place.clone(),
            |given| Place::new(&given.place.file, given.key_place.span.start..given.place.span.end),
        );
        let whose = match self.exceptions {
            Some((_, vm)) => format!("policy {} for VM {vm}", self.policy.name),
            None => format!("policy {}", self.policy.name),
        };
        out.push(Diagnostic::warning(&place, format!("{whose}: {message}")).help(help));
    }
}

/// Finds all contradictions of one policy. `pace` is that of its schedules, which no VM can have for itself: it is
/// found out once, not for each of a thousand VMs.
pub(super) fn check(checked: &Checked<'_>, pace: Option<&Pace>, daemon: &Daemon, out: &mut Diagnostics) {
    runs(checked, pace, out);
    taking(checked, out);
    // What clients announce comes when it comes.
    let pace = pace.filter(|_| checked.policy.before.is_empty());
    rules::check(checked, pace, daemon, out);
}

fn runs(checked: &Checked<'_>, pace: Option<&Pace>, out: &mut Diagnostics) {
    let policy = checked.policy;
    if policy.schedules.is_empty() && policy.before.is_empty() && !checked.judges_only {
        checked.warn(
            &["schedule", "before"],
            "it has no schedule and runs before no operation: it runs only by hand",
            "schedule = \"30 2 * * *\" runs it every night",
            out,
        );
    }
    if let Some(gap) = pace.and_then(Pace::shortest_gap).filter(|gap| policy.spread >= *gap) {
        checked.warn(
            &["spread"],
            &format!(
                "runs are spread over {}, but can be as little as {} apart",
                show_duration(policy.spread),
                show_duration(gap)
            ),
            "a spread shorter than the time between runs keeps them apart",
            out,
        );
    }
    if let (Some(gap), Some(age)) = (pace.and_then(Pace::shortest_gap), policy.stale_after)
        && age <= gap
    {
        checked.warn(
            &["stale-after"],
            &format!(
                "a snapshot is stale after {}, but the next run comes no sooner than {} after it",
                show_duration(age),
                show_duration(gap)
            ),
            "a time longer than that between two runs, with room for one that fails",
            out,
        );
    }
    if policy.schedules.is_empty() && checked.says("suspend-after") && !checked.judges_only {
        checked.warn(
            &["suspend-after"],
            "`suspend-after` has no effect, as only runs by the schedule count",
            "omit it, or give the policy a schedule",
            out,
        );
    }
    if policy.catch_up == CatchUp::Skip && checked.says("catch-up-within") {
        checked.warn(
            &["catch-up-within"],
            "`catch-up-within` has no effect, as missed runs are skipped",
            "omit it, or write catch-up = \"once\"",
            out,
        );
    }
}

fn taking(checked: &Checked<'_>, out: &mut Diagnostics) {
    let how = &checked.policy.how;
    if how.memory == Memory::Require && how.when.contains(&VmState::ShutOff) {
        checked.warn(
            &["memory", "when"],
            "memory is required, but a VM that is shut off has none: its runs will fail",
            "when = [\"running\"], or memory = \"prefer\"",
            out,
        );
    }
    if how.quiesce == Quiesce::Require && how.when.contains(&VmState::Paused) {
        checked.warn(
            &["quiesce", "when"],
            "quiescing is required, but the agent of a paused VM cannot answer: its runs will fail",
            "take \"paused\" out of `when`, or quiesce = \"prefer\"",
            out,
        );
    }
    for key in ["freeze-timeout", "mountpoints"] {
        if how.quiesce == Quiesce::Never && checked.says(key) {
            checked.warn(
                &[key, "quiesce"],
                &format!("`{key}` has no effect, as nothing is frozen"),
                "omit it, or write quiesce = \"prefer\"",
                out,
            );
        }
    }
}
