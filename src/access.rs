//! Asking for what this daemon has no right to: that a VM which AppArmor confines may write its own images.
//!
//! The right is given by a unit of its own, [`virtsnap-apparmor@UUID.service`](crate::apparmor), which a polkit rule lets
//! this daemon start. An administrator may mask it; then no merge of such a VM is begun.

use std::{fmt, future::Future, time::Duration};

use futures_util::StreamExt as _;
use zbus::{DBusError as _, ObjectPath, OwnedObjectPath, proxy};

use crate::{
    apparmor::{Answer, Answers},
    core::model::VmId,
    daemon::Bus,
    hypervisor::{Error, ErrorKind, Result},
};

/// The unit's own limit is shorter; then systemd ends it.
const DEADLINE: Duration = Duration::from_mins(3);

/// The way to a confined VM's right to write its own images.
pub trait Access: Send + Sync + fmt::Debug + 'static {
    /// Whether [`Access::grant`] may be tried for this VM: an error of the kind `Unsupported` with the way out if not.
    /// Changes nothing.
    fn possible(&self, vm: VmId) -> Result<()>;

    /// Lets a running VM write the images that are its alone, and says which when it may: to merge into another one
    /// ([`check`]) would fail, or crash the VM. What holds afterwards may hold for one commit only, so this is asked before
    /// each.
    fn grant(&self, vm: VmId) -> Result<Answer>;

    /// Takes back what VMs that are gone were let write. Not waited for; what goes wrong is in that unit's journal.
    fn tidy(&self) -> Result<()>;
}

/// An error of the kind `Unsupported` if the VM may not write one of the images that a merge would write: which, why, and
/// what to do.
pub fn check(granted: &Answer, images: &[String]) -> Result<()> {
    let Some(lacking) = granted.lacks(images) else { return Ok(()) };
    let text = format!(
        "{SO}, and of the images that this one writes its profile cannot allow {}: {}. {}",
        lacking.path, lacking.why, lacking.way_out
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// Through systemd.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
    answers: Answers,
    /// This host has AppArmor.
    apparmor: bool,
}

impl Systemd {
    /// On this bus; nothing is connected before it is needed. What the units say more is found in `answers`. Where there
    /// is no `apparmor`, nothing is tidied.
    pub fn new(bus: Bus, answers: Answers, apparmor: bool) -> Self {
        Self { bus, answers, apparmor }
    }

    /// Runs on the calling thread, which must be none of the engine's: workers wait here.
    fn ask<T, F>(&self, question: impl FnOnce(zbus::Connection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorKind::Failed, format!("cannot wait for systemd: {e}")))?;
        let answer = async {
            let connection = self.bus.connect().await.map_err(|e| failed(&e))?;
            question(connection).await
        };
        runtime.block_on(async { tokio::time::timeout(DEADLINE, answer).await }).unwrap_or_else(|_| {
            let seconds = DEADLINE.as_secs();
            Err(Error::new(ErrorKind::Failed, format!("systemd did not answer within {seconds} s")))
        })
    }
}

/// Where there is no way: on a host that is not this one.
#[derive(Debug)]
pub struct NoAccess;

impl Access for NoAccess {
    fn possible(&self, _: VmId) -> Result<()> {
        let text = format!(
            "{SO}, and what would let it write them is on the host that it runs on. Nothing was touched"
        );
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn grant(&self, vm: VmId) -> Result<Answer> {
        self.possible(vm).map(|()| Answer::default())
    }

    fn tidy(&self) -> Result<()> {
        Ok(())
    }
}

/// systemd's manager, as far as it is asked here.
#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
}

#[proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
}

#[proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn status_text(&self) -> zbus::Result<String>;
}

const TIDY: &str = "virtsnap-apparmor-tidy.service";

/// What is started for a VM.
fn unit_of(vm: VmId) -> String {
    format!("virtsnap-apparmor@{vm}.service")
}

impl Access for Systemd {
    fn possible(&self, vm: VmId) -> Result<()> {
        let unit = unit_of(vm);
        self.ask(async |connection| {
            let manager = ManagerProxy::new(&connection).await.map_err(|e| failed(&e))?;
            let path = manager.load_unit(&unit).await.map_err(|e| failed(&e))?;
            let loaded = UnitProxy::new(&connection, path).await.map_err(|e| failed(&e))?;
            match loaded.load_state().await.map_err(|e| failed(&e))?.as_str() {
                "loaded" => Ok(()),
                "masked" => Err(masked(&unit)),
                state => Err(missing(&unit, state)),
            }
        })
    }

