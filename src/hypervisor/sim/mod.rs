//! A libvirt host in memory, true to what the real one was seen to do, with faults for what it cannot produce
//! on demand.
//!
//! It is deterministic: no clock (a test sets the time), no randomness, no waiting. A time-out is reported at
//! once; a call that is to take long stands at a [`Gate`] until the test opens it. `tests/contract.rs` holds
//! it to the behaviour of real guests.
//!
//! ```text
//!   Hypervisor's calls ─▶ log ─▶ connected? ─▶ fault? ─▶ busy? ─▶ gate ─▶ state ─▶ events
//!   the test's hand    ─────────────────────────────────────────────────▶ state ─▶ events
//! ```
//!
//! # Invariants
//!
//! * Events are handed out with no lock held, in the order in which things happened, before the call returns
//!   (unless another thread is handing out at that moment).
//! * As with libvirt, nothing tells of a creation, a freeze or a thaw. A merge sends `Changed` for each disk.
//! * A disk's content goes through its images only, so that a wrong merge shows as wrong data.
//!
//! It is connected from the start; whoever watches hears `Connected` first.

mod agent;
mod beside;
mod branch;
mod broken;
mod fault;
mod guest;
mod image;
mod images;
mod inside;
mod memory;
mod merge;
mod metadata;
mod op;
mod opened;
mod pull;
mod snapshot;
mod spec;
mod switch;
#[cfg(test)]
mod tests;
mod wake;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use self::{fault::Closed, guest::Machine, image::Store, snapshot::Saved};
pub use self::{
    fault::{Call, Fault, Gate, Mishap},
    image::{BLOCK, Blocks, EMPTY_IMAGE},
    op::{Asked, Op},
    spec::{DiskSpec, VmSpec},
};
use super::{
    Copied, CreateSpec, Error, ErrorKind, Event, Features, FreezeStatus, GuestFileSystem, GuestSystem,
    Hypervisor, Info, Overlay, Result, SnapshotRecord, Space, Vm,
};
use crate::core::model::{SnapshotName, VmId};

type Watcher = Arc<dyn Fn(Event) + Send + Sync>;
type Guard = dyn Fn(&Asked) -> Result<()> + Send + Sync;

/// The host. Its own methods are the test's hand; those of [`Hypervisor`] are what is tested against it.
pub struct Sim {
    state: Mutex<State>,
    /// Something happened that a held call or a test may wait for.
    moved: Condvar,
    guard: OnceLock<Box<Guard>>,
}

struct State {
    connected: bool,
    /// Counts the connections, so that a call held over a reconnection knows that its own is gone.
    era: u64,
    now: Timestamp,
    /// Beyond this many images in one chain, block jobs and starting fail.
    layer_limit: usize,
    vms: BTreeMap<VmId, Machine>,
    store: Store,
    /// Metadata that was handed out to be put back.
    copies: Vec<(SnapshotName, Saved)>,
    /// How many blocks merges have written to each image.
    copied: BTreeMap<String, u64>,
    faults: Vec<Fault>,
    gates: Vec<Closed>,
    calls: Vec<Call>,
    next_call: usize,
    next_id: u64,
    outbox: VecDeque<Event>,
    handing_out: bool,
    watchers: Vec<Watcher>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Sim");
        if let Ok(state) = self.state.try_lock() {
            out.field("connected", &state.connected).field("vms", &state.vms).field("store", &state.store);
        }
        out.finish_non_exhaustive()
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Sim {
    /// A host without VMs, with 1 TiB of room, at the start of 2026; connected.
    pub fn new() -> Self {
        let state = State {
            connected: true,
            era: 0,
            now: Timestamp::constant(1_767_225_600, 0),
            layer_limit: 25,
            vms: BTreeMap::new(),
            store: Store { files: BTreeMap::new(), capacity: 1 << 40, writes: 0 },
            copies: Vec::new(),
            copied: BTreeMap::new(),
            faults: Vec::new(),
            gates: Vec::new(),
            calls: Vec::new(),
            next_call: 0,
            next_id: 0,
            outbox: VecDeque::new(),
            handing_out: false,
            watchers: Vec::new(),
        };
        Self { state: Mutex::new(state), moved: Condvar::new(), guard: OnceLock::new() }
    }

    /// The connection comes (back): `Connected`, if there was none.
    pub fn connect(&self) {
        self.with(|s| {
            if !s.connected {
                s.connected = true;
                s.tell(Event::Connected(info()));
            }
        });
    }

    /// The connection goes: `Disconnected`, every call fails, and held ones end.
    pub fn disconnect(&self, reason: &str) {
        self.with(|s| s.lose(reason));
    }

    /// What libvirt's clock says, for the creation times that it records.
    pub fn set_time(&self, now: Timestamp) {
        self.lock().now = now;
    }

    /// How much the file system of all images holds, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().store.capacity = bytes;
    }

