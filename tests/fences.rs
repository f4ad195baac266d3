//! The fences between the modules, as `src/lib.rs` draws them: read from the sources, so that a line that climbs
//! over one fails here with its place.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One rule: lines with any of these words may stand only in files that `allowed` says.
struct Fence {
    why: &'static str,
    words: &'static [&'static str],
    allowed: &'static [&'static str],
}

const FENCES: &[Fence] = &[
    Fence {
        why: "only the libvirt driver names `virt` and `virt_sys`",
        words: &[" virt::", "(virt::", "<virt::", "&virt::", "virt_sys"],
        allowed: &["src/hypervisor/libvirt/", "src/hypervisor/ffi/"],
    },
    Fence {
        why: "`unsafe` lives in one place",
        words: &["unsafe ", "unsafe{", "allow(unsafe_code)"],
        allowed: &["src/hypervisor/ffi/"],
    },
    Fence {
        why: "only clock.rs asks what time it is, and only it waits for time to pass",
        words: &[
            "Timestamp::now(",
            "Zoned::now(",
            "SystemTime::now(",
            "Instant::now(",
            "Utc::now(",
            "Local::now(",
            "thread::sleep(",
            "time::sleep(",
            "park_timeout(",
        ],
        allowed: &["src/clock.rs"],
    },
    Fence {
        why: "to wait for what others tell, no longer than so, is for these",
        words: &["wait_timeout", "recv_timeout("],
        allowed: &[
            "src/clock.rs",
            "src/freeze/thawer.rs",
            "src/freeze/thawer/rescue.rs",
            "src/hooks.rs",
            "src/hypervisor/libvirt/connection.rs",
            "src/hypervisor/libvirt/mod.rs",
            "src/hypervisor/libvirt/saving.rs",
            "src/hypervisor/sim/fault.rs",
            "src/threads.rs",
        ],
    },
    Fence {
        why: "D-Bus is for the daemon's objects, what it asks of systemd, and the client",
        words: &["zbus::", "use zbus"],
        allowed: &["src/access.rs", "src/dbus/", "src/cli/", "src/daemon.rs", "src/bin/virtsnap.rs"],
    },
    Fence { why: "one place knows SQLite", words: &["rusqlite"], allowed: &["src/store.rs", "src/store/"] },
    Fence {
        why: "only disk.rs of the configuration reads files, the tryout its input, virtsnap-apparmor profiles, and the \
              daemon what that has granted",
        words: &["std::fs", "fs::read", "File::open", "fs::{self"],
        allowed: &[
            "src/apparmor/answer.rs",
            "src/apparmor/host.rs",
            "src/config/disk.rs",
            "src/engine.rs",
            "src/engine/metrics.rs",
            "src/daemon.rs",
            // To lock the state directory.
            "src/daemon/alone.rs",
            // To ask the kernel which signals are ignored.
            "src/cli/guard/signals.rs",
            "src/cli/simulate/mod.rs",
            // To move a damaged database aside, and to know a file by two names.
            "src/store/birth.rs",
            // To look whether its file is still there.
            "src/store/opening.rs",
            "src/hypervisor/libvirt/same.rs",
            "src/hooks.rs",
        ],
    },
    Fence {
        why: "only virtsnap-apparmor changes files and runs programs, but for hooks, the helper that thaws, a mark that the engine leaves, metrics, the database and what a person has guarded",
        words: &[
            "fs::write",
            "fs::rename",
            "fs::remove_file",
            "OpenOptions",
            "process::Command",
            "Command::new(",
        ],
        allowed: &[
            "src/apparmor/answer.rs",
            "src/apparmor/host.rs",
            // To run polkit's agent.
            "src/cli/agent.rs",
            // To run what it guards.
            "src/cli/guard/command.rs",
            // To say who has the state directory.
            "src/daemon/alone.rs",
            "src/engine.rs",
            "src/engine/metrics.rs",
            // To run itself as its own helper.
            "src/freeze/helper.rs",
            // To run them; files are changed by its tests alone.
            "src/hooks.rs",
            "src/store/birth.rs",
            "src/store/opening.rs",
        ],
    },
    Fence {
        why: "a permit is made by authorisation alone",
        words: &["Permit {", "Permitted {"],
        allowed: &["src/dbus/auth.rs"],
    },
];

