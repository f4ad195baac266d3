//! The container: a pristine Debian with systemd, D-Bus, polkit, libvirtd and QEMU. Or the same as a full VM.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::command::{self, Output, quote};
use super::guest::{Guest, GuestSpec};
use super::wait_for;

/// How long a command may take where nothing else is said.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(1);
/// How long a start may take: on a new machine it builds the root trees and the guest first.
const START_DEADLINE: Duration = Duration::from_mins(15);
/// So much longer may things take where the kernel itself is emulated, and so QEMU by an emulated processor.
const FULL_FACTOR: u32 = 10;
/// All that commands in it know of the world around them; the same as in its script.
const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "TERM=dumb",
    "LANG=C.UTF-8",
];
/// All units of libvirtd that could bring it back.
const LIBVIRTD: &str = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service";

/// The Debian release in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 13: libvirt 11.3, QEMU 10.0, systemd 257.
    Trixie,
    /// Debian 12: libvirt 9.0.0, QEMU 7.2, systemd 252.
    Bookworm,
}

impl Suite {
    /// As Debian calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Bookworm => "bookworm",
        }
    }
}

/// What an image of one of a guest's disks holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// The writer's counter.
    pub counter: u64,
    /// Whether the file system's journal would be replayed at a mount: true for a mounted one,
    /// false for one that was frozen or unmounted when the image came to be.
    pub needs_recovery: bool,
    /// Whether `e2fsck -fn` found nothing to complain about.
    pub clean: bool,
}

/// A running container. It stops when the last of its handles, guests included, is dropped, and
/// also when the test process dies in any other way. Clones are handles to the same container.
#[derive(Debug, Clone)]
pub struct Testbed {
    container: Arc<Container>,
}

#[derive(Debug)]
struct Container {
    name: String,
    suite: Suite,
    /// `None`: it is a full VM, with no file and no process that this host sees.
    leader: Option<Leader>,
}

/// The process that is its PID 1.
#[derive(Debug)]
struct Leader {
    pid: u32,
    /// Can be read as long as it is this process that has the number.
    stat: File,
}

impl Leader {
    fn of(pid: u32) -> std::io::Result<Self> {
        Ok(Self { pid, stat: File::open(format!("/proc/{pid}/stat"))? })
    }

    fn is_alive(&self) -> bool {
        self.stat.read_at(&mut [0], 0).is_ok_and(|read| read == 1)
    }
}

impl Container {
    /// What starts it, runs commands in it and stops it.
    fn script(&self) -> &'static str {
        if self.leader.is_some() { "container.sh" } else { "full-vm.sh" }
    }

    /// Runs a command in it. Tests do so thousands of times: where it can be, it is entered by what its script's `exec`
    /// does, without the script.
    fn exec(&self, within: Duration, command: &[&str]) -> Output {
        let Some(leader) = self.leader.as_ref().filter(|leader| leader.is_alive()) else {
            return host(within, self.script(), &[&["exec", &self.name], command].concat());
        };
        let pid = leader.pid.to_string();
        let enter = ["-t", &pid, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i"];
        command::run(within, "nsenter", &[&enter, &ENVIRONMENT[..], command].concat())
    }
}

