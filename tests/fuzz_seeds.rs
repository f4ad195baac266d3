//! What fuzzing began with and what it found, through the fuzz targets' own checks: found once, it stays found, and
//! nobody needs cargo-fuzz for it (`make fuzz` searches for more).
//!
//! A new find belongs into `fuzz/seeds/TARGET/`, under a name that says what it was.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use virtsnap_fuzz::{cron, policy_file, retention, simulate};

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "for the fuzz targets it is a crate of its own")]
mod virtsnap_fuzz;

/// Takes an input, and panics if something is wrong with what comes of it.
type Target = fn(&[u8]);

/// Every target of `fuzz/fuzz_targets`, with what it does with an input.
const TARGETS: &[(&str, Target)] = &[
    ("policy_file", policy_file::run),
    ("cron", cron::run),
    ("retention", retention::run),
    ("simulate", simulate::run),
];

fn below_fuzz(dir: &str) -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be read").path())
        .map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), path))
        .collect();
    files.sort();
    files
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    let seeds = below_fuzz(&format!("seeds/{target}"));
    assert!(!seeds.is_empty(), "there are no seeds for {target}");
    for (name, path) in seeds {
        let seed = fs::read(path).expect("it can be read");
        assert!(catch_unwind(|| run(&seed)).is_ok(), "{target}: {name}");
    }
}

#[test]
fn what_fuzzing_found_in_policy_files_stays_found() {
    replay("policy_file");
}

#[test]
fn what_fuzzing_found_in_schedules_stays_found() {
    replay("cron");
}

#[test]
fn what_fuzzing_found_in_retention_stays_found() {
    replay("retention");
}

#[test]
fn what_fuzzing_found_in_simulations_stays_found() {
    replay("simulate");
}

#[test]
fn every_target_is_replayed() {
    let there: Vec<_> = below_fuzz("fuzz_targets").into_iter().map(|(name, _)| name).collect();
    let mut replayed: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    replayed.sort_unstable();
    assert_eq!(replayed, there);
}
