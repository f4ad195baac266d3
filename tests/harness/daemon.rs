//! The daemon in a container, installed as a user would have it: with `make install`, as its unit.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{Bus, Output, Testbed, quote, wait_for, wait_or};

/// virtsnapd in a container.
#[derive(Debug)]
pub struct Daemon<'a> {
    tb: &'a Testbed,
    /// A connection to the container's system bus, as root.
    pub bus: Bus,
}

impl<'a> Daemon<'a> {
    /// Installs the daemon that was built with the tests, and its client, and configures it; does not start it.
    ///
    /// A real host's `min-free` is about terabytes; the container's file system is the test machine's memory.
    pub fn install(tb: &'a Testbed, policies: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let binaries =
            Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().expect("binaries are in a directory");
        let made = Command::new("make")
            .current_dir(root)
            .args(["--no-print-directory", "-s", "install-files"])
            .arg(format!("DESTDIR={}", tb.path("/").display()))
            .arg(format!("BINARIES={}", binaries.display()))
            .output()
            .expect("make is there");
        assert!(made.status.success(), "make install-files: {}", String::from_utf8_lossy(&made.stderr));
        tb.push_file("/etc/virtsnap/virtsnapd.toml", "[daemon]\nmin-free = \"1%\"\n", 0o644);
        let daemon = Self { tb, bus: Bus::connect(&tb.bus_address()) };
        daemon.policies(policies);
        tb.ok("systemd-sysusers && systemctl daemon-reload && systemctl reload dbus && journalctl --update-catalog");
        daemon
    }

    /// One that was installed by other means and may be starting.
    pub fn attach(tb: &'a Testbed) -> Self {
        Self { tb, bus: Bus::connect(&tb.bus_address()) }
    }

    /// Installs, starts, and waits until all VMs are known.
    pub fn running(tb: &'a Testbed, policies: &str) -> Self {
        let daemon = Self::install(tb, policies);
        daemon.start();
        daemon.wait_running();
        daemon
    }

    /// Replaces the policies' file. Says nothing to the daemon.
    pub fn policies(&self, toml: &str) {
        self.tb.push_file("/etc/virtsnap/policies.d/test.toml", toml, 0o644);
    }

    /// `systemctl start`, which returns when the daemon is ready.
    pub fn start(&self) {
        self.tb.ok("systemctl start virtsnapd || { journalctl -u virtsnapd --no-pager; exit 1; }");
    }

    /// `systemctl stop`.
    pub fn stop(&self) {
        self.tb.ok_within(Duration::from_secs(150), "systemctl stop virtsnapd");
    }

    /// Kills it wherever it is, and brings it back, without waiting for systemd to do that; returns when it knows all VMs.
    pub fn kill(&self) {
        self.kill_then(|| {});
        self.wait_running();
    }

    /// The same, and then does this in the place of waiting.
    pub fn kill_then(&self, then: impl FnOnce()) {
        let main = || self.tb.ok("systemctl show virtsnapd -p MainPID --value");
        let before = main();
        self.tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
        // systemd gives up on one that dies so often; here it is not the daemon's fault. It may still have to notice that
        // the old one is dead, and then this would start nothing.
        let start = "systemctl reset-failed virtsnapd; systemctl start virtsnapd";
        wait_for(Duration::from_secs(60), "the daemon is back", || {
            // None is as little another one as the old one.
            (self.tb.sh(start).success() && ![before.as_str(), "0"].contains(&main().trim())).then_some(())
        });
        then();
    }

    /// Waits until the daemon knows libvirt and all of its VMs.
    pub fn wait_running(&self) {
        wait_for(Duration::from_secs(60), "the daemon knows all VMs", || {
            (self.manager::<String>("State") == "running").then_some(())
        });
    }

    /// Kills libvirtd in the middle of whatever it does, brings it back, and waits until the daemon has noticed both
    /// and settled what that left.
    pub fn kill_libvirtd(&self) {
        self.without_libvirtd(Testbed::kill_libvirtd);
    }

    /// The same, but stopped as it wants to be.
    pub fn restart_libvirtd(&self) {
        self.without_libvirtd(Testbed::stop_libvirtd);
    }

    /// [`Testbed::forget_start`], noticed and settled.
    pub fn forget_start(&self, vm: &str) {
        self.without_libvirtd(|tb| tb.forget_start(vm));
    }

    fn without_libvirtd(&self, goes: impl FnOnce(&Testbed)) {
        let before = self.connections();
        goes(self.tb);
        self.tb.start_libvirtd();
        wait_for(Duration::from_secs(60), "the daemon has a new connection", || {
            (self.connections() > before).then_some(())
        });
        self.wait_running();
        // Known to be connected it is only after it has settled all.
        let settled = || self.manager::<bool>("HypervisorConnected").then_some(());
        wait_or(Duration::from_secs(60), settled, || {
            panic!("the daemon has not settled all: {}", self.journal())
        });
    }

    /// Waits until it says of a VM that its QEMU is on images which libvirt does not know of, and what to do.
    pub fn says_adrift(&self, vm: &str) -> bool {
        wait_for(Duration::from_secs(60), "it says what the VM is on", || {
            let reason: String = self.bus.get(&self.vm(vm), "org.virtsnap1.VM", "HealthReason");
            reason.contains("shut the VM down and start it again").then_some(true)
        })
    }

