//! The real hypervisor: libvirt's QEMU driver, versions 9.0 to 11.
//!
//! ```text
//!   watch ──▶ connection.rs   one thread: open four connections, register events, wait for the close, back off
//!                 │  Arc<Connections>{control, work, guard, thaw}
//!                 ▼
//!   vm, snapshots ─▶ inspect.rs   what there is          (control)
//!   prepare, discard ─▶ storage.rs   volumes and pools   (work)
//!   chain, users … ─▶ images.rs   all images of the host (work)
//!   load, save ─▶ files.rs        small files            (work)
//!   create, delete ─▶ change.rs   with its guards        (work)
//!   redefine, forget ─▶ redefine.rs   metadata alone     (work)
//!   define, stop … ─▶ switch.rs   other images, power    (work)
//!   resume ─▶ resume.rs           on from kept memory    (work)
//!   commit, block_jobs ─▶ blockjob.rs   merges           (work, control)
//!   pull ─▶ pull.rs            a disk made to stand alone   (work)
//!   wake, let_sleep ─▶ wake.rs   a stopped VM's QEMU     (work)
//!   draw, define_new … ─▶ branch.rs   a VM beside it     (work)
//!   freeze, thaw … ─▶ agent.rs    the guest agent        (guard, thaw)
//! ```
//!
//! Four connections, because libvirtd answers five requests at once on each: agents that do not answer or long merges
//! must not keep a thaw from getting through.
//!
//! # Which deletion is used when
//!
//! External snapshots are merged by our own recipe ([`merging`](crate::merging): `commit` for each disk, `redefine`,
//! `forget`, `discard`). libvirt's own deletion (`virDomainSnapshotDelete`) has no progress, no limit and no end on
//! request, and copies cumulatively; with AppArmor it crashed the QEMU of a running VM with two disks; 9.0 cannot do it
//! for any but the newest of a stopped VM, and looks for the wrong images off the live chain; 11.3 unlinks a live layer
//! where "current" is wrong; what it leaves half done marks the *older* snapshot.
//!
//! `delete` is that one. It is the better way where there is no chain: an internal snapshot goes inside its image, which
//! libvirt alone can do. And it is the only way to end what it began itself, for it alone takes its mark off again. It
//! stands behind guards for what is known to lose data with it: it refuses on hosts whose AppArmor profiles would deny
//! the merge, on a tree that is not one chain, and where metadata and chain disagree.

mod agent;
mod blockjob;
mod branch;
mod change;
mod connection;
mod definition;
mod edit;
mod errors;
mod features;
mod files;
mod images;
mod inside;
mod inspect;
mod layers;
mod nodes;
mod opened;
mod pull;
mod redefine;
mod redraw;
mod resume;
mod same;
mod saving;
mod storage;
mod strays;
mod switch;
#[cfg(test)]
mod tests;
mod waiting;
mod wake;
mod xml;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use virt::domain::Domain;

use self::connection::{Connections, Signal, Slot, Use};
use super::{
    BlockJob, Branch, Commit, Committed, Copied, CreateSpec, Definition, Drawn, Error, ErrorKind, Event,
    Features, FreezeStatus, GuestFileSystem, GuestSystem, Hypervisor, Layer, Merge, Metadata, NewRecord,
    NewVm, Opened, OpenedDisk, Overlay, Power, Redefine, Result, Slept, SnapshotRecord, SnapshotXml, Space,
    Steer, Switch, Vm, WaitingJob, Wake,
};
use crate::core::model::{SnapshotName, VmId};

/// So long a command waits for libvirt.
const FIRST_CONNECTION: Duration = Duration::from_secs(20);

/// The connection to one libvirt host, kept up for as long as this lives.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    use_for: Use,
    slot: Arc<Slot>,
    /// To the threads that keep up the connection.
    keepers: Mutex<Vec<mpsc::Sender<Signal>>>,
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        for keeper in self.keepers.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = keeper.send(Signal::End);
        }
    }
}

impl Libvirt {
    /// Not connected yet: [`Hypervisor::watch`] does that.
    pub fn new(uri: impl Into<String>) -> Self {
        Self::of(uri.into(), Use::All)
    }

    /// Not connected yet either, and for nothing but to thaw guests: one connection, which is there sooner.
    pub fn for_thaws(uri: impl Into<String>) -> Self {
        Self::of(uri.into(), Use::Thaws)
    }

    fn of(uri: String, use_for: Use) -> Self {
        Self { uri, use_for, slot: Arc::default(), keepers: Mutex::default() }
    }

