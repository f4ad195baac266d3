//! VMs: what they are made of, and what people do to them beside us.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Sim, State,
    agent::GuestAgent,
    image::{BLOCK, Blocks, Image, Store},
    memory::Ram,
    merge::Merging,
    op::Op,
    pull::{Pulling, Unflushed},
    snapshot::Saved,
    spec::{DiskSpec, VmSpec},
};
use crate::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Agent, Disk, Error, ErrorKind, Event, Nvram, Result, Tpm, Vm, WaitingJob},
};

#[derive(Debug)]
pub(super) struct Drive {
    pub(super) target: String,
    kind: String,
    pub(super) writable: bool,
    shared: bool,
    /// The layer that is written to.
    pub(super) active: String,
    /// What the definition names instead, if somebody edited it while the VM runs.
    pub(super) configured: Option<String>,
    /// What QEMU writes to instead of it, if libvirt does not know.
    pub(super) adrift: Option<String>,
}

#[expect(clippy::struct_excessive_bools, reason = "as in what it describes")]
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) state: VmState,
    /// Counts its starts.
    pub(super) life: u64,
    /// Its CPUs ran since then, or before it was saved.
    pub(super) ran: bool,
    pub(super) persistent: bool,
    pub(super) managed_save: bool,
    pub(super) confined_by: Option<String>,
    /// Confined, it may write the images under its active ones all the same, for one merge.
    pub(super) lifted: bool,
    tags: BTreeSet<String>,
    pub(super) agent: GuestAgent,
    pub(super) drives: Vec<Drive>,
    pub(super) snapshots: BTreeMap<SnapshotName, Saved>,
    pub(super) current: Option<SnapshotName>,
    /// Those inside its images that libvirt knows no longer.
    pub(super) forgotten: Vec<(SnapshotName, Saved)>,
    /// A snapshot that is listed while it is being made.
    pub(super) making: Option<(SnapshotName, Saved)>,
    /// The job of ours that is held at a gate.
    pub(super) job: Option<Op>,
    /// Somebody else's block job runs.
    pub(super) block_job: bool,
    /// Such jobs that wait for somebody to end them, as long as its CPUs have stood still since it was started.
    pub(super) waiting: Vec<WaitingJob>,
    pub(super) nvram: Option<Nvram>,
    pub(super) tpm: Option<Tpm>,
    xml_bytes: usize,
    /// What its definition gives it, in MiB.
    pub(super) memory: u64,
    pub(super) ram: Ram,
    /// The merges that go on, by target.
    pub(super) merging: BTreeMap<String, Merging>,
    /// The pulls that go on, by target.
    pub(super) pulling: BTreeMap<String, Pulling>,
    /// What was pulled, and is in its QEMU's memory alone.
    pub(super) unflushed: Unflushed,
    /// The images that lie on another one only as long as its QEMU lives.
    pub(super) lent: BTreeSet<String>,
}

impl Drive {
    pub(super) fn new(disk: DiskSpec) -> Self {
        let DiskSpec { target, kind, writable, shared, path, .. } = disk;
        Self { target, kind, writable, shared, active: path, configured: None, adrift: None }
    }
}

impl Machine {
    /// As it is made, with nothing on it.
    pub(super) fn new(spec: VmSpec) -> Self {
        Self {
            name: spec.name,
            state: spec.state,
            life: 1,
            ran: spec.state == VmState::Running,
            persistent: spec.persistent,
            managed_save: spec.managed_save,
            confined_by: spec.confined_by,
            lifted: false,
            tags: spec.tags,
            agent: GuestAgent::new(spec.agent, spec.file_systems),
            drives: spec.disks.into_iter().map(Drive::new).collect(),
            snapshots: BTreeMap::new(),
            current: None,
            forgotten: Vec::new(),
            making: None,
            job: None,
            block_job: false,
            waiting: Vec::new(),
            nvram: spec.nvram,
            tpm: spec.tpm,
            xml_bytes: spec.xml_bytes,
            memory: 128,
            ram: Ram::new(spec.migratable),
            merging: BTreeMap::new(),
            pulling: BTreeMap::new(),
            unflushed: Unflushed::new(),
            lent: BTreeSet::new(),
        }
    }

