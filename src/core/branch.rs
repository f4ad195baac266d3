//! A branch: a VM of its own on a snapshot of another one's, without a copy of anything.
//!
//! ```text
//!   base ◀── s1's overlay ◀── what the VM writes to        VM web, with snapshot s1 (state image: base)
//!     ▲──── what the branch writes to                      VM trial, branched off s1
//! ```
//!
//! As long as it is there the images under it must stay as they are: what they belong to is needed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    model::{NameError, SnapshotName, VmId},
    revert::Image,
};

/// A branch to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchJob {
    /// Off this snapshot.
    pub name: SnapshotName,
    /// The new VM's name.
    pub new_vm: String,
    /// Whether it is started.
    pub start: bool,
    /// Disks that are written to and have no part in the snapshot are left out; else they are a reason to refuse.
    pub leave_out: bool,
}

/// Whether a new VM can have this name: what a snapshot's may be, which is what libvirt and a file's name allow.
pub fn check_vm_name(name: &str) -> Result<(), NameError> {
    SnapshotName::for_new(name).map(drop)
}

/// What a branch stands on, as it was written down when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stem {
    /// The VM that it was branched off.
    pub vm: VmId,
    /// That one's snapshot.
    pub snapshot: SnapshotName,
}

/// One disk of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    /// Its target.
    pub target: String,
    /// The snapshot's state image.
    pub state_image: Image,
    /// The new overlay on that, always `qcow2`.
    pub overlay: String,
}

/// The variables of the firmware, of which each VM has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Where the snapshot has them.
    pub kept: String,
    /// Where the branch has them.
    pub own: String,
}

/// All that is needed to end a branch's making or to take it back, whoever finds it half done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPlan {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The new VM's UUID.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its disks on the snapshot's images.
    pub disks: Vec<Grown>,
    /// Its firmware's variables, if it has any.
    pub variables: Option<Copy>,
    /// Its definition.
    pub definition: String,
    /// Whether it is started.
    pub start: bool,
}

impl BranchPlan {
    /// The files that it makes.
    pub fn files(&self) -> Vec<String> {
        let overlays = self.disks.iter().map(|d| &d.overlay);
        overlays.chain(self.variables.as_ref().map(|v| &v.own)).cloned().collect()
    }
}

/// The path of a branch's overlay: beside the image it lies on, named after the VM, and unique by the VM's UUID.
pub fn overlay_path(state_image: &str, name: &str, target: &str, id: Uuid) -> String {
    format!(
        "{}/{}-{}.{}.qcow2",
        directory(state_image),
        safe(name),
        safe(target),
        &id.simple().to_string()[..8]
    )
}

/// The path of the firmware's variables, in the directory of this file.
pub fn variables_path(beside: &str, name: &str, id: Uuid) -> String {
    format!("{}/{}-{}_VARS.fd", directory(beside), safe(name), id.simple())
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn safe(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_+-".contains(c) { c } else { '_' };
    text.chars().map(plain).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_files_lie_beside_what_they_come_from_under_names_of_their_own() {
        let id = Uuid::from_u128(0x1234_5678 << 96);
        assert_eq!(
            overlay_path("/i/x y/web.s1.qcow2", "a b/é", "vda", id),
            "/i/x y/a_b__-vda.12345678.qcow2"
        );
        assert!(overlay_path("/i/a", &"x".repeat(500), "vda", id).len() < 120);
        assert_eq!(
            variables_path("/nv/web.fd", "trial", id),
            "/nv/trial-12345678000000000000000000000000_VARS.fd"
        );
    }

    #[test]
    fn a_name_is_what_libvirt_and_a_file_s_name_allow() {
        for name in ["trial", "a b", "ü&<x>", "web-2.copy"] {
            assert_eq!(check_vm_name(name), Ok(()), "{name}");
        }
        for name in ["", "a/b", "-x", ".x", "a\nb", &"x".repeat(121)] {
            assert!(check_vm_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn all_its_files_are_known_and_a_plan_is_read_back_as_it_was() {
        let image = |path: &str| Image { path: path.into(), format: "qcow2".into() };
        let grown = |target: &str, overlay: &str| Grown {
            target: target.into(),
            state_image: image("/then"),
            overlay: overlay.into(),
        };
        let plan = BranchPlan {
            snapshot: SnapshotName::existing("s"),
            vm: VmId(Uuid::from_u128(7)),
            name: "trial".into(),
            disks: vec![grown("vda", "/a"), grown("vdb", "/b")],
            variables: Some(Copy { kept: "/kept".into(), own: "/own".into() }),
            definition: String::new(),
            start: true,
        };
        assert_eq!(plan.files(), ["/a", "/b", "/own"]);
        let back: BranchPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(back, plan);
    }
}
