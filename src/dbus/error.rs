//! Errors as D-Bus replies: `org.virtsnap1.Error.*`, and the standard one for what is not allowed.

use zbus::{DBusError, Message, message::Header, names::ErrorName};

use crate::core::{error_name, job::Failure};

/// So many bytes of a text are sent: a configuration's mistakes may fill some pages.
const LONGEST: usize = 64 << 10;

/// An error reply.
#[derive(Debug, Clone)]
pub(super) struct BusError {
    name: String,
    message: String,
}

impl BusError {
    /// `org.virtsnap1.Error.` and this name, which is one of [`error_name::ALL`].
    pub(super) fn new(name: &str, message: impl Into<String>) -> Self {
        debug_assert!(error_name::ALL.contains(&name), "{name} is documented nowhere");
        Self { name: format!("org.virtsnap1.Error.{name}"), message: message.into() }
    }

    /// What happened.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgument", message)
    }

    pub(super) fn access_denied(message: impl Into<String>) -> Self {
        Self { name: "org.freedesktop.DBus.Error.AccessDenied".to_owned(), message: message.into() }
    }

    /// It may be done once a person was asked, and nobody may be.
    pub(super) fn interactive_required(message: impl Into<String>) -> Self {
        let name = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired".to_owned();
        Self { name, message: message.into() }
    }

    /// The object went while the call was on its way.
    pub(super) fn gone(what: &str) -> Self {
        Self {
            name: "org.freedesktop.DBus.Error.UnknownObject".to_owned(),
            message: format!("{what} is gone"),
        }
    }
}

/// The name and the text of an error that somebody else answered with.
pub(super) fn told(e: &zbus::Error) -> (String, String) {
    match e {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.clone().unwrap_or_default()),
        // D-Bus's own are told apart already.
        zbus::Error::FDO(e) => (e.name().to_string(), e.description().unwrap_or_default().to_owned()),
        e => ("no answer".to_owned(), e.to_string()),
    }
}

/// The full name of a failure's error, as `ErrorName` has it.
pub(super) fn full_name(failure: &Failure) -> String {
    format!("org.virtsnap1.Error.{}", failure.name)
}

impl From<Failure> for BusError {
    fn from(f: Failure) -> Self {
        Self::new(f.name, f.message)
    }
}

impl From<BusError> for zbus::fdo::Error {
    fn from(e: BusError) -> Self {
        Self::UnknownObject(e.message)
    }
}

impl DBusError for BusError {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        // What was given may be quoted in it, and be of any length.
        let text = &self.message[..self.message.floor_char_boundary(LONGEST)];
        Message::error(call, self.name()).build(&(text,))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::try_from(self.name.as_str())
            .unwrap_or_else(|_| ErrorName::from_static_str_unchecked("org.virtsnap1.Error.Failed"))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}
