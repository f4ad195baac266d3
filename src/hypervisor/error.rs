//! Why the hypervisor did not do it, in classes that a caller can act on.
//!
//! Rules: an error names the VM in words at the place where it is shown, not here; it carries the hypervisor's
//! own text unchanged; its kind says whether another try may help ([`ErrorKind::retry`]).

use std::fmt;

/// A result of the hypervisor.
pub type Result<T> = std::result::Result<T, Error>;

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such VM (any more).
    NoSuchVm,
    /// No such snapshot.
    NoSuchSnapshot,
    /// A file, or the directory that it would be in, is not there.
    NoSuchFile,
    /// There is one of that name, or a file where the overlay would go.
    Exists,
    /// The VM, its disks or this libvirt cannot do it.
    Unsupported,
    /// The VM's memory cannot be kept: its CPU or one of its devices cannot be migrated. Nothing was touched, and its disks
    /// alone can be kept.
    NotMigratable,
    /// Something else has the VM now: another job, a block job, a lock.
    Busy,
    /// Somebody stands on an image that would go: a clone, a branch, another VM. That does not end by itself.
    InUse,
    /// The real backing chain is not what the metadata says, or not one we know.
    ChainMismatch,
    /// No agent, or none that answers.
    AgentUnavailable,
    /// The agent took longer than it may. What it was asked may still happen.
    AgentTimeout,
    /// The agent answered, and the answer was an error (a failing hook, say).
    AgentFailed,
    /// The agent answered that it does not do this, now or ever, and has not begun it: so while file systems are frozen.
    Refused,
    /// There was nothing to thaw any more: the guest had ended the freeze by itself, as Windows does after 10 s.
    LetGo,
    /// A freeze that was required was not to be had; the text says why.
    QuiesceFailed,
    /// A hook in the frozen window failed: the hypervisor was not asked for anything.
    HookFailed,
    /// No room.
    NoSpace,
    /// Access denied, by libvirt or by mandatory access control.
    Denied,
    /// The connection to libvirt is gone, or there never was one.
    Disconnected,
    /// Stopped on request. What was begun may be half done.
    Cancelled,
    /// Anything else.
    Failed,
}

impl ErrorKind {
    /// True if the same request may succeed a little later, nothing else changed.
    pub const fn retry(self) -> bool {
        matches!(self, Self::Busy | Self::Disconnected | Self::AgentTimeout)
    }

    /// True if it means that a change was refused before anything was touched.
    pub const fn untouched(self) -> bool {
        matches!(
            self,
            Self::NoSuchVm
                | Self::NoSuchSnapshot
                | Self::Unsupported
                | Self::NotMigratable
                | Self::Busy
                | Self::InUse
                | Self::ChainMismatch
                | Self::HookFailed
        )
    }

    /// The last part of the D-Bus error's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchVm => "NoSuchVM",
            Self::NoSuchSnapshot => "NoSuchSnapshot",
            Self::Exists => "Exists",
            Self::Unsupported => "Unsupported",
            Self::NotMigratable => "NotMigratable",
            Self::Busy => "Busy",
            Self::InUse => "InUse",
            Self::ChainMismatch => "ChainMismatch",
            Self::AgentUnavailable => "AgentUnavailable",
            Self::AgentTimeout => "AgentTimeout",
            Self::AgentFailed | Self::Refused | Self::LetGo => "AgentFailed",
            Self::QuiesceFailed => "QuiesceFailed",
            Self::HookFailed => "HookFailed",
            Self::NoSpace => "NoSpace",
            Self::Denied => "Denied",
            Self::Disconnected => "Disconnected",
            Self::Cancelled => "Cancelled",
            Self::Failed | Self::NoSuchFile => "Failed",
        }
    }
}

/// What went wrong: its class, and the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The class.
    pub kind: ErrorKind,
    /// What happened, for people.
    pub message: String,
}

impl Error {
    /// An error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Of a VM whose memory was saved: it belongs to the disks as they are, and a start is the use of it.
    pub(crate) fn managed_save() -> Self {
        Self::new(
            ErrorKind::Unsupported,
            "the VM has a managed save, which a changed disk would make unusable; start it or \
             `virsh managedsave-remove` first",
        )
    }

    /// The same error, with what was being done put before it.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The same error, and what failed on the way back as well: both causes stay.
    #[must_use]
    pub fn and_rollback<T>(mut self, undone: &Result<T>, what: &str) -> Self {
        if let Err(e) = undone {
            use fmt::Write as _;
            let _ = write!(self.message, "; and then {what} failed too: {}", e.message);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
