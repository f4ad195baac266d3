//! `virtsnap simulate`: what a policy makes of any list of snapshots, now or in days to come.
//!
//! The functions that decide are the daemon's own; there is no bus, no hypervisor and no root in it.
//!
//! ```text
//! JSON ──▶ input ──┐
//! options, files ──▶ rules ──▶ Scene (core::simulate) ──▶ answer (JSON or a table)
//! ```

mod answer;
mod input;
mod rules;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fs, path::Path};

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use uuid::Uuid;

pub use self::answer::Answer;
use self::input::Input;
use super::{
    args::Simulate,
    console::Console,
    exit::{Exit, Failure},
    render::{Watch, quoted},
};
use crate::{
    config,
    core::{
        inventory::VmRecord,
        model::{PolicyName, VmId, VmState},
        simulate::{Outlook, Scene, record},
    },
};

/// The daemon's own default, for days to come: what grows under a policy meets it.
const MAX_CHAIN: u32 = 16;

/// Reads, decides, answers.
pub(super) fn simulate(args: &Simulate, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let text = read(args, console)?;
    let (answer, warnings) = answer(text.as_deref(), args, &console.watch)?;
    for warning in warnings {
        console.warning(&warning);
    }
    if console.json {
        console.answer(&answer)?;
    } else {
        console.print(&answer.text())?;
    }
    Ok(Exit::Done)
}

/// The answer to an input, and what hardly was meant. `None`: a VM without snapshots.
pub fn answer(text: Option<&str>, args: &Simulate, watch: &Watch) -> Result<(Answer, Vec<String>), Failure> {
    let input = text.map_or_else(|| Ok(Input::default()), input::parse)?;
    let zone = match args.timezone.as_deref().or(input.timezone.as_deref()) {
        Some(name) => input::zone(name)?,
        None => watch.zone.clone(),
    };
    let instant = |what: &str, text: &str, of_day| {
        input::time(text, &zone, of_day).map_err(|e| Failure::Usage(format!("{what}: {e}")))
    };
    let now = match (&args.now, &input.now) {
        (Some(text), _) => instant("--now", text, Time::midnight())?,
        (None, Some(text)) => instant("\"now\" of the input", text, Time::midnight())?,
        (None, None) => watch.now,
    };
    // A day is meant to its end.
    let last = Time::constant(23, 59, 59, 0);
    let until = args.until.as_deref().map(|text| instant("--until", text, last)).transpose()?;
    let rules = rules::rules(args, &input, &zone)?;
    let max_chain = args.max_chain.or(input.max_chain).or(rules.max_chain);
    // The days are those of the policy.
    let shown = rules.plan.policies.first().map_or(&zone, |p| &p.retention.timezone).clone();
    let names: BTreeSet<PolicyName> = rules.plan.policies.iter().map(|p| p.name.clone()).collect();
    let tree = input::tree(input.snapshots, &names, &zone)?;
    let mut scene = Scene {
        vm: VmRecord {
            id: VmId(Uuid::nil()),
            name: args.vm.clone().unwrap_or_else(|| "vm".to_owned()),
            state: VmState::Running,
            tags: BTreeSet::new(),
            agent_connected: false,
            chain_depth: 1,
            images: BTreeSet::new(),
            ground: None,
            stem: None,
            findings: Vec::new(),
            strays: Vec::new(),
            known_since: None,
            forgotten: Vec::new(),
            snapshots: tree.snapshots.into_iter().map(|s| (s.name.clone(), record(s))).collect(),
        },
        plan: rules.plan,
        max_chain: max_chain.or(until.map(|_| MAX_CHAIN)),
        needed: tree.needed,
        all: rules.all,
    };
    let mut at = now;
    let mut days = None;
    if let Some(until) = until {
        days = Some(forward(&mut scene, args, now, until, &shown)?);
        at = until.max(now);
    }
    let decision = scene.decide(at);
    Ok((Answer::new(&scene, at, &shown, decision, days, rules.unnamed), rules.warnings))
}

fn forward(
    scene: &mut Scene,
    args: &Simulate,
    now: Timestamp,
    until: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<crate::core::simulate::Day>, Failure> {
    if until < now {
        return Err(Failure::Usage(format!("--until {until} lies before now, {now}")));
    }
    let size = match &args.size {
        Some(text) => config::size(text).map_err(|e| Failure::Usage(format!("--size {text:?}: {e}")))?,
        None => 0,
    };
    let outlook = Outlook { until, zone: zone.clone(), size };
    scene.forward(now, &outlook).map_err(|e| Failure::Usage(format!("{e}; try a nearer --until")))
}

/// The input's text. Without one, a roll forward starts with no snapshot.
fn read(args: &Simulate, console: &mut Console<'_>) -> Result<Option<String>, Failure> {
    let stdin = Path::new("-");
    let path = match &args.input {
        Some(path) if path != stdin => {
            let text = fs::read_to_string(path).map_err(|e| {
                Failure::Usage(format!("cannot read {}: {e}", quoted(&path.to_string_lossy())))
            })?;
            return Ok(Some(text));
        }
        path => path,
    };
    // A standard input that nobody feeds would be waited for for ever: read only if there is no other source.
    let enough = args.until.is_some()
        && (args.policy_file.is_some() || args.config_dir.is_some() || !args.rules.toml().is_empty());
    if path.is_none() && enough {
        return Ok(None);
    }
    if path.is_none() && console.interactive {
        return Err(Failure::Usage(
            "no snapshots to judge: give a FILE, `-` for standard input, or --until to start without any"
                .to_owned(),
        ));
    }
    let mut text = String::new();
    console.input.read_to_string(&mut text)?;
    Ok(Some(text))
}