    /// How long a chain may get before libvirt cannot work with it: 25 images with Debian 13, 200 with Debian
    /// 12.
    pub fn set_layer_limit(&self, images: usize) {
        self.lock().layer_limit = images;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The test's hand: works whatever the connection does.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let out = act(&mut state);
        self.hand_out(state);
        out
    }

    fn hand_out<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        self.moved.notify_all();
        if state.handing_out {
            return;
        }
        state.handing_out = true;
        while let Some(event) = state.outbox.pop_front() {
            let watchers = state.watchers.clone();
            drop(state);
            for watcher in &watchers {
                watcher(event.clone());
            }
            state = self.lock();
        }
        state.handing_out = false;
    }

    /// A call that is all done after the gate.
    fn call<T>(&self, asked: Asked, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.call_in_two(asked, |_| Ok(()), |state, _| act(state))
    }

    /// A call of which something can be seen while it is held at a gate; `act` is told whether to stop
    /// half-way.
    fn call_in_two<T>(
        &self,
        asked: Asked,
        begin: impl FnOnce(&mut State) -> Result<()>,
        act: impl FnOnce(&mut State, bool) -> Result<T>,
    ) -> Result<T> {
        let mut entered = self.enter(asked, begin);
        let half = entered.half();
        let done = entered.let_in.and_then(|()| act(&mut entered.state, half));
        self.leave(entered.state, (entered.number, entered.mishap), done)
    }

    fn enter(&self, asked: Asked, begin: impl FnOnce(&mut State) -> Result<()>) -> Entered<'_> {
        let guarded = self.guarded(&asked);
        let Asked { op, vm, about, timeout } = asked;
        let mut state = self.lock();
        let number = state.began(op, vm, about, timeout);
        if guarded.is_err() {
            return Entered { state, number, mishap: None, let_in: guarded };
        }
        let mishap = if state.connected { state.mishap(op, vm) } else { None };
        let mut let_in = match &mishap {
            Some(Mishap::Refuse(e)) => Err(e.clone()),
            _ => state.admit(op, vm).and_then(|()| begin(&mut state)),
        };
        if let_in.is_ok() {
            (state, let_in) = self.hold(state, op, vm);
        }
        Entered { state, number, mishap, let_in }
    }

    fn leave<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        (number, mishap): (usize, Option<Mishap>),
        done: Result<T>,
    ) -> Result<T> {
        // Only a fault takes the connection with it: a call that was held over a reconnection has lost its
        // own.
        if let Some(Mishap::Refuse(e) | Mishap::Half(e) | Mishap::Lose(e)) = &mishap
            && e.kind == ErrorKind::Disconnected
        {
            state.lose(&e.message);
        }
        let answer = match mishap {
            Some(Mishap::Half(e) | Mishap::Lose(e)) => done.and(Err(e)),
            _ => done,
        };
        state.ended(number, answer.as_ref().map(|_| ()).map_err(|e| e.kind));
        self.hand_out(state);
        answer
    }
}

/// A call that was let in, or not.
struct Entered<'a> {
    state: MutexGuard<'a, State>,
    number: usize,
    mishap: Option<Mishap>,
    let_in: Result<()>,
}

impl Entered<'_> {
    fn half(&self) -> bool {
        matches!(self.mishap, Some(Mishap::Half(_)))
    }
}

impl State {
    fn machine(&mut self, vm: VmId) -> Result<&mut Machine> {
        self.vms.get_mut(&vm).ok_or_else(|| {
            Error::new(ErrorKind::NoSuchVm, format!("Domain not found: no domain with matching uuid '{vm}'"))
        })
    }

    fn tell(&mut self, event: Event) {
        // What happens while nobody is connected is never told; a list made after `Connected` shows it.
        if self.connected || matches!(event, Event::Disconnected(_)) {
            self.outbox.push_back(event);
        }
    }

