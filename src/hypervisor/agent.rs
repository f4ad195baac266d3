//! What the guest agent is, and what it says.

/// Whether the QEMU guest agent can be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// The VM has no channel for it.
    Absent,
    /// There is a channel, and nobody listens at the other end.
    Disconnected,
    /// Somebody has the channel open. That is not yet an answer.
    Connected,
}

/// What the guest agent says of the guest's file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeStatus {
    /// At least one is frozen.
    Frozen,
    /// None is.
    Thawed,
}

/// A file system of the guest, and the disks it lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFileSystem {
    /// Where the guest has it mounted.
    pub mountpoint: String,
    /// The targets of the disks under it.
    pub disks: Vec<String>,
}

/// What runs in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestSystem {
    /// Windows, whose own snapshot service holds a freeze for ten seconds and no longer.
    Windows,
    /// Anything else: what is frozen stays so until it is thawed.
    Other,
}
