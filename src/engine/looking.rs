//! The look for files that nobody has, and for snapshots inside images that libvirt forgot: now and then, on a thread of its own, one at a time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Engine, Input};
use crate::{
    core::{machine::Event, stray::QUARANTINE, view::DaemonState},
    forgotten,
    logging::message,
    reader::ReadError,
    strays,
};

/// How often, beside with each new connection.
pub(super) const PAUSE: Duration = Duration::from_secs(3600);

impl Engine {
    /// Begins one if one is due, all VMs are known, and none is at work.
    pub(super) fn look_if_due(&mut self) {
        let manager = &self.machine.view().manager;
        let ready = manager.hypervisor_connected && manager.state == DaemonState::Running;
        if !self.look_due || !ready || self.looking.swap(true, Ordering::SeqCst) {
            return;
        }
        self.look_due = false;
        let (tools, reader, send) = (self.tools.clone(), self.reader.clone(), self.send.clone());
        let looking = Arc::clone(&self.looking);
        let spawned = self.thread("look", move || {
            let look = || {
                let (hypervisor, store) = (tools.hypervisor.as_ref(), &tools.store);
                let mut changed = strays::look(hypervisor, store)?;
                changed.extend(forgotten::look(hypervisor, store)?);
                Ok::<_, ReadError>(changed)
            };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)) {
                Ok(Ok(changed)) => changed.into_iter().for_each(|vm| reader.read(vm)),
                Ok(Err(e)) => {
                    tracing::warn!(MESSAGE_ID = message::UNREADABLE, error = %e, "what belongs to nobody cannot be looked for");
                }
                Err(_) => tracing::error!(
                    MESSAGE_ID = message::INTERNAL_ERROR,
                    "a bug ended the look for what belongs to nobody"
                ),
            }
            let long_ago = tools.clock.now().saturating_sub(QUARANTINE).unwrap_or_default();
            match tools.store.quarantined_since(long_ago) {
                Ok(vms) => vms.into_iter().for_each(|vm| {
                    let _ = send.send(Input::Machine(Event::QuarantineOver(vm)));
                }),
                Err(e) => tracing::error!(
                    MESSAGE_ID = message::STORE_FAILED, error = %e,
                    "cannot read what is in quarantine"
                ),
            }
            looking.store(false, Ordering::SeqCst);
        });
        if !spawned {
            self.looking.store(false, Ordering::SeqCst);
        }
    }
}