    /// Starts to connect and waits until it stands, but not for long: for a command, which has nothing else to do.
    pub fn connect(&self) -> Result<()> {
        let (send, events) = mpsc::channel();
        self.watch(Box::new(move |event| {
            let _ = send.send(event);
        }));
        let mut why = format!("no answer from {} within {} s", self.uri, FIRST_CONNECTION.as_secs());
        loop {
            match events.recv_timeout(FIRST_CONNECTION) {
                Ok(Event::Connected(_)) => return Ok(()),
                Ok(Event::Disconnected(reason)) => why = reason,
                Ok(_) => {}
                Err(_) => return Err(Error::new(ErrorKind::Disconnected, why)),
            }
        }
    }

    fn now(&self) -> Result<Arc<Connections>> {
        self.slot.get().ok_or_else(|| {
            Error::new(ErrorKind::Disconnected, format!("not connected to libvirt at {}", self.uri))
        })
    }
}

impl Wake for Libvirt {
    fn wake(&self, vm: VmId) -> Result<()> {
        wake::wake(&*self.now()?, vm)
    }

    fn wake_on(&self, vm: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()> {
        wake::wake_on(&*self.now()?, vm, chains)
    }

    fn let_sleep(&self, vm: VmId) -> Result<Slept> {
        wake::let_sleep(&*self.now()?, vm)
    }

    fn life(&self, vm: VmId) -> Result<Option<u64>> {
        Ok(domain(&self.now()?.work, vm)?.id().map(u64::from))
    }
}

impl Merge for Libvirt {
    fn commit(&self, vm: VmId, commit: &Commit, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        blockjob::commit(&*self.now()?, vm, commit, steer)
    }

    fn pull(&self, vm: VmId, target: &str, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        pull::pull(&*self.now()?, vm, target, steer)
    }

    fn block_jobs(&self, vm: VmId) -> Result<Vec<BlockJob>> {
        blockjob::jobs(&*self.now()?, vm)
    }

    fn waiting_jobs(&self, vm: VmId) -> Result<Option<Vec<WaitingJob>>> {
        waiting::jobs(&*self.now()?, vm)
    }

    fn end_block_job(&self, vm: VmId, target: &str) -> Result<()> {
        blockjob::end(&*self.now()?, vm, target)
    }
}

impl Hypervisor for Libvirt {
    fn watch(&self, events: Box<dyn Fn(Event) + Send + Sync>) {
        let keeper =
            connection::keep_up(self.uri.clone(), self.use_for, Arc::clone(&self.slot), Arc::from(events));
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
    }

    fn features(&self) -> Result<Features> {
        Ok(self.now()?.features)
    }

    fn vms(&self) -> Result<Vec<VmId>> {
        inspect::vms(&*self.now()?)
    }

    fn vm(&self, vm: VmId) -> Result<Vm> {
        inspect::vm(&*self.now()?, vm)
    }

    fn vm_and_snapshots(&self, vm: VmId) -> Result<(Vm, Vec<SnapshotRecord>)> {
        inspect::vm_and_snapshots(&*self.now()?, vm)
    }

    fn glance(&self) -> Result<BTreeMap<VmId, u64>> {
        inspect::glance(&*self.now()?)
    }

    fn snapshots(&self, vm: VmId) -> Result<Vec<SnapshotRecord>> {
        inspect::snapshots(&*self.now()?, vm)
    }

    fn space(&self, path: &str) -> Result<Space> {
        storage::space(&self.now()?.work, path)
    }

    fn prepare(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        let connections = self.now()?;
        let limit = connections.features.layer_limit as usize;
        inspect::vm(&connections, vm)?.check_fit(overlays.iter().map(|o| o.target.as_str()), limit)?;
        storage::prepare(&connections.work, &domain(&connections.work, vm)?, overlays)
    }

    fn discard(&self, vm: VmId, paths: &[String]) -> Result<()> {
        storage::discard(&*self.now()?, vm, paths)
    }

    fn create_watched(&self, vm: VmId, spec: &CreateSpec, told: &mut dyn FnMut(Copied)) -> Result<()> {
        change::create(&*self.now()?, vm, spec, told)
    }

    fn delete(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        change::delete(&*self.now()?, vm, name)
    }

    fn file_systems(&self, vm: VmId, timeout: Duration) -> Result<Vec<GuestFileSystem>> {
        agent::file_systems(&self.now()?.guard, vm, timeout)
    }

