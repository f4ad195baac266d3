//! Images as files: what there is, what lies on what, who stands on it, and small ones read and written.

use jiff::Timestamp;

use super::{Layer, Result};
pub use crate::core::family::User;
use crate::core::model::VmId;

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its path.
    pub path: String,
    /// Its format, as its header says; `raw` if it has none.
    pub format: String,
    /// The size of the disk in it, in bytes.
    pub capacity: u64,
    /// What it takes on disk, in bytes.
    pub allocation: u64,
    /// The image it lies on, as its header says.
    pub backing: Option<Layer>,
    /// When somebody wrote to the file last, if that can be told.
    pub modified: Option<Timestamp>,
}

/// An image file that nobody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The VM on whose images it lies, and nobody else's.
    pub vm: VmId,
    /// The file.
    pub image: Image,
    /// Another text when somebody wrote to the file.
    pub stamp: String,
}

/// How a small file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Save<'a> {
    /// It must not be there; it gets the owner and the mode of this other file, or root and 0600.
    New(Option<&'a str>),
    /// It must be there, and keeps its owner and its mode.
    Over,
}

/// Looking at image files and moving small ones, all through the hypervisor.
pub trait Images {
    /// All files in this path's directory, in the order of their names. One that is not there has none.
    fn images_beside(&self, path: &str) -> Result<Vec<Image>>;

    /// The images from this one down to the base. One that is not there, or a ring, is an error
    /// ([`ErrorKind::ChainMismatch`](super::ErrorKind::ChainMismatch)): never is a part taken for the whole.
    fn chain(&self, top: &Layer) -> Result<Vec<Image>>;

    /// Which of these images have whom on them, directly or through others: all VMs, running and defined, all their
    /// snapshots, and files that no VM has. The VM `of` and its own snapshots do not count.
    ///
    /// Whoever cannot be read may stand on them: that is an error, never a no.
    fn users(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>>;

    /// Image files that no VM and no snapshot names, that lie under nothing that is named, and that lie on the images of
    /// one VM alone. A VM whose disk is being copied has none.
    ///
    /// What is only just being made looks the same: it has an owner soon. To be shown, then, and to be looked at again
    /// before anything is done to it.
    fn strays(&self) -> Result<Vec<Stray>>;

    /// A small file's content. One that is longer is an error ([`ErrorKind::Unsupported`](super::ErrorKind::Unsupported)).
    fn load(&self, path: &str, at_most: u64) -> Result<Vec<u8>>;

    /// Writes a small file; if it fails, a new one is removed again.
    fn save(&self, path: &str, bytes: &[u8], how: Save<'_>) -> Result<()>;
}
