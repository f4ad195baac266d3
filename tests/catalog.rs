//! The journal's catalogue and the code: each kind of message that a program can watch for is explained, and every
//! error has a kind.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use virtsnap::{
    config::{self, Environment},
    core::{
        machine::{Machine, Start},
        view,
    },
    logging::message,
};

/// One entry: its headers, and its text.
struct Entry {
    headers: BTreeMap<String, String>,
    text: String,
}

/// As systemd reads it: an entry begins with `-- ID`, its headers end with an empty line.
fn catalog() -> BTreeMap<String, Entry> {
    let text = fs::read_to_string(root().join("systemd/virtsnap.catalog")).unwrap();
    let mut all = BTreeMap::new();
    let mut parts = text.split("\n-- ");
    assert!(
        parts.next().unwrap().lines().all(|l| l.starts_with('#') || l.is_empty()),
        "before the first entry"
    );
    for part in parts {
        let (id, rest) = part.split_once('\n').unwrap();
        let (headers, text) = rest.split_once("\n\n").unwrap_or_else(|| panic!("{id} has no text"));
        let pair = |l: &str| l.split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let entry = Entry { headers: headers.lines().map(pair).collect(), text: text.trim().to_owned() };
        assert!(all.insert(id.to_owned(), entry).is_none(), "{id} stands there twice");
    }
    all
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// What is logged: the file, the level, and all up to the end of the statement.
fn logged() -> Vec<(String, &'static str, String)> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut all = Vec::new();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        for (level, start) in
            [("error", "tracing::error!("), ("warn", "tracing::warn!("), ("info", "tracing::info!(")]
        {
            for (at, _) in text.match_indices(start) {
                let call = &text[at + start.len()..];
                // No text of ours holds a parenthesis that is not closed.
                let mut open = 1;
                let end = call.find(|c| {
                    open += i32::from(c == '(') - i32::from(c == ')');
                    open == 0
                });
                all.push((name.clone(), level, call[..end.unwrap()].to_owned()));
            }
        }
    }
    assert!(all.len() > 80, "the sources were not found");
    all
}

fn kind(call: &str) -> Option<&str> {
    let (_, rest) = call.split_once("MESSAGE_ID = message::")?;
    rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next()
}

#[test]
fn each_kind_is_in_the_catalogue_and_nothing_else_is() {
    let explained: BTreeSet<String> = catalog().into_keys().collect();
    let known: BTreeSet<String> = message::ALL.iter().map(|(_, id)| (*id).to_owned()).collect();
    assert_eq!(explained, known);
}

#[test]
fn each_kind_is_told_somewhere() {
    let logged = logged();
    let told: BTreeSet<&str> = logged.iter().filter_map(|(_, _, call)| kind(call)).collect();
    let known: BTreeSet<&str> = message::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(told, known);
}

/// Warnings without a kind, by their file and words of theirs: those that are about no VM, policy or snapshot, nor about
/// the store or the configuration.
const OF_NO_KIND: &[(&str, &str)] = &[
    // A new time zone of the system: until a reload the old one counts, as before systemd's own services notice.
    ("src/clock.rs", "a new system time zone is not noticed any more"),
    ("src/daemon.rs", "a new system time zone will not be noticed"),
    // Callers: what they asked for goes on, or they are told by the bus that virtsnapd is gone.
    ("src/dbus/departures.rs", "what callers wait for who leave the bus goes on"),
    ("src/dbus/mod.rs", "not everybody who waited for an answer got one"),
];

#[test]
fn every_error_and_every_warning_has_a_kind() {
    let spared =
        |file: &str, call: &str| OF_NO_KIND.iter().any(|(of, words)| *of == file && call.contains(words));
    let (mut without, mut found) = (Vec::new(), 0);
    for (file, level, call) in logged() {
        if level == "info" || kind(&call).is_some() {
            continue;
        }
        if level == "warn" && spared(&file, &call) {
            found += 1;
        } else {
            without.push(format!("{file}: {}", call.trim()));
        }
    }
    assert!(without.is_empty(), "{}", without.join("\n"));
    assert_eq!(found, OF_NO_KIND.len(), "one that is spared is not there any more");
}

