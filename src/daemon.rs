//! The daemon, put together, in an order that matters: configuration → store → hypervisor → serve → name → READY.
//!
//! What an earlier life left behind (a frozen guest, a snapshot half made) is settled at each new connection to
//! libvirt, before anything else is asked of it; see the engine's recovery.

mod alone;
mod renewal;

use std::{
    ffi::OsStr,
    os::{
        fd::AsFd as _,
        unix::{
            fs::DirBuilderExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use self::alone::{Alone, Another};
use crate::{
    access::{Access, NoAccess, Systemd},
    apparmor::{self, Answers},
    clock::{self, Clock, SystemClock},
    config::{ConfigRoots, Settings},
    core::machine::{Machine, Start},
    dbus::{self, Patience, Served},
    engine::{Control, Engine, Parts},
    freeze::{
        Freezer,
        helper::{Helper, Nobody, Outside, SOCKET},
        thawer::{Pauses, Thawer},
    },
    hypervisor::{Hypervisor, libvirt::Libvirt},
    logging::message,
    store::{Store, StoreError},
    systemd,
};

/// Where the daemon keeps its state when systemd does not say.
pub const STATE_DIRECTORY: &str = "/var/lib/virtsnap";
/// The database's file in it.
pub const DATABASE: &str = "state.db";

/// Which bus to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The system's.
    System,
    /// The one at this address.
    Address(String),
}

impl Bus {
    /// Connects to it.
    pub async fn connect(&self) -> zbus::Result<zbus::Connection> {
        match self {
            Self::System => zbus::Connection::system().await,
            Self::Address(address) => zbus::connection::Builder::address(address.as_str()).build().await,
        }
    }
}

/// What the daemon is told at its start.
#[derive(Debug)]
pub struct Options {
    /// Where the configuration is.
    pub roots: ConfigRoots,
    /// What was read of it.
    pub settings: Settings,
    /// Which bus to be on.
    pub bus: Bus,
    /// Where the state is kept.
    pub state: PathBuf,
    /// A directory that is empty after the host boots: `@reboot` is told from a restart by it.
    pub runtime: Option<PathBuf>,
}

/// Runs the daemon with the real hypervisor, until a signal ends it.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let hypervisor = Arc::new(Libvirt::new(options.settings.daemon.uri.clone()));
    let access: Arc<dyn Access> = if options.settings.daemon.uri == apparmor::URI {
        let answers = Answers::at(apparmor::ANSWERS);
        Arc::new(Systemd::new(options.bus.clone(), answers, Path::new("/sys/module/apparmor").exists()))
    } else {
        Arc::new(NoAccess)
    };
    let helper = Arc::new(Outside { uri: options.settings.daemon.uri.clone(), socket: SOCKET.into() });
    let (ready, control) = prepare(options, hypervisor, access, helper, Arc::new(SystemClock::default()))?;
    watch_zone(control.clone());
    let signals = tokio::spawn(signals(control));
    let result = ready.run().await;
    signals.abort();
    result
}

/// A daemon that is ready to run.
#[derive(Debug)]
pub struct Ready {
    engine: Engine,
    handle: crate::engine::Handle,
    control: Control,
    bus: Bus,
    alone: Alone,
    patience: Patience,
}

/// Puts the daemon together with a hypervisor, an access, a helper and a clock of the caller's choice.
pub fn prepare(
    options: Options,
    hypervisor: Arc<dyn Hypervisor>,
    access: Arc<dyn Access>,
    helper: Arc<dyn Helper>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Ready, Control)> {
    // Definitions in it may hold passwords. The unit says the same; who starts it by hand need not.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.state)
        .with_context(|| format!("cannot make the state directory {}", options.state.display()))?;
    let alone = Alone::take(&options.state)?;
    let now = clock.now();
    let store = match open_store(&options.state) {
        Err(StoreError::Damaged(what)) => renewal::renewed(&options.state, &what, now)?,
        store => store.with_context(|| unusable(&options.state))?,
    };
    if let Some(boot) = boot_of(&options.settings.daemon.uri)
        && let Err(e) = store.boots(&boot)
        && store.trouble().is_none()
    {
        return Err(e.into());
    }
    let bus = options.bus.clone();
    let (engine, handle, control) = assemble(options, Arc::new(store), hypervisor, access, helper, clock)?;
    let ready = Ready { engine, handle, control: control.clone(), bus, alone, patience: Patience::default() };
    Ok((ready, control))
}

/// The engine on this store, which knows what an earlier life left in it.
pub fn assemble(
    options: Options,
    store: Arc<Store>,
    hypervisor: Arc<dyn Hypervisor>,
    access: Arc<dyn Access>,
    helper: Arc<dyn Helper>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Engine, crate::engine::Handle, Control)> {
    store.begins(clock.now())?;
    if let Err(e) = store.set_uri(&options.settings.daemon.uri)
        && store.trouble().is_none()
    {
        return Err(e.into());
    }
    // On a disk that is full, or read-only, it starts all the same, thaws and shows; and what cannot be done is told now.
    store.probe();
    let boot_file = options.runtime.map(|d| d.join("started"));
    let machine = Machine::new(Start {
        settings: Arc::new(options.settings),
        places: store.places()?,
        owed: store.owed()?,
        deferred: store.deferred()?,
        failed: store.failed()?,
        standings: store.standings()?,
        watched: store.awaited()?,
        last_plausible: store.last_plausible()?,
        fresh_boot: boot_file.as_ref().is_some_and(|f| !f.exists()),
        own_uid: nix::unistd::getuid().as_raw(),
        frozen: store.frozen()?,
    });
    let parts = Parts { hypervisor, store, access, clock, helper, machine, roots: options.roots, boot_file };
    Engine::new(parts).context("cannot make the engine")
}

impl Ready {
    /// The way to the engine.
    pub fn handle(&self) -> &crate::engine::Handle {
        &self.handle
    }

    /// The same, with another patience for polkit.
    #[must_use]
    pub fn patient(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Serves, takes the name, says READY, and runs until it is told to stop.
    pub async fn run(self) -> anyhow::Result<()> {
        let builder = match &self.bus {
            Bus::System => zbus::connection::Builder::system(),
            Bus::Address(address) => zbus::connection::Builder::address(address.as_str()),
        };
        let served = async {
            let aside = self.bus.connect().await?;
            dbus::serve(builder, Some(aside), self.handle, self.patience).await
        };
        let served = served.await.context(
            "cannot be org.virtsnap1 on D-Bus (is the bus there, does another virtsnapd run, does the bus policy \
             allow it?)",
        )?;
        let mut engine = tokio::spawn(self.engine.run());
        systemd::ready();
        tracing::info!(MESSAGE_ID = message::STARTED, "virtsnapd {} is ready", env!("CARGO_PKG_VERSION"));
        let mut lost = false;
        let result = tokio::select! {
            result = &mut engine => result,
            () = Served::lost(served.connection.clone()) => {
                lost = true;
                // Nobody reaches it any more. What runs comes to its end, and systemd starts another one.
                tracing::warn!(
                    MESSAGE_ID = message::ENDED, "the connection to D-Bus was lost: ending, to be started again"
                );
                self.control.stop();
                engine.await
            }
        };
        served.part().await;
        drop(self.alone);
        result.context("the engine ended by a bug")?.context("the engine failed")?;
        anyhow::ensure!(!lost, "the connection to D-Bus was lost (has the bus ended, or was it restarted?)");
        Ok(())
    }
}

/// Which boot the VMs' host is in; `None` of another host, which boots without us.
fn boot_of(uri: &str) -> Option<String> {
    let (_, place) = uri.split_once("://")?;
    let boot = place.starts_with('/').then(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id"))?;
    boot.ok().map(|boot| boot.trim().to_owned())
}

fn open_store(directory: &Path) -> Result<Store, StoreError> {
    Store::open(&directory.join(DATABASE))
}

fn unusable(directory: &Path) -> String {
    format!("cannot open the state database {}", directory.join(DATABASE).display())
}

/// Reads the configuration anew when the system gets another zone: policies that name none follow it.
fn watch_zone(control: Control) {
    // It stands above the system's, for as long as this process lives.
    if std::env::var_os("TZ").is_some() {
        return;
    }
    let changed = move || {
        tracing::info!("/etc/localtime changed: the configuration is read again");
        control.reload();
    };
    if let Err(e) = clock::watch_entry(Path::new("/etc"), OsStr::new("localtime"), changed) {
        tracing::warn!(error = %e, "a new system time zone will not be noticed; a reload takes it");
    }
}

async fn signals(control: Control) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => control.stop(),
            _ = interrupt.recv() => control.stop(),
            _ = hangup.recv() => control.reload(),
        }
    }
}

