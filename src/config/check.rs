//! What `virtsnapd --check` prints: all that is wrong, and when each policy would run next.

use std::fmt::Write;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    Loaded,
    diagnostic::{Diagnostics, Style, printable},
    disk::SYSTEM_ZONE,
    values::{show_duration, show_size},
};
use crate::core::{
    policy::{Policy, Retention},
    schedule::{Schedule, next_fire},
};

/// How many runs are shown of each policy.
const RUNS: usize = 3;

/// The report on what [`super::load`] gave.
pub fn report(loaded: &Result<Loaded, Diagnostics>, now: Timestamp, style: Style) -> String {
    match loaded {
        Err(errors) => format!("{}\n{}\n", errors.render(style), counts(errors)),
        Ok(loaded) => {
            let mut out = loaded.warnings.render(style);
            if !out.is_empty() {
                out.push('\n');
            }
            for policy in loaded.settings.policies.values() {
                out.push_str(&describe(policy, now));
                out.push('\n');
            }
            let files = match loaded.files.len() {
                0 => "no file".to_owned(),
                n => plural(n, "file"),
            };
            let policies = match loaded.settings.policies.len() {
                0 => "no policy: nothing will run".to_owned(),
                1 => "1 policy".to_owned(),
                n => format!("{n} policies"),
            };
            let _ = writeln!(out, "{files}, {policies}, {}", counts(&loaded.warnings));
            out
        }
    }
}

fn counts(diagnostics: &Diagnostics) -> String {
    let errors = diagnostics.errors();
    format!("{}, {}", plural(errors, "error"), plural(diagnostics.len() - errors, "warning"))
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// A policy as it will work, and its next runs.
fn describe(policy: &Policy, now: Timestamp) -> String {
    let zone = &policy.retention.timezone;
    let mut out = format!("policy {} ({})\n", policy.name, printable(&policy.source.to_string()));
    // A name in `vms` was read from a file, where escapes can write anything.
    let mut line = |what: &str, text: &str| {
        let _ = writeln!(out, "  {what:<10}{}", printable(text));
    };
    line("vms", &joined(&policy.vms));
    if policy.schedules.is_empty() {
        line("schedule", "none");
    } else {
        // Between the fields a tab is as good as a blank.
        let schedules = joined(&policy.schedules).replace('\t', " ");
        line("schedule", &format!("{schedules} ({})", zone_name(zone)));
    }
    if !policy.before.is_empty() {
        line("before", &joined(&policy.before));
    }
    line("keeps", &keeps(&policy.retention));
    let mut after = now;
    let mut what = "next";
    for _ in 0..RUNS {
        let Some(run) = next_fire(&policy.schedules, after, zone) else { break };
        line(what, &run.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %:z (%Z)").to_string());
        after = run;
        what = "";
    }
    if policy.schedules.iter().any(Schedule::is_reboot) {
        line(what, "when the host boots");
    }
    if what == "next" && policy.schedules.is_empty() {
        line(what, if policy.before.is_empty() { "by hand" } else { "before an operation, or by hand" });
    }
    out
}

/// When a policy runs and what it keeps, in a line.
pub(super) fn summary(policy: &Policy) -> String {
    let runs = match (policy.schedules.is_empty(), policy.before.is_empty()) {
        (false, _) => {
            format!("runs at {} ({})", joined(&policy.schedules), zone_name(&policy.retention.timezone))
        }
        (true, false) => format!("runs before {}", joined(&policy.before)),
        (true, true) => "runs by hand only".to_owned(),
    };
    format!("{runs}, keeps {}", keeps(&policy.retention))
}

fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().filter(|name| *name != SYSTEM_ZONE).unwrap_or("the system's zone")
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn keeps(retention: &Retention) -> String {
    let (keep, limits) = (&retention.keep, &retention.limits);
    let counts = [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("yearly", keep.yearly),
    ];
    let mut parts: Vec<_> = counts.iter().filter_map(|(name, n)| Some(format!("{name} {}", (*n)?))).collect();
    parts.extend(keep.within.map(|span| format!("within {}", show_duration(span))));
    let rules = if parts.is_empty() {
        "everything".to_owned()
    } else {
        format!("{} ({})", parts.join(", "), retention.combine)
    };
    let limits: Vec<_> = [
        limits.max_count.map(|n| format!("{n} snapshots")),
        limits.max_age.map(show_duration),
        limits.max_size.map(show_size),
    ]
    .into_iter()
    .flatten()
    .collect();
    if limits.is_empty() { rules } else { format!("{rules}, at most {}", limits.join(", ")) }
}
