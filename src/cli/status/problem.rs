//! Something that `virtsnap status` counts as wrong.

use serde::Serialize;

use crate::cli::{
    inventory::Inventory,
    place::Place,
    props::Manager,
    render::{Watch, pasted, quoted, safe},
    suspend,
};

/// How bad it is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Something was to be done and was not, or is lost or in danger.
    Failure,
    /// Something wants attention.
    Warning,
}

/// Something wrong, and with what.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// daemon, vm or policy.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) text: String,
    pub(super) severity: Severity,
}

/// What is wrong, failures first; of each the daemon, then the VMs, then the policies, by name.
pub(super) fn problems(manager: &Manager, all: &Inventory, watch: &Watch, place: &Place) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !manager.hypervisor_connected {
        let text = format!("no connection to libvirt ({}); it keeps trying", safe(&manager.hypervisor_uri));
        let (kind, name, severity) = ("daemon", "virtsnapd".to_owned(), Severity::Failure);
        problems.push(Problem { kind, name, text, severity });
    }
    for text in &manager.problems {
        let (kind, name, severity) = ("daemon", "virtsnapd".to_owned(), Severity::Failure);
        problems.push(Problem { kind, name, text: text.clone(), severity });
    }
    for vm in all.vms() {
        let mut add =
            |severity, text| problems.push(Problem { kind: "vm", name: vm.name.clone(), text, severity });
        // Frozen while a job is at work is how a snapshot is made.
        if vm.frozen && !all.is_busy(vm) {
            add(
                Severity::Failure,
                "its file systems are frozen and no job is at work; the daemon should have thawed them"
                    .to_owned(),
            );
        }
        if !vm.last_error.is_empty() {
            add(Severity::Failure, vm.last_error.clone());
        }
        let bad = if vm.health == "broken" { Severity::Failure } else { Severity::Warning };
        for line in vm.health_reason.lines() {
            add(bad, format!("{}: {line}", vm.health));
        }
        for suspended in vm.suspended.iter().filter(|(_, by, ..)| by != "person") {
            let policy = all.policy_name(&suspended.0).unwrap_or_default();
            add(
                Severity::Failure,
                format!(
                    "policy {} is {}; if a run works ({}), it is resumed",
                    quoted(policy),
                    suspend::phrase(suspended, watch),
                    place.virtsnap(&format!("run {} --vm {}", pasted(policy), pasted(&vm.name)))
                ),
            );
        }
        for (policy, newest) in &vm.stale {
            let policy = quoted(all.policy_name(policy).unwrap_or_default());
            add(
                Severity::Failure,
                match newest {
                    0 => {
                        format!(
                            "policy {policy} has no good snapshot of it yet, for longer than its stale-after"
                        )
                    }
                    _ => format!(
                        "the newest good snapshot of policy {policy} is of {}, longer ago than its stale-after",
                        watch.both(*newest)
                    ),
                },
            );
        }
        for snapshot in all.snapshots(vm).iter().filter(|s| s.state == "failed") {
            add(Severity::Warning, format!("snapshot {} is not usable", quoted(&snapshot.name)));
        }
    }
    for policy in all.policies() {
        if !matches!(policy.last_result.as_str(), "" | "done") {
            let text = format!("last run, {}: {}", watch.both(policy.last_run), policy.last_result);
            let (kind, name, severity) = ("policy", policy.name.clone(), Severity::Failure);
            problems.push(Problem { kind, name, text, severity });
        }
    }
    // They are by what they are about and by its name already.
    problems.sort_by_key(|problem| problem.severity);
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::{
        inventory::tests::{path, sample},
        props::{Interfaces, Job, Policy, Snapshot, Vm},
    };

    fn watch() -> Watch {
        Watch { zone: TimeZone::UTC, now: Timestamp::from_second(60).unwrap() }
    }

    fn connected() -> Manager {
        Manager { hypervisor_connected: true, state: "running".into(), ..Manager::default() }
    }

    fn with(objects: Vec<(&str, Interfaces)>) -> Inventory {
        Inventory::arrange(objects.into_iter().map(|(p, i)| (path(p), i)).collect::<HashMap<_, _>>())
    }

    fn vm(vm: Vm) -> Interfaces {
        Interfaces { vm: Some(Vm { name: "db".into(), ..vm }), ..Interfaces::default() }
    }

    fn texts(manager: &Manager, all: &Inventory) -> Vec<String> {
        problems(manager, all, &watch(), &Place::default())
            .into_iter()
            .map(|p| format!("{} {}", p.kind, p.text))
            .collect()
    }

    #[test]
    fn a_host_in_order_has_no_problem() {
        assert_eq!(texts(&connected(), &sample()), Vec::<String>::new());
    }

    #[test]
    fn no_hypervisor_a_vms_error_a_broken_snapshot_and_a_failed_run_are_problems() {
        let broken =
            Snapshot { name: "s".into(), vm: path("/vm"), state: "failed".into(), ..Snapshot::default() };
        let nightly = Policy { name: "n".into(), last_result: "failed".into(), ..Policy::default() };
        let all = with(vec![
            ("/vm", vm(Vm { last_error: "no space".into(), ..Vm::default() })),
            ("/s", Interfaces { snapshot: Some(broken), ..Interfaces::default() }),
            ("/p", Interfaces { policy: Some(nightly), ..Interfaces::default() }),
        ]);
        let found = texts(&Manager::default(), &all);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("daemon no connection to libvirt"));
        assert_eq!(found[1], "vm no space");
        assert!(found[2].starts_with("policy last run,") && found[2].ends_with("failed"));
        assert_eq!(found[3], "vm snapshot \"s\" is not usable", "that failed before");
    }

    #[test]
    fn how_a_suspended_policy_is_resumed_can_be_pasted() {
        let suspended = vec![(path("/p"), "failures".into(), "no space".into(), 0)];
        let named = Vm { name: "web 1".into(), suspended, ..Vm::default() };
        let nightly = Policy { name: "n".into(), ..Policy::default() };
        let all = with(vec![
            ("/vm", Interfaces { vm: Some(named), ..Interfaces::default() }),
            ("/p", Interfaces { policy: Some(nightly), ..Interfaces::default() }),
        ]);
        let found = texts(&connected(), &all);
        assert!(found[0].contains("(`virtsnap run n --vm 'web 1'`)"), "{found:?}");
    }

    #[test]
    fn frozen_is_a_problem_only_without_a_job() {
        let frozen = || ("/vm", vm(Vm { frozen: true, ..Vm::default() }));
        assert_eq!(texts(&connected(), &with(vec![frozen()])).len(), 1);
        let job = Job { state: "running".into(), objects: vec![path("/vm")], ..Job::default() };
        let at_work = ("/j", Interfaces { job: Some(job), ..Interfaces::default() });
        assert_eq!(texts(&connected(), &with(vec![frozen(), at_work])), Vec::<String>::new());
    }

    #[test]
    fn what_keeps_the_daemon_from_its_work_is_a_problem() {
        let problems = vec!["the configuration is broken".to_owned()];
        let manager = Manager { problems, ..connected() };
        assert_eq!(texts(&manager, &sample()), ["daemon the configuration is broken"]);
    }
}
