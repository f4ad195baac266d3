//! What `virtsnap simulate` answers: JSON for scripts, tables for people.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    cli::render::{self, Column, cell, count, known_size, safe, size, table},
    core::{
        merge::Step,
        prune::{Decision, Sentence},
        simulate::{Day, Scene},
    },
};

/// All of it.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// When it was decided.
    now: String,
    timezone: String,
    /// The days until then; without `--until` none are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<Vec<ShownDay>>,
    verdicts: Vec<Verdict>,
    steps: Vec<ShownStep>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    name: String,
    time: String,
    /// In bytes, if it is known.
    size: Option<u64>,
    keep: bool,
    reasons: Vec<Reason>,
    text: String,
    #[serde(skip)]
    local: String,
}

#[derive(Debug, Serialize)]
struct Reason {
    rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    policy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    bucket: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
enum ShownStep {
    Merge { snapshots: Vec<String>, survivor: Option<String>, copies: u64, frees: u64 },
    DropBranch { snapshots: Vec<String>, copies: u64, frees: u64 },
    DeleteInternal { snapshots: Vec<String>, copies: u64, frees: u64 },
}

#[derive(Debug, Serialize)]
struct ShownDay {
    date: String,
    taken: Vec<String>,
    deleted: Vec<Deleted>,
    snapshots: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Deleted {
    name: String,
    text: String,
}

impl Answer {
    /// Puts it together. `unnamed`: the policy has no name that anybody gave.
    pub(super) fn new(
        scene: &Scene,
        now: Timestamp,
        zone: &TimeZone,
        decision: Decision,
        days: Option<Vec<Day>>,
        unnamed: bool,
    ) -> Self {
        let verdict = |sentence: Sentence| {
            let snapshot = scene.vm.snapshots.get(&sentence.name).map(|r| &r.snapshot);
            let created = snapshot.map_or(now, |s| s.created);
            let reason = |(rule, policy, bucket): (String, String, String)| Reason {
                rule,
                policy: if unnamed { String::new() } else { policy },
                bucket,
            };
            Verdict {
                name: sentence.name.to_string(),
                time: rfc3339(created, zone),
                size: snapshot.map(|s| s.size).filter(|size| *size != 0),
                keep: sentence.keep,
                reasons: sentence.reasons.into_iter().map(reason).collect(),
                text: sentence.text,
                local: created.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S").to_string(),
            }
        };
        Self {
            now: rfc3339(now, zone),
            timezone: zone.iana_name().unwrap_or("system").to_owned(),
            days: days.map(|days| days.into_iter().map(ShownDay::from).collect()),
            verdicts: decision.sentences.into_iter().map(verdict).collect(),
            steps: decision.plan.steps.into_iter().map(ShownStep::from).collect(),
        }
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        if let Some(days) = &self.days {
            out.push_str(&day_table(days));
            let _ = writeln!(out, "\nThen there are, at {}:", self.now);
        }
        if !self.verdicts.is_empty() {
            out.push_str(&self.verdict_table());
        }
        for step in &self.steps {
            let _ = writeln!(out, "{}", step.text());
        }
        let gone = self.verdicts.iter().filter(|v| !v.keep);
        let (n, bytes) =
            gone.fold((0, 0_u64), |(n, bytes), v| (n + 1, bytes.saturating_add(v.size.unwrap_or(0))));
        let all = count(self.verdicts.len(), "snapshot");
        let _ = match (n, bytes) {
            (0, _) => writeln!(out, "nothing to delete of {all}"),
            (n, 0) => writeln!(out, "{n} of {all} to delete"),
            (n, bytes) => writeln!(out, "{n} of {all} to delete, about {}", size(bytes)),
        };
        out
    }

    fn verdict_table(&self) -> String {
        let rows = self.verdicts.iter().map(|v| {
            vec![
                if v.keep { "keep" } else { "delete" }.to_owned(),
                cell(&v.name),
                v.local.clone(),
                known_size(v.size.unwrap_or(0)),
                safe(&v.text),
            ]
        });
        table(&render::VERDICTS, rows.collect())
    }
}

impl From<Step> for ShownStep {
    fn from(step: Step) -> Self {
        let one = |name: crate::core::model::SnapshotName| vec![name.to_string()];
        match step {
            Step::Merge { run, survivor, copies, frees } => Self::Merge {
                snapshots: run.iter().map(ToString::to_string).collect(),
                survivor: survivor.map(|name| name.to_string()),
                copies,
                frees,
            },
            Step::DropBranch { snapshot, frees } => {
                Self::DropBranch { snapshots: one(snapshot), copies: 0, frees }
            }
            Step::DeleteInternal { snapshot, frees } => {
                Self::DeleteInternal { snapshots: one(snapshot), copies: 0, frees }
            }
        }
    }
}

impl ShownStep {
    /// `step: merge a, b away in one pass, below c: copies at most 2 MiB, frees 2 MiB`
    fn text(&self) -> String {
        let list = |names: &[String]| names.iter().map(|name| safe(name)).collect::<Vec<_>>().join(", ");
        let (what, copies, frees) = match self {
            Self::Merge { snapshots, survivor, copies, frees } => {
                let below =
                    survivor.as_ref().map_or_else(String::new, |name| format!(", below {}", safe(name)));
                (format!("merge {} away in one pass{below}", list(snapshots)), *copies, *frees)
            }
            Self::DropBranch { snapshots, copies, frees } => {
                (format!("drop {}, the end of an abandoned branch", list(snapshots)), *copies, *frees)
            }
            Self::DeleteInternal { snapshots, copies, frees } => {
                (format!("delete the internal snapshot {}", list(snapshots)), *copies, *frees)
            }
        };
        let bytes = match (copies, frees) {
            (0, 0) => String::new(),
            (0, frees) => format!(": frees {}", size(frees)),
            (copies, frees) => format!(": copies at most {}, frees {}", size(copies), size(frees)),
        };
        format!("step: {what}{bytes}")
    }
}

impl From<Day> for ShownDay {
    fn from(day: Day) -> Self {
        Self {
            date: day.date.to_string(),
            taken: day.taken.iter().map(ToString::to_string).collect(),
            deleted: day
                .deleted
                .into_iter()
                .map(|(name, text)| Deleted { name: name.to_string(), text })
                .collect(),
            snapshots: day.snapshots,
            bytes: day.bytes,
        }
    }
}

fn day_table(days: &[ShownDay]) -> String {
    if days.is_empty() {
        return "no run until then\n".to_owned();
    }
    let columns = [
        Column::Left("DATE"),
        Column::Left("TAKEN"),
        Column::Left("DELETED"),
        Column::Right("SNAPSHOTS"),
        Column::Right("SIZE"),
    ];
    let rows = days.iter().map(|day| {
        let deleted: Vec<&str> = day.deleted.iter().map(|d| d.name.as_str()).collect();
        let taken: Vec<&str> = day.taken.iter().map(String::as_str).collect();
        vec![day.date.clone(), few(&taken), few(&deleted), day.snapshots.to_string(), known_size(day.bytes)]
    });
    table(&columns, rows.collect())
}

/// The first ones by name; the rest as a number, so that an hourly policy's day is a line, too.
fn few(names: &[&str]) -> String {
    const SHOWN: usize = 2;
    match names.len() {
        0..=SHOWN => cell(&names.join(", ")),
        n => format!("{} and {} more", safe(&names[..SHOWN - 1].join(", ")), n - (SHOWN - 1)),
    }
}

fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    at.display_with_offset(zone.to_offset(at)).to_string()
}
