//! A bus, a host and a daemon on both.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use virtsnap::{
    access::Access,
    apparmor::{Answer, LeftOut},
    clock::Clock,
    config::{self, ConfigRoots},
    core::model::VmId,
    daemon::{self, Bus, Options},
    dbus::Patience,
    engine::{Control, Handle},
    freeze::helper::Nobody,
    hypervisor::{
        Error, Hypervisor,
        sim::{Gate, Sim},
    },
    store::Store,
};
use zbus::fdo::DBusProxy;

use super::{
    bus_daemon::{BusDaemon, LOCAL},
    client::{Client, MANAGER, soon},
    clock::TestClock,
};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

const MAIN: &str = "[daemon]\ntimezone = \"UTC\"\nmax-jobs = 4\n";

/// What a confined VM gets: what the test says, and how often it was asked for.
#[derive(Debug)]
pub struct TestAccess {
    sim: Arc<Sim>,
    /// After so many times the answer is a no.
    pub refuses: Mutex<Option<(usize, Error)>>,
    /// What a grant fails with that looked possible.
    pub fails: Mutex<Option<Error>>,
    /// What no VM is let write.
    pub left_out: Mutex<Vec<LeftOut>>,
    /// Who was let write, in order.
    pub granted: Mutex<Vec<VmId>>,
}

impl TestAccess {
    /// On this host.
    pub fn on(sim: &Arc<Sim>) -> Self {
        let sim = Arc::clone(sim);
        let (refuses, fails) = (Mutex::default(), Mutex::default());
        Self { sim, refuses, fails, left_out: Mutex::default(), granted: Mutex::default() }
    }
}

