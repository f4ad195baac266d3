//! `org.freedesktop.LogControl1`, by which systemd's tools ask how much is logged, and change it.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.LogControl1.html>

#![expect(clippy::unused_self, reason = "the log is the process's, and the interface wants an object")]

use zbus::{Connection, fdo, interface, message::Header};

use super::{Shared, auth::Caller, error::BusError};
use crate::logging;

/// Where the interface's users look for it.
pub(super) const PATH: &str = "/org/freedesktop/LogControl1";

/// The object there. It has no state: the log is the process's.
#[derive(Debug)]
pub(super) struct LogControl {
    shared: Shared,
}

impl LogControl {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

#[interface(name = "org.freedesktop.LogControl1", introspection_docs = false)]
impl LogControl {
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_level(&self) -> fdo::Result<&'static str> {
        logging::level().ok_or_else(|| fdo::Error::Failed("there is no log".to_owned()))
    }

    /// For root alone: it is no matter of policies and VMs that a rule could be about, and who fills the journal pushes
    /// out what others look for.
    #[zbus(property)]
    async fn set_log_level(
        &self,
        level: String,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), BusError> {
        let Some(header) = header else { return Err(BusError::access_denied("nobody knows who wants that")) };
        let caller = Caller::of(&self.shared, connection, &header).await?;
        if caller.uid() != 0 {
            let uid = caller.uid();
            let text =
                format!("user {uid} may not change how much is logged: only root may. Nothing was changed");
            return Err(BusError::access_denied(text));
        }
        let before = logging::level().unwrap_or_default();
        logging::set_level(&level)
            .map_err(|e| BusError::invalid(format!("the log level stays {before:?}, not {level:?}: {e}")))?;
        tracing::info!("user {} set the log level from {before} to {level}", caller.uid());
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn log_target(&self) -> fdo::Result<&'static str> {
        let target = logging::target().ok_or_else(|| fdo::Error::Failed("there is no log".to_owned()));
        target.map(logging::Target::as_str)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn syslog_identifier(&self) -> &'static str {
        logging::IDENTIFIER
    }
}
