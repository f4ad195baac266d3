//! What this daemon asks of a hypervisor, as one blocking trait.
//!
//! Two things implement it: [`libvirt`], the real one, and [`sim`], a model with faults for what reality
//! cannot produce on demand. One contract suite (`tests/contract.rs`) runs against both and keeps the model true.
//!
//! Every call may block for as long as its timeout allows, so it is made on a worker's thread, never on the
//! engine's task. Handles do not leave the implementation: a VM is named by its UUID each time, so that a
//! connection that was lost in between costs nothing but an error.
//!
//! # Invariants that an implementation keeps
//!
//! * `prepare` makes all overlays or none. `create` switches all disks or none, and always leaves metadata.
//! * `delete` looks at the chain as it is now and refuses what it does not recognise ([`ErrorKind::ChainMismatch`]).
//! * `thaw` is safe to call at any time, any number of times.

mod agent;
mod beside;
mod branch;
mod error;
mod facts;
mod ffi;
mod fit;
mod glimpse;
mod images;
mod inside;
pub mod libvirt;
mod merge;
mod metadata;
mod opened;
mod power;
pub mod sim;
mod switch;
mod told;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

pub use self::{
    agent::{Agent, FreezeStatus, GuestFileSystem, GuestSystem},
    beside::{Nvram, Tpm},
    branch::{Branch, Drawn, NewVm},
    error::{Error, ErrorKind, Result},
    facts::{facts, standing},
    glimpse::glimpse,
    images::{Image, Images, Save, Stray, User},
    inside::Inside,
    merge::{BlockJob, Commit, Committed, Copied, JobKind, Merge, Steer, WaitingJob},
    metadata::{Metadata, NewRecord, Redefine, RevertDisks, SnapshotXml},
    opened::{Opened, OpenedDisk},
    power::Power,
    switch::{Definition, Switch},
    told::{line_to_current, told},
    wake::{Slept, Wake},
};
use crate::core::model::{Content, SnapshotName, Storage, VmId, VmState};

/// What the hypervisor is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// The URI that the connection has.
    pub uri: String,
    /// The hypervisor's version, such as `QEMU 10.0.2, libvirt 11.3.0`.
    pub version: String,
    /// What it can do.
    pub features: Features,
}

/// What one libvirt can do and another cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Its metadata has a place for the overlays of a revert to a snapshot with children.
    pub revert_disks: bool,
    /// A VM that AppArmor confines may write the images under its active ones when libvirt merges them.
    pub confined_merge: bool,
    /// So many images one disk may have under it, the base included, and the VM still starts.
    pub layer_limit: u32,
}

impl Default for Features {
    /// The least that any libvirt from 9.0 on can do.
    fn default() -> Self {
        Self { revert_disks: false, confined_merge: false, layer_limit: 25 }
    }
}

/// One image of a disk's backing chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its path.
    pub path: String,
    /// Its format, `qcow2` or `raw`.
    pub format: String,
}

/// One disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The target's name, such as `vda`.
    pub target: String,
    /// libvirt's type of its source: `file`, `block`, `network` …
    pub kind: String,
    /// What the guest takes it for: `disk`, `lun`, `cdrom` …
    pub device: String,
    /// The bus it is on, such as `virtio`.
    pub bus: String,
    /// Other VMs may write to it.
    pub shared: bool,
    /// False for read-only ones and for CD-ROMs and floppies, which are never snapshotted.
    pub writable: bool,
    /// The images, from the one that is written to down to the base.
    pub chain: Vec<Layer>,
    /// Of a stopped VM: the last image of the chain, if there is no such file, so that the VM cannot start.
    pub lost: Option<String>,
    /// The image that the definition names, on which it starts the next time. `None` if the definition does not have
    /// this disk, or there is none, as of a transient VM.
    pub configured: Option<String>,
    /// The images that the definition writes out with some below, if it does: the next start takes them from there and not
    /// from the images themselves.
    pub written_out: Option<WrittenOut>,
}

/// A chain as a definition has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOut {
    /// Its images, from the one that is written to down.
    pub images: Vec<String>,
    /// The last one is said to lie on nothing. Else what it lies on is for the image itself to say.
    pub ends: bool,
}

impl Disk {
    /// Whether a snapshot can have it at all, however things are now.
    pub fn has_snapshots(&self) -> bool {
        self.writable && self.kind == "file" && self.device == "disk" && self.bus != "sd" && !self.shared
    }
}

