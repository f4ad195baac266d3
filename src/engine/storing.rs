//! Whether what is begun can be written down, for all to know, and whether it can again.

use super::Engine;
use crate::{core::machine::Event, logging::message};

impl Engine {
    /// From time to time: a full disk is made room on, and a file that was removed is put back.
    pub(super) fn attend_to_store(&mut self) {
        self.tools.store.attend();
        self.mind_store();
    }

    /// Tells what is known of it, if that is news.
    pub(super) fn mind_store(&mut self) {
        let trouble = self.tools.store.trouble();
        // What it says may be another thing each time.
        if trouble.is_some() == self.store_fails {
            return;
        }
        self.store_fails = trouble.is_some();
        if let Some(why) = &trouble {
            tracing::error!(
                MESSAGE_ID = message::STORE_FAILED,
                "nothing can be written down: {why}. Until that works again no snapshot is taken, deleted or reverted to; \
                 VMs are shown, and guests that are frozen are thawed. Is the file system full, or read-only? It is tried \
                 again by itself"
            );
        } else {
            tracing::info!(
                MESSAGE_ID = message::STORE_WORKS,
                "the state database can be written to again: all goes on"
            );
        }
        self.handle(Event::Stored(trouble));
    }
}
