//! A libvirtd that dies, by SIGKILL, between a message of QEMU's and what it makes of it: where killing it from outside
//! would have to hit a millisecond.

use std::{path::Path, process::Command, time::Duration};

use super::{Daemon, Testbed, wait_for};

const DEADLINE: Duration = Duration::from_mins(1);
const LIBRARY: &str = "/usr/local/lib/dies.so";

/// Such a libvirtd, in a container.
#[derive(Debug)]
pub struct Dying<'a>(&'a Testbed);

impl<'a> Dying<'a> {
    /// Restarts the container's libvirtd with what lets it die; no VM is on yet.
    pub fn install(tb: &'a Testbed) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/dies.c");
        let made = tb.path(LIBRARY);
        let built = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([made.as_path(), source.as_path()])
            .output()
            .expect("there is a C compiler, which Rust links with");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // It dies more often than its unit allows by default.
        let unit = format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment=LD_PRELOAD={LIBRARY}\n");
        tb.push_file("/etc/systemd/system/libvirtd.service.d/dies.conf", unit, 0o644);
        tb.ok("systemctl daemon-reload");
        tb.stop_libvirtd();
        tb.start_libvirtd();
        Self(tb)
    }

    /// Lets it die the next time that it comes there: `a` and a text is when QEMU's answer to a command with that text
    /// came, `r` and a text when a message with that text came.
    pub fn at(&self, moment: &str) {
        self.0.push_file("/run/dies", moment, 0o644);
    }

    /// Whether it died since [`Self::at`]; if it did not, it will not any more.
    pub fn died(&self) -> bool {
        !self.0.sh("rm /run/dies").success()
    }

    /// Waits until it is back, and the daemon has noticed both and settled what that left. `before`: how often the
    /// daemon had been connected.
    pub fn wait_back(&self, daemon: &Daemon<'_>, before: usize) {
        self.0.start_libvirtd();
        wait_for(DEADLINE, "the daemon has a new connection", || {
            (daemon.connections() > before && daemon.manager::<bool>("HypervisorConnected")).then_some(())
        });
    }
}