/// A name that no other has.
fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Testbed {
    /// Starts a pristine container. What is missing of the caches is built first; other processes
    /// that want the same wait for it.
    ///
    /// In the container `/src` is the repository, `/target` Cargo's target directory and `/guest`
    /// the guest's image, all read-only.
    pub fn start(suite: Suite) -> Self {
        let name = new_name();
        let owner = format!("--owner={}", id());
        let mut args = vec!["start", &name, suite.name(), &owner];
        let target = target_dir().map(|dir| format!("--bind-ro={}:/target", dir.display()));
        args.extend(target.as_deref());
        host(Duration::from_mins(1), "container.sh", &["reap"]);
        let output = host(START_DEADLINE, "container.sh", &args);
        assert!(output.success(), "the test container does not start: {output}");
        let leader = host(DEFAULT_DEADLINE, "container.sh", &["leader", &name]);
        let pid = leader.stdout.trim().parse().ok();
        let leader = pid.and_then(|p| Leader::of(p).ok()).unwrap_or_else(|| panic!("no leader: {leader}"));
        let testbed = Self { container: Arc::new(Container { name, suite, leader: Some(leader) }) };
        testbed.announce();
        testbed
    }

    /// Starts a pristine full VM, whose kernel has AppArmor; what is in `files` is at `/files` in it. There is no way
    /// into it but commands: no bus, no libvirt and no path of it for this host, and no guest. What waits for
    /// commands waits ten times as long.
    pub fn start_full(suite: Suite, files: &Path) -> Self {
        let name = new_name();
        let owner = format!("--owner={}", id());
        let files = format!("--files={}", files.display());
        host(Duration::from_mins(1), "full-vm.sh", &["reap"]);
        let output = host(START_DEADLINE * 2, "full-vm.sh", &["start", &name, suite.name(), &owner, &files]);
        assert!(output.success(), "the full VM does not start: {output}");
        let testbed = Self { container: Arc::new(Container { name, suite, leader: None }) };
        testbed.announce();
        testbed
    }

    /// Says once per suite and process what the tests run on; past the capture of test output.
    fn announce(&self) {
        static SAID: [OnceLock<()>; 2] = [OnceLock::new(), OnceLock::new()];
        SAID[self.suite() as usize].get_or_init(|| {
            let versions = self
                .ok("virsh version | sed -n 's/^Using library: //p; s/^Running hypervisor: //p'
                 systemctl --version | head -n 1");
            let versions: Vec<&str> = versions.lines().collect();
            let _ = writeln!(
                std::io::stderr(),
                "testbed: Debian {}: {}",
                self.suite().name(),
                versions.join(", ")
            );
        });
    }

    /// The Debian release in it.
    pub fn suite(&self) -> Suite {
        self.container.suite
    }

    /// Runs a bash script as root in the container, for up to 60 s.
    pub fn sh(&self, script: &str) -> Output {
        self.sh_within(DEFAULT_DEADLINE, script)
    }

    /// Runs a bash script as root in the container. When the deadline passes it is killed with all
    /// that it started, and its status is 124.
    ///
    /// For a process with a cgroup of its own, or as another user, let the script use `systemd-run`
    /// or `runuser`.
    pub fn sh_within(&self, within: Duration, script: &str) -> Output {
        let container = &self.container;
        let within = if container.leader.is_some() { within } else { within * FULL_FACTOR };
        let inner = within.as_secs_f64().to_string();
        container.exec(
            // The one inside, which knows the processes, comes first.
            within + Duration::from_secs(10),
            &["timeout", "--kill-after=2", &inner, "bash", "-c", script],
        )
    }

    /// Like [`Self::sh`], but returns stdout without the last newline, and panics with everything
    /// if the script fails.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        self.ok_within(DEFAULT_DEADLINE, script)
    }

    /// Like [`Self::ok`], with a deadline.
    #[track_caller]
    pub fn ok_within(&self, within: Duration, script: &str) -> String {
        let output = self.sh_within(within, script);
        assert!(output.success(), "in the container: {script}\n{output}");
        output.stdout.strip_suffix('\n').unwrap_or(&output.stdout).to_owned()
    }

    /// A path inside the container as this host sees it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let leader = self.container.leader.as_ref().expect("this host sees no path of a full VM");
        let root = PathBuf::from(format!("/proc/{}/root", leader.pid));
        root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// The connection URI with which a process of this host (as root) reaches its libvirtd.
    pub fn libvirt_uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.path("/run/libvirt/libvirt-sock").display())
    }

    /// The address with which a process of this host (as root) reaches its system bus.
    pub fn bus_address(&self) -> String {
        format!("unix:path={}", self.path("/run/dbus/system_bus_socket").display())
    }

    /// Writes a file in the container, owned by root; missing directories are made.
    pub fn push_file(&self, inside: impl AsRef<Path>, contents: impl AsRef<[u8]>, mode: u32) {
        if self.container.leader.is_none() {
            let path = quote(&inside.as_ref().display().to_string());
            let text = std::str::from_utf8(contents.as_ref()).expect("a full VM is given text");
            self.ok(&format!(
                "set -e; mkdir -p \"$(dirname {path})\"; printf %s {} >{path}; chmod {mode:o} {path}",
                quote(text)
            ));
            return;
        }
        let path = self.path(inside);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, contents))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Defines and starts a guest. It boots in some seconds: see [`Guest::wait_agent`].
    pub fn guest(&self, spec: GuestSpec) -> Guest {
        Guest::start_new(self.clone(), spec)
    }

    /// Stops libvirtd and its sockets: nothing brings it back but [`Self::start_libvirtd`]. Guests
    /// run on.
    pub fn stop_libvirtd(&self) {
        self.ok(&format!("systemctl stop {LIBVIRTD}"));
    }

    /// Starts libvirtd, and waits until it answers.
    pub fn start_libvirtd(&self) {
        self.ok(&format!("systemctl reset-failed {LIBVIRTD} 2>/dev/null; systemctl start {LIBVIRTD}"));
        wait_for(DEFAULT_DEADLINE, "libvirtd answers", || self.sh("virsh -q list").success().then_some(()));
    }

    /// Kills libvirtd in the middle of whatever it does, and keeps it away until
    /// [`Self::start_libvirtd`]. Guests run on.
    pub fn kill_libvirtd(&self) {
        // Its unit has Restart=on-failure after 100 ms: the stop that follows cancels it, or is cancelled by it.
        self.ok(&format!(
            "systemctl kill --kill-who=main -s KILL libvirtd.service
             systemctl stop {LIBVIRTD} || systemctl stop {LIBVIRTD}"
        ));
    }

    /// Frees a VM that libvirtd was killed over as it started it, in the way that is told of its lock. libvirtd is away
    /// then until [`Self::start_libvirtd`].
    pub fn forget_start(&self, vm: &str) {
        let file = format!("/run/libvirt/qemu/{vm}.xml");
        let state = self.ok(&format!("cat {file}"));
        assert!(state.contains("pid='0'"), "it has a QEMU: {state}");
        // To stop, it would wait for all who wait for that lock.
        self.kill_libvirtd();
        // In brackets, so that the shell which asks is not one of them.
        self.ok(&format!("pkill -KILL -f '[g]uest={vm},'; rm {file}"));
    }

    /// Looks into an image of a guest's disk, with its backing chain, through a raw copy. The image
    /// must not be open for writing: not the layer that a running guest writes to.
    #[track_caller]
    pub fn image_state(&self, image: &str, format: &str) -> ImageState {
        let script = format!(
            "set -e; copy=$(mktemp -p /var/tmp); trap 'rm -f $copy' EXIT
             qemu-img convert -q -f {} -O raw {} $copy
             debugfs -R 'cat /counter' $copy
             dumpe2fs -h $copy 2>/dev/null | grep -qw needs_recovery && echo true || echo false
             e2fsck -fn $copy >/dev/null 2>&1 && echo true || echo false",
            quote(format),
            quote(image)
        );
        let out = self.ok(&script);
        let [counter, needs_recovery, clean] = out.lines().collect::<Vec<_>>()[..] else {
            panic!("{image}: no counter in it: {out}");
        };
        ImageState {
            counter: counter.parse().unwrap_or_else(|e| panic!("{image}: {e}: {counter}")),
            needs_recovery: needs_recovery == "true",
            clean: clean == "true",
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let output = host(DEFAULT_DEADLINE, self.script(), &["stop", &self.name]);
        // A panic in here while a test panics would abort and hide why the test failed.
        if !output.success() {
            let _ = writeln!(std::io::stderr(), "testbed: {} does not stop: {output}", self.name);
        }
    }
}

/// Runs one of the testbed's scripts on this host.
fn host(within: Duration, script: &str, args: &[&str]) -> Output {
    let path = format!("{}/tests/testbed/{script}", env!("CARGO_MANIFEST_DIR"));
    command::run(within, &path, args)
}

/// Cargo's target directory: where this test binary lies, but for `debug/deps/`.
fn target_dir() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.ancestors().nth(3)?.to_path_buf())
}
