//! How a run of the client ends: the exit statuses, and the failures; what to do about each is in [`super::hint`].

use std::{io, process::ExitCode};

use zbus::{DBusError, fdo};

/// The exit status, for scripts. The numbers are part of the client's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `status`, also: nothing is wrong.
    Done,
    /// It failed; for `status`: something is wrong.
    Failed,
    /// The command line is wrong, or the daemon does not take the argument.
    Usage,
    /// There is no such VM, snapshot, policy or job.
    NotFound,
    /// The caller may not do that.
    NotAuthorised,
    /// The bus or the daemon cannot be reached.
    Unreachable,
    /// The daemon took the job, and the job failed or was cancelled.
    JobFailed,
    /// Not now; the same may work later (`EX_TEMPFAIL`).
    Busy,
    /// Of `guard`: its command failed, and the VM could not be put back, or nobody knows whether it was.
    NotRolledBack,
    /// Ctrl-C: the client went, and the job goes on if there is one.
    Interrupted,
    /// Of `guard`: that of its command; as shells have it, 126 and 127 if it cannot be run or found.
    OfCommand(u8),
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NotAuthorised => 4,
            Self::Unreachable => 5,
            Self::JobFailed => 6,
            Self::Busy => 75,
            Self::NotRolledBack => 125,
            Self::Interrupted => 130,
            Self::OfCommand(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why the client could not do what it was told. (A job that failed is not one: it is an answer.)
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for makes no sense, whatever the daemon says.
    #[error("{0}")]
    Usage(String),
    /// Something that was named is not there.
    #[error("{what}")]
    NotFound {
        /// Who or what is missing.
        what: String,
        /// The client's command that shows what there is, by its arguments, and what it does.
        look: (&'static str, &'static str),
    },
    /// The person said no.
    #[error("nothing was changed")]
    Declined,
    /// The person would not answer.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    /// There is no bus to talk on.
    #[error("cannot connect to D-Bus: {0}")]
    NoBus(String),
    /// The bus of another machine cannot be reached.
    #[error("cannot reach D-Bus on {host:?}: {why}")]
    NoHost {
        /// Which.
        host: String,
        /// What stands between.
        why: String,
    },
    /// There is a bus, but no daemon on it.
    #[error("the virtsnap daemon does not answer: {0}")]
    NoDaemon(String),
    /// The daemon stopped while it was waited for a job.
    #[error("the daemon stopped before the job had ended")]
    Stopped,
    /// The daemon, or the bus for it, answered with an error.
    #[error("{message}")]
    Answered {
        /// The D-Bus error's name.
        name: String,
        /// Its text.
        message: String,
    },
    /// An answer that is not what the interface says.
    #[error("cannot read the daemon's answer: {0}")]
    Answer(String),
    /// Standard output or input is not usable.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit status that it ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NotFound { .. } => Exit::NotFound,
            Self::Interrupted => Exit::Interrupted,
            Self::NoBus(_) | Self::NoHost { .. } | Self::NoDaemon(_) | Self::Stopped => Exit::Unreachable,
            Self::Answered { name, .. } => exit_of(name),
            // A pipe that was closed early (`| head`) is no failure.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Declined | Self::Answer(_) | Self::Output(_) => Exit::Failed,
        }
    }

    /// The D-Bus error's name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Answered { name, .. } => Some(name),
            Self::Stopped => Some("org.virtsnap1.Error.Stopping"),
            _ => None,
        }
    }
}

/// The last part of one of virtsnap's own error names.
fn own(name: &str) -> Option<&str> {
    name.strip_prefix("org.virtsnap1.Error.")
}

/// The exit status for a D-Bus error, by its name.
pub fn exit_of(name: &str) -> Exit {
    if let Some(own) = own(name) {
        return match own {
            "NoSuchVM" | "NoSuchSnapshot" | "NoSuchJob" | "NoSuchPolicy" => Exit::NotFound,
            "Busy" | "LimitExceeded" | "Stopping" | "Deferred" | "Disconnected" => Exit::Busy,
            "InvalidArgument" => Exit::Usage,
            _ => Exit::Failed,
        };
    }
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired") => Exit::NotAuthorised,
        // The object went while we looked.
        Some("UnknownObject") => Exit::NotFound,
        _ => Exit::Failed,
    }
}

/// Whether an error's name says that nobody answers there: neither running nor startable, or gone midway.
fn nobody_there(name: &str) -> bool {
    name.starts_with("org.freedesktop.systemd1.")
        || name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|rest| {
            rest.starts_with("Spawn.")
                || matches!(rest, "ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "TimedOut" | "Timeout")
        })
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => answered(name.as_str(), message.as_deref()),
            zbus::Error::FDO(error) => (*error).into(),
            zbus::Error::Connection(error, _) | zbus::Error::InputOutput(error) => {
                Self::NoBus(error.to_string())
            }
            zbus::Error::Address(text) | zbus::Error::Handshake(text) => Self::NoBus(text),
            other => Self::Answer(other.to_string()),
        }
    }
}

impl From<fdo::Error> for Failure {
    fn from(error: fdo::Error) -> Self {
        match error {
            fdo::Error::ZBus(inner) => inner.into(),
            other => answered(other.name().as_str(), other.description()),
        }
    }
}

fn answered(name: &str, message: Option<&str>) -> Failure {
    let message = message.filter(|m| !m.is_empty()).unwrap_or(name).to_owned();
    if nobody_there(name) {
        Failure::NoDaemon(message)
    } else {
        Failure::Answered { name: name.to_owned(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_errors_have_the_documented_exit_statuses() {
        for (name, code) in [
            ("org.virtsnap1.Error.NoSuchVM", 3),
            ("org.virtsnap1.Error.NoSuchSnapshot", 3),
            ("org.freedesktop.DBus.Error.AccessDenied", 4),
            ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", 4),
            ("org.virtsnap1.Error.Denied", 1),
            ("org.virtsnap1.Error.Busy", 75),
            ("org.virtsnap1.Error.LimitExceeded", 75),
            ("org.virtsnap1.Error.InUse", 1),
            ("org.virtsnap1.Error.Disconnected", 75),
            ("org.virtsnap1.Error.InvalidArgument", 2),
            ("org.virtsnap1.Error.FromTheFuture", 1),
            ("org.freedesktop.DBus.Error.ServiceUnknown", 5),
            ("org.freedesktop.DBus.Error.Spawn.ChildExited", 5),
            ("org.freedesktop.systemd1.NoSuchUnit", 5),
        ] {
            assert_eq!(answered(name, Some("text")).exit().code(), code, "{name}");
        }
    }

    #[test]
    fn an_error_without_text_shows_its_name() {
        assert_eq!(answered("org.virtsnap1.Error.Failed", None).to_string(), "org.virtsnap1.Error.Failed");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).exit(), Exit::Done);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit(), Exit::Failed);
    }
}