/// A VM as it is now.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, as libvirt tells it")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its UUID.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// False for a transient one, which forgets its snapshots when it stops.
    pub persistent: bool,
    /// Its memory was saved; its disks must not change until it is started.
    pub managed_save: bool,
    /// The mandatory access control that forbids its QEMU to write the images under the active ones, such as `apparmor`;
    /// `None` if none does.
    pub confined_by: Option<String>,
    /// Tags in its libvirt metadata.
    pub tags: BTreeSet<String>,
    /// The guest agent.
    pub agent: Agent,
    /// Its disks, in the definition's order.
    pub disks: Vec<Disk>,
    /// A block job (a commit, a copy, a pull) runs on one of its disks, whoever began it.
    pub block_jobs: bool,
    /// Something else has it now, or may have it, so that a change would wait or fail: a save, a backup, a snapshot
    /// that is being made, a QEMU that does not answer.
    pub busy: bool,
    /// Its firmware's variables, if it has such firmware and they have a file already.
    pub nvram: Option<Nvram>,
    /// Its emulated TPM, if it has one.
    pub tpm: Option<Tpm>,
    /// How much memory it has, in bytes: what a snapshot with it may take.
    pub ram: u64,
    /// How long its definitions are as XML, the live and the inactive one together, in bytes: what each snapshot's
    /// metadata holds.
    pub xml_bytes: usize,
}

/// A disk's part in an external snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDisk {
    /// The target's name.
    pub target: String,
    /// The overlay that was put on top: what the VM wrote to from then on.
    pub overlay: String,
    /// The *state image*: what holds the disk as it was.
    pub state_image: String,
    /// The state image's format, `qcow2` or `raw`.
    pub format: String,
}

/// What the VM was when a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It ran, and its memory was kept.
    Running,
    /// Its CPUs were stopped, and its memory was kept.
    Paused,
    /// It was off.
    Off,
    /// Its disks alone were kept, whatever it was.
    DiskOnly,
}

/// A snapshot as libvirt's metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its name.
    pub name: SnapshotName,
    /// Its description, our marker included.
    pub description: String,
    /// libvirt's creation time, to the second.
    pub created: Timestamp,
    /// Its parent's name.
    pub parent: Option<SnapshotName>,
    /// Whether libvirt calls it the current one.
    pub current: bool,
    /// What it holds.
    pub content: Content,
    /// Where its data is.
    pub storage: Storage,
    /// Its external disks.
    pub disks: Vec<SnapshotDisk>,
    /// The disks of which libvirt began to merge the next newer snapshot that has them away, and did not end: what holds
    /// that one's state may hold newer data.
    pub delete_in_progress: Vec<String>,
    /// Where the VM was reverted to it and it has children: what a disk was put on then, by target.
    pub revert_disks: Vec<(String, String)>,
    /// The file with the VM's memory, if that was kept.
    pub memory_file: Option<String>,
    /// What the VM was.
    pub taken: Taken,
    /// The images that the VM's disks wrote to when it was taken, by target: of all its disks, also of those that
    /// take no part. Of those that do it is the state image.
    pub sources: Vec<(String, String)>,
    /// The allocation of its overlays and its memory file, in bytes; what goes when it is deleted. 0 if unknown.
    pub size: u64,
    /// The allocation of its state images, in bytes: each one alone, without what it lies on; and of its memory file.
    /// 0 if unknown.
    pub held: u64,
    /// Its state images that no storage volume was found of.
    pub lost: Vec<String>,
    /// No storage volume was found of its memory file.
    pub memory_lost: bool,
    /// How long its metadata is, in bytes.
    pub xml_bytes: usize,
}

/// An overlay to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The disk's target.
    pub target: String,
    /// The overlay's path.
    pub path: String,
    /// The image it goes on top of: the disk's active layer.
    pub backing: Layer,
}

/// What `create` is to do. The overlays were made by `prepare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSpec {
    /// The snapshot's name.
    pub name: SnapshotName,
    /// Its description, our marker included.
    pub description: String,
    /// One overlay for each disk that takes part; all other disks are left alone.
    pub overlays: Vec<Overlay>,
    /// Where the memory of a VM that is on is kept; there must be nothing yet. `None`: the disks alone.
    pub memory: Option<String>,
}

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it, in bytes.
    pub capacity: u64,
    /// What is free, in bytes.
    pub available: u64,
}

