//! Snapshots: metadata, and the chains of images that it is about.
//!
//! ```text
//!   create S:   base ◀── S's overlay (active)          state image of S = base
//!   create T:   base ◀── S's overlay ◀── T's overlay   state image of T = S's overlay
//!   delete S:   base + S's overlay   ◀── T's overlay   state image of T = base, which holds what it was
//! ```

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{State, guest::Machine, image::Blocks};
use crate::{
    core::{
        chain,
        model::{Content, SnapshotName, Storage, VmId, VmState},
    },
    hypervisor::{CreateSpec, Error, ErrorKind, Event, Overlay, Result, SnapshotDisk, Taken, told},
};

/// A snapshot's metadata; of an internal one the data too.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) description: String,
    pub(super) created: Timestamp,
    pub(super) parent: Option<SnapshotName>,
    pub(super) content: Content,
    pub(super) storage: Storage,
    pub(super) disks: Vec<SnapshotDisk>,
    pub(super) revert_disks: Vec<(String, String)>,
    pub(super) sources: Vec<(String, String)>,
    pub(super) taken: Taken,
    /// What the definition had, in MiB.
    pub(super) memory: u64,
    /// The disks of which the next newer one is being deleted.
    pub(super) deleting: BTreeSet<String>,
    pub(super) inside: BTreeMap<String, Blocks>,
    pub(super) memory_file: Option<String>,
}

impl Machine {
    pub(super) fn children(&self, name: &SnapshotName) -> usize {
        self.snapshots.values().filter(|s| s.parent.as_ref() == Some(name)).count()
    }

    pub(super) fn saved(&self, name: &SnapshotName) -> Result<&Saved> {
        self.snapshots.get(name).ok_or_else(|| {
            let text = format!("Domain snapshot not found: no domain snapshot with matching name '{name}'");
            Error::new(ErrorKind::NoSuchSnapshot, text)
        })
    }

    /// From the current snapshot back to the first.
    fn line(&self) -> Result<Vec<(&SnapshotName, &Saved)>> {
        let mut line = Vec::new();
        let mut at = self.current.as_ref();
        if at.is_none() {
            return Err(mismatch("no snapshot is the current one"));
        }
        while let Some(name) = at {
            let saved =
                self.snapshots.get(name).ok_or_else(|| mismatch(&format!("there is no parent {name}")))?;
            line.push((name, saved));
            at = saved.parent.as_ref();
        }
        Ok(line)
    }

    fn check_deletion(&self, name: &SnapshotName) -> Result<()> {
        let saved = self.saved(name)?;
        if let Some(model) = &self.confined_by {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{model} denies writing to backing images"),
            ));
        }
        self.check_changeable()?;
        if saved.storage == Storage::Internal {
            return Ok(());
        }
        let unsupported = |why: &str| Err(Error::new(ErrorKind::Unsupported, why));
        if self.snapshots.values().any(|s| s.storage == Storage::Internal) {
            return unsupported("deletion of external snapshots beside internal ones is not supported");
        }
        match self.children(name) {
            0 => {}
            1 if self.current.as_ref() != Some(name) => {}
            1 => {
                return unsupported(
                    "deletion of active external snapshot that is not a leaf snapshot is not supported",
                );
            }
            _ => {
                return unsupported(
                    "deletion of external disk snapshots with multiple children is not supported",
                );
            }
        }
        if !self.line()?.iter().any(|(n, _)| *n == name) {
            return unsupported("deletion of a snapshot that is not in the active chain is not supported");
        }
        Ok(())
    }

    pub(super) fn check_changeable(&self) -> Result<()> {
        let refuse = |kind, why: &str| Err(Error::new(kind, why));
        if self.managed_save {
            return refuse(ErrorKind::Unsupported, "the domain has a managed save image");
        }
        match self.state {
            VmState::PmSuspended => {
                refuse(ErrorKind::Unsupported, "qemu doesn't support taking snapshots of PMSUSPENDED guests")
            }
            VmState::Other => refuse(ErrorKind::Busy, "the domain is changing its state"),
            _ if self.block_job || !self.merging.is_empty() => {
                refuse(ErrorKind::Busy, "disk 'vda' already in active block job")
            }
            _ => Ok(()),
        }
    }
}

impl State {
    pub(super) fn prepare(&mut self, vm: VmId, overlays: &[Overlay], half: bool) -> Result<()> {
        for overlay in overlays {
            self.check_overlay(vm, overlay)?;
        }
        let targets = overlays.iter().map(|o| o.target.as_str());
        self.describe(vm)?.check_fit(targets, self.layer_limit)?;
        let before = self.store.files.clone();
        for overlay in overlays {
            if let Err(e) = self.store.make(&overlay.path, &overlay.backing.path) {
                self.store.files = before;
                return Err(e.context(format_args!("overlay for disk {}", overlay.target)));
            }
            if half {
                break;
            }
        }
        Ok(())
    }

