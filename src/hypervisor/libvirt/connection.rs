//! Keeping connected: libvirt itself never reconnects, so on a close everything is dropped, opened anew with
//! back-off, registered again, and the engine told to list all anew.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use uuid::Uuid;
use virt::connect::Connect;

use super::{features, xml};
use crate::{
    core::model::VmId,
    hypervisor::{
        Event, Features, Info, Result,
        ffi::{self, Watched},
    },
    logging::message,
};

/// The first pause before another try, and the longest one.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// libvirt's keepalive: a host that is silent for `INTERVAL × COUNT` seconds is gone.
const KEEPALIVE: (i32, u32) = (15, 4);

type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Four connections to the same libvirt; where only guests are thawed, one that does for all.
#[derive(Debug)]
pub(super) struct Connections {
    /// For events and short questions.
    pub(super) control: Arc<Watched>,
    /// For what may take long: merges, creates, volumes.
    pub(super) work: Arc<Watched>,
    /// For the guest agent.
    pub(super) guard: Arc<Watched>,
    /// For thaws: they must never wait behind anything else, such as other agents that do not answer.
    pub(super) thaw: Arc<Watched>,
    /// It is the host's own instance, no user's.
    pub(super) system: bool,
    /// The host confines VMs with AppArmor.
    pub(super) apparmor: bool,
    /// What this libvirt can do.
    pub(super) features: Features,
}

/// Where the connections of the moment are, if there are any.
#[derive(Debug, Default)]
pub(super) struct Slot(RwLock<Option<Arc<Connections>>>);

impl Slot {
    pub(super) fn get(&self) -> Option<Arc<Connections>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, connections: Option<Arc<Connections>>) {
        let old = {
            let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, connections)
        };
        // To close one is a question to libvirtd: on a host that does not answer any more nobody else may wait for that.
        if let Some(old) = old {
            let closing = std::thread::Builder::new().name("libvirt-close".into()).spawn(move || drop(old));
            if let Err(e) = closing {
                tracing::warn!(
                    MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                    "cannot start the thread that closes old connections"
                );
            }
        }
    }
}

/// What connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// For everything.
    All,
    /// Guests are thawed and nothing else; no event is told but of the connection.
    Thaws,
}

