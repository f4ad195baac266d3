//! The thread that lists and reads VMs, so that a slow libvirt delays news, never the engine.
//!
//! Where libvirt does not answer what it is asked of a VM, as where the VM's storage hangs, another thread takes over, and
//! that VM waits for the answer: jobs of other VMs end. What a thread that was left behind has to say of all VMs is old by
//! then, and is not said.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    core::{
        inventory::VmRecord,
        machine::Event,
        model::{SnapshotName, VmId},
    },
    hypervisor::{ErrorKind, Hypervisor, glimpse},
    logging::message,
    reader::{self, ReadError},
    store::Store,
    threads::Shared,
};

/// What takes longer is left behind.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many threads are left behind at most: libvirt answers five questions of one connection at a time.
const BEHIND: u32 = 2;

/// What is to be read, and who waits for it. What is asked for twice before it was begun is read once.
#[derive(Debug, Default)]
struct Wanted {
    list: bool,
    glance: bool,
    vms: BTreeSet<VmId>,
    /// Who waits for which of these, by number.
    waiting: BTreeMap<u64, VmId>,
    /// So many have waited.
    waited: u64,
    /// For these it is done.
    done: BTreeSet<u64>,
    /// The thread that is to do it: all before it were left behind.
    thread: u32,
    /// Since when that one has been at something, and at which VM, if not at all.
    at: Option<(Duration, Option<VmId>)>,
    /// So many of those before it have not come back.
    behind: u32,
    /// The VMs that are being read: by one thread alone, so that an older answer never comes after a newer one.
    reading: BTreeSet<VmId>,
    /// The thread that looks at all VMs. Where one of them keeps libvirt from answering, another one would but hang, too.
    looking: Option<u32>,
    /// A bug kept them from being listed.
    unlisted: bool,
}

impl Wanted {
    /// Somebody waits for it; the number of that.
    fn wait_for(&mut self, vm: VmId) -> u64 {
        self.waited += 1;
        self.vms.insert(vm);
        self.waiting.insert(self.waited, vm);
        self.waited
    }

    /// One thing: what is asked after a call that hangs is not asked at all. `None` if there is nothing to do.
    fn next(&mut self) -> Option<Next> {
        let free = |vm: &&VmId| !self.reading.contains(*vm);
        // A job that waits keeps its place among those that may be at work, however many are read for no job.
        let awaited = self.waiting.values().find(free).copied();
        if awaited.is_none() && self.looking.is_none() && (self.list || self.glance) {
            self.looking = Some(self.thread);
            let list = std::mem::take(&mut self.list) | std::mem::take(&mut self.unlisted);
            self.glance = false;
            return Some(Next::All { list });
        }
        let vm = awaited.or_else(|| self.vms.iter().find(free).copied())?;
        self.vms.remove(&vm);
        self.reading.insert(vm);
        let waiting = self.waiting.extract_if(.., |_, of| *of == vm).map(|(number, _)| number).collect();
        Some(Next::One(vm, waiting))
    }

    /// What this thread is to do now; no more, if it was left behind.
    fn turn(&mut self, thread: u32, now: Duration) -> Option<Turn> {
        if thread != self.thread {
            self.behind = self.behind.saturating_sub(1);
            return Some(Turn::Over);
        }
        self.at = None;
        let next = self.next()?;
        self.at = Some((now, next.vm()));
        Some(Turn::Next(next))
    }

    /// Leaves the thread behind that has been at something for too long: the number of the one that takes over, and the
    /// VM that it is about.
    fn take_over(&mut self, now: Duration) -> Option<(u32, Option<VmId>)> {
        let (since, vm) = self.at?;
        if now.saturating_sub(since) < PATIENCE || self.behind >= BEHIND {
            return None;
        }
        self.behind += 1;
        self.thread += 1;
        self.at = None;
        Some((self.thread, vm))
    }

    /// There is no thread that could: the one that was left goes on if it comes back, and else another one is to, later.
    fn not_begun(&mut self, now: Duration, vm: Option<VmId>) {
        self.behind = self.behind.saturating_sub(1);
        self.thread = self.thread.saturating_sub(1);
        self.at = Some((now, vm));
    }
}