    /// An overlay on anything but the active layer would read wrong, and libvirt does not look.
    fn check_overlay(&mut self, vm: VmId, overlay: &Overlay) -> Result<()> {
        let drive = self.machine(vm)?.drive(&overlay.target)?;
        if !drive.writable {
            let text = format!("external snapshots of disk '{}' are not supported", overlay.target);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let active = drive.active.clone();
        if self.store.chain(&active).first() == Some(&overlay.backing) {
            return Ok(());
        }
        let (target, wrong) = (&overlay.target, &overlay.backing.path);
        Err(mismatch(&format!("disk {target} writes to {active}, and the overlay is to lie on {wrong}")))
    }

    pub(super) fn discard(&mut self, vm: VmId, paths: &[String]) -> Result<()> {
        self.machine(vm)?;
        if let Some((path, user)) = self.in_use(paths, vm)?.first() {
            return Err(Error::new(ErrorKind::Busy, format!("{path} is in use by {user}; it stays")));
        }
        for path in paths {
            self.store.files.remove(path);
        }
        Ok(())
    }

    pub(super) fn begin_create(&mut self, vm: VmId, spec: &CreateSpec) -> Result<()> {
        let saved = self.check_creation(vm, spec)?;
        self.machine(vm)?.making = Some((spec.name.clone(), saved));
        Ok(())
    }

    pub(super) fn create(&mut self, vm: VmId, spec: &CreateSpec, half: bool) -> Result<()> {
        self.machine(vm)?.making = None;
        // Once more: anything may have happened while it was held.
        let off = self.machine(vm)?.state == VmState::ShutOff;
        let saved = match &spec.memory {
            // As libvirt has it: it takes what the disks are by then, and says that it has the memory.
            Some(_) if off => {
                let disks = self.check_creation(vm, &CreateSpec { memory: None, ..spec.clone() })?;
                Saved { content: Content::Full, memory_file: spec.memory.clone(), ..disks }
            }
            _ => self.check_creation(vm, spec)?,
        };
        if let Some(path) = spec.memory.as_ref().filter(|_| !off) {
            self.keep_memory(vm, path)?;
        }
        for disk in &saved.disks {
            self.machine(vm)?.drive(&disk.target)?.active.clone_from(&disk.overlay);
        }
        if !half {
            let machine = self.machine(vm)?;
            machine.snapshots.insert(spec.name.clone(), saved);
            machine.set_current(&spec.name);
        }
        Ok(())
    }

    fn check_creation(&mut self, vm: VmId, spec: &CreateSpec) -> Result<Saved> {
        let machine = self.machine(vm)?;
        if machine.snapshots.contains_key(&spec.name) {
            let text = format!("operation failed: domain snapshot {} already exists", spec.name);
            return Err(Error::new(ErrorKind::Exists, text));
        }
        if !machine.persistent {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a transient domain forgets its snapshots when it stops",
            ));
        }
        machine.check_changeable()?;
        let targets: BTreeSet<_> = spec.overlays.iter().map(|o| &o.target).collect();
        if targets.is_empty() || targets.len() != spec.overlays.len() {
            return Err(Error::new(
                ErrorKind::Failed,
                "a snapshot takes at least one disk, and each disk once",
            ));
        }
        for overlay in &spec.overlays {
            self.check_overlay(vm, overlay)?;
            if !self.store.files.contains_key(&overlay.path) {
                let text =
                    format!("Cannot access storage file '{}': No such file or directory", overlay.path);
                return Err(Error::new(ErrorKind::Failed, text));
            }
        }
        let disk = |o: &Overlay| SnapshotDisk {
            target: o.target.clone(),
            overlay: o.path.clone(),
            state_image: o.backing.path.clone(),
            format: o.backing.format.clone(),
        };
        let disks = spec.overlays.iter().map(disk).collect();
        spec.memory.as_ref().map_or(Ok(()), |path| self.check_memory(vm, path))?;
        let content = if spec.memory.is_some() { Content::Full } else { Content::Disk };
        let saved = self.new_snapshot(vm, &spec.description, Storage::External, content, disks)?;
        Ok(Saved { memory_file: spec.memory.clone(), ..saved })
    }

    pub(super) fn new_snapshot(
        &mut self,
        vm: VmId,
        description: &str,
        storage: Storage,
        content: Content,
        disks: Vec<SnapshotDisk>,
    ) -> Result<Saved> {
        // libvirt knows whole seconds only.
        let created = Timestamp::from_second(self.now.as_second()).unwrap_or(self.now);
        let machine = self.machine(vm)?;
        let taken = match (content, machine.state) {
            (_, VmState::ShutOff) => Taken::Off,
            (Content::Disk, _) => Taken::DiskOnly,
            (Content::Full, VmState::Paused) => Taken::Paused,
            (Content::Full, _) => Taken::Running,
        };
        Ok(Saved {
            description: description.to_owned(),
            created,
            parent: machine.current.clone(),
            content,
            storage,
            disks,
            revert_disks: Vec::new(),
            sources: machine.drives.iter().map(|d| (d.target.clone(), d.active.clone())).collect(),
            taken,
            memory: machine.memory,
            deleting: BTreeSet::new(),
            inside: BTreeMap::new(),
            memory_file: None,
        })
    }

    pub(super) fn begin_delete(&mut self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.check_deletion(vm, name)?;
        self.machine(vm)?.mark_older(name, |_| true);
        Ok(())
    }

    pub(super) fn delete(&mut self, vm: VmId, name: &SnapshotName, half: bool) -> Result<()> {
        // Whatever is wrong by now leaves nothing but the mark behind.
        self.check_deletion(vm, name)?;
        let saved = self.machine(vm)?.saved(name)?.clone();
        for (i, disk) in saved.disks.iter().enumerate() {
            let blocks = self.store.files.get(&disk.overlay).map_or(0, |f| f.blocks.len());
            let stops = half && i + 1 == saved.disks.len();
            self.store.copy_down(
                &disk.overlay,
                &disk.state_image,
                if stops { blocks / 2 } else { blocks },
            )?;
        }
        // No disk leaves its overlay before the data of all are down.
        if half {
            return Ok(());
        }
        for disk in &saved.disks {
            self.rewire(vm, &disk.overlay, &disk.state_image)?;
            self.tell(Event::Changed(vm));
        }
        let machine = self.machine(vm)?;
        machine.mark_older(name, |_| false);
        for other in machine.snapshots.values_mut() {
            for merged in &saved.disks {
                other.replace_image(merged);
            }
        }
        machine.forget(name);
        self.name_what_it_runs_on(vm)
    }

    /// Takes an image out of a disk's chain whose data the one under it holds by now.
    pub(super) fn rewire(&mut self, vm: VmId, gone: &str, into: &str) -> Result<()> {
        self.store.drop_merged(gone, into);
        for drive in &mut self.machine(vm)?.drives {
            if drive.active == gone {
                into.clone_into(&mut drive.active);
            }
        }
        Ok(())
    }

    fn check_deletion(&mut self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.machine(vm)?;
        let machine = &self.vms[&vm];
        machine.check_deletion(name)?;
        let saved = machine.saved(name)?;
        if saved.storage == Storage::Internal {
            return machine.check_inside(saved);
        }
        self.check_chain(machine, name)?;
        if saved.disks.iter().any(|d| self.shared(machine, d)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "another branch lies on the image that would be merged into",
            ));
        }
        let images: Vec<String> =
            saved.disks.iter().flat_map(|d| [&d.state_image, &d.overlay]).cloned().collect();
        if let Some((image, user)) = self.users(&images, vm)?.first() {
            let text = format!("{image} is also under {user}: a merge would destroy what that has");
            return Err(Error::new(ErrorKind::InUse, text));
        }
        // With too long a chain block jobs fail as starting does.
        machine.drives.iter().try_for_each(|d| self.store.check_openable(&d.active, self.layer_limit))
    }

    /// The images of each disk must be what the metadata says, from the top down to the first snapshot.
    /// A mark is of no harm to the deletion that put it there: the same one once more is the way on.
    fn check_chain(&self, machine: &Machine, name: &SnapshotName) -> Result<()> {
        let own = machine.marked_by(name);
        let theirs = |(n, s): &(&SnapshotName, &Saved)| {
            s.deleting.iter().any(|target| !own.contains(&((*n).clone(), target.clone())))
        };
        if let Some((name, _)) = machine.snapshots.iter().find(theirs) {
            return Err(mismatch(&format!("an earlier deletion at {name} did not end")));
        }
        let records = machine.records(&self.store);
        for drive in &machine.drives {
            let layers = self.store.chain(&drive.active);
            let chain: Vec<&str> = layers.iter().map(|l| l.path.as_str()).collect();
            chain::links(&drive.target, &chain, &told(&records, &drive.target)?)
                .map_err(|m| mismatch(&m.to_string()))?;
        }
        Ok(())
    }

    /// Whether anything of this VM lies on a state image beside its overlay. The tree of snapshots need not show
    /// it: where they have different disks, a revert of some leaves the others on what another branch stands on.
    fn shared(&self, machine: &Machine, disk: &SnapshotDisk) -> bool {
        let others = machine.snapshots.values().flat_map(|s| &s.disks).map(|d| &d.state_image);
        others.chain(machine.drives.iter().map(|d| &d.active)).any(|top| {
            let chain = self.store.chain(top);
            chain.windows(2).any(|pair| pair[1].path == disk.state_image && pair[0].path != disk.overlay)
        })
    }

    pub(super) fn check_bootable(&mut self, vm: VmId) -> Result<()> {
        self.machine(vm)?;
        let drives = &self.vms[&vm].drives;
        drives.iter().try_for_each(|d| self.store.check_openable(&d.active, self.layer_limit))
    }
}

pub(super) fn mismatch(what: &str) -> Error {
    Error::new(ErrorKind::ChainMismatch, what)
}
