//! The nouns: what a VM, a snapshot and a policy's name are, everywhere in this crate.
//!
//! The words are libvirt's where it has one. A *VM* is a libvirt domain, identified by UUID and shown by
//! name; a *snapshot* is one that libvirt has metadata of.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A VM's identity: its libvirt UUID. Names change, UUIDs do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub Uuid);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for VmId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self)
    }
}

/// Why a name cannot be given to a snapshot or a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than the limit (in bytes).
    #[error("a name may have at most {limit} bytes, this one has {len}")]
    TooLong {
        /// What is allowed.
        limit: usize,
        /// What was given.
        len: usize,
    },
    /// libvirt refuses a leading dot, and a leading dash reads as an option.
    #[error("a name must not start with {0:?}")]
    BadStart(char),
    /// A character that libvirt, a file name or a terminal cannot hold safely.
    #[error("a name must not contain {0:?}")]
    BadChar(char),
}

/// A snapshot's name as libvirt has it.
///
/// One that others made may hold almost anything (newlines included); one that *we* make must pass
/// [`SnapshotName::for_new`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// libvirt makes a file `<name>.xml` of it: 200 bytes work, 251 fail. The overlay's file name holds it too.
    pub const MAX_NEW: usize = 120;

    /// A name that libvirt reported. Not checked: it exists.
    pub fn existing(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// A name for a snapshot to be made: not empty, at most [`Self::MAX_NEW`] bytes, no `/`, no control
    /// characters, no leading `.` or `-`.
    pub fn for_new(name: &str) -> Result<Self, NameError> {
        check_name(name, Self::MAX_NEW)?;
        match name.chars().find(|c| *c == '/' || c.is_control()) {
            Some(c) => Err(NameError::BadChar(c)),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A policy's name: ASCII letters, digits, `-` and `_`, at most 64 bytes, so that it is a TOML bare key and
/// can stand in a snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyName(String);

impl PolicyName {
    /// The longest policy name, in bytes.
    pub const MAX: usize = 64;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PolicyName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        check_name(s, Self::MAX)?;
        match s.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_')) {
            Some(c) => Err(NameError::BadChar(c)),
            None => Ok(Self(s.to_owned())),
        }
    }
}

impl TryFrom<String> for PolicyName {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<PolicyName> for String {
    fn from(p: PolicyName) -> Self {
        p.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn check_name(name: &str, limit: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > limit {
        return Err(NameError::TooLong { limit, len: name.len() });
    }
    match name.chars().next() {
        Some(c @ ('.' | '-')) => Err(NameError::BadStart(c)),
        _ => Ok(()),
    }
}

/// Gives an enum its lower-case words, used on D-Bus, in JSON, in the database and on the screen alike.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that stands for it on D-Bus, in files and on the screen.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::core::model::UnknownWord;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::core::model::UnknownWord { given: s.to_owned(), allowed: &[$($word),+] }),
                }
            }
        }
    };
}
pub(crate) use words;

/// A word that none of an enumeration's values has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown value {given:?}; one of {}", allowed.join(", "))]
pub struct UnknownWord {
    /// What was given.
    pub given: String,
    /// What would be understood.
    pub allowed: &'static [&'static str],
}

words! {
    /// A VM's state, in `virsh domstate`'s words.
    VmState {
        /// The guest runs.
        Running = "running",
        /// The guest's CPUs are stopped, QEMU is there.
        Paused = "paused",
        /// No QEMU process.
        ShutOff = "shut-off",
        /// Suspended to memory by the guest itself; libvirt refuses snapshots.
        PmSuspended = "pm-suspended",
        /// It crashed, and its QEMU process was kept.
        Crashed = "crashed",
        /// Any other state, in passing.
        Other = "other",
    }
}

words! {
    /// Where a snapshot is in its life. It always moves on: creating → ready or failed.
    SnapshotState {
        /// Being made by a job that runs now.
        Creating = "creating",
        /// There, and its data is what it was.
        Ready = "ready",
        /// Being reverted to.
        Reverting = "reverting",
        /// Being deleted: its state image may already hold newer data.
        Deleting = "deleting",
        /// Its data cannot be trusted, or a part is missing. Never counted as a restore point.
        Failed = "failed",
    }
}

words! {
    /// Who asked for a snapshot.
    Origin {
        /// A policy's schedule.
        Schedule = "schedule",
        /// A person or a program, over D-Bus.
        Manual = "manual",
        /// An announced operation (`before` in a policy).
        Operation = "operation",
        /// The safety snapshot before a revert.
        Safety = "safety",
        /// Not made by us.
        Foreign = "foreign",
    }
}

words! {
    /// How consistent a snapshot's data is; the best first.
    Consistency {
        /// File systems frozen, and the guest's own hooks ran.
        Application = "application",
        /// File systems frozen through the guest agent.
        Filesystem = "filesystem",
        /// With the memory: it resumes where it was.
        Memory = "memory",
        /// The VM was off.
        Offline = "offline",
        /// As after a power cut.
        Crash = "crash",
    }
}

words! {
    /// What a snapshot holds.
    Content {
        /// Disks only.
        Disk = "disk",
        /// Disks and memory.
        Full = "full",
    }
}

words! {
    /// Where a snapshot's data is.
    Storage {
        /// In overlay files.
        External = "external",
        /// Inside the qcow2 image.
        Internal = "internal",
    }
}

/// One snapshot, as far as policies care.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// libvirt's name of it, unique in its VM.
    pub name: SnapshotName,
    /// When it was taken, to the microsecond where we took it, else to libvirt's second.
    pub created: Timestamp,
    /// The snapshot it was taken on top of.
    pub parent: Option<SnapshotName>,
    /// True for the one whose overlays the VM writes to.
    pub current: bool,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// Who asked for it.
    pub origin: Origin,
    /// Made or adopted by us. Only such ones are ever pruned.
    pub managed: bool,
    /// The policies it counts for.
    pub policies: BTreeSet<PolicyName>,
    /// Held by at least one pin.
    pub pinned: bool,
    /// From then on the next prune takes it, whatever policies say.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// What it holds.
    pub content: Content,
    /// Where its data is.
    pub storage: Storage,
    /// The bytes that its deletion would free: its overlays' allocation and its memory file; 0 if unknown.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_libvirt_or_a_terminal_cannot_hold_are_refused() {
        assert_eq!(SnapshotName::for_new(""), Err(NameError::Empty));
        assert_eq!(SnapshotName::for_new("a/b"), Err(NameError::BadChar('/')));
        assert_eq!(SnapshotName::for_new("a\nb"), Err(NameError::BadChar('\n')));
        assert_eq!(SnapshotName::for_new(".hidden"), Err(NameError::BadStart('.')));
        assert_eq!(SnapshotName::for_new("-x"), Err(NameError::BadStart('-')));
        assert!(matches!(SnapshotName::for_new(&"x".repeat(121)), Err(NameError::TooLong { .. })));
        assert!(SnapshotName::for_new("a b <c> & \"ü\"").is_ok());
    }

    #[test]
    fn words_read_back_as_what_they_were() {
        for s in SnapshotState::ALL {
            assert_eq!(s.as_str().parse(), Ok(*s));
        }
        assert!("Ready".parse::<SnapshotState>().is_err());
    }
}
