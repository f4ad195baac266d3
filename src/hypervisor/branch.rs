//! A VM of its own on top of another one's snapshot: drawing its definition, defining it, and taking that back.

use super::{Definition, Layer, Result};
use crate::core::model::{SnapshotName, VmId};

/// A VM that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its UUID, which no VM has.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// The image that each disk of the snapshot's is on, by target.
    pub images: Vec<(String, Layer)>,
    /// Where its firmware's variables are: in place of the other VM's.
    pub nvram: Option<String>,
    /// Disks that are written to and have no part in the snapshot are left out; else they are a reason to refuse.
    pub leave_out: bool,
}

/// Its definition, as it would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The definition.
    pub definition: Definition,
    /// What the other VM has and this one cannot have beside it, in words.
    pub left_out: Vec<String>,
}

/// The part of [`Hypervisor`](super::Hypervisor) that makes VMs.
pub trait Branch {
    /// The VM of this name, running or not.
    fn named(&self, name: &str) -> Result<Option<VmId>>;

    /// The definition that `vm` had when this snapshot was taken, changed such that a VM with it can run beside that
    /// one and shares nothing with it that either writes to. Nothing is touched.
    ///
    /// What cannot be drawn so is [`ErrorKind::Unsupported`](super::ErrorKind::Unsupported).
    fn draw(&self, vm: VmId, snapshot: &SnapshotName, new: &NewVm) -> Result<Drawn>;

    /// Defines a VM that is not there yet. A name that somebody has is an error
    /// ([`ErrorKind::Exists`](super::ErrorKind::Exists)).
    fn define_new(&self, vm: VmId, definition: &Definition) -> Result<()>;

    /// Takes the definition of a stopped VM without snapshots away, and no file. One that is not there is no error.
    fn undefine_new(&self, vm: VmId) -> Result<()>;
}
