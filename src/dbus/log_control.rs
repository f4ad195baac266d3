//! `org.freedesktop.LogControl1`, by which systemd's tools ask how much is logged, and change it.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.LogControl1.html>

#![expect(clippy::unused_self, reason = "the log is the process's, and the interface wants an object")]

use zbus::{Connection, fdo, interface, message::Header};

use super::{Shared, calls::Kind, error::BusError};
use crate::logging;

/// Where the interface's users look for it.
pub(super) const PATH: &str = "/org/freedesktop/LogControl1";

/// The object there. It has no state: the log is the process's.
#[derive(Debug)]
pub(super) struct LogControl {
    shared: Shared,
    aside: Option<Connection>,
}

impl LogControl {
    /// `aside`: another connection to the same bus, if it is one.
    pub(super) fn new(shared: Shared, aside: Option<Connection>) -> Self {
        Self { shared, aside }
    }

    /// Who calls is asked for over the other connection. For as long as a setter runs, zbus lets no object come or go; and
    /// where one waits to, no call begins. What comes in then piles up before the answer, and behind enough of it the
    /// answer would never be read, on the connection that it came over.
    async fn uid_of(&self, connection: &Connection, header: Option<&Header<'_>>) -> Result<u32, BusError> {
        let sender = header.and_then(|header| Some((header, header.sender()?)));
        match (sender, &self.aside) {
            (Some((header, sender)), Some(aside)) if connection.is_bus() => {
                Ok(self.shared.calls.enter(aside, header, sender.to_owned().into(), Kind::Work).await?.uid())
            }
            _ => Err(BusError::access_denied("nobody knows who wants that")),
        }
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
        let uid = self.uid_of(connection, header.as_ref()).await?;
        if uid != 0 {
            let text =
                format!("user {uid} may not change how much is logged: only root may. Nothing was changed");
            return Err(BusError::access_denied(text));
        }
        let before = logging::level().unwrap_or_default();
        let tell = || tracing::info!("user {uid} sets the log level from {before} to {level}");
        // Where the log shows it: before it lets less through, after it lets more through.
        let less = logging::is_less(&level, before);
        if less {
            tell();
        }
        logging::set_level(&level)
            .map_err(|e| BusError::invalid(format!("the log level stays {before:?}, not {level:?}: {e}")))?;
        if !less {
            tell();
        }
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
