//! `virtsnap status`: the daemon, the policies and every VM at a glance, what is wrong first.
//!
//! What counts as wrong is decided in [`problems`], a pure function: the exit status is for monitoring.

use serde::Serialize;
use zbus::Connection;

use super::{
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    place::Place,
    props::{self, Manager, Vm},
    proxy::ROOT,
    render::{Column, Watch, cell, count, names, pasted, quoted, rfc3339, safe, table},
    suspend, view,
};

/// Something wrong, and with what.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Problem {
    /// daemon, vm or policy.
    kind: &'static str,
    name: String,
    text: String,
}

#[derive(Serialize)]
struct Status<'a> {
    healthy: bool,
    problems: &'a [Problem],
    warnings: &'a [String],
    daemon: Daemon<'a>,
    policies: Vec<view::Policy<'a>>,
    vms: Vec<view::Vm<'a>>,
}

#[derive(Serialize)]
struct Daemon<'a> {
    version: &'a str,
    state: &'a str,
    hypervisor_uri: &'a str,
    hypervisor_connected: bool,
    hypervisor_version: &'a str,
    next_run: Option<String>,
    running_jobs: usize,
    inhibitors: Vec<Inhibitor<'a>>,
}

/// Who has scheduled runs wait.
#[derive(Serialize)]
struct Inhibitor<'a> {
    who: &'a str,
    why: &'a str,
    uid: u32,
    since: Option<String>,
}

