//! A hypervisor that does something else before each call: that has a bug, or is slow.

mod branch;
mod images;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use virtsnap::{
    core::{
        model::{SnapshotName, VmId, VmState},
        qcow2::Inner,
    },
    hypervisor::{
        BlockJob, Commit, Committed, Copied, CreateSpec, Definition, Event, Features, FreezeStatus,
        GuestFileSystem, GuestSystem, Hypervisor, Inside, Layer, Merge, Metadata, NewRecord, Opened,
        OpenedDisk, Overlay, Power, Redefine, Result, Slept, SnapshotRecord, SnapshotXml, Space, Steer,
        Switch, Vm, WaitingJob, Wake,
        sim::{Op, Sim},
    },
};

/// The simulator, and what comes before each of its calls.
pub struct Hooked {
    sim: Arc<Sim>,
    before: Box<dyn Fn(Op) + Send + Sync>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").field("sim", &self.sim).finish_non_exhaustive()
    }
}

impl Hooked {
    /// This is done before each call.
    pub fn new(sim: &Arc<Sim>, before: impl Fn(Op) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { sim: Arc::clone(sim), before: Box::new(before) })
    }

    /// The next call of this operation panics.
    pub fn panics_once(sim: &Arc<Sim>, op: Op) -> Arc<Self> {
        let armed = AtomicBool::new(true);
        let before = move |at| {
            assert!(at != op || !armed.swap(false, Ordering::SeqCst), "a bug in {op:?}, as arranged");
        };
        Arc::new(Self { sim: Arc::clone(sim), before: Box::new(before) })
    }

    /// Whatever the daemon asks in order to know, not in order to do a job, takes so long.
    pub fn tells_late(sim: &Arc<Sim>, late: Duration) -> Arc<Self> {
        let before = move |_| {
            if std::thread::current().name() == Some("inventory") {
                std::thread::park_timeout(late);
            }
        };
        Arc::new(Self { sim: Arc::clone(sim), before: Box::new(before) })
    }

    fn at(&self, op: Op) -> &Sim {
        (self.before)(op);
        &self.sim
    }
}

impl Wake for Hooked {
    fn wake(&self, vm: VmId) -> Result<()> {
        self.at(Op::Wake).wake(vm)
    }

    fn wake_on(&self, vm: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()> {
        self.at(Op::Wake).wake_on(vm, chains)
    }

    fn let_sleep(&self, vm: VmId) -> Result<Slept> {
        self.at(Op::LetSleep).let_sleep(vm)
    }

    fn life(&self, vm: VmId) -> Result<Option<u64>> {
        self.at(Op::Life).life(vm)
    }
}

impl Inside for Hooked {
    fn take_inside(&self, vm: VmId, name: &SnapshotName, description: &str) -> Result<()> {
        self.at(Op::TakeInside).take_inside(vm, name, description)
    }

    fn revert_inside(&self, vm: VmId, name: &SnapshotName, then: Option<VmState>) -> Result<()> {
        self.at(Op::RevertInside).revert_inside(vm, name, then)
    }

    fn snapshots_inside(&self, image: &str) -> Result<Vec<Inner>> {
        self.at(Op::SnapshotsInside).snapshots_inside(image)
    }
}

impl Merge for Hooked {
    fn commit(&self, vm: VmId, commit: &Commit, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        self.at(Op::Commit).commit(vm, commit, steer)
    }

    fn pull(&self, vm: VmId, target: &str, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        self.at(Op::Pull).pull(vm, target, steer)
    }

    fn block_jobs(&self, vm: VmId) -> Result<Vec<BlockJob>> {
        self.at(Op::BlockJobs).block_jobs(vm)
    }

    fn waiting_jobs(&self, vm: VmId) -> Result<Option<Vec<WaitingJob>>> {
        self.at(Op::WaitingJobs).waiting_jobs(vm)
    }

    fn end_block_job(&self, vm: VmId, target: &str) -> Result<()> {
        self.at(Op::EndBlockJob).end_block_job(vm, target)
    }
}

impl Hypervisor for Hooked {
    fn watch(&self, events: Box<dyn Fn(Event) + Send + Sync>) {
        self.sim.watch(events);
    }

    fn features(&self) -> Result<Features> {
        self.sim.features()
    }

    fn vms(&self) -> Result<Vec<VmId>> {
        self.at(Op::Vms).vms()
    }

    fn vm(&self, vm: VmId) -> Result<Vm> {
        self.at(Op::Vm).vm(vm)
    }

    fn glance(&self) -> Result<BTreeMap<VmId, u64>> {
        self.at(Op::Glance).glance()
    }

