//! The files that come with the package, and section 4 of the manual's example, are what they say.

use std::collections::BTreeSet;

use super::{
    super::{
        Daemon, Settings, SourceFile,
        fragment::DAEMON,
        keys::{NAMES, defaults},
        parse_policy,
    },
    environment, read,
};
use crate::core::policy::{Keep, Limits};

const MAIN: &str = include_str!("../../../config/virtsnapd.toml");
const ALL_KEYS: &str = include_str!("../../../config/examples/all-keys.toml");
const NIGHTLY: &str = include_str!("../../../config/examples/nightly.toml");
const DEVELOPER: &str = include_str!("../../../config/examples/developer.toml");
const README: &str = include_str!("../../../config/policies.d/README");

/// `#key = value` and `#[table]` without their `#`, which no blank follows; and the keys.
pub(super) fn uncommented(text: &str) -> (String, BTreeSet<&str>) {
    let mut keys = BTreeSet::new();
    let mut out = String::new();
    for line in text.lines() {
        let bare =
            line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        let line = bare.unwrap_or(line);
        if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            keys.insert(key);
        }
        out.push_str(line);
        out.push('\n');
    }
    (out, keys)
}

#[test]
fn the_main_file_shows_every_key_with_its_default() {
    let (text, keys) = uncommented(MAIN);
    assert_eq!(keys, DAEMON.iter().copied().collect());
    for text in [MAIN, &text] {
        let loaded = read(&[("virtsnapd.toml", text)]).unwrap_or_else(|e| panic!("{e}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        assert_eq!(loaded.settings.daemon, Daemon::defaults(&environment()));
    }
}

#[test]
fn the_example_of_all_keys_shows_every_key_with_its_default() {
    let (text, keys) = uncommented(ALL_KEYS);
    for key in NAMES.iter().chain(&["disks"]) {
        assert!(keys.contains(key), "{key} is not shown");
    }
    let settings = read(&[("all.toml", &text)]).unwrap_or_else(|e| panic!("{e}")).settings;
    assert_eq!(settings.vms.len(), 1);
    let mut policy = settings.policies.values().next().unwrap().as_ref().clone();
    // Of rules and limits, examples are shown.
    policy.retention.keep = Keep::default();
    policy.retention.limits = Limits { max_delete: policy.retention.limits.max_delete, ..Limits::default() };
    let mut expected = defaults(policy.name.clone(), environment().timezone, policy.source.clone());
    expected.vms.clone_from(&policy.vms);
    assert_eq!(policy, expected);
    // As it stands, it can be read, too.
    assert!(read(&[("all.toml", ALL_KEYS)]).is_ok());
}

#[test]
fn examples_are_without_a_fault() {
    for text in [NIGHTLY, DEVELOPER, &uncommented(NIGHTLY).0] {
        let loaded = read(&[("example.toml", text)]).unwrap_or_else(|e| panic!("{e}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
    let indented: String =
        README.lines().filter_map(|l| l.strip_prefix("    ")).flat_map(|l| [l, "\n"]).collect();
    let loaded = read(&[("readme.toml", &indented)]).unwrap_or_else(|e| panic!("{e}"));
    assert!(loaded.warnings.is_empty() && loaded.settings.policies.len() == 1);
}

#[test]
fn every_key_of_the_design_is_understood() {
    let main = r#"
[daemon]
uri = "qemu:///system"
timezone = "Europe/Vienna"
max-jobs = 2
max-frozen = 2
min-free = "10%"
max-chain = 16
metrics-textfile = "/run/virtsnap/virtsnap.prom"
hooks = "/etc/virtsnap/hooks.d"
hooks-frozen = false
"#;
    let policy = r#"
[policy.nightly]
vms = ["web*", "db01", "tag:prod", "!*-scratch"]
schedule = "30 2 * * *"
timezone = "America/New_York"
catch-up = "once"
catch-up-within = "12h"
spread = "20min"
before = ["upgrade", "delete"]
quiesce = "prefer"
freeze-timeout = "8s"
mountpoints = "auto"
memory = "never"
when = ["running", "shut-off"]
skip-unchanged = false
name = "{policy}-{timestamp}"
keep-last = 3
keep-daily = 7
keep-weekly = 3
keep-monthly = 1
combine = "union"
max-count = 14
max-age = "400d"
max-size = "200GiB"
max-delete = 10

[vm.db01]
disks = ["vda", "vdb"]
max-size = "50GiB"
policy.nightly.keep-daily = 30
"#;
    let loaded =
        read(&[("virtsnapd.toml", main), ("nightly.toml", policy)]).unwrap_or_else(|e| panic!("{e}"));
    // True of restic's way of combining, and worth knowing.
    assert_eq!(
        loaded.warnings.lines(),
        [
            "nightly.toml:20:1: warning: policy nightly: keep-monthly = 1 adds nothing: keep-last always keeps the same",
            "nightly.toml:30:16: warning: policy nightly for VM db01: keep-weekly = 3 adds nothing: keep-daily always \
             keeps the same",
            "nightly.toml:30:16: warning: policy nightly for VM db01: max-count = 14 is below the 32 snapshots that the \
             keep rules can want",
        ]
    );
    let Settings { daemon, policies, .. } = loaded.settings;
    assert_eq!((daemon.max_frozen, daemon.max_chain), (2, 16));
    assert_eq!(policies.values().next().unwrap().retention.timezone.iana_name(), Some("America/New_York"));
}

#[test]
fn a_policy_alone_is_read_from_its_keys() {
    let name: crate::core::model::PolicyName = "simulated".parse().unwrap();
    let read = |text: &str| parse_policy(name.clone(), &SourceFile::new("<policy>", text), &environment());
    let (policy, warnings) = read("keep-last = 3\nkeep-daily = 7\ncombine = \"union\"\n").unwrap();
    assert_eq!((policy.retention.keep.last, policy.retention.keep.daily), (Some(3), Some(7)));
    assert!(warnings.is_empty(), "{warnings}");
    let errors = read("keep-last = 0\nkeep = 1\n").unwrap_err();
    assert_eq!(errors.len(), 2);
    assert_eq!(read("keep-last = ").unwrap_err().len(), 1);
}