    fn guest_system(&self, vm: VmId, timeout: Duration) -> Result<GuestSystem> {
        agent::guest_system(&self.now()?.guard, vm, timeout)
    }

    fn freeze_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        agent::freeze_status(&self.now()?.guard, vm, timeout)
    }

    fn thaw_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        agent::freeze_status(&self.now()?.thaw, vm, timeout)
    }

    fn freeze(&self, vm: VmId, mountpoints: Option<&[String]>, timeout: Duration) -> Result<u32> {
        agent::freeze(&self.now()?.guard, vm, mountpoints, timeout)
    }

    fn thaw(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        agent::thaw(&self.now()?.thaw, vm, timeout)
    }
}

impl Metadata for Libvirt {
    fn name_layer(&self, vm: VmId, new: &NewRecord) -> Result<()> {
        layers::name(&*self.now()?, vm, new)
    }

    fn redefine(&self, vm: VmId, change: &Redefine) -> Result<()> {
        redefine::redefine(&*self.now()?, vm, change)
    }

    fn forget(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        redefine::forget(&*self.now()?, vm, name)
    }

    fn copy(&self, vm: VmId, name: &SnapshotName) -> Result<SnapshotXml> {
        redefine::copy(&*self.now()?, vm, name)
    }

    fn copy_under(
        &self,
        vm: VmId,
        name: &SnapshotName,
        parent: Option<&SnapshotName>,
    ) -> Result<SnapshotXml> {
        let copy = redefine::copy(&*self.now()?, vm, name)?;
        edit::under(copy.as_str(), parent).map(SnapshotXml::new)
    }

    fn put_back(&self, vm: VmId, copy: &SnapshotXml, current: bool) -> Result<()> {
        redefine::put_back(&*self.now()?, vm, copy, current)
    }
}

impl Switch for Libvirt {
    fn definition(&self, vm: VmId) -> Result<Definition> {
        switch::definition(&*self.now()?, vm)
    }

    fn definition_at(&self, vm: VmId, snapshot: &SnapshotName) -> Result<Definition> {
        switch::definition_at(&*self.now()?, vm, snapshot)
    }

    fn prepare_on(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        switch::prepare_on(&*self.now()?, vm, overlays)
    }

    fn define(&self, vm: VmId, definition: &Definition, sources: &[(String, Layer)]) -> Result<()> {
        switch::define(&*self.now()?, vm, definition, sources)
    }
}

impl Opened for Libvirt {
    fn opened(&self, vm: VmId) -> Result<Option<Vec<OpenedDisk>>> {
        opened::opened(&*self.now()?, vm)
    }

    fn name_for_next_start(&self, vm: VmId, sources: &[(String, Layer)]) -> Result<()> {
        opened::name_for_next_start(&*self.now()?, vm, sources)
    }
}

impl Power for Libvirt {
    fn stop(&self, vm: VmId) -> Result<()> {
        switch::stop(&*self.now()?, vm)
    }

    fn start(&self, vm: VmId, paused: bool) -> Result<()> {
        switch::start(&*self.now()?, vm, paused)
    }

    fn suspend(&self, vm: VmId) -> Result<bool> {
        switch::suspend(&*self.now()?, vm)
    }

    fn go_on(&self, vm: VmId) -> Result<()> {
        switch::go_on(&*self.now()?, vm)
    }

    fn resumable(&self, vm: VmId, memory: &str) -> Result<()> {
        resume::resumable(&*self.now()?, vm, memory)
    }

    fn resume(&self, vm: VmId, memory: &str, sources: &[(String, Layer)], paused: bool) -> Result<()> {
        resume::resume(&*self.now()?, vm, memory, sources, paused)
    }
}

impl Branch for Libvirt {
    fn named(&self, name: &str) -> Result<Option<VmId>> {
        branch::named(&*self.now()?, name)
    }

    fn draw(&self, vm: VmId, snapshot: &SnapshotName, new: &NewVm) -> Result<Drawn> {
        branch::draw(&*self.now()?, vm, snapshot, new)
    }

    fn define_new(&self, vm: VmId, definition: &Definition) -> Result<()> {
        branch::define_new(&*self.now()?, vm, definition)
    }

    fn undefine_new(&self, vm: VmId) -> Result<()> {
        branch::undefine_new(&*self.now()?, vm)
    }
}

fn domain(connection: &virt::connect::Connect, vm: VmId) -> Result<Domain> {
    Ok(connection.lookup_domain_by_uuid(vm.0)?)
}