    fn snapshots(&self, vm: VmId) -> Result<Vec<SnapshotRecord>> {
        self.at(Op::Snapshots).snapshots(vm)
    }

    fn space(&self, path: &str) -> Result<Space> {
        self.at(Op::Space).space(path)
    }

    fn prepare(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        self.at(Op::Prepare).prepare(vm, overlays)
    }

    fn discard(&self, vm: VmId, paths: &[String]) -> Result<()> {
        self.at(Op::Discard).discard(vm, paths)
    }

    fn create_watched(&self, vm: VmId, spec: &CreateSpec, told: &mut dyn FnMut(Copied)) -> Result<()> {
        self.at(Op::Create).create_watched(vm, spec, told)
    }

    fn delete(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.at(Op::Delete).delete(vm, name)
    }

    fn file_systems(&self, vm: VmId, timeout: Duration) -> Result<Vec<GuestFileSystem>> {
        self.at(Op::FileSystems).file_systems(vm, timeout)
    }

    fn guest_system(&self, vm: VmId, timeout: Duration) -> Result<GuestSystem> {
        self.at(Op::GuestSystem).guest_system(vm, timeout)
    }

    fn freeze_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        self.at(Op::FreezeStatus).freeze_status(vm, timeout)
    }

    fn freeze(&self, vm: VmId, mountpoints: Option<&[String]>, timeout: Duration) -> Result<u32> {
        self.at(Op::Freeze).freeze(vm, mountpoints, timeout)
    }

    fn thaw(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        self.at(Op::Thaw).thaw(vm, timeout)
    }
}

impl Metadata for Hooked {
    fn name_layer(&self, vm: VmId, new: &NewRecord) -> Result<()> {
        self.at(Op::NameLayer).name_layer(vm, new)
    }

    fn redefine(&self, vm: VmId, change: &Redefine) -> Result<()> {
        self.at(Op::Redefine).redefine(vm, change)
    }

    fn forget(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.at(Op::Forget).forget(vm, name)
    }

    fn copy(&self, vm: VmId, name: &SnapshotName) -> Result<SnapshotXml> {
        self.at(Op::Copy).copy(vm, name)
    }

    fn copy_under(
        &self,
        vm: VmId,
        name: &SnapshotName,
        parent: Option<&SnapshotName>,
    ) -> Result<SnapshotXml> {
        self.at(Op::Copy).copy_under(vm, name, parent)
    }

    fn put_back(&self, vm: VmId, copy: &SnapshotXml, current: bool) -> Result<()> {
        self.at(Op::PutBack).put_back(vm, copy, current)
    }
}

impl Switch for Hooked {
    fn definition(&self, vm: VmId) -> Result<Definition> {
        self.at(Op::Definition).definition(vm)
    }

    fn definition_at(&self, vm: VmId, snapshot: &SnapshotName) -> Result<Definition> {
        self.at(Op::Definition).definition_at(vm, snapshot)
    }

    fn prepare_on(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        self.at(Op::PrepareOn).prepare_on(vm, overlays)
    }

    fn define(&self, vm: VmId, definition: &Definition, sources: &[(String, Layer)]) -> Result<()> {
        self.at(Op::Define).define(vm, definition, sources)
    }
}

impl Opened for Hooked {
    fn opened(&self, vm: VmId) -> Result<Option<Vec<OpenedDisk>>> {
        self.at(Op::Opened).opened(vm)
    }

    fn name_for_next_start(&self, vm: VmId, sources: &[(String, Layer)]) -> Result<()> {
        self.at(Op::NameForNextStart).name_for_next_start(vm, sources)
    }
}

impl Power for Hooked {
    fn stop(&self, vm: VmId) -> Result<()> {
        Power::stop(self.at(Op::Stop), vm)
    }

    fn start(&self, vm: VmId, paused: bool) -> Result<()> {
        Power::start(self.at(Op::Start), vm, paused)
    }

    fn suspend(&self, vm: VmId) -> Result<bool> {
        self.at(Op::Suspend).suspend(vm)
    }

    fn go_on(&self, vm: VmId) -> Result<()> {
        self.at(Op::GoOn).go_on(vm)
    }

    fn resumable(&self, vm: VmId, memory: &str) -> Result<()> {
        self.at(Op::Resumable).resumable(vm, memory)
    }

    fn resume(&self, vm: VmId, memory: &str, sources: &[(String, Layer)], paused: bool) -> Result<()> {
        Power::resume(self.at(Op::Resume), vm, memory, sources, paused)
    }
}
