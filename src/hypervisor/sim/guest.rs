//! VMs: what they are made of, and what people do to them beside us.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    Sim, State,
    agent::GuestAgent,
    fault::Op,
    image::{BLOCK, Blocks, Image, Store},
    snapshot::Saved,
};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Agent, Disk, Error, ErrorKind, Event, GuestFileSystem, Result, Vm},
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

#[derive(Debug)]
pub(super) struct Drive {
    pub(super) target: String,
    kind: String,
    pub(super) writable: bool,
    /// The layer that is written to.
    pub(super) active: String,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) state: VmState,
    pub(super) persistent: bool,
    pub(super) managed_save: bool,
    pub(super) confined_by: Option<String>,
    tags: BTreeSet<String>,
    pub(super) agent: GuestAgent,
    pub(super) drives: Vec<Drive>,
    pub(super) snapshots: BTreeMap<SnapshotName, Saved>,
    pub(super) current: Option<SnapshotName>,
    /// A snapshot that is listed while it is being made.
    pub(super) making: Option<(SnapshotName, Saved)>,
    /// The job of ours that is held at a gate.
    pub(super) job: Option<Op>,
    /// Somebody else's block job runs.
    pub(super) block_job: bool,
}

impl Machine {
    /// Whether there is a QEMU process.
    pub(super) fn active(&self) -> bool {
        self.state != VmState::ShutOff
    }

    pub(super) fn drive(&mut self, target: &str) -> Result<&mut Drive> {
        self.drives
            .iter_mut()
            .find(|d| d.target == target)
            .ok_or_else(|| Error::new(ErrorKind::Failed, format!("invalid argument: no disk '{target}'")))
    }

    /// Whether one of its disks has this image anywhere in its chain.
    pub(super) fn uses(&self, store: &Store, path: &str) -> bool {
        self.drives.iter().any(|d| store.chain(&d.active).iter().any(|l| l.path == path))
    }
}

impl State {
    pub(super) fn describe(&mut self, id: VmId) -> Result<Vm> {
        self.machine(id)?;
        let (vm, store) = (&self.vms[&id], &self.store);
        let agent = match vm.agent.mode {
            Agent::Connected if vm.state == VmState::ShutOff => Agent::Disconnected,
            mode => mode,
        };
        let disk = |d: &Drive| Disk {
            target: d.target.clone(),
            kind: d.kind.clone(),
            writable: d.writable,
            chain: store.chain(&d.active),
        };
        Ok(Vm {
            id,
            name: vm.name.clone(),
            state: vm.state,
            persistent: vm.persistent,
            managed_save: vm.managed_save,
            confined_by: vm.confined_by.clone(),
            tags: vm.tags.clone(),
            agent,
            disks: vm.drives.iter().map(disk).collect(),
        })
    }

    fn active_layer(&mut self, vm: VmId, target: &str) -> Result<String> {
        Ok(self.machine(vm)?.drive(target)?.active.clone())
    }

    fn set_state(&mut self, vm: VmId, from: &[VmState], to: VmState) -> Result<()> {
        let machine = self.machine(vm)?;
        if !from.contains(&machine.state) {
            let text = format!("Requested operation is not valid: the domain is {}", machine.state);
            return Err(Error::new(ErrorKind::Failed, text));
        }
        machine.state = to;
        self.tell(Event::Changed(vm));
        Ok(())
    }
}

/// What is done to VMs from outside.
impl Sim {
    /// Defines a VM, and makes those of its images that are not there.
    ///
    /// # Panics
    ///
    /// If there is one of that UUID.
    pub fn add_vm(&self, spec: VmSpec) -> VmId {
        self.with(|s| {
            assert!(!s.vms.contains_key(&spec.id), "there is a VM {} already", spec.id);
            for disk in &spec.disks {
                let image = || Image::new(&disk.format, disk.backing.clone());
                s.store.files.entry(disk.path.clone()).or_insert_with(image);
            }
            let drive =
                |d: DiskSpec| Drive { target: d.target, kind: d.kind, writable: d.writable, active: d.path };
            let machine = Machine {
                name: spec.name,
                state: spec.state,
                persistent: spec.persistent,
                managed_save: spec.managed_save,
                confined_by: spec.confined_by,
                tags: spec.tags,
                agent: GuestAgent::new(spec.agent, spec.file_systems),
                drives: spec.disks.into_iter().map(drive).collect(),
                snapshots: BTreeMap::new(),
                current: None,
                making: None,
                job: None,
                block_job: false,
            };
            s.vms.insert(spec.id, machine);
            s.tell(Event::Changed(spec.id));
            spec.id
        })
    }

