//! What became of a snapshot whose taking was cut short: told by the images that the VM's disks are on.
//!
//! A libvirtd that ends between QEMU's transaction and its own notes (seen with 9.0 and 11.3) leaves a QEMU that writes
//! to overlays of which neither the live nor the inactive definition knows. Whoever took them for unused would unlink what
//! the guest writes to; and started again by the old definition, the VM would be without all that was written since.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{label::Label, policy::Quiesce};

/// What a snapshot that is being taken is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakingPlan {
    /// Its description, our marker included.
    pub description: String,
    /// When it was begun.
    pub created: Timestamp,
    /// Its disks.
    pub parts: Vec<Part>,
    /// The file that the memory goes to, if it is kept.
    pub memory: Option<String>,
    /// What is attached to it from its beginning.
    #[serde(default)]
    pub label: Label,
    /// What was asked for of the guest's file systems. An earlier version did not write it down.
    #[serde(default)]
    pub quiesce: Option<Quiesce>,
}

/// A disk's part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The disk's target.
    pub target: String,
    /// The overlay that is put on top.
    pub overlay: String,
    /// What it lies on.
    pub image: String,
    /// The format of that.
    pub format: String,
}

/// What a disk of the VM is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand<'a> {
    /// Its target.
    pub target: &'a str,
    /// By libvirt, from what is written to down.
    pub chain: Vec<&'a str>,
    /// By QEMU's own word. `None`: the VM is off.
    pub opened: Option<Vec<&'a str>>,
    /// What the inactive definition names.
    pub configured: Option<&'a str>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// No disk is on its overlay: they can go.
    Nothing,
    /// All disks are on their overlays, and libvirt knows. These targets the definition has yet to name right.
    Taken(Vec<String>),
    /// QEMU writes to the overlays, and libvirt does not know, nor will before the VM was off. These targets the definition
    /// has yet to name right, so that it then starts on them.
    Adrift(Vec<String>),
    /// Something is on top of them already, or they are used in another way: they are the VM's, whatever they are called.
    Used,
}

/// Tells what became of it.
pub fn became(parts: &[Part], stands: &[Stand<'_>]) -> Became {
    let of = |part: &Part| stands.iter().find(|s| s.target == part.target);
    let top = |s: &Stand<'_>| -> Option<String> {
        s.opened.as_ref().unwrap_or(&s.chain).first().map(|path| (*path).to_owned())
    };
    let on = |part: &Part| of(part).and_then(top).as_deref() == Some(part.overlay.as_str());
    if !parts.is_empty() && parts.iter().all(on) {
        let behind = |part: &&Part| of(part).is_some_and(|s| s.configured != Some(part.overlay.as_str()));
        let behind = parts.iter().filter(behind).map(|part| part.target.clone()).collect();
        let known = |part: &Part| of(part).is_some_and(|s| s.chain.first() == Some(&part.overlay.as_str()));
        return if parts.iter().all(known) { Became::Taken(behind) } else { Became::Adrift(behind) };
    }
    let named = |part: &Part| {
        let overlay = part.overlay.as_str();
        stands.iter().any(|s| {
            s.chain.contains(&overlay)
                || s.opened.as_ref().is_some_and(|images| images.contains(&overlay))
                || s.configured == Some(overlay)
        })
    };
    if parts.iter().any(named) { Became::Used } else { Became::Nothing }
}