/// Thaws whatever a daemon that is no more left frozen: the unit's last resort. True if all is thawed.
///
/// On the libvirt that it was connected to, as it wrote down: the configuration may be broken by now, or name another.
pub fn thaw(state: &Path) -> anyhow::Result<bool> {
    if !state.join(DATABASE).exists() {
        return Ok(true);
    }
    let store = Store::salvage(&state.join(DATABASE)).with_context(|| unusable(state))?;
    let frozen = store.frozen().with_context(|| {
        format!(
            "which guests may be frozen cannot be read from {}: look at each by `virsh domfsinfo VM`, which a frozen one \
             refuses, and thaw it by `virsh domfsthaw VM`",
            state.join(DATABASE).display()
        )
    })?;
    let store = Arc::new(store);
    if frozen.is_empty() {
        return Ok(true);
    }
    let uri = store.uri()?.unwrap_or_else(|| apparmor::URI.to_owned());
    let hypervisor = Arc::new(Libvirt::for_thaws(uri));
    hypervisor.connect().context("libvirt does not answer, so guests may still be frozen")?;
    let clock = Arc::new(SystemClock::default());
    let freezer = Freezer::new(hypervisor, store, clock, Arc::new(Nobody), Box::new(|_, _| {}));
    Ok(freezer.thaw_left_over(&frozen).is_empty())
}

/// Whose frozen guests the helper outside watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Watched {
    /// Those of all who come to the socket at standard input, as systemd started it.
    Socket,
    /// The one of the line at standard input, as a daemon did.
    Line,
}

/// Is the helper outside, which thaws guests if the daemon cannot.
pub fn thawer(whose: Watched) -> anyhow::Result<()> {
    let connect = |uri: &str| {
        let libvirt = Arc::new(Libvirt::for_thaws(uri));
        libvirt.connect()?;
        Ok(libvirt as Arc<dyn Hypervisor>)
    };
    let thawer = Thawer::new(Box::new(connect), Pauses::default(), Arc::new(SystemClock::default()));
    let input = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is closed")?;
    match whose {
        Watched::Socket => thawer.listen(&UnixListener::from(input)).context("the socket failed"),
        Watched::Line => thawer.attend(&UnixStream::from(input)).context("the line broke"),
    }
}