/// What the pure core may not even name: I/O, tasks, threads, globals, the other rooms of this house.
const NOT_IN_CORE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::path",
    "static mut",
    "LazyLock",
    "OnceLock",
    "thread_local",
    "tokio",
    "async ",
    ".await",
    "tracing::",
    "println!",
    "zbus",
    "rusqlite",
    "crate::access",
    "crate::apparmor",
    "crate::clock",
    "crate::cli",
    "crate::daemon",
    "crate::dbus",
    "crate::engine",
    "crate::freeze",
    "crate::hypervisor",
    "crate::logging",
    "crate::merging",
    "crate::reader",
    "crate::store",
    "crate::strays",
    "crate::systemd",
    "crate::threads",
    "crate::worker",
    "rand::",
    "new_v4",
    "TimeZone::system",
];

/// The client speaks D-Bus and knows nothing of libvirt or of the daemon's insides.
const NOT_IN_CLIENT: &[&str] = &[
    "crate::access",
    "crate::apparmor",
    "crate::hypervisor",
    "crate::engine",
    "crate::logging",
    "crate::merging",
    "crate::strays",
    "crate::worker",
    "crate::store",
    "crate::freeze",
    "crate::daemon",
    "crate::reader",
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every line of code with its place; comments and documentation may name anything, and tests may do more.
fn lines() -> Vec<(String, usize, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 40, "the sources were not found");
    let mut all = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).expect("below the root").display().to_string();
        if name.contains("/tests/") || name.ends_with("tests.rs") || name.ends_with("props.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("sources are text");
        let mut in_tests = false;
        for (i, line) in text.lines().enumerate() {
            if line == "#[cfg(test)]" && text.lines().nth(i + 1).is_some_and(|l| l.ends_with('{')) {
                in_tests = true;
            }
            // rustfmt has a module's end in the first column, and nothing else of it there.
            if in_tests {
                in_tests = line != "}";
                continue;
            }
            let code = line.split("//").next().unwrap_or_default();
            all.push((name.clone(), i + 1, code.to_owned()));
        }
    }
    all
}

fn climbers(allowed: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    lines()
        .into_iter()
        .filter(|(file, ..)| !allowed(file))
        .filter_map(|(file, line, code)| {
            let word = words.iter().find(|w| code.contains(**w))?;
            Some(format!("{file}:{line}: {word}: {}", code.trim()))
        })
        .collect()
}

#[test]
fn every_fence_holds() {
    for fence in FENCES {
        let over = climbers(|file| fence.allowed.iter().any(|a| file.starts_with(a)), fence.words);
        assert!(over.is_empty(), "{}:\n{}", fence.why, over.join("\n"));
    }
}

#[test]
fn the_core_is_pure() {
    let over = climbers(|file| !file.starts_with("src/core/"), NOT_IN_CORE);
    assert!(over.is_empty(), "the core may only think:\n{}", over.join("\n"));
    // One door, and it leads to values.
    let door =
        climbers(|file| !file.starts_with("src/core/") || file == "src/core/settings.rs", &["crate::config"]);
    assert!(door.is_empty(), "only core/settings.rs names the configuration:\n{}", door.join("\n"));
}

#[test]
fn the_client_knows_d_bus_alone() {
    let over = climbers(|file| !file.starts_with("src/cli/"), NOT_IN_CLIENT);
    assert!(over.is_empty(), "{}", over.join("\n"));
}

#[test]
fn a_fence_would_notice() {
    let over = climbers(|_| false, &["TFD_TIMER_CANCEL_ON_SET"]);
    assert!(over.iter().all(|l| l.starts_with("src/clock.rs:")) && !over.is_empty(), "{over:?}");
}
