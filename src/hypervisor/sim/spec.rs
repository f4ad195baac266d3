//! VMs to be made.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, GuestFileSystem, Nvram, Tpm},
};

/// A disk to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// The target's name, such as `vda`.
    pub target: String,
    /// libvirt's type of its source.
    pub kind: String,
    /// False for read-only ones and CD-ROMs.
    pub writable: bool,
    /// Other VMs may write to it.
    pub shared: bool,
    /// Its image; made if it is not there.
    pub path: String,
    /// The image's format.
    pub format: String,
    /// The image under it: for linked clones.
    pub backing: Option<String>,
}

impl DiskSpec {
    /// A qcow2 disk in a file.
    pub fn new(target: &str, path: &str) -> Self {
        Self {
            target: target.to_owned(),
            kind: "file".to_owned(),
            writable: true,
            shared: false,
            path: path.to_owned(),
            format: "qcow2".to_owned(),
            backing: None,
        }
    }
}

/// A VM to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub id: VmId,
    /// Its disks.
    pub disks: Vec<DiskSpec>,
    /// Its state.
    pub state: VmState,
    /// False for a transient one.
    pub persistent: bool,
    /// Its memory was saved.
    pub managed_save: bool,
    /// What confines it.
    pub confined_by: Option<String>,
    /// Tags in its metadata.
    pub tags: BTreeSet<String>,
    /// The guest agent, as it is when the VM runs.
    pub agent: Agent,
    /// What the guest has mounted.
    pub file_systems: Vec<GuestFileSystem>,
    /// Its firmware's variables.
    pub nvram: Option<Nvram>,
    /// Its emulated TPM.
    pub tpm: Option<Tpm>,
    /// False for one whose CPU or devices cannot be migrated, so that its memory cannot be kept.
    pub migratable: bool,
    /// How long its definition is.
    pub xml_bytes: usize,
}

impl VmSpec {
    /// A running, persistent VM with an agent and the disk `vda`. The number is its UUID.
    pub fn new(name: &str, number: u128) -> Self {
        let spec = Self {
            name: name.to_owned(),
            id: VmId(Uuid::from_u128(number)),
            disks: Vec::new(),
            state: VmState::Running,
            persistent: true,
            managed_save: false,
            confined_by: None,
            tags: BTreeSet::new(),
            agent: Agent::Connected,
            file_systems: Vec::new(),
            nvram: None,
            tpm: None,
            migratable: true,
            xml_bytes: 8 * 1024,
        };
        spec.with_disks(&["vda"])
    }

    /// With these disks instead, in `/images`, and a file system on each.
    #[must_use]
    pub fn with_disks(mut self, targets: &[&str]) -> Self {
        let path = |t: &str| format!("/images/{}-{t}.qcow2", self.name);
        self.disks = targets.iter().map(|t| DiskSpec::new(t, &path(t))).collect();
        let mounted =
            |t: &&str| GuestFileSystem { mountpoint: format!("/mnt/{t}"), disks: vec![(*t).to_owned()] };
        self.file_systems = targets.iter().map(mounted).collect();
        self
    }

    /// In this state.
    #[must_use]
    pub fn in_state(mut self, state: VmState) -> Self {
        self.state = state;
        self
    }

    /// With such an agent.
    #[must_use]
    pub fn with_agent(mut self, agent: Agent) -> Self {
        self.agent = agent;
        self
    }
}