    fn lose(&mut self, reason: &str) {
        if std::mem::take(&mut self.connected) {
            self.era += 1;
            self.tell(Event::Disconnected(reason.to_owned()));
        }
    }
}

fn info() -> Info {
    Info {
        uri: "sim:///system".to_owned(),
        version: "QEMU 10.0.2, libvirt 11.3.0".to_owned(),
        features: Features { revert_disks: true, ..Features::default() },
    }
}

impl Hypervisor for Sim {
    fn watch(&self, events: Box<dyn Fn(Event) + Send + Sync>) {
        self.with(|s| {
            s.watchers.push(Arc::from(events));
            s.tell(if s.connected {
                Event::Connected(info())
            } else {
                Event::Disconnected("cannot connect to libvirt".to_owned())
            });
        });
    }

    fn features(&self) -> Result<Features> {
        Ok(info().features)
    }

    fn vms(&self) -> Result<Vec<VmId>> {
        self.call(Asked::host(Op::Vms, ""), |s| Ok(s.vms.keys().copied().collect()))
    }

    fn vm(&self, vm: VmId) -> Result<Vm> {
        self.call(Asked::vm(Op::Vm, vm, ""), |s| s.describe(vm))
    }

    fn glance(&self) -> Result<BTreeMap<VmId, u64>> {
        self.call(Asked::host(Op::Glance, ""), |s| {
            let with_some = s.vms.iter().filter(|(_, m)| !m.snapshots.is_empty());
            Ok(with_some.map(|(id, machine)| (*id, machine.glance())).collect())
        })
    }

    fn snapshots(&self, vm: VmId) -> Result<Vec<SnapshotRecord>> {
        self.call(Asked::vm(Op::Snapshots, vm, ""), |s| s.records(vm))
    }

    fn space(&self, path: &str) -> Result<Space> {
        self.call(Asked::host(Op::Space, path), |s| {
            Ok(Space { capacity: s.store.capacity, available: s.store.available() })
        })
    }

    fn prepare(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        let paths: Vec<_> = overlays.iter().map(|o| o.path.as_str()).collect();
        let asked = Asked::vm(Op::Prepare, vm, paths.join(" "));
        self.call_in_two(asked, |_| Ok(()), |s, half| s.prepare(vm, overlays, half))
    }

    fn discard(&self, vm: VmId, paths: &[String]) -> Result<()> {
        self.call(Asked::vm(Op::Discard, vm, paths.join(" ")), |s| s.discard(vm, paths))
    }

    fn create_watched(&self, vm: VmId, spec: &CreateSpec, told: &mut dyn FnMut(Copied)) -> Result<()> {
        if spec.memory.is_some()
            && let Ok(machine) = self.lock().machine(vm)
        {
            let total = machine.memory << 20;
            told(Copied { done: total / 4, total });
        }
        let asked = Asked::vm(Op::Create, vm, spec.name.as_str());
        self.call_in_two(asked, |s| s.begin_create(vm, spec), |s, half| s.create(vm, spec, half))
    }

    fn delete(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        let asked = Asked::vm(Op::Delete, vm, name.as_str());
        self.call_in_two(asked, |s| s.begin_delete(vm, name), |s, half| s.delete(vm, name, half))
    }

    fn file_systems(&self, vm: VmId, timeout: Duration) -> Result<Vec<GuestFileSystem>> {
        self.call(Asked::agent(Op::FileSystems, vm, "", timeout), |s| s.file_systems(vm, timeout))
    }

    fn guest_system(&self, vm: VmId, timeout: Duration) -> Result<GuestSystem> {
        self.call(Asked::agent(Op::GuestSystem, vm, "", timeout), |s| s.guest_system(vm, timeout))
    }

    fn freeze_status(&self, vm: VmId, timeout: Duration) -> Result<FreezeStatus> {
        self.call(Asked::agent(Op::FreezeStatus, vm, "", timeout), |s| s.freeze_status(vm, timeout))
    }

    fn freeze(&self, vm: VmId, mountpoints: Option<&[String]>, timeout: Duration) -> Result<u32> {
        let about = mountpoints.unwrap_or_default().join(" ");
        self.call(Asked::agent(Op::Freeze, vm, about, timeout), |s| s.freeze(vm, mountpoints, timeout))
    }

    fn thaw(&self, vm: VmId, timeout: Duration) -> Result<u32> {
        self.call(Asked::agent(Op::Thaw, vm, "", timeout), |s| s.thaw(vm, timeout))
    }
}
