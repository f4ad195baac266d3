//! What drivers can bring about, and what not all of them can.

/// What not every driver can bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Capability {
    /// Images of disks, and external snapshots of them.
    Images,
    /// A guest with an agent that freezes real file systems.
    Agent,
    /// Stopping that agent's process, and a freeze hook that fails.
    AgentTrouble,
    /// A guest that runs Windows.
    Windows,
    /// A snapshot made by somebody else.
    Foreign,
    /// A chain that is no longer what the metadata says.
    Mismatch,
    /// A revert, so that a snapshot has two children.
    Branches,
    /// A merge that fails after it has begun.
    MergeTrouble,
    /// The connection's loss and return.
    Disconnect,
    /// Metadata that says what a revert to a snapshot with children put the VM on.
    RevertDisks,
    /// A revert to external snapshots of the hypervisor's own.
    NativeRevert,
}

impl Capability {
    pub(crate) const ALL: [Self; 11] = [
        Self::Images,
        Self::Agent,
        Self::AgentTrouble,
        Self::Windows,
        Self::Foreign,
        Self::Mismatch,
        Self::Branches,
        Self::MergeTrouble,
        Self::Disconnect,
        Self::RevertDisks,
        Self::NativeRevert,
    ];

    /// What hosts can whose guests run Linux.
    pub(crate) fn of_linux() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|c| *c != Self::Windows)
    }
}