    /// Starts it; a managed save is used up. Two `Changed`, the second when the agent connects.
    pub fn start(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            s.check_bootable(vm)?;
            s.set_state(vm, &[VmState::ShutOff], VmState::Running)?;
            s.machine(vm)?.managed_save = false;
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// Stops it as pulling the plug does. A transient one is gone then, and its snapshots' metadata with it,
    /// which libvirt tells as a `Changed` too.
    pub fn stop(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            let on =
                [VmState::Running, VmState::Paused, VmState::PmSuspended, VmState::Crashed, VmState::Other];
            s.set_state(vm, &on, VmState::ShutOff)?;
            let machine = s.machine(vm)?;
            machine.agent.reboot();
            machine.block_job = false;
            if !machine.persistent {
                s.vms.remove(&vm);
            }
            Ok(())
        })
    }

    /// Stops its CPUs.
    pub fn pause(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.set_state(vm, &[VmState::Running], VmState::Paused))
    }

    /// Lets them go on.
    pub fn resume(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.set_state(vm, &[VmState::Paused, VmState::PmSuspended], VmState::Running))
    }

    /// Saves its memory and stops it; what was frozen is so again after the start.
    pub fn managed_save(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            s.set_state(vm, &[VmState::Running, VmState::Paused], VmState::ShutOff)?;
            s.machine(vm)?.managed_save = true;
            Ok(())
        })
    }

    /// Removes its definition with its snapshots' metadata; all files stay. A running one is transient from
    /// then on; libvirt tells both as `Gone`.
    pub fn undefine(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            let machine = s.machine(vm)?;
            if machine.active() {
                machine.persistent = false;
            } else {
                s.vms.remove(&vm);
            }
            s.tell(Event::Gone(vm));
            Ok(())
        })
    }

    /// Gives a stopped VM another name.
    pub fn rename(&self, vm: VmId, name: &str) -> Result<()> {
        self.with(|s| {
            s.set_state(vm, &[VmState::ShutOff], VmState::ShutOff)?;
            name.clone_into(&mut s.machine(vm)?.name);
            Ok(())
        })
    }

    /// Changes its tags; an edited definition.
    pub fn set_tags(&self, vm: VmId, tags: &[&str]) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.tags = tags.iter().map(|t| (*t).to_owned()).collect();
            s.tell(Event::Changed(vm));
            Ok(())
        })
    }

    /// The guest writes a block. False if it cannot now: not running, frozen, or no room, which pauses it.
    pub fn write(&self, vm: VmId, target: &str, block: u64, value: u64) -> bool {
        self.with(|s| {
            let Ok(active) = s.active_layer(vm, target) else { return false };
            let machine = &s.vms[&vm];
            if machine.state != VmState::Running || machine.agent.holds(target) {
                return false;
            }
            if s.store.write(&active, block, value).is_ok() {
                return true;
            }
            s.set_state(vm, &[VmState::Running], VmState::Paused).is_err()
        })
    }

    /// Writes one block to what a disk is on now, whoever else has it: as `qemu-io` would.
    pub fn write_behind(&self, vm: VmId, target: &str, block: u64, value: u64) -> Result<()> {
        self.with(|s| s.active_layer(vm, target).and_then(|active| s.store.write(&active, block, value)))
    }

    /// What a disk holds now.
    pub fn read(&self, vm: VmId, target: &str) -> Result<Blocks> {
        self.with(|s| s.active_layer(vm, target).map(|active| s.store.read(&active)))
    }

    /// Puts a file there that is no disk of any VM.
    pub fn put_file(&self, path: &str, bytes: u64) {
        self.with(|s| s.store.files.insert(path.to_owned(), Image::alien(bytes)));
    }

    /// Removes a file, used or not.
    pub fn remove_file(&self, path: &str) -> bool {
        self.with(|s| s.store.files.remove(path).is_some())
    }

    /// All files, and what each takes, in bytes.
    pub fn files(&self) -> BTreeMap<String, u64> {
        self.with(|s| s.store.files.iter().map(|(p, i)| (p.clone(), i.allocation())).collect())
    }

    /// Leaves room for so many more blocks, and no more.
    pub fn leave_room_for(&self, blocks: u64) {
        self.with(|s| s.store.capacity = s.store.used() + blocks * BLOCK);
    }
}
