//! A daemon that stands still between two steps, where the test wants it to: a kill from outside would have to hit a
//! millisecond, and no two runs would be alike.

use std::{
    fs::OpenOptions,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::Testbed;

const LIBRARY: &str = "/usr/local/lib/stops.so";
const STOPS: &str = "/run/virtsnap/stops";

/// On which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

impl When {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// The stops of the daemon in a container. See `tests/testbed/stops.c` for which calls count.
#[derive(Debug)]
pub struct Stopping<'a>(&'a Testbed);

impl<'a> Stopping<'a> {
    /// Puts it in place for a daemon that is started from now on.
    pub fn install(tb: &'a Testbed) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/stops.c");
        let built = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([tb.path(LIBRARY).as_path(), source.as_path()])
            .output()
            .expect("there is a C compiler, which Rust links with");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let unit = format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment=LD_PRELOAD={LIBRARY}\n");
        tb.push_file("/etc/systemd/system/virtsnapd.service.d/stops.conf", unit, 0o644);
        tb.ok(&format!("mkdir -p {STOPS} && chmod 777 {STOPS} && mkfifo -m 644 {STOPS}/gate"));
        Self(tb)
    }

    /// Has it stop at the call with this number, the first is 1, from now on; in whatever life of the daemon's.
    pub fn arm(&self, when: When, number: usize) {
        self.write(when.name(), number, "");
    }

    /// The same, where only calls of this function count.
    pub fn arm_at(&self, when: When, number: usize, function: &str) {
        self.write(when.name(), number, function);
    }

    /// Counts calls from now on, and stops at none.
    pub fn count(&self) {
        self.write("never", 0, "");
    }

    /// Counts no longer.
    pub fn disarm(&self) {
        let _ = std::fs::remove_file(self.0.path(format!("{STOPS}/arm")));
    }

    /// Counts no longer: the functions that were called since the last of the above, in this order.
    pub fn counted(&self) -> Vec<String> {
        self.disarm();
        let log = std::fs::read_to_string(self.0.path(format!("{STOPS}/log"))).unwrap_or_default();
        log.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
    }

    /// Where it stands still, if it does: the call's number, its name, and the side.
    pub fn at(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.0.path(format!("{STOPS}/at"))).ok()?;
        Some(text.trim().to_owned())
    }

    /// Lets it go on.
    pub fn let_go(&self) {
        let _ = std::fs::remove_file(self.0.path(format!("{STOPS}/at")));
        // Both ways: so it waits for nobody, should nobody wait there any more.
        drop(OpenOptions::new().read(true).write(true).open(self.0.path(format!("{STOPS}/gate"))));
    }

    fn write(&self, when: &str, number: usize, function: &str) {
        static IDS: AtomicU32 = AtomicU32::new(0);
        let stops = |name: &str| self.0.path(format!("{STOPS}/{name}"));
        for old in ["at", "log"] {
            let _ = std::fs::remove_file(stops(old));
        }
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let text = format!("{id} {when} {number} {function}\n");
        // Whole at once: a thread of the daemon may look at any time.
        let done = std::fs::write(stops("arm.new"), text)
            .and_then(|()| std::fs::rename(stops("arm.new"), stops("arm")));
        done.expect("the daemon can be told where to stop");
    }
}