    /// How often it has been connected to libvirt.
    pub fn connections(&self) -> usize {
        self.journal().matches("connected to qemu").count()
    }

    /// What the daemon wrote to the journal.
    pub fn journal(&self) -> String {
        self.tb.ok("journalctl -u virtsnapd --no-pager -o cat")
    }

    /// Runs `virtsnap`, as root.
    pub fn client(&self, arguments: &str) -> Output {
        self.tb.sh_within(Duration::from_secs(120), &format!("virtsnap {arguments}"))
    }

    /// Runs `virtsnap`, which must succeed.
    pub fn ok(&self, arguments: &str) -> String {
        let out = self.client(arguments);
        assert!(out.success(), "virtsnap {arguments}: {out}\n{}", self.journal());
        out.stdout
    }

    /// Runs `virtsnap … --json`, which must succeed.
    pub fn json(&self, arguments: &str) -> Value {
        let text = self.ok(&format!("{arguments} --json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("virtsnap {arguments} --json: {e}:\n{text}"))
    }

    /// A property of the manager.
    pub fn manager<T>(&self, property: &str) -> T
    where
        T: TryFrom<zbus::OwnedVariant>,
    {
        self.bus.get("/org/virtsnap1", "org.virtsnap1.Manager", property)
    }

    /// The object of a VM.
    pub fn vm(&self, name: &str) -> String {
        let (path,): (zbus::OwnedObjectPath,) = self
            .bus
            .call("/org/virtsnap1", "org.virtsnap1.Manager", "LookupVM", &(name,))
            .expect("the VM is known");
        path.to_string()
    }

    /// A VM's snapshots on the bus: name and object, the oldest first.
    pub fn snapshots(&self, vm: &str) -> Vec<(String, String)> {
        let prefix = format!("{}/snapshot/", self.vm(vm));
        let mut all: Vec<(u64, String, String)> = self
            .bus
            .managed()
            .into_iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            // One may go between the list and the question.
            .filter_map(|(path, _)| {
                let i = "org.virtsnap1.Snapshot";
                Some((self.bus.try_get(&path, i, "CreatedUSec")?, self.bus.try_get(&path, i, "Name")?, path))
            })
            .collect();
        all.sort();
        all.into_iter().map(|(_, name, path)| (name, path)).collect()
    }

    /// Takes a snapshot through D-Bus and waits for it; the object, or the error's name and text.
    pub fn create(&self, vm: &str, name: &str) -> Result<String, (String, String)> {
        let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let (job,): (zbus::OwnedObjectPath,) =
            self.bus.call(&self.vm(vm), "org.virtsnap1.VM", "CreateSnapshot", &(name, none))?;
        self.wait(job.as_str())
    }

    /// Deletes a snapshot through D-Bus and waits for it.
    pub fn delete(&self, vm: &str, name: &str) -> Result<String, (String, String)> {
        let (_, path) =
            self.snapshots(vm).into_iter().find(|(n, _)| n == name).expect("there is such a snapshot");
        let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let (job,): (zbus::OwnedObjectPath,) =
            self.bus.call(&path, "org.virtsnap1.Snapshot", "Delete", &(none,))?;
        self.wait(job.as_str())
    }

    /// Has a VM pruned through D-Bus and waits for it: what was cut short is settled first, also where nothing is to go,
    /// of which the client would not ask the daemon.
    pub fn prune(&self, vm: &str) -> Result<String, (String, String)> {
        let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let job = self.bus.call(&self.vm(vm), "org.virtsnap1.VM", "Prune", &(none,));
        let (job,): (zbus::OwnedObjectPath,) = job?;
        self.wait(job.as_str())
    }

    /// Runs a policy and waits for all of its jobs, one at least; each one's result.
    pub fn run(&self, policy: &str) -> Vec<Result<String, (String, String)>> {
        let path = format!("/org/virtsnap1/policy/{policy}");
        let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let (jobs,): (Vec<zbus::OwnedObjectPath>,) =
            self.bus.call(&path, "org.virtsnap1.Policy", "Run", &(none,)).expect("the policy can be run");
        assert!(!jobs.is_empty(), "policy {policy} ran on no VM");
        jobs.iter().map(|job| self.wait(job.as_str())).collect()
    }

    /// Waits for a job; what it made, or the error's name and text.
    pub fn wait(&self, job: &str) -> Result<String, (String, String)> {
        let none = std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        let (result, object): (String, zbus::OwnedObjectPath) =
            self.bus.call(job, "org.virtsnap1.Job", "Wait", &(none,))?;
        assert_eq!(result, "done");
        Ok(object.to_string())
    }

    /// Waits until nothing is queued or at work.
    pub fn wait_idle(&self) {
        let deadline = Duration::from_secs(120);
        let still = || panic!("the jobs have not ended:\n{}\n{}", self.client("jobs"), self.journal());
        wait_or(deadline, || self.is_idle().then_some(()), still);
    }

    /// Whether nothing is queued or at work.
    pub fn is_idle(&self) -> bool {
        let jobs = self.bus.managed();
        jobs.iter()
            .filter(|(path, _)| path.starts_with("/org/virtsnap1/job/"))
            .all(|(path, _)| self.bus.get::<String>(path, "org.virtsnap1.Job", "State") == "done")
    }

    /// Runs a command as a user who is nobody special.
    pub fn as_nobody(&self, script: &str) -> Output {
        self.tb.sh(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups sh -c {}", quote(script)))
    }
}
