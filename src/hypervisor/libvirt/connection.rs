//! Keeping connected: libvirt itself never reconnects, so on a close everything is dropped, opened anew with
//! back-off, registered again, and the engine told to list all anew.

use std::{
    sync::{Arc, RwLock, mpsc},
    time::Duration,
};

use uuid::Uuid;
use virt::connect::Connect;

use super::xml;
use crate::{
    core::model::VmId,
    hypervisor::{Event, Info, Result, ffi},
};

/// The first pause before another try, and the longest one.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// libvirt's keepalive: a host that is silent for `INTERVAL × COUNT` seconds is gone.
const KEEPALIVE: (i32, u32) = (15, 4);

type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Three connections to the same libvirt.
#[derive(Debug)]
pub(super) struct Connections {
    /// For events and short questions.
    pub(super) control: Connect,
    /// For what may take long: merges, creates, volumes.
    pub(super) work: Connect,
    /// For the guest agent: a thaw must never wait behind anything else.
    pub(super) guard: Connect,
    /// The host confines VMs with AppArmor.
    pub(super) apparmor: bool,
}

/// Where the connections of the moment are, if there are any.
#[derive(Debug, Default)]
pub(super) struct Slot(RwLock<Option<Arc<Connections>>>);

impl Slot {
    pub(super) fn get(&self) -> Option<Arc<Connections>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, connections: Option<Arc<Connections>>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = connections;
    }
}

/// Starts the thread that connects and reconnects for as long as the process lives.
pub(super) fn keep_up(uri: String, slot: Arc<Slot>, events: Events) {
    let failed = events.clone();
    let thread = std::thread::Builder::new().name("libvirt-watch".into()).spawn(move || {
        let mut pause = BACK_OFF.0;
        let mut last_error = String::new();
        loop {
            let (closed, wait) = mpsc::channel();
            match open(&uri, &closed, &events) {
                Ok((connections, info)) => {
                    pause = BACK_OFF.0;
                    last_error.clear();
                    slot.set(Some(Arc::new(connections)));
                    events(Event::Connected(info));
                    // Both senders live in the connection's callbacks; an error means that they are gone.
                    let reason = wait.recv().unwrap_or("the connection was dropped");
                    if let Some(connections) = slot.get() {
                        ffi::forget_close(&connections.control);
                    }
                    slot.set(None);
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
            crate::clock::pause(pause);
            pause = (pause * 2).min(BACK_OFF.1);
        }
    });
    if let Err(e) = thread {
        failed(Event::Disconnected(format!("cannot start the thread that connects to libvirt: {e}")));
    }
}

fn open(uri: &str, closed: &mpsc::Sender<&'static str>, events: &Events) -> Result<(Connections, Info)> {
    ffi::start_event_loop()?;
    let control = Connect::open(Some(uri))?;
    let closed = closed.clone();
    ffi::on_close(&control, move |reason| {
        let _ = closed.send(match reason {
            1 => "libvirt closed the connection",
            2 => "libvirt did not answer keepalives",
            3 => "the connection was closed here",
            _ => "the connection to libvirt broke",
        });
    })?;
    // The test driver has no keepalive; that is no reason not to work with it.
    if let Err(e) = control.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
        tracing::debug!(error = %e, "no keepalive on this connection");
    }
    let forward = Arc::clone(events);
    ffi::on_domain_events(&control, move |event| {
        forward(match event {
            ffi::DomainEvent::Undefined(uuid) => Event::Gone(VmId(Uuid::from_bytes(uuid))),
            ffi::DomainEvent::Changed(uuid) => Event::Changed(VmId(Uuid::from_bytes(uuid))),
        });
    })?;
    let work = Connect::open(Some(uri))?;
    let guard = Connect::open(Some(uri))?;
    let apparmor = control.capabilities().map(|c| xml::security_models(&c))?.iter().any(|m| m == "apparmor");
    let info = Info { uri: control.uri()?, version: version(&control) };
    Ok((Connections { control, work, guard, apparmor }, info))
}

fn version(connection: &Connect) -> String {
    let dotted = |v: u32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    let kind = connection.driver_type().unwrap_or_else(|_| "hypervisor".into());
    let hypervisor = connection.hyp_version().map_or_else(|_| "?".into(), dotted);
    let libvirt = connection.lib_version().map_or_else(|_| "?".into(), dotted);
    format!("{kind} {hypervisor}, libvirt {libvirt}")
}