/// What happened at the hypervisor, told without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection stands, and events of it will follow. All that was known is to be listed anew.
    Connected(Info),
    /// The connection went; the reason.
    Disconnected(String),
    /// Something about this VM changed: its state, its definition, its agent, a block job.
    Changed(VmId),
    /// This VM's definition is gone.
    Gone(VmId),
}

/// A libvirt/QEMU host.
pub trait Hypervisor:
    Branch
    + Images
    + Inside
    + Merge
    + Metadata
    + Opened
    + Power
    + Switch
    + Wake
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    /// Starts to connect, and to reconnect, with back-off, for ever. Returns at once; events go to the function
    /// from whatever thread has them, so it must not block.
    fn watch(&self, events: Box<dyn Fn(Event) + Send + Sync>);

    /// What the connection at hand can do, as it was told with [`Event::Connected`]. Asks nobody.
    fn features(&self) -> Result<Features>;

    /// All VMs, running or not.
    fn vms(&self) -> Result<Vec<VmId>>;

    /// One VM as it is now.
    fn vm(&self, vm: VmId) -> Result<Vm>;

    /// The same, and all its snapshots.
    fn vm_and_snapshots(&self, vm: VmId) -> Result<(Vm, Vec<SnapshotRecord>)> {
        Ok((self.vm(vm)?, self.snapshots(vm)?))
    }

    /// For each VM with snapshots a number that is another one when it has other snapshots, or another one is the
    /// current, as [`glimpse`] has it: what others do to them has no event. Costs two short questions for each, without any
    /// XML.
    fn glance(&self) -> Result<BTreeMap<VmId, u64>>;

    /// All its snapshots that libvirt has metadata of, in no order.
    fn snapshots(&self, vm: VmId) -> Result<Vec<SnapshotRecord>>;

    /// The room in the file system that holds this path.
    fn space(&self, path: &str) -> Result<Space>;

    /// Makes the overlays, empty, on their backing images, with the disks' sizes, and checks that they are so.
    fn prepare(&self, vm: VmId, overlays: &[Overlay]) -> Result<()>;

    /// Removes overlays that no VM's chain has. Those that are not there are passed over.
    fn discard(&self, vm: VmId, paths: &[String]) -> Result<()>;

    /// Takes the snapshot onto prepared overlays: one transaction over all of them.
    ///
    /// With the memory the guest goes on while that is written, and stands still at the end of it. A VM that cannot be
    /// migrated ([`ErrorKind::NotMigratable`]) has none kept, and its overlays are as they were prepared.
    fn create(&self, vm: VmId, spec: &CreateSpec) -> Result<()> {
        self.create_watched(vm, spec, &mut |_| {})
    }

    /// The same, and tells now and then how much of the memory is written, if it is kept and takes long enough.
    fn create_watched(&self, vm: VmId, spec: &CreateSpec, told: &mut dyn FnMut(Copied)) -> Result<()>;

    /// Deletes a snapshot and merges its data into its neighbour, after checking that the chain is what the
    /// metadata says.
    fn delete(&self, vm: VmId, name: &SnapshotName) -> Result<()>;

    /// The guest's mounted file systems.
    fn file_systems(&self, vm: VmId, timeout: Duration) -> Result<Vec<GuestFileSystem>>;

    /// What runs in the guest.
    fn guest_system(&self, vm: VmId, timeout: Duration) -> Result<GuestSystem>;

    /// Whether the guest's file systems are frozen.
    fn freeze_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus>;

    /// The same after a thaw, asked where thaws are: agents that hang are not in its way.
    fn thaw_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        self.freeze_status(vm, timeout)
    }

    /// Freezes these file systems (all if `None`) and says how many. An error does *not* mean that none is
    /// frozen: a command that timed out may still be carried out. [`ErrorKind::Refused`] does: the agent took the command,
    /// and does not do it, as while somebody's freeze lasts.
    fn freeze(&self, vm: VmId, mountpoints: Option<&[String]>, timeout: Duration) -> Result<u32>;

    /// Thaws all file systems and says how many were frozen. A success proves that no earlier freeze is still on
    /// its way: the agent takes its commands in order. [`ErrorKind::LetGo`]: there was nothing to thaw, as the guest
    /// itself had ended the freeze before.
    fn thaw(&self, vm: VmId, timeout: Duration) -> Result<u32>;
}