    fn grant(&self, vm: VmId) -> Result<Answer> {
        let unit = unit_of(vm);
        self.ask(async |connection| {
            let manager = ManagerProxy::new(&connection).await.map_err(|e| failed(&e))?;
            // Without it systemd tells of no job's end.
            manager.subscribe().await.map_err(|e| failed(&e))?;
            let mut ends = manager.receive_job_removed().await.map_err(|e| failed(&e))?;
            let job = manager.start_unit(&unit, "replace").await.map_err(|e| refused(&unit, &e))?;
            while let Some(end) = ends.next().await {
                let end = end.args().map_err(|e| failed(&e))?;
                if end.job.as_str() != job.as_str() {
                    continue;
                }
                return match end.result {
                    "done" => self.answers.read(vm).map_err(|e| unanswered(&unit, &e)),
                    result => Err(not_granted(&unit, result, &why(&connection, &manager, &unit).await)),
                };
            }
            Err(Error::new(ErrorKind::Failed, format!("the bus went while {unit} was being started")))
        })
    }

    fn tidy(&self) -> Result<()> {
        if !self.apparmor {
            return Ok(());
        }
        self.ask(async |connection| {
            let manager = ManagerProxy::new(&connection).await.map_err(|e| failed(&e))?;
            manager.start_unit(TIDY, "replace").await.map_err(|e| refused(TIDY, &e)).map(drop)
        })
    }
}

/// What the unit says of itself, if it does.
async fn why(connection: &zbus::Connection, manager: &ManagerProxy<'_>, unit: &str) -> String {
    let text = async {
        let path = manager.load_unit(unit).await?;
        ServiceProxy::new(connection, path).await?.status_text().await
    };
    text.await.unwrap_or_default()
}

fn failed(e: &zbus::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("systemd cannot be asked to let the VM write its images: {e}"))
}

const SO: &str = "AppArmor confines the VM, so that merging its images fails, or crashes it while it runs";

fn masked(unit: &str) -> Error {
    let text = format!(
        "{SO}, unless {unit} lets it write them, and that unit is masked. Nothing was touched. \
         `systemctl unmask virtsnap-apparmor@.service {unit}` allows it"
    );
    Error::new(ErrorKind::Unsupported, text)
}

fn missing(unit: &str, state: &str) -> Error {
    let text = format!(
        "{SO}, unless {unit} lets it write them, and systemd cannot load that unit ({state}). Nothing was touched. \
         virtsnap's package has it; `systemctl status {unit}` says more"
    );
    Error::new(ErrorKind::Unsupported, text)
}

/// systemd did not even try.
fn refused(unit: &str, e: &zbus::Error) -> Error {
    let (name, text) = match e {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.as_deref().unwrap_or_default()),
        // D-Bus's own are told apart already.
        zbus::Error::FDO(e) => (e.name().to_string(), e.description().unwrap_or_default()),
        e => return failed(e),
    };
    match name.as_str() {
        "org.freedesktop.systemd1.UnitMasked" => masked(unit),
        "org.freedesktop.systemd1.NoSuchUnit" => missing(unit, text),
        "org.freedesktop.DBus.Error.AccessDenied"
        | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => Error::new(
            ErrorKind::Denied,
            format!(
                "{SO}, unless {unit} lets it write them, and virtsnapd may not start that unit ({text}). polkit allows \
                 it by /usr/share/polkit-1/rules.d/60-virtsnap.rules, which virtsnap's package has; is polkit installed?"
            ),
        ),
        name => Error::new(ErrorKind::Failed, format!("systemd cannot start {unit}: {name}: {text}")),
    }
}

/// It ended well, and nobody knows what it has granted.
fn unanswered(unit: &str, e: &std::io::Error) -> Error {
    let text = format!(
        "{SO}, and which of them {unit} lets it write cannot be read ({e}). After an upgrade of virtsnap `systemctl \
         daemon-reload` may help; `systemctl status {unit}` says more"
    );
    Error::new(ErrorKind::Denied, text)
}

/// It was started, and did not end well.
fn not_granted(unit: &str, result: &str, why: &str) -> Error {
    let said = if why.is_empty() { String::new() } else { format!(": {why}") };
    let text = format!(
        "{SO}, and {unit}, which lets it write them, ended with {result}{said} (`journalctl -u {unit}`)"
    );
    Error::new(ErrorKind::Denied, text)
}