enum Turn {
    Next(Next),
    Over,
}

/// What each of the threads has.
struct Reading {
    wanted: Arc<Shared<Wanted>>,
    hypervisor: Arc<dyn Hypervisor>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    /// What was seen of each VM's snapshots last, at a glance or as it was read.
    seen: Mutex<BTreeMap<VmId, u64>>,
    answer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Reading {
    fn start(this: &Arc<Self>, thread: u32) -> io::Result<()> {
        let reading = Arc::clone(this);
        this.clock.start("inventory", Box::new(move || reading.work(thread)))
    }

    fn work(&self, thread: u32) {
        loop {
            match self.wanted.wait(|w| w.turn(thread, self.clock.elapsed())) {
                Turn::Over => return,
                Turn::Next(Next::All { list }) => {
                    let left_behind = || self.wanted.look(|w| w.thread != thread);
                    let listed = self.look_at_all(list, left_behind);
                    self.wanted.change(|w| {
                        w.looking = None;
                        w.unlisted |= listed == Listed::Bug;
                        w.list |= listed == Listed::Late;
                    });
                }
                Turn::Next(Next::One(vm, waiting)) => {
                    if !survives(|| (self.answer)(self.read(vm))) {
                        let why = "a bug in virtsnapd (a panic; the journal has it)".to_owned();
                        survives(|| (self.answer)(Event::VmUnreadable(vm, why)));
                    }
                    self.wanted.change(|w| {
                        w.reading.remove(&vm);
                        w.done.extend(waiting);
                    });
                }
            }
        }
    }

    fn read(&self, vm: VmId) -> Event {
        match reader::read(self.hypervisor.as_ref(), &self.store, vm) {
            Ok(record) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                match glimpse_of(&record) {
                    Some(number) => seen.insert(vm, number),
                    None => seen.remove(&vm),
                };
                Event::VmRead(Box::new(record))
            }
            Err(ReadError::Hypervisor(e)) if e.kind == ErrorKind::NoSuchVm => Event::VmGone(vm),
            Err(e) => {
                tracing::warn!(
                    MESSAGE_ID = message::UNREADABLE, VIRTSNAP_VM_UUID = %vm, error = %e,
                    "the VM cannot be read"
                );
                Event::VmUnreadable(vm, e.to_string())
            }
        }
    }