/// Shows the status; [`Exit::Failed`] if anything is wrong.
pub(super) async fn status(bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let manager: Manager = props::read(bus, ROOT).await?;
    let all = Inventory::fetch(bus).await?;
    let problems = problems(&manager, &all, &console.watch, &console.place);
    if console.json {
        let status = Status {
            healthy: problems.is_empty(),
            problems: &problems,
            warnings: warnings(&manager),
            daemon: Daemon {
                version: &manager.version,
                state: &manager.state,
                hypervisor_uri: &manager.hypervisor_uri,
                hypervisor_connected: manager.hypervisor_connected,
                hypervisor_version: &manager.hypervisor_version,
                next_run: rfc3339(manager.next_run, &console.watch.zone),
                running_jobs: running(&all),
                inhibitors: inhibitors(&manager, &console.watch),
            },
            policies: all.policies().iter().map(|p| view::Policy::new(p, &all, &console.watch)).collect(),
            vms: all.vms().iter().map(|vm| view::Vm::new(vm, &all, &console.watch)).collect(),
        };
        console.answer(&status)?;
    } else {
        show(&manager, &all, &problems, console)?;
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// What is wrong: the daemon first, then the VMs, then the policies.
fn problems(manager: &Manager, all: &Inventory, watch: &Watch, place: &Place) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !manager.hypervisor_connected {
        let text = format!("no connection to libvirt ({}); it keeps trying", safe(&manager.hypervisor_uri));
        problems.push(Problem { kind: "daemon", name: "virtsnapd".to_owned(), text });
    }
    for text in &manager.problems {
        problems.push(Problem { kind: "daemon", name: "virtsnapd".to_owned(), text: text.clone() });
    }
    for vm in all.vms() {
        let mut add = |text| problems.push(Problem { kind: "vm", name: vm.name.clone(), text });
        // Frozen while a job is at work is how a snapshot is made.
        if vm.frozen && !all.is_busy(vm) {
            add("its file systems are frozen and no job is at work; the daemon should have thawed them"
                .to_owned());
        }
        if !vm.last_error.is_empty() {
            add(vm.last_error.clone());
        }
        for line in vm.health_reason.lines() {
            add(format!("{}: {line}", vm.health));
        }
        for suspended in vm.suspended.iter().filter(|(_, by, ..)| by != "person") {
            let policy = all.policy_name(&suspended.0).unwrap_or_default();
            add(format!(
                "policy {} is {}; if a run works ({}), it is resumed",
                quoted(policy),
                suspend::phrase(suspended, watch),
                place.virtsnap(&format!("run {} --vm {}", pasted(policy), pasted(&vm.name)))
            ));
        }
        for (policy, newest) in &vm.stale {
            let policy = quoted(all.policy_name(policy).unwrap_or_default());
            add(match newest {
                0 => {
                    format!("policy {policy} has no good snapshot of it yet, for longer than its stale-after")
                }
                _ => format!(
                    "the newest good snapshot of policy {policy} is of {}, longer ago than its stale-after",
                    watch.both(*newest)
                ),
            });
        }
        for snapshot in all.snapshots(vm).iter().filter(|s| s.state == "failed") {
            add(format!("snapshot {} is not usable", quoted(&snapshot.name)));
        }
    }
    for policy in all.policies() {
        if !matches!(policy.last_result.as_str(), "" | "done") {
            let text = format!("last run, {}: {}", watch.local(policy.last_run), policy.last_result);
            problems.push(Problem { kind: "policy", name: policy.name.clone(), text });
        }
    }
    problems
}

/// Those that are no problems: these come before all others.
fn warnings(manager: &Manager) -> &[String] {
    manager.warnings.strip_prefix(&*manager.problems).unwrap_or(&manager.warnings)
}

fn show(
    manager: &Manager,
    all: &Inventory,
    problems: &[Problem],
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if !problems.is_empty() {
        console.line(&format!("{}:", count(problems.len(), "problem")))?;
        for Problem { kind, name, text } in problems {
            console.line(&format!("  {kind} {}: {}", safe(name), safe(text)))?;
        }
        console.line("")?;
    }
    // Whoever did it wanted it so. It should not be forgotten all the same.
    let by_hand = suspended_by_hand(all, &console.watch);
    if !by_hand.is_empty() {
        console.line("Suspended by hand:")?;
        for line in by_hand {
            console.line(&format!("  {line}"))?;
        }
        console.line("")?;
    }
    if !manager.inhibitors.is_empty() {
        console.line("Scheduled runs and prunes wait:")?;
        for (who, why, uid, since) in &manager.inhibitors {
            let why = if why.is_empty() { String::new() } else { format!(": {}", safe(why)) };
            let since = console.watch.both(*since);
            console.line(&format!("  held by {} of user {uid} since {since}{why}", safe(who)))?;
        }
        console.line("")?;
    }
    // Nothing failed: they do not count for the exit status.
    let warnings = warnings(manager);
    if !warnings.is_empty() {
        console.line(&format!("{}:", count(warnings.len(), "warning")))?;
        for line in warnings {
            console.line(&format!("  {}", safe(line)))?;
        }
        console.line("")?;
    }
    let (version, state) = (safe(&manager.version), safe(&manager.state));
    console.line(&format!("virtsnapd {version}, {state}, {}", count(running(all), "running job")))?;
    let libvirt =
        if manager.hypervisor_connected { safe(&manager.hypervisor_version) } else { "not connected".into() };
    console.line(&format!("libvirt {libvirt} at {}", safe(&manager.hypervisor_uri)))?;
    console.line(&format!("next run: {}", console.watch.both(manager.next_run)))?;
    if !all.policies().is_empty() {
        console.line("")?;
        console.print(&policy_table(all, &console.watch))?;
    }
    if !all.vms().is_empty() {
        console.line("")?;
        console.print(&vm_table(all, problems, &console.watch))?;
    }
    Ok(())
}

fn inhibitors<'a>(manager: &'a Manager, watch: &Watch) -> Vec<Inhibitor<'a>> {
    let of = |(who, why, uid, since): &'a props::Inhibitor| Inhibitor {
        who,
        why,
        uid: *uid,
        since: rfc3339(*since, &watch.zone),
    };
    manager.inhibitors.iter().map(of).collect()
}

/// Each policy as a whole, else on each VM.
fn suspended_by_hand(all: &Inventory, watch: &Watch) -> Vec<String> {
    let mut lines = Vec::new();
    for policy in all.policies() {
        let name = safe(&policy.name);
        lines.extend(suspend::of_whole(policy, watch).map(|how| format!("policy {name}: {how}")));
        for suspended in policy.suspended_vms.iter().filter(|(_, by, ..)| by == "person") {
            let vm = safe(all.vm_name(&suspended.0).unwrap_or_default());
            lines.push(format!("policy {name} on VM {vm}: {}", suspend::phrase(suspended, watch)));
        }
    }
    lines
}

