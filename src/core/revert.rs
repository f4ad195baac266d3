//! A revert: what is asked for, and all that its end must know once it has begun.
//!
//! It is done by hand, on every libvirt: a new overlay on each of the snapshot's state images, a definition that names
//! them, and metadata that says so. Whether it happened shows in what the VM's disks are on: the definition is changed
//! in one step, so that they are on what they were on, or on the new overlays, and nothing between.

use serde::{Deserialize, Serialize};

use super::model::{SnapshotName, VmState, words};

words! {
    /// What a VM is to be after a revert.
    Then {
        /// What it was before: off, or running, or paused. With its memory, what it was then.
        AsBefore = "as-before",
        /// It runs.
        Running = "running",
        /// It is started with its CPUs stopped.
        Paused = "paused",
        /// It is off.
        ShutOff = "shut-off",
    }
}

impl Then {
    /// The state, for a VM that was in this one.
    pub const fn of(self, before: VmState) -> VmState {
        match (self, before) {
            (Self::Running, _) | (Self::AsBefore, VmState::Running) => VmState::Running,
            (Self::Paused, _) | (Self::AsBefore, VmState::Paused) => VmState::Paused,
            _ => VmState::ShutOff,
        }
    }
}

words! {
    /// Which definition a VM gets with a revert.
    DefinitionOf {
        /// The one that it had when the snapshot was taken.
        Snapshot = "snapshot",
        /// The one that it has.
        Keep = "keep",
    }
}

/// An image and its format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its path.
    pub path: String,
    /// `qcow2` or `raw`.
    pub format: String,
}

/// One disk's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The disk's target.
    pub target: String,
    /// What it was on.
    pub was: Image,
    /// The snapshot's state image.
    pub state_image: Image,
    /// The new overlay on that, always `qcow2`.
    pub overlay: String,
}

/// A file that goes back with a VM's disks: its firmware's variables, or its emulated TPM's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Where the VM has it.
    pub original: String,
    /// Where the snapshot has it.
    pub kept: String,
    /// Where the one that the VM had is put, until it is certain that it is not wanted back.
    pub before: String,
}

/// Where a revert is, as the disks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All disks are on what they were on.
    Before,
    /// All disks are on the new overlays.
    After,
    /// Neither: somebody else did something.
    Elsewhere,
}

/// All that is needed to end a revert or to take it back, whoever finds it half done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertPlan {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The snapshot that was taken before, if one was.
    pub safety: Option<SnapshotName>,
    /// The disks.
    pub disks: Vec<Switched>,
    /// The images, of what the disks were on, that snapshots or reverts made. When it happened they go, if nobody needs
    /// them; what else the disks were on is somebody's, and stays.
    #[serde(default)]
    pub goes: Vec<String>,
    /// Its firmware's variables, if it has any.
    #[serde(default)]
    pub variables: Option<Beside>,
    /// Its emulated TPM's state, if that was kept.
    #[serde(default)]
    pub tpm: Option<Beside>,
    /// The file with the memory that it goes on from; `None`: it is started anew, if at all.
    #[serde(default)]
    pub memory: Option<String>,
    /// The definition that it had.
    pub definition: String,
    /// The one that it gets; the disks' images are put into it.
    pub wanted: String,
    /// How the snapshot's metadata was.
    pub metadata: String,
    /// The snapshot that was current, and how its metadata was, if it was another one.
    pub current: Option<(SnapshotName, String)>,
    /// The snapshot has no children: the new overlays are its own.
    pub leaf: bool,
    /// What the VM was.
    pub was: VmState,
    /// What it is to be.
    pub then: VmState,
}

impl RevertPlan {
    /// The files that it makes.
    pub fn files(&self) -> Vec<String> {
        let overlays = self.disks.iter().map(|d| &d.overlay);
        overlays.chain(self.beside().map(|(_, file)| &file.before)).cloned().collect()
    }

    /// What goes back besides its disks, and what a person calls it.
    pub fn beside(&self) -> impl Iterator<Item = (&'static str, &Beside)> {
        let variables = self.variables.iter().map(|file| ("the firmware's variables", file));
        variables.chain(self.tpm.iter().map(|file| ("the emulated TPM's state", file)))
    }

    /// Where it is, by what each disk is on.
    pub fn place<'a>(&self, top: impl Fn(&str) -> Option<&'a str>) -> Place {
        let all = |on: &dyn Fn(&Switched) -> &str| self.disks.iter().all(|d| top(&d.target) == Some(on(d)));
        if all(&|d| &d.was.path) {
            Place::Before
        } else if all(&|d| &d.overlay) {
            Place::After
        } else {
            Place::Elsewhere
        }
    }

    /// The new overlays: each disk's target, and the path.
    pub fn overlays(&self) -> Vec<(String, String)> {
        self.disks.iter().map(|d| (d.target.clone(), d.overlay.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revert_is_where_all_its_disks_are() {
        let image = |path: &str| Image { path: path.into(), format: "qcow2".into() };
        let disk = |target: &str| Switched {
            target: target.into(),
            was: image("/was"),
            state_image: image("/then"),
            overlay: "/new".into(),
        };
        let plan = RevertPlan {
            snapshot: SnapshotName::existing("s"),
            safety: None,
            disks: vec![disk("vda"), disk("vdb")],
            goes: vec!["/was".into()],
            variables: None,
            tpm: None,
            memory: None,
            definition: String::new(),
            wanted: String::new(),
            metadata: String::new(),
            current: None,
            leaf: true,
            was: VmState::Running,
            then: VmState::ShutOff,
        };
        assert_eq!(plan.place(|_| Some("/was")), Place::Before);
        assert_eq!(plan.place(|_| Some("/new")), Place::After);
        assert_eq!(plan.place(|t| Some(if t == "vda" { "/new" } else { "/was" })), Place::Elsewhere);
        assert_eq!(plan.place(|_| None), Place::Elsewhere);
        let back: RevertPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(back, plan);
    }

    #[test]
    fn the_state_after_it_is_the_one_asked_for_or_the_one_before() {
        for state in VmState::ALL {
            assert_eq!(Then::Running.of(*state), VmState::Running);
            assert_eq!(Then::ShutOff.of(*state), VmState::ShutOff);
        }
        assert_eq!(Then::AsBefore.of(VmState::Paused), VmState::Paused);
        assert_eq!(Then::AsBefore.of(VmState::ShutOff), VmState::ShutOff);
    }
}
