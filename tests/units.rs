//! The units, as whoever has to decide about them reads them: what confines the daemon says why, and what could confine it
//! and does not, says why not.

use std::{collections::BTreeSet, fs, path::Path};

/// What systemd 252 has to confine a service with, by systemd.exec(5) and systemd.resource-control(5). `ExecPaths=` and
/// the like, which only make exceptions of others, are not in it.
const CONFINE: &[&str] = &[
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "DevicePolicy",
    "DynamicUser",
    "IPAddressDeny",
    "InaccessiblePaths",
    "KeyringMode",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoExecPaths",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RemoveIPC",
    "RestrictAddressFamilies",
    "RestrictFileSystems",
    "RestrictNamespaces",
    "RestrictNetworkInterfaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "RootDirectory",
    "SecureBits",
    "SocketBindDeny",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "TemporaryFileSystem",
    "UMask",
];

/// So many settings may share a reason: more of them are a list, and nobody knows which of them it is about.
const SHARED: usize = 3;

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The part about the sandbox: what is set, and what is said of the rest.
fn sandbox(unit: &str) -> (&str, &str) {
    let (_, sandbox) = unit.split_once("\n# Sandbox.").expect("a part about the sandbox");
    let (_, sandbox) = sandbox.split_once("\n\n").expect("something after its heading");
    // What is started by others alone has no more after it.
    let sandbox = sandbox.split_once("[Install]").map_or(sandbox, |(sandbox, _)| sandbox);
    sandbox.split_once("# What stays off, and why:\n").expect("what stays off")
}

/// The names of all settings in it.
fn set(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.split_once('=')?.0)).collect()
}

/// The lines that confine.
fn confines(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| line.split_once('=').is_some_and(|(name, _)| CONFINE.contains(&name)))
        .collect()
}

/// The names that the lines of a comment begin with, each with a `=`.
fn named(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# "));
    let first =
        lines.flat_map(|line| line.split(' ').map_while(|word| word.trim_end_matches(',').strip_suffix('=')));
    first.collect()
}

/// The settings of which no comment right above says why they are there.
fn unexplained(text: &str) -> Vec<String> {
    let mut bare = Vec::new();
    let mut left = 0;
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            left = if comment.split_whitespace().count() > 2 { SHARED } else { 0 };
        } else if line.is_empty() {
            left = 0;
        } else if left == 0 {
            bare.push(line.to_owned());
        } else {
            left -= 1;
        }
    }
    bare
}

#[test]
fn each_line_of_the_sandbox_has_its_reason_above_it() {
    for name in ["virtsnapd.service", "virtsnap-apparmor@.service", "virtsnap-apparmor-tidy.service"] {
        let text = unit(name);
        let (on, _) = sandbox(&text);
        assert_eq!(unexplained(on), Vec::<String>::new(), "{name}");
        // Nor does anything stand elsewhere, without a reason.
        assert_eq!(confines(on), confines(&text), "{name}");
    }
}

#[test]
fn what_could_confine_it_does_or_it_is_said_why_not() {
    let text = unit("virtsnapd.service");
    let (on, off) = sandbox(&text);
    let (on, off) = (set(on), named(off));
    let silent: Vec<_> = CONFINE.iter().filter(|c| !on.contains(*c) && !off.contains(*c)).collect();
    assert!(silent.is_empty(), "neither on nor explained: {silent:?}");
    let both: Vec<_> = on.intersection(&off).collect();
    assert!(both.is_empty(), "on, and said to stay off: {both:?}");
}

/// Of the helper's sandbox the daemon's unit tells: so it has to be the same.
#[test]
fn the_helper_is_confined_as_the_daemon_is() {
    let (daemon, helper) = (unit("virtsnapd.service"), unit("virtsnap-thaw.service"));
    assert!(helper.contains("as virtsnapd.service says"));
    let (daemon, helper) = (confines(&daemon), confines(&helper));
    let only: Vec<_> = daemon.symmetric_difference(&helper).collect();
    assert_eq!(only, [&"RemoveIPC=yes"]);
}

/// What is root's says of all that the daemon's has on and it has not why that is so.
#[test]
fn what_the_helpers_that_are_roots_leave_off_is_explained() {
    let daemon = unit("virtsnapd.service");
    let daemon = set(sandbox(&daemon).0);
    for name in ["virtsnap-apparmor@.service", "virtsnap-apparmor-tidy.service"] {
        let helper = unit(name);
        let (_, off) = helper.split_once("# What stays off, and why:\n").expect("what stays off");
        let (on, off) = (set(&helper), named(off));
        let silent: Vec<_> = daemon.iter().filter(|n| !on.contains(*n) && !off.contains(*n)).collect();
        assert!(silent.is_empty(), "{name}: neither on nor explained: {silent:?}");
        let both: Vec<_> = on.intersection(&off).collect();
        assert!(both.is_empty(), "{name}: on, and said to stay off: {both:?}");
    }
}

#[test]
fn a_line_without_a_reason_would_be_noticed() {
    let text = "# It mounts nothing of its own.\nPrivateMounts=yes\n\nProtectClock=yes\n#\nUMask=0077\n";
    assert_eq!(unexplained(text), ["ProtectClock=yes", "UMask=0077"]);
}
