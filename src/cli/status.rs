//! `virtsnap status`: the daemon, the policies and every VM at a glance, what is wrong first.
//!
//! What counts as wrong is decided in [`problem::problems`], a pure function: the exit status is for monitoring.

mod problem;

use serde::Serialize;
use zbus::Connection;

use self::problem::{Problem, Severity, problems};
use super::{
    console::Console,
    exit::{Exit, Failure},
    inventory::{Inventory, Object},
    props::{self, Manager, Vm},
    proxy::ROOT,
    render::{self, Column, Watch, cell, count, names, rfc3339, safe, table},
    suspend, view,
};

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
        for Problem { kind, name, text, severity } in problems {
            let kind = paint(&format!("{kind} {}", safe(name)), Some(*severity));
            console.line(&format!("  {kind}: {}", safe(text)))?;
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
            watch.both(policy.last_run),
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
    let worst = |vm: &Object<Vm>| {
        problems.iter().filter(|p| p.kind == "vm" && p.name == vm.name).map(|p| p.severity).min()
    };
    let mut vms: Vec<_> = all.vms().iter().map(|vm| (worst(vm), vm)).collect();
    // They are by name already, and stay so among those that are equally bad.
    vms.sort_by_key(|(worst, _)| (worst.is_none(), *worst));
    let rows = vms.iter().map(|(worst, vm)| vm_row(vm, &health(vm, worst.is_some()), all, watch));
    let shown = table(&columns, rows.collect());
    // A row is a line. In a cell, what colours it would count for its width.
    let paints = std::iter::once(None).chain(vms.iter().map(|(worst, _)| *worst));
    shown.lines().zip(paints).map(|(line, worst)| paint(line, worst) + "\n").collect()
}

/// What the daemon says of its disks and snapshots, and what else there is to say of it.
fn health(vm: &Vm, fails: bool) -> String {
    let also = match (fails, vm.policies.is_empty()) {
        (true, _) => ", FAILING",
        (_, true) => ", no policy",
        _ => "",
    };
    format!("{}{also}", cell(&vm.health))
}

fn paint(text: &str, severity: Option<Severity>) -> String {
    match severity {
        None => text.to_owned(),
        Some(Severity::Failure) => render::red(text),
        Some(Severity::Warning) => render::yellow(text),
    }
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
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::cli::{
        inventory::tests::{path, sample},
        place::Place,
        props::Interfaces,
    };
    use crate::{cli::console::Screen, clock::SystemClock};

    fn watch() -> Watch {
        Watch { zone: TimeZone::UTC, now: Timestamp::from_second(60).unwrap() }
    }

    #[test]
    fn the_worst_vms_come_first_and_health_is_what_the_daemon_says() {
        let vm = |name: &str, health: &str, error: &str| {
            let policies = if name == "idle" { vec![] } else { vec![path("/p")] };
            let (name, health, last_error) = (name.into(), health.into(), error.into());
            let reason = if health == "ok" { "" } else { "a disk" };
            let vm = Vm { name, health, last_error, policies, health_reason: reason.into(), ..Vm::default() };
            Interfaces { vm: Some(vm), ..Interfaces::default() }
        };
        let all = [
            vm("idle", "ok", ""),
            vm("a", "ok", ""),
            vm("b", "degraded", ""),
            vm("z", "broken", ""),
            vm("c", "ok", "no space"),
        ];
        let all = all.into_iter().enumerate().map(|(n, vm)| (path(&format!("/vm/{n}")), vm)).collect();
        let all = Inventory::arrange(all);
        let manager = Manager { hypervisor_connected: true, ..Manager::default() };
        let shown = vm_table(&all, &problems(&manager, &all, &watch(), &Place::default()), &watch());
        let lines: Vec<_> = shown.lines().skip(1).map(|line| line.split("  ").next().unwrap()).collect();
        assert_eq!(lines, ["\u{1b}[31mc", "\u{1b}[31mz", "\u{1b}[33mb", "a", "idle"], "{shown}");
        for health in ["ok, FAILING", "broken, FAILING", "degraded, FAILING", "  ok  ", "ok, no policy"] {
            assert!(shown.contains(health), "{health:?}: {shown}");
        }
    }

    #[test]
    fn warnings_are_shown_and_are_no_problem() {
        let manager = Manager {
            warnings: vec!["p.toml:2:7: \u{1b}warning".into()],
            hypervisor_connected: true,
            ..Manager::default()
        };
        assert_eq!(problems(&manager, &sample(), &watch(), &Place::default()), []);
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