/// `journalctl VIRTSNAP_VM=` finds by the name, and a program by the number, as names change.
#[test]
fn who_names_a_vm_tells_its_number() {
    let without: Vec<_> = logged()
        .into_iter()
        .filter(|(_, _, call)| call.contains("VIRTSNAP_VM = ") && !call.contains("VIRTSNAP_VM_UUID = "))
        .map(|(file, _, call)| format!("{file}: {}", call.trim()))
        .collect();
    assert!(without.is_empty(), "{}", without.join("\n"));
}

/// What was cut short is looked for by the VM that it happened to.
#[test]
fn what_was_begun_and_cut_short_is_told_with_its_vm() {
    // Where libvirt does not answer of a VM, nobody knows its name.
    let nameless = ["VM_STUCK"];
    let of_a_vm = ["INTERRUPTED", "LEFT_BEHIND", "GUEST_FROZEN"];
    let mut seen = 0;
    for (file, _, call) in logged().iter().filter(|(file, ..)| file.starts_with("src/engine/recovery/")) {
        let kind = kind(call).unwrap_or_else(|| panic!("{file}: {call}"));
        seen += usize::from(of_a_vm.contains(&kind));
        if of_a_vm.contains(&kind) || call.contains("VIRTSNAP_VM_UUID = ") && !nameless.contains(&kind) {
            assert!(
                call.contains("VIRTSNAP_VM = ") && call.contains("VIRTSNAP_VM_UUID = "),
                "{file}: {call}"
            );
        }
    }
    assert!(seen > 3, "the recovery was not found");
}

#[test]
fn an_entry_says_what_it_is_and_names_only_fields_that_its_messages_have() {
    let (catalog, logged) = (catalog(), logged());
    for (name, id) in message::ALL {
        let entry = &catalog[*id];
        assert_eq!(entry.headers["Defined-By"], "virtsnapd", "{name}");
        assert!(!entry.headers["Subject"].is_empty() && entry.text.len() > 20, "{name}");
        for page in entry.headers["Documentation"].split(' ') {
            let (page, section) = page.strip_prefix("man:").unwrap().split_once('(').unwrap();
            let section = section.strip_suffix(')').unwrap();
            assert!(root().join(format!("man/{page}.{section}")).exists(), "{name}: {page}");
        }
        let shown = format!("{}\n{}", entry.headers["Subject"], entry.text);
        for field in shown.split('@').skip(1).step_by(2) {
            for (file, _, call) in logged.iter().filter(|(_, _, call)| kind(call) == Some(*name)) {
                assert!(call.contains(&format!("{field} = ")), "{name} in {file} has no {field}:\n{call}");
            }
        }
    }
}

#[test]
fn the_manual_names_kinds_that_there_are() {
    let page = fs::read_to_string(root().join("man/virtsnapd.8")).unwrap();
    let words = page.split(|c: char| !c.is_ascii_alphanumeric());
    let ids: Vec<_> = words.filter(|w| w.len() == 32 && w.chars().all(|c| c.is_ascii_hexdigit())).collect();
    assert!(ids.len() > 4);
    for id in ids {
        assert!(message::ALL.iter().any(|(_, known)| *known == id), "{id}");
    }
}