fn running(all: &Inventory) -> usize {
    all.jobs().iter().filter(|job| job.state == "running").count()
}

fn policy_table(all: &Inventory, watch: &Watch) -> String {
    let columns = [
        Column::Left("POLICY"),
        Column::Left("SCHEDULE"),
        Column::Right("VMS"),
        Column::Left("LAST RUN"),
        Column::Left("RESULT"),
        Column::Left("NEXT RUN"),
    ];
    let rows = all.policies().iter().map(|policy| {
        vec![
            cell(&policy.name),
            names(&policy.schedule),
            policy.vms.len().to_string(),
            watch.relative(policy.last_run),
            cell(&policy.last_result),
            watch.both(policy.next_run),
        ]
    });
    table(&columns, rows.collect())
}

fn vm_table(all: &Inventory, problems: &[Problem], watch: &Watch) -> String {
    let columns = [
        Column::Left("VM"),
        Column::Left("HEALTH"),
        Column::Left("STATE"),
        Column::Left("AGENT"),
        Column::Right("LAYERS"),
        Column::Right("SNAPSHOTS"),
        Column::Left("LAST SUCCESS"),
        Column::Left("NEXT RUN"),
    ];
    let is_wrong = |vm: &Object<Vm>| problems.iter().any(|p| p.kind == "vm" && p.name == vm.name);
    let (wrong, fine): (Vec<_>, Vec<_>) = all.vms().iter().partition(|vm| is_wrong(vm));
    let wrong = wrong.into_iter().map(|vm| vm_row(vm, "FAILING", all, watch));
    let fine = fine.into_iter().map(|vm| {
        let health = if vm.policies.is_empty() { "no policy" } else { "ok" };
        vm_row(vm, health, all, watch)
    });
    table(&columns, wrong.chain(fine).collect())
}

fn vm_row(vm: &Object<Vm>, health: &str, all: &Inventory, watch: &Watch) -> Vec<String> {
    vec![
        cell(&vm.name),
        health.to_owned(),
        cell(&vm.state),
        if vm.agent_connected { "yes" } else { "no" }.to_owned(),
        vm.chain_depth.to_string(),
        all.snapshots(vm).len().to_string(),
        watch.relative(vm.last_success),
        watch.relative(all.next_run(vm)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::{
        inventory::tests::{path, sample},
        props::{Interfaces, Job, Policy, Snapshot},
    };
    use crate::{cli::console::Screen, clock::SystemClock};

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
        assert_eq!(found[2], "vm snapshot \"s\" is not usable");
        assert!(found[3].starts_with("policy last run,") && found[3].ends_with("failed"));
        let table = vm_table(&all, &problems(&connected(), &all, &watch(), &Place::default()), &watch());
        assert!(table.lines().nth(1).unwrap().contains("FAILING"), "{table}");
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
    fn what_keeps_the_daemon_from_its_work_is_a_problem_and_said_once() {
        let text = |words: &str| words.to_owned();
        let problems = vec![text("the configuration is broken")];
        let warnings = vec![problems[0].clone(), text("p.toml:2:7: warning")];
        let manager = Manager { problems, warnings, ..connected() };
        assert_eq!(texts(&manager, &sample()), ["daemon the configuration is broken"]);
        assert_eq!(super::warnings(&manager), ["p.toml:2:7: warning"]);
    }

    #[test]
    fn warnings_are_shown_and_are_no_problem() {
        let manager = Manager { warnings: vec!["p.toml:2:7: \u{1b}warning".into()], ..connected() };
        assert_eq!(texts(&manager, &sample()), Vec::<String>::new());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut std::io::empty(),
            interactive: false,
            screen: Screen { columns: None, clock: &SystemClock::default() },
            json: false,
            place: Place::default(),
            watch: watch(),
        };
        show(&manager, &sample(), &[], &mut console).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("1 warning:\n  p.toml:2:7: ") && !out.contains('\u{1b}'), "{out}");
    }
}
