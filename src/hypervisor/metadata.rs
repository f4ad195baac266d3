//! A snapshot's metadata changed, with no image touched: what a merge or a revert of our own leaves to be written.
//!
//! # Invariants that an implementation keeps
//!
//! * What is not asked to be changed stays: name, time, parent, description, the definition for a start after a revert.
//! * Nothing is written that is so already. So a rerun is harmless, and the current snapshot keeps its `<revertDisks>`.
//! * No backing chain is left in what is written: it would be older than the images' own headers, and a start from it
//!   fails.

use jiff::Timestamp;

use super::{Layer, Result, SnapshotDisk};
use crate::core::model::{SnapshotName, VmId};

/// The overlays that a revert to a snapshot with children made, which its own `<disks>` cannot name: those are what
/// the children lie on.
///
/// libvirt before 9.9 has no place for them and drops what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RevertDisks {
    /// As they are.
    #[default]
    Keep,
    /// None.
    Drop,
    /// These: each disk's target and its overlay.
    Set(Vec<(String, String)>),
}

/// What is to change in a snapshot's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redefine {
    /// The snapshot.
    pub name: SnapshotName,
    /// Images whose place others take, in the definitions that it keeps: the old path, and what stands there instead.
    pub images: Vec<(String, Layer)>,
    /// New overlays in its own `<disks>`: each disk's target, and the path.
    pub overlays: Vec<(String, String)>,
    /// The overlays of a revert to it.
    pub revert: RevertDisks,
    /// That libvirt deletes another one is over: the marks of it go.
    pub unmark: bool,
    /// It is to be the current one. False leaves that as it is.
    pub current: bool,
    /// Another description, our marker included.
    pub description: Option<String>,
}

impl Redefine {
    /// Nothing but the backing chains taken out.
    pub fn new(name: SnapshotName) -> Self {
        Self {
            name,
            images: Vec::new(),
            overlays: Vec::new(),
            revert: RevertDisks::Keep,
            unmark: false,
            current: false,
            description: None,
        }
    }
}

/// A snapshot whose images are there, and whose metadata is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Its name.
    pub name: SnapshotName,
    /// Its description, our marker included.
    pub description: String,
    /// When it was taken, to the second.
    pub created: Timestamp,
    /// Its parent: the current one.
    pub parent: Option<SnapshotName>,
    /// Its disks; all others take no part.
    pub disks: Vec<SnapshotDisk>,
}

/// A snapshot's whole metadata, as the hypervisor writes it: secrets included. To be kept, and given back.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotXml(String);

impl SnapshotXml {
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
impl std::fmt::Debug for SnapshotXml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotXml({} bytes)", self.0.len())
    }
}

/// Metadata, read as a whole and written.
pub trait Metadata {
    /// Changes a snapshot's metadata, if it is not so already.
    ///
    /// An image or a target that it does not have is passed over in `images`, and refused
    /// ([`ChainMismatch`](super::ErrorKind::ChainMismatch)) in `overlays`. One that fails leaves it as it was, as far as
    /// libvirt lets us: keep a [`copy`](Self::copy).
    fn redefine(&self, vm: VmId, change: &Redefine) -> Result<()>;

    /// Forgets a snapshot: its children are its parent's from then on, all files stay. Where it was current, its
    /// parent is. One that is not there is passed over.
    ///
    /// A parent that was reverted to keeps its overlays apart from those that its other children lie on.
    fn forget(&self, vm: VmId, name: &SnapshotName) -> Result<()>;

    /// Writes the metadata of a snapshot that has none: of layers that are in the VM's disks. It is the current one, and
    /// keeps the definition that the VM has. No image is touched.
    ///
    /// A name that is taken is refused ([`Exists`](super::ErrorKind::Exists)), and so is an overlay that does not lie on
    /// its state image in the disk's chain ([`ChainMismatch`](super::ErrorKind::ChainMismatch)).
    fn name_layer(&self, vm: VmId, new: &NewRecord) -> Result<()>;

    /// The whole metadata of a snapshot.
    fn copy(&self, vm: VmId, name: &SnapshotName) -> Result<SnapshotXml>;

    /// The same, as it is when this one is its parent, or none is.
    fn copy_under(&self, vm: VmId, name: &SnapshotName, parent: Option<&SnapshotName>)
    -> Result<SnapshotXml>;

    /// Makes a snapshot's metadata what it was when it was copied; also of one that is not there any more, whose
    /// parent must be. `current`: it is to be the current one; false leaves that as it is.
    fn put_back(&self, vm: VmId, copy: &SnapshotXml, current: bool) -> Result<()>;
}
