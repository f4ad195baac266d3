//! The daemon's start, where it does not run yet: the bus has systemd start it.
//!
//! Of a start that fails systemd does not tell the bus, which goes on waiting (25 s, unless set otherwise) and then knows
//! no reason. systemd itself is asked meanwhile.

use std::{future::pending, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use zbus::{
    Connection, OwnedObjectPath,
    fdo::DBusProxy,
    names::{BusName, WellKnownName},
    proxy,
};

use super::{exit::Failure, proxy::SERVICE};

const UNIT: &str = "virtsnapd.service";
/// How often systemd is asked.
const PAUSE: Duration = Duration::from_millis(250);
/// After so many times a unit that was as it is before the start counts as well: systemd tried it too often by then.
const PATIENCE: u32 = 8;

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
}

#[proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn condition_result(&self) -> zbus::Result<bool>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn condition_timestamp_monotonic(&self) -> zbus::Result<u64>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn state_change_timestamp_monotonic(&self) -> zbus::Result<u64>;
}

#[proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> zbus::Result<i32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
}

/// Has the daemon started if it does not run. What becomes of it where nobody can say why it does not is for the first
/// call to tell.
pub(super) async fn awake(bus: &Connection) -> Result<(), Failure> {
    let dbus = DBusProxy::new(bus).await?;
    let name = BusName::try_from(SERVICE)?;
    if !matches!(dbus.name_has_owner(name).await, Ok(false)) {
        return Ok(());
    }
    // A bus that still waits for a start which failed before asks for none until it has given that up.
    for _ in 0..2 {
        let before = Seen::now(bus).await.ok();
        let name = WellKnownName::try_from(SERVICE)?;
        tokio::select! {
            started = dbus.start_service_by_name(name, 0) => if started.is_ok() { break },
            why = why_not(bus, before) => return Err(Failure::NoDaemon(why)),
        }
    }
    Ok(())
}

/// When something last became of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    condition: u64,
    state: u64,
}

impl Seen {
    async fn now(bus: &Connection) -> zbus::Result<Self> {
        let unit = unit(bus).await?;
        Ok(Self {
            condition: unit.condition_timestamp_monotonic().await?,
            state: unit.state_change_timestamp_monotonic().await?,
        })
    }
}

async fn unit(bus: &Connection) -> zbus::Result<UnitProxy<'static>> {
    let path = SystemdProxy::new(bus).await?.load_unit(UNIT).await?;
    UnitProxy::builder(bus).path(path).cache_properties(zbus::proxy::CacheProperties::No).build().await
}

/// Comes back when the start has failed.
async fn why_not(bus: &Connection, before: Option<Seen>) -> String {
    let Some(before) = before else { return pending().await };
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    for asked in 1_u32.. {
        ticks.tick().await;
        // Where systemd does not answer, the bus will in its time.
        let Ok(now) = Seen::now(bus).await else { break };
        if now != before || asked >= PATIENCE {
            match failed(bus, now.condition != before.condition).await {
                Ok(Some(why)) => return why,
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
    pending().await
}

async fn failed(bus: &Connection, looked: bool) -> zbus::Result<Option<String>> {
    let unit = unit(bus).await?;
    let state = unit.active_state().await?;
    if state == "inactive" && looked && !unit.condition_result().await? {
        return Ok(Some(format!(
            "systemd did not start {UNIT}, as what it is conditional on is not there: is libvirt installed?"
        )));
    }
    if state != "failed" {
        return Ok(None);
    }
    let path = unit.inner().path().to_owned();
    let service = ServiceProxy::builder(bus).path(path).cache_properties(zbus::proxy::CacheProperties::No);
    let service = service.build().await?;
    Ok(Some(match (service.result().await?.as_str(), service.exec_main_status().await?) {
        ("exit-code", 78) => {
            format!("{UNIT} failed to start, as its configuration is broken: `virtsnap check` says where")
        }
        ("exit-code", status) => format!("{UNIT} failed to start, with exit status {status}"),
        (result, _) => format!("{UNIT} failed to start: {result}"),
    }))
}