    /// Whether there is a QEMU process.
    pub(super) fn active(&self) -> bool {
        self.state != VmState::ShutOff
    }

    /// Whether its QEMU may not write the images under its active ones.
    pub(super) fn denies(&self) -> bool {
        self.confined_by.is_some() && !self.lifted
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
            device: if d.writable { "disk" } else { "cdrom" }.to_owned(),
            bus: "virtio".to_owned(),
            shared: d.shared,
            writable: d.writable,
            lost: store.lost(&d.active).filter(|_| d.writable && vm.state == VmState::ShutOff),
            chain: store.chain(&d.active),
            configured: vm.persistent.then(|| d.configured.as_ref().unwrap_or(&d.active).clone()),
            written_out: None,
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
            block_jobs: vm.block_job || !vm.merging.is_empty() || !vm.pulling.is_empty(),
            busy: vm.job.is_some(),
            nvram: vm.nvram.clone(),
            tpm: vm.tpm.clone(),
            ram: vm.memory << 20,
            xml_bytes: if vm.active() && vm.persistent { 2 * vm.xml_bytes } else { vm.xml_bytes },
        })
    }

    pub(super) fn set_state(&mut self, vm: VmId, from: &[VmState], to: VmState) -> Result<()> {
        let machine = self.machine(vm)?;
        if !from.contains(&machine.state) {
            let text = format!("Requested operation is not valid: the domain is {}", machine.state);
            return Err(Error::new(ErrorKind::Failed, text));
        }
        if machine.state == VmState::ShutOff && to != VmState::ShutOff {
            machine.life += 1;
            machine.ran = machine.managed_save;
        }
        machine.ran |= to == VmState::Running;
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
            let id = spec.id;
            let machine = Machine::new(spec);
            s.vms.insert(id, machine);
            s.tell(Event::Changed(id));
            id
        })
    }

    /// Starts it; a managed save is used up. Two `Changed`, the second when the agent connects.
    pub fn start(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.power_on(vm, VmState::Running))
    }

    /// `virsh start --paused`.
    pub fn start_paused(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.power_on(vm, VmState::Paused))
    }

    /// Stops it as pulling the plug does. A transient one is gone then, and its snapshots' metadata with it,
    /// which libvirt tells as a `Changed` too.
    pub fn stop(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.power_off(vm))
    }

    /// Stops its CPUs.
    pub fn pause(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.set_state(vm, &[VmState::Running], VmState::Paused))
    }

    /// Lets them go on.
    pub fn resume(&self, vm: VmId) -> Result<()> {
        self.with(|s| s.let_run(vm, &[VmState::Paused, VmState::PmSuspended]))
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

    /// Its definition is so long, with its description; of a running VM there are two.
    pub fn set_xml_bytes(&self, vm: VmId, bytes: usize) -> Result<()> {
        self.with(|s| {
            s.machine(vm)?.xml_bytes = bytes;
            Ok(())
        })
    }

    /// The guest writes a block. False if it cannot now: not running, frozen, or no room, which pauses it.
    pub fn write(&self, vm: VmId, target: &str, block: u64, value: u64) -> bool {
        self.with(|s| {
            let Ok(active) = s.written_to(vm, target) else { return false };
            let machine = &s.vms[&vm];
            if machine.state != VmState::Running || machine.agent.holds(target) {
                return false;
            }
            if s.store.write(&active, block, value).is_ok() {
                s.mirror(vm, target, block, value);
                return true;
            }
            s.set_state(vm, &[VmState::Running], VmState::Paused).is_err()
        })
    }

    /// Writes one block to what a disk is on now, whoever else has it: as `qemu-io` would.
    pub fn write_behind(&self, vm: VmId, target: &str, block: u64, value: u64) -> Result<()> {
        self.with(|s| s.written_to(vm, target).and_then(|active| s.store.write(&active, block, value)))
    }

    /// What a disk holds now.
    pub fn read(&self, vm: VmId, target: &str) -> Result<Blocks> {
        self.with(|s| s.written_to(vm, target).map(|active| s.store.read(&active)))
    }

    /// Whether it has no QEMU.
    pub fn is_off(&self, vm: VmId) -> bool {
        self.with(|s| s.machine(vm).is_ok_and(|machine| !machine.active()))
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
