//! What a merge that goes on leaves behind for whoever comes next, and what it tells and asks meanwhile.

use crate::{
    access,
    core::{
        job::Far,
        merge::{DiskPart, Recipe},
        model::{SnapshotName, VmId, VmState},
    },
    hypervisor::{Copied, Error, ErrorKind, Hypervisor, Result, SnapshotXml, Steer, Vm},
    logging::message,
    merging::{self, Watcher},
    rooms::Reserved,
    store::{Begun, Intent, StoreError},
    worker::{Work, redefine},
};

/// Writes down what has to outlive us, and tells the job's progress.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Watching<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) vm: &'a Vm,
    pub(super) intent: &'a Intent,
    pub(super) disks: usize,
    pub(super) phase: String,
    /// How far it was told to be last.
    pub(super) told: f64,
    pub(super) share: (f64, f64),
    pub(super) recipe: &'a Recipe,
    pub(super) room: &'a Reserved,
    /// Something was allowed to be copied.
    pub(super) going: bool,
    /// The metadata is right again.
    pub(super) known: bool,
    /// The VM was woken, and which life of it that is must be written down.
    pub(super) woken: bool,
    /// It is written down that a disk is about to leave the image that it is written to.
    pub(super) pivoting: bool,
    /// The VM's QEMU is on something else than libvirt says.
    pub(super) adrift: bool,
}

impl Watching<'_> {
    /// A refusal; whether anything was done by then.
    fn so_far(&self, e: Error) -> Error {
        if self.going { e } else { Error::new(e.kind, format!("{e}. Nothing was touched")) }
    }

    /// All of it is copied: what comes next has to be known to whoever finds it cut short.
    fn pivots(&mut self, disk: usize) {
        if self.vm.state == VmState::ShutOff {
            // No guest writes to what was woken for us: to merge it once more is harmless.
            return;
        }
        let Some(part) = self.recipe.disks.get(disk).filter(|p| p.above.is_none() && !self.pivoting) else {
            return;
        };
        match self.work.tools.store.reached(self.intent.id, &Intent::pivoting(&part.target)) {
            Ok(()) => self.pivoting = true,
            Err(e) => {
                tracing::error!(
                    MESSAGE_ID = message::STORE_FAILED,
                    VIRTSNAP_VM = %self.vm.name, VIRTSNAP_VM_UUID = %self.vm.id, error = %e,
                    "cannot store how far a merge is"
                );
            }
        }
    }
}

fn written(stored: std::result::Result<(), StoreError>) -> Result<()> {
    stored.map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
}

impl Watcher for Watching<'_> {
    fn phase(&mut self, phase: &str) {
        phase.clone_into(&mut self.phase);
        self.work.phase(phase, Some(self.told), Some(&self.intent.name));
    }

    #[expect(clippy::cast_precision_loss, reason = "a progress bar's precision")]
    fn steer(&mut self, disk: usize, copied: Copied) -> Steer {
        if self.work.stopped() {
            return Steer::Stop;
        }
        let of_disk = if copied.total == 0 { 0.0 } else { copied.done as f64 / copied.total as f64 };
        let (from, to) = self.share;
        let now = from + (to - from) * (disk as f64 + of_disk) / self.disks.max(1) as f64;
        // Not each look is news.
        if now - self.told >= 0.01 || self.work.is_news(copied) {
            self.told = now;
            self.work.copies(&self.phase, Far { share: Some(now), copied }, Some(&self.intent.name));
        }
        self.going = true;
        if copied.total > 0 && copied.done == copied.total {
            self.pivots(disk);
        }
        Steer::On { limit: self.work.pace().bandwidth }
    }

    fn allow(&mut self, vm: &Vm) -> Result<()> {
        if std::mem::take(&mut self.woken)
            && let Some(life) = self.work.tools.hypervisor.life(vm.id)?
        {
            written(self.work.tools.store.woken(vm.id, life))?;
        }
        if vm.confined_by.is_none() {
            return Ok(());
        }
        let say = |phase: &str| self.work.phase(phase, Some(self.told), Some(&self.intent.name));
        say("letting it write its images");
        // libvirt's work on a merge that ended goes on for a moment, and the profile is the last of it; to be asked for
        // block jobs it has to be done.
        merging::jobs(self.work.tools.hypervisor.as_ref(), vm.id)?;
        let granted = self.work.tools.access.grant(vm.id)?;
        // All disks at once: found at the second one, the first one's merge could not be taken back.
        access::check(&granted, &merging::written(vm, self.recipe)).map_err(|e| self.so_far(e))?;
        say(&self.phase);
        Ok(())
    }

    fn awake(&mut self, awake: bool) -> Result<()> {
        let store = &self.work.tools.store;
        let (vm, now) = (self.vm.id, self.work.tools.clock.now());
        self.woken = awake;
        written(if awake { store.wakes(vm, now) } else { store.sleeps(vm) })
    }

    fn adrift(&mut self) -> Result<()> {
        self.adrift = true;
        written(self.work.tools.store.reached(self.intent.id, Intent::ADRIFT))
    }

    fn merged(&mut self, part: &DiskPart) -> Result<()> {
        self.pivoting = false;
        (self.work.wire.merged)(self.room.written(&part.base));
        written(self.work.tools.store.reached(self.intent.id, &part.target))
    }

    fn keep(&mut self, name: &SnapshotName, xml: &SnapshotXml) -> Result<()> {
        let now = self.work.tools.clock.now();
        written(self.work.tools.store.keep_copy(self.vm.id, name, xml.as_str(), now))
    }

    fn changed(&mut self, name: &SnapshotName) -> Result<()> {
        written(self.work.tools.store.drop_copy(self.vm.id, name))
    }

    fn kept(&mut self, name: &SnapshotName) -> Result<Option<SnapshotXml>> {
        let copy = self.work.tools.store.copy(self.vm.id, name);
        copy.map(|xml| xml.map(SnapshotXml::new)).map_err(|e| Error::new(ErrorKind::Failed, e.to_string()))
    }

    fn forget(&mut self, _: &dyn Hypervisor, vm: VmId, name: &SnapshotName) -> Result<()> {
        redefine::forget(self.work.tools, vm, name)
    }

    /// From here on nothing can be merged a second time: what is left is to remove files.
    fn known(&mut self) -> Result<()> {
        let next = Intent {
            overlays: self.recipe.removed(),
            ..Intent::new(self.intent.id, self.intent.vm, self.intent.name.clone(), Begun::Drop)
        };
        let ended = self.recipe.run.iter().filter_map(|d| d.id).chain([self.intent.id]);
        written(self.work.tools.store.becomes(ended, &next, self.work.tools.clock.now()))?;
        self.known = true;
        Ok(())
    }
}
