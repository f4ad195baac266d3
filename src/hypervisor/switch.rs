//! Putting a stopped VM on other images than those it was on: a revert's part that touches its definition.

use super::{Layer, Overlay, Result};
use crate::core::model::{SnapshotName, VmId};

/// What a VM is made of when it starts the next time, as the hypervisor writes it: secrets included.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition(String);

impl Definition {
    /// One that the hypervisor gave.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text. It may hold secrets, such as a display's password.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// It may hold secrets, which are nobody's business in a log.
impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Definition({} bytes)", self.0.len())
    }
}

/// Definitions, read and written.
pub trait Switch {
    /// The definition that it has now.
    fn definition(&self, vm: VmId) -> Result<Definition>;

    /// The definition that it had when this snapshot was taken.
    fn definition_at(&self, vm: VmId, snapshot: &SnapshotName) -> Result<Definition>;

    /// Makes overlays, empty, each on the image that it names, whether the VM writes to that or not, and with that
    /// one's size. All are made or none.
    fn prepare_on(&self, vm: VmId, overlays: &[Overlay]) -> Result<()>;

    /// Defines a stopped VM anew, with these images (by target) for these disks.
    ///
    /// What is the VM's own whatever becomes of its disks (name, title, description, tags and other metadata) is as it
    /// is now; so are all disks that are not named here, also those that the definition does not know. No backing
    /// chain is left in it.
    fn define(&self, vm: VmId, definition: &Definition, sources: &[(String, Layer)]) -> Result<()>;
}