/// What the thread that keeps up the connection waits for.
#[derive(Debug)]
pub(super) enum Signal {
    /// The connection of this number is gone; why.
    Closed(u64, &'static str),
    /// It is needed no longer.
    End,
}

/// Starts the thread that connects and reconnects until it is told to end.
pub(super) fn keep_up(uri: String, use_for: Use, slot: Arc<Slot>, events: Events) -> mpsc::Sender<Signal> {
    let (signal, signals) = mpsc::channel();
    let (own, failed) = (signal.clone(), events.clone());
    let thread = std::thread::Builder::new().name("libvirt-watch".into()).spawn(move || {
        let mut pause = BACK_OFF.0;
        let mut last_error = String::new();
        for number in 0.. {
            match open(&uri, use_for, number, &own, &events) {
                Ok((connections, info, gate)) => {
                    pause = BACK_OFF.0;
                    last_error.clear();
                    slot.set(Some(Arc::new(connections)));
                    gate.tell(&events, Event::Connected(info));
                    let reason = closed(&signals, number);
                    slot.set(None);
                    let Some(reason) = reason else { return };
                    events(Event::Disconnected(reason.to_owned()));
                }
                Err(e) => {
                    // The same reason once, not at each try.
                    if e.message != last_error {
                        last_error.clone_from(&e.message);
                        events(Event::Disconnected(e.message));
                    }
                }
            }
            loop {
                match signals.recv_timeout(pause) {
                    // Of a connection that did not come to stand.
                    Ok(Signal::Closed(..)) => {}
                    Ok(Signal::End) | Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    });
    if let Err(e) = thread {
        failed(Event::Disconnected(format!("cannot start the thread that connects to libvirt: {e}")));
    }
    signal
}

/// Waits for this connection's close, and says why; `None` if all is to end.
fn closed(signals: &mpsc::Receiver<Signal>, number: u64) -> Option<&'static str> {
    loop {
        match signals.recv() {
            Ok(Signal::Closed(n, reason)) if n == number => return Some(reason),
            Ok(Signal::Closed(..)) => {}
            Ok(Signal::End) | Err(_) => return None,
        }
    }
}

/// Keeps back what happens before `Connected` is told: the list that is made then shows it.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<Mutex<bool>>);

impl Gate {
    fn tell(&self, events: &Events, connected: Event) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events(connected);
        *open = true;
    }

    fn is_open(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(
    uri: &str,
    use_for: Use,
    number: u64,
    signal: &mpsc::Sender<Signal>,
    events: &Events,
) -> Result<(Connections, Info, Gate)> {
    ffi::start_event_loop()?;
    let connect =
        |lasts| -> Result<Watched> { watched(Connect::open(Some(uri))?, lasts, number, signal.clone()) };
    let control_lasts = if is_local(uri) { Lasts::WithOthers } else { Lasts::ByKeepalive };
    let mut control = connect(if use_for == Use::All { control_lasts } else { Lasts::ByKeepalive })?;
    let gate = Gate::default();
    if use_for == Use::Thaws {
        let info = Info { uri: uri.to_owned(), ..Info::default() };
        let one = Arc::new(control);
        let [work, guard, thaw] = [(); 3].map(|()| Arc::clone(&one));
        let (control, features) = (one, info.features);
        return Ok((
            Connections { control, work, guard, thaw, system: false, apparmor: false, features },
            info,
            gate,
        ));
    }
    let (passing, forward) = (gate.clone(), Arc::clone(events));
    control.on_domain_events(move |event| {
        if passing.is_open() {
            forward(match event {
                ffi::DomainEvent::Undefined(uuid) => Event::Gone(VmId(Uuid::from_bytes(uuid))),
                ffi::DomainEvent::Changed(uuid) => Event::Changed(VmId(Uuid::from_bytes(uuid))),
            });
        }
    })?;
    let control = Arc::new(control);
    let kept = || connect(Lasts::ByKeepalive);
    let [work, guard, thaw] = [kept()?, kept()?, kept()?].map(Arc::new);
    let capabilities = control.capabilities()?;
    let apparmor = xml::security_models(&capabilities).iter().any(|m| m == "apparmor");
    let features = features::of(control.lib_version()?);
    let info = Info { uri: control.uri()?, version: version(&control), features };
    let system = info.uri.split(['?', '#']).next().is_some_and(|uri| uri.ends_with("/system"));
    Ok((Connections { control, work, guard, thaw, system, apparmor, features }, info, gate))
}

/// How it is known that the other end of a connection is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    /// It is asked.
    ByKeepalive,
    /// It is the same as that of the others, which is asked. With keepalive each answer sets its timer anew, which makes
    /// everything that is asked of libvirt cost nearly twice as much: VMs are read by this one.
    WithOthers,
}

/// libvirt's daemon is on this host: there is no way to it that one connection alone could lose.
fn is_local(uri: &str) -> bool {
    let driver = uri.split_once("://");
    driver.is_some_and(|(driver, place)| place.starts_with('/') && !driver.contains("ssh"))
}

/// With any of them gone all are: a thaw that waits on a host that is silent would wait for ever.
fn watched(connection: Connect, lasts: Lasts, number: u64, signal: mpsc::Sender<Signal>) -> Result<Watched> {
    let mut connection = Watched::new(connection);
    connection.on_close(move |reason| {
        let reason = match reason {
            1 => "libvirt closed the connection",
            2 => "libvirt did not answer keepalives",
            3 => "the connection was closed here",
            _ => "the connection to libvirt broke",
        };
        let _ = signal.send(Signal::Closed(number, reason));
    })?;
    // The test driver has no keepalive; that is no reason not to work with it.
    if lasts == Lasts::ByKeepalive
        && let Err(e) = connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
    {
        tracing::debug!(error = %e, "no keepalive on this connection");
    }
    Ok(connection)
}

fn version(connection: &Connect) -> String {
    let dotted = |v: u32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    let kind = connection.driver_type().unwrap_or_else(|_| "hypervisor".into());
    let hypervisor = connection.hyp_version().map_or_else(|_| "?".into(), dotted);
    let libvirt = connection.lib_version().map_or_else(|_| "?".into(), dotted);
    format!("{kind} {hypervisor}, libvirt {libvirt}")
}