impl Access for TestAccess {
    fn possible(&self, _: VmId) -> Result<(), Error> {
        match &*self.refuses.lock().unwrap() {
            Some((0, error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn grant(&self, vm: VmId) -> Result<Answer, Error> {
        let mut granted = self.granted.lock().unwrap();
        match &*self.refuses.lock().unwrap() {
            Some((times, error)) if granted.len() >= *times => return Err(error.clone()),
            _ => {}
        }
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        self.sim.lift(vm)?;
        granted.push(vm);
        let left_out = self.left_out.lock().unwrap().clone();
        let all = self.sim.vm(vm)?.disks.into_iter().flat_map(|d| d.chain).map(|layer| layer.path);
        let may_write = all.filter(|path| left_out.iter().all(|l| l.path != *path)).collect();
        Ok(Answer { may_write, left_out })
    }

    fn tidy(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Debug)]
struct Running {
    control: Control,
    handle: Handle,
    task: JoinHandle<anyhow::Result<()>>,
}

/// All of it.
#[derive(Debug)]
pub struct Rig {
    /// The host.
    pub sim: Arc<Sim>,
    /// The daemon's clock.
    pub clock: Arc<TestClock>,
    /// The superuser's connection.
    pub client: Client,
    /// What the daemon sees of the host.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// What it gets for confined VMs.
    pub access: Arc<TestAccess>,
    /// How long the daemon waits for polkit.
    pub patience: Patience,
    daemon: Option<Running>,
    bus: Option<BusDaemon>,
    directory: TempDir,
}

impl Rig {
    /// Starts all, and waits until the daemon runs.
    pub async fn start(policies: &str, arrange: impl FnOnce(&Sim)) -> Self {
        let mut rig = Self::without_daemon(policies, arrange).await;
        rig.boot().await;
        rig.until_running().await;
        rig
    }

    /// Starts all but the daemon.
    pub async fn without_daemon(policies: &str, arrange: impl FnOnce(&Sim)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Others are to reach the socket.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(directory.path().join("etc/policies.d")).unwrap();
        let path = directory.path().to_owned();
        let bus =
            soon("dbus-daemon", tokio::task::spawn_blocking(move || BusDaemon::start(&path))).await.unwrap();
        let sim = Arc::new(Sim::new());
        arrange(&sim);
        let rig = Self {
            hypervisor: Arc::clone(&sim) as Arc<dyn Hypervisor>,
            access: Arc::new(TestAccess::on(&sim)),
            patience: Patience::default(),
            sim,
            clock: Arc::new(TestClock::new()),
            client: Client::connect(&format!("unix:path={}", directory.path().join("bus").display())).await,
            daemon: None,
            bus: Some(bus),
            directory,
        };
        rig.write_main("");
        rig.write_policies(policies);
        rig
    }

    /// The bus's address.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.directory.path().join("bus").display())
    }

    /// Has the bus pass on whatever anybody sends to the daemon, from now on.
    pub async fn loosen_bus(&self) {
        let policy = r#"<busconfig><policy context="mandatory"><allow send_destination="org.virtsnap1"/></policy></busconfig>"#;
        std::fs::write(self.directory.path().join(LOCAL), policy).unwrap();
        let bus = soon("the bus", DBusProxy::new(&self.client.connection)).await.unwrap();
        soon("the bus reads its configuration", bus.reload_config()).await.unwrap();
    }

    /// Writes `policies.d/test.toml`, which the daemon does not know of yet.
    pub fn write_policies(&self, text: &str) {
        std::fs::write(self.directory.path().join("etc/policies.d/test.toml"), text).unwrap();
    }

    /// Adds lines to `[daemon]`, which the daemon does not know of yet.
    pub fn write_main(&self, more: &str) {
        let hooks = self.hooks();
        let text = format!("{MAIN}hooks = \"{}\"\n{more}", hooks.display());
        std::fs::write(self.directory.path().join("etc/virtsnapd.toml"), text).unwrap();
    }

    /// Where the daemon looks for hooks; there is no such directory yet. Those of the machine are none of its business.
    pub fn hooks(&self) -> PathBuf {
        self.directory.path().join("hooks.d")
    }

    /// A directory for the test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The daemon's store, on a connection of its own.
    pub fn store(&self) -> Store {
        std::fs::create_dir_all(self.state()).unwrap();
        Store::open(&self.state().join(daemon::DATABASE)).unwrap()
    }

    /// Something that SQL can do to the daemon's store, at once.
    pub fn in_store(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.state().join(daemon::DATABASE)).unwrap();
        connection.busy_timeout(DEADLINE).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    /// What a daemon here would be started with.
    pub fn options(&self) -> Options {
        let roots = ConfigRoots::new([self.directory.path().join("etc")]);
        let loaded = match config::load(&roots) {
            Ok(loaded) => loaded,
            Err(e) => panic!("{}", e.render(config::Style::Plain)),
        };
        Options {
            roots,
            settings: loaded.settings,
            bus: Bus::Address(self.address()),
            state: self.state(),
            runtime: None,
        }
    }

    /// Starts the daemon, and waits until it has its name.
    pub async fn boot(&mut self) {
        assert!(self.daemon.is_none(), "one is enough");
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let (hypervisor, access) =
            (Arc::clone(&self.hypervisor), Arc::clone(&self.access) as Arc<dyn Access>);
        let (ready, control) =
            daemon::prepare(self.options(), hypervisor, access, Arc::new(Nobody), clock).unwrap();
        let handle = ready.handle().clone();
        let task = tokio::spawn(ready.patient(self.patience).run());
        self.client.until_name_is(true).await;
        self.daemon = Some(Running { control, handle, task });
    }

    /// Waits until the daemon has taken stock and all VMs' objects are there.
    pub async fn until_running(&self) {
        self.client.until(MANAGER, "Manager.State", |s: &String| s == "running").await;
        for vm in self.sim.vms().unwrap() {
            self.client.until_there(&vm_path(vm), true).await;
        }
    }

    /// Has a libvirt that went come back, and waits until the daemon noticed both.
    pub async fn reconnect(&self) {
        self.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
        self.sim.connect();
        self.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    }

    /// The way to the daemon's engine.
    pub fn handle(&self) -> Handle {
        self.daemon.as_ref().expect("the daemon runs").handle.clone()
    }

    /// Tells the daemon to stop.
    pub fn tell_to_stop(&self) {
        self.daemon.as_ref().expect("the daemon runs").control.stop();
    }

    /// Tells the daemon to read its configuration again, as a signal does.
    pub fn hang_up(&self) {
        self.daemon.as_ref().expect("the daemon runs").control.reload();
    }

    /// Waits until the daemon has ended, well.
    pub async fn ended(&mut self) {
        let running = self.daemon.take().expect("the daemon runs");
        soon("the daemon's end", running.task).await.unwrap().unwrap();
        self.client.until_name_is(false).await;
    }

    /// The bus goes, and the daemon with it; what it says of that.
    pub async fn bus_goes(&mut self) -> String {
        let running = self.daemon.take().expect("the daemon runs");
        self.bus.take();
        let ended = soon("the daemon's end", running.task).await.unwrap();
        format!("{:#}", ended.expect_err("it cannot be what it is for"))
    }

    /// Both.
    pub async fn stop(&mut self) {
        self.tell_to_stop();
        self.ended().await;
    }

    /// Asserts that this guest is not frozen: for the guest itself, on the bus, and in the store.
    pub async fn assert_thawed(&self, vm: VmId) {
        self.client.until(&vm_path(vm), "VM.Frozen", |frozen: &bool| !frozen).await;
        assert!(self.sim.frozen(vm).unwrap().is_empty(), "the guest is frozen");
        assert!(self.store().frozen().unwrap().is_empty(), "the store says that it may be frozen");
    }

    /// The paths of all images.
    pub fn images(&self) -> Vec<String> {
        self.sim.files().into_keys().collect()
    }
}

/// Waits until a call stands at the gate.
pub fn held(gate: &Gate<'_>) {
    assert!(tokio::task::block_in_place(|| gate.wait_for_call(DEADLINE)), "no call came to the gate");
}

/// A VM's object path.
pub fn vm_path(vm: VmId) -> String {
    format!("{MANAGER}/vm/{}", vm.to_string().replace('-', "_"))
}

/// A snapshot's object path.
pub fn snapshot_path(vm: VmId, name: &str) -> String {
    format!("{}/snapshot/{}", vm_path(vm), virtsnap::dbus::escape_label(name))
}

/// A policy's object path.
pub fn policy_path(name: &str) -> String {
    format!("{MANAGER}/policy/{}", virtsnap::dbus::escape_label(name))
}

/// A VM's UUID by its number.
pub fn id(number: u128) -> VmId {
    VmId(uuid::Uuid::from_u128(number))
}
