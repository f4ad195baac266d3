//! How one merge is done: every image and every name, worked out before anything is touched, so that whoever finds it
//! half done can end it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::model::SnapshotName;

/// A snapshot that a merge takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doomed {
    /// Its name.
    pub name: SnapshotName,
    /// Its own identity, if we made it or took it over.
    pub id: Option<Uuid>,
}

/// One disk's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPart {
    /// The disk's target.
    pub target: String,
    /// The image that is written to: the state image of the oldest of the run that has this disk.
    pub base: String,
    /// The last image whose data goes into it: the overlay of the newest.
    pub top: String,
    /// What goes: every image above `base` up to `top`.
    pub gone: Vec<String>,
}

/// A snapshot that stays and whose metadata names an image that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// Its name.
    pub name: SnapshotName,
    /// From which path to which.
    pub images: Vec<(String, String)>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What goes, the oldest first; each is the next one's parent.
    pub run: Vec<Doomed>,
    /// The disks that any of them has.
    pub disks: Vec<DiskPart>,
    /// Who is told of it, the oldest first.
    pub renamed: Vec<Renamed>,
}