/// By which metric a kind of failure is seen, or why by none.
#[derive(Clone, Copy)]
enum Seen {
    By(&'static str),
    /// It is no failure, or the end of one.
    Fine,
    /// A failure all the same.
    Not(&'static str),
}

const SEEN: &[(&str, Seen)] = &[
    ("STARTED", Seen::Fine),
    ("ENDED", Seen::Not("the file's age tells that nobody writes it any more")),
    ("CONFIGURATION_BROKEN", Seen::By("config_last_reload_successful")),
    ("CONFIGURATION_WARNING", Seen::By("config_warnings")),
    ("CONNECTED", Seen::Fine),
    ("DISCONNECTED", Seen::By("libvirt_connected")),
    ("SNAPSHOT_TAKEN", Seen::Fine),
    ("SNAPSHOT_DELETED", Seen::Fine),
    ("SNAPSHOT_LABELLED", Seen::Fine),
    ("REVERTED", Seen::Fine),
    ("REVERTED_IN_PART", Seen::Not("who asked for the revert is told; it did what can be done")),
    ("JOB_FAILED", Seen::By("job_errors_total")),
    ("JOB_CANCELLED", Seen::By("jobs_total")),
    ("JOB_STUCK", Seen::By("jobs_stuck")),
    ("JOB_GOES_ON", Seen::Fine),
    ("VM_STUCK", Seen::Not("what is not settled counts as interrupted, or the VM as frozen")),
    ("RUN_MISSED", Seen::By("runs_missed_total")),
    ("POLICY_SUSPENDED", Seen::By("policy_suspended")),
    ("POLICY_RESUMED", Seen::Fine),
    ("INHIBITED", Seen::By("inhibited_since_timestamp_seconds")),
    ("HELD_LONG", Seen::By("inhibited_since_timestamp_seconds")),
    ("RELEASED", Seen::Fine),
    ("SNAPSHOTS_STALE", Seen::By("policy_stale")),
    ("SNAPSHOTS_FRESH", Seen::Fine),
    ("CLOCK_WRONG", Seen::By("clock_implausible")),
    ("CHAIN_FULL", Seen::By("vm_chain_depth")),
    ("PRUNE_HELD_BACK", Seen::By("vm_snapshots")),
    ("GUEST_FROZEN", Seen::By("vm_frozen")),
    ("GUEST_THAWED", Seen::Fine),
    ("UNWATCHED", Seen::Not("a guest that stays frozen for want of the helper is seen by vm_frozen")),
    ("INTERRUPTED", Seen::By("interrupted_total")),
    (
        "LEFT_BEHIND",
        Seen::Not("it takes room and is tried again; what it was left by failed or was interrupted"),
    ),
    ("STORE_FAILED", Seen::By("state_writable")),
    ("STORE_WORKS", Seen::Fine),
    ("STORE_RENEWED", Seen::By("vm_health")),
    ("VM_UNHEALTHY", Seen::By("vm_health")),
    ("VM_HEALTHY", Seen::Fine),
    ("METADATA_REPAIRED", Seen::Fine),
    ("UNREADABLE", Seen::By("vm_failed")),
    ("ORPHAN_REMOVED", Seen::Fine),
    ("METRICS_FAILED", Seen::Not("what cannot be written cannot say so; the file's age does")),
    ("HOOK_FAILED", Seen::Not("the job goes on; where it does not, it fails with the error HookFailed")),
    ("NOT_AUTHORISED", Seen::Not("who asked is told; nothing of the daemon's own depends on it")),
    ("POLKIT_UNAVAILABLE", Seen::Not("who asked is told; polkit.service has a state of its own")),
    ("INTERNAL_ERROR", Seen::Not("a bug: what it kept from being done fails or is late, and that is seen")),
];

/// Prometheus is how many hosts are watched at once, and the journal is how one is looked into: what one says the other
/// has to.
#[test]
fn each_kind_of_failure_is_in_a_metric_or_is_known_not_to_be() {
    let of: BTreeMap<&str, Seen> = SEEN.iter().copied().collect();
    let known: BTreeSet<&str> = message::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(of.keys().copied().collect::<BTreeSet<_>>(), known);
    assert_eq!(of.len(), SEEN.len(), "one stands there twice");
    let environment = Environment { timezone: jiff::tz::TimeZone::UTC, cores: 1 };
    let settings = config::parse(&[], &environment).unwrap().settings;
    let machine = Machine::new(Start::first(Arc::new(settings)));
    let text = view::metrics(machine.view(), "1", jiff::Timestamp::UNIX_EPOCH);
    let metrics: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE virtsnap_")?.split(' ').next()).collect();
    let logged = logged();
    for (name, seen) in of {
        let worst = logged.iter().filter(|(.., call)| kind(call) == Some(name)).map(|(_, level, _)| *level);
        match seen {
            Seen::By(metric) => assert!(metrics.contains(metric), "{name}: no metric {metric}"),
            Seen::Not(why) => assert!(!why.is_empty(), "{name}"),
            // A warning may say what was put right; an error never is fine.
            Seen::Fine => {
                assert!(worst.into_iter().all(|level| level != "error"), "{name} is told as an error");
            }
        }
    }
}