    fn look_at_all(&self, list: bool, left_behind: impl Fn() -> bool) -> Listed {
        // A listing reads each VM anyway, and learns by that what the next glance is to be compared with.
        if !list {
            survives(|| {
                for vm in changed(self.hypervisor.as_ref(), &self.seen, &left_behind) {
                    want(&self.wanted, vm);
                }
            });
        }
        let mut late = false;
        let is_done = !list
            || survives(|| match self.hypervisor.vms() {
                // Others have been made and read since.
                Ok(_) if left_behind() => late = true,
                Ok(vms) => (self.answer)(Event::Listed(vms)),
                // The connection's own event follows, and after it the list is asked for again.
                Err(e) => tracing::warn!(
                    MESSAGE_ID = message::UNREADABLE, error = %e,
                    "the VMs cannot be listed"
                ),
            });
        match (is_done, late) {
            (false, _) => Listed::Bug,
            (true, true) => Listed::Late,
            (true, false) => Listed::Done,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Listed {
    Done,
    /// To be done again: it says how it was long ago.
    Late,
    /// To be done again with the next glance.
    Bug,
}

/// The way to the threads.
#[derive(Clone)]
pub(super) struct Reader(Arc<Reading>);

impl Reader {
    pub(super) fn start(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<Store>,
        clock: &Arc<dyn Clock>,
        answer: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let wanted = Arc::new(Shared::new(Wanted::default(), clock));
        let (clock, answer) = (Arc::clone(clock), Box::new(answer));
        let reading = Arc::new(Reading { wanted, hypervisor, store, clock, seen: Mutex::default(), answer });
        Reading::start(&reading, 0)?;
        Ok(Self(reading))
    }

    /// Whether all goes on: where it does not, another thread takes over.
    pub(super) fn attend(&self) {
        let now = self.0.clock.elapsed();
        let Some((thread, vm)) = self.0.wanted.look(|w| w.take_over(now)) else { return };
        let what = vm.map_or_else(|| "of all VMs".to_owned(), |vm| format!("of VM {vm}"));
        tracing::warn!(
            MESSAGE_ID = message::UNREADABLE,
            VIRTSNAP_VM_UUID = vm.map(tracing::field::display),
            "libvirt has not answered for {} s what it is asked {what}: VMs are read without waiting for that",
            PATIENCE.as_secs()
        );
        if let Some(vm) = vm {
            let why = format!("libvirt has not answered for {} s what it is asked of it", PATIENCE.as_secs());
            (self.0.answer)(Event::VmUnreadable(vm, why));
        }
        if let Err(e) = Reading::start(&self.0, thread) {
            tracing::error!(
                MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                "there is no thread to read VMs: what is seen of them stays as it is until libvirt answers"
            );
            self.0.wanted.change(|w| w.not_begun(now, vm));
        }
    }

    pub(super) fn list(&self) {
        self.0.wanted.change(|w| w.list = true);
    }

    /// Reads the VMs whose snapshots are others than at the last glance.
    pub(super) fn glance(&self) {
        self.0.wanted.change(|w| w.glance = true);
    }

    pub(super) fn read(&self, vm: VmId) {
        want(&self.0.wanted, vm);
    }

    /// Blocks until the VM was read, from its beginning, after now, and the answer is on its way: what this caller says
    /// next, it says after it.
    pub(super) fn read_and_wait(&self, vm: VmId) {
        let number = self.0.wanted.change(|w| w.wait_for(vm));
        self.0.wanted.wait(|w| w.done.remove(&number).then_some(()));
    }
}

/// What is to be done next.
enum Next {
    /// All VMs are looked at, and listed perhaps.
    All { list: bool },
    /// A VM is read, for which these wait.
    One(VmId, BTreeSet<u64>),
}

impl Next {
    const fn vm(&self) -> Option<VmId> {
        match self {
            Self::All { .. } => None,
            Self::One(vm, _) => Some(*vm),
        }
    }
}

fn want(wanted: &Shared<Wanted>, vm: VmId) {
    wanted.change(|w| {
        w.vms.insert(vm);
    });
}

/// What a glance would tell of it as it was read; `None` of one without snapshots.
fn glimpse_of(record: &VmRecord) -> Option<u64> {
    let current = record.snapshots.values().find(|s| s.snapshot.current).map(|s| s.snapshot.name.as_str());
    let names = record.snapshots.keys().map(SnapshotName::as_str);
    (!record.snapshots.is_empty()).then(|| glimpse(names, current))
}

/// The VMs whose snapshots are others than they were.
fn changed(
    hypervisor: &dyn Hypervisor,
    seen: &Mutex<BTreeMap<VmId, u64>>,
    left_behind: &impl Fn() -> bool,
) -> BTreeSet<VmId> {
    match hypervisor.glance() {
        Ok(_) if left_behind() => BTreeSet::new(),
        Ok(now) => {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *seen, now);
            let new = seen.iter().filter(|(vm, number)| before.get(vm) != Some(number)).map(|(vm, _)| *vm);
            let gone = before.keys().filter(|vm| !seen.contains_key(vm)).copied();
            new.chain(gone).collect()
        }
        Err(e) => {
            tracing::debug!(error = %e, "the VMs cannot be glanced at");
            BTreeSet::new()
        }
    }
}

/// False if it panicked. The thread must not end: jobs wait for it, and nothing would be news any more.
fn survives(work: impl FnOnce()) -> bool {
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        tracing::error!(
            MESSAGE_ID = message::INTERNAL_ERROR,
            "a bug ended a look at the VMs early; they are looked at again"
        );
    }
    done.is_ok()
}
