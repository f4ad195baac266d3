//! What `virtsnap simulate` reads: JSON as the manual describes it, made into snapshots.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{
    Timestamp, Zoned,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};
use serde::Deserialize;

use crate::{
    cli::{exit::Failure, render::quoted},
    config,
    core::{
        model::{Content, Origin, PolicyName, Snapshot, SnapshotName, SnapshotState, Storage},
        retention::Need,
    },
};

/// The whole input. Only `snapshots` matters in itself; all else may be said by options, too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Input {
    /// The time at which it is decided; else the time of the run.
    pub now: Option<String>,
    /// The zone of policies that name none, and of times without offset; else the system's.
    pub timezone: Option<String>,
    /// Keys of one `[policy.*]`.
    pub policy: Option<serde_json::Map<String, serde_json::Value>>,
    /// Several, by name.
    pub policies: BTreeMap<PolicyName, serde_json::Map<String, serde_json::Value>>,
    /// The VM's own `max-size`.
    pub vm_max_size: Option<Bytes>,
    /// `[daemon] max-chain`.
    pub max_chain: Option<u32>,
    /// In any order.
    pub snapshots: Vec<Given>,
}

/// A snapshot. `name` and `time` are required.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Given {
    name: String,
    time: String,
    #[serde(default)]
    size: Option<Bytes>,
    #[serde(default)]
    pinned: bool,
    #[serde(default)]
    expires: Option<String>,
    #[serde(default)]
    state: Option<SnapshotState>,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    origin: Option<Origin>,
    #[serde(default)]
    policies: Option<BTreeSet<PolicyName>>,
    #[serde(default)]
    storage: Option<Storage>,
    /// Another VM whose disk is based on this snapshot's image.
    #[serde(default)]
    needed_by: Option<String>,
}

/// A number of bytes, or a text with a unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Bytes {
    Number(u64),
    Text(String),
}

impl Bytes {
    pub(super) fn get(&self) -> Result<u64, Failure> {
        match self {
            Self::Number(bytes) => Ok(*bytes),
            Self::Text(text) => {
                config::size(text).map_err(|e| Failure::Usage(format!("the size {text:?}: {e}")))
            }
        }
    }
}

/// Reads the JSON.
pub(super) fn parse(text: &str) -> Result<Input, Failure> {
    // An empty input is likelier a command that failed before the pipe than a VM without snapshots.
    if text.trim().is_empty() {
        return Err(Failure::Usage(
            "the input is empty; `{\"snapshots\": []}` is a VM without any".to_owned(),
        ));
    }
    serde_json::from_str(text).map_err(|e| {
        Failure::Usage(format!("the input is not what is expected: {}", quoteless(&e.to_string())))
    })
}

/// serde's texts quote parts of the input; nothing of it shall reach the terminal raw.
fn quoteless(text: &str) -> String {
    crate::cli::render::safe(text)
}

/// What the snapshots come to.
#[derive(Debug)]
pub(super) struct Tree {
    pub snapshots: Vec<Snapshot>,
    pub needed: BTreeMap<SnapshotName, Need>,
}

/// Makes snapshots of what was given. One that names no policies counts for all of `policies`.
pub(super) fn tree(
    given: Vec<Given>,
    policies: &BTreeSet<PolicyName>,
    zone: &TimeZone,
) -> Result<Tree, Failure> {
    let mut needed = BTreeMap::new();
    let mut snapshots = Vec::with_capacity(given.len());
    let mut names = BTreeSet::new();
    for given in given {
        let name = SnapshotName::existing(given.name);
        let called = || format!("snapshot {}", quoted(name.as_str()));
        if name.as_str().is_empty() {
            return Err(Failure::Usage("a snapshot has an empty name".to_owned()));
        }
        if !names.insert(name.clone()) {
            return Err(Failure::Usage(format!("{} is there twice", called())));
        }
        let created = time(&given.time, zone, Time::midnight())
            .map_err(|e| Failure::Usage(format!("the time of {}: {e}", called())))?;
        if let Some(vm) = given.needed_by {
            needed.insert(name.clone(), Need::OtherVm(vm));
        }
        let over = |text: String| {
            time(&text, zone, Time::midnight())
                .map_err(|e| Failure::Usage(format!("the expiry of {}: {e}", called())))
        };
        let expires = given.expires.map(over).transpose()?;
        let origin = given.origin.unwrap_or(Origin::Schedule);
        snapshots.push(Snapshot {
            created,
            parent: given.parent.map(SnapshotName::existing),
            current: given.current,
            state: given.state.unwrap_or(SnapshotState::Ready),
            managed: origin != Origin::Foreign,
            origin,
            policies: match given.policies {
                Some(own) => own,
                None if origin == Origin::Foreign => BTreeSet::new(),
                None => policies.clone(),
            },
            pinned: given.pinned,
            expires,
            content: Content::Disk,
            storage: given.storage.unwrap_or(Storage::External),
            size: given.size.map_or(Ok(0), |size| size.get())?,
            name,
        });
    }
    complete(&mut snapshots);
    Ok(Tree { snapshots, needed })
}

/// What was left out of a tree: without any parent it is one chain in the order of time; the newest is current
/// if none is said to be.
fn complete(snapshots: &mut [Snapshot]) {
    let mut order: Vec<usize> = (0..snapshots.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&snapshots[a], &snapshots[b]);
        a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name))
    });
    if snapshots.iter().all(|s| s.parent.is_none()) {
        for pair in order.windows(2) {
            snapshots[pair[1]].parent = Some(snapshots[pair[0]].name.clone());
        }
    }
    if let Some(&newest) = order.last()
        && !snapshots.iter().any(|s| s.current)
    {
        snapshots[newest].current = true;
    }
}

/// An instant: with an offset or a zone, or a civil time in `zone`; a date alone means `of_day` of it.
pub(super) fn time(text: &str, zone: &TimeZone, of_day: Time) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<Zoned>() {
        return Ok(at.timestamp());
    }
    let civil = match text.len() {
        // jiff takes a date for a time at midnight.
        ..=10 => text.parse::<Date>().map(|date| date.to_datetime(of_day)),
        _ => text.parse::<DateTime>(),
    };
    civil.and_then(|civil| zone.to_timestamp(civil)).map_err(|_| {
        format!("{} is no time; such as 2026-11-20T02:30:00+01:00, or without an offset", quoted(text))
    })
}

/// A zone by its name.
pub(super) fn zone(name: &str) -> Result<TimeZone, Failure> {
    TimeZone::get(name)
        .map_err(|_| Failure::Usage(format!("there is no time zone {}; such as Europe/Vienna", quoted(name))))
}
