//! The packages, made of the binaries under test, and installed as an administrator would.

use std::{path::Path, process::Command, time::Duration};

use super::{Daemon, Testbed, quote};

/// What a machine of so little disk needs to be told: the file as it is shipped holds nothing but defaults, and the
/// container's file system is the test machine's memory.
const SETTINGS: &str = "[daemon]\nmin-free = \"1%\"\n";
/// An installation starts the daemon, and an upgrade first stops one that may be at work.
const DEADLINE: Duration = Duration::from_mins(3);
/// How apt is asked.
const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold";

/// Makes a package of this format, `deb` or `rpm`, with this revision; its path in the container.
pub fn package(tb: &Testbed, format: &str, revision: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().expect("binaries are in a directory");
    let out = tempfile::tempdir().expect("a directory");
    let built = Command::new(format!("packaging/{format}.sh"))
        .current_dir(root)
        .args([binaries, out.path(), Path::new(revision)])
        .output()
        .expect("the script is there");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).expect("a path");
    let inside = format!("/var/tmp/virtsnap-{revision}.{format}");
    std::fs::copy(package.trim(), tb.path(&inside)).expect("the package is there");
    inside
}

/// As `apt install ./….deb` does it, without asking; what it says.
#[track_caller]
pub fn install(tb: &Testbed, package: &str) -> String {
    tb.ok_within(DEADLINE, &format!("{APT} install {package} 2>&1"))
}

/// The same where no systemd runs, as in an image that is being made.
#[track_caller]
pub fn install_offline(tb: &Testbed, package: &str) {
    let script = quote(&format!("mount -t tmpfs none /run/systemd && {APT} install {package}"));
    tb.ok_within(DEADLINE, &format!("unshare --mount sh -c {script}"));
}

impl<'a> Daemon<'a> {
    /// Installs the Debian package, which starts the daemon, configures it with these policies, and waits until all VMs
    /// are known.
    pub fn packaged(tb: &'a Testbed, policies: &str) -> Self {
        let package = package(tb, "deb", "1");
        install(tb, &package);
        Self::settled(tb, SETTINGS, policies)
    }

    /// One that the package has started: gives it these settings and policies, and waits until all VMs are known.
    pub fn settled(tb: &'a Testbed, settings: &str, policies: &str) -> Self {
        let daemon = Self::attach(tb);
        daemon.wait_running();
        tb.push_file("/etc/virtsnap/virtsnapd.toml", settings, 0o644);
        daemon.policies(policies);
        daemon.ok("reload");
        daemon
    }
}
