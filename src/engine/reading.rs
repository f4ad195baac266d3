//! The thread that lists and reads VMs, so that a slow libvirt delays news, never the engine.
//!
//! Where libvirt does not answer what it is asked of a VM, as where the VM's storage hangs, another thread takes over, and
//! that VM waits for the answer: jobs of other VMs end. What a thread that was left behind has to say of all VMs is old by
//! then, and is not said.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    core::{machine::Event, model::VmId},
    hypervisor::{ErrorKind, Hypervisor},
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
    /// Since when that one has been at something.
    since: Option<Duration>,
    /// So many of those before it have not come back.
    behind: u32,
    /// The VMs that are being read: by one thread alone, so that an older answer never comes after a newer one.
    reading: BTreeSet<VmId>,
}

impl Wanted {
    /// Somebody waits for it; the number of that.
    fn wait_for(&mut self, vm: VmId) -> u64 {
        self.waited += 1;
        self.vms.insert(vm);
        self.waiting.insert(self.waited, vm);
        self.waited
    }

    /// `None` if there is nothing to do.
    fn next(&mut self) -> Option<Next> {
        // A job that waits keeps its place among those that may be at work, however many are read for no job.
        let mut vms = self.waiting.values().chain(&self.vms);
        let vm = vms.find(|vm| !self.reading.contains(*vm)).copied();
        let some = self.list || self.glance || vm.is_some();
        some.then(|| Next {
            list: std::mem::take(&mut self.list),
            glance: std::mem::take(&mut self.glance),
            vm: vm.map(|vm| {
                self.vms.remove(&vm);
                self.reading.insert(vm);
                (vm, self.waiting.extract_if(.., |_, of| *of == vm).map(|(number, _)| number).collect())
            }),
        })
    }

    /// What this thread is to do now; no more, if it was left behind.
    fn turn(&mut self, thread: u32, now: Duration) -> Option<Turn> {
        if thread != self.thread {
            self.behind = self.behind.saturating_sub(1);
            return Some(Turn::Over);
        }
        self.since = None;
        let next = self.next()?;
        self.since = Some(now);
        Some(Turn::Next(next))
    }

    /// Leaves the thread behind that has been at something for too long: the number of the one that takes over.
    fn take_over(&mut self, now: Duration) -> Option<u32> {
        let since = self.since?;
        if now.saturating_sub(since) < PATIENCE || self.behind >= BEHIND {
            return None;
        }
        self.behind += 1;
        self.thread += 1;
        self.since = None;
        Some(self.thread)
    }

    /// There is no thread that could: another one is to, later.
    fn not_begun(&mut self, now: Duration) {
        self.behind = self.behind.saturating_sub(1);
        self.since = Some(now);
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
    /// What the last glance saw.
    seen: Mutex<BTreeMap<VmId, u64>>,
    answer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Reading {
    fn start(this: &Arc<Self>, thread: u32) -> io::Result<()> {
        let reading = Arc::clone(this);
        this.clock.start("inventory", Box::new(move || reading.work(thread)))
    }

    fn work(&self, thread: u32) {
        // A bug kept it from being listed.
        let mut unlisted = false;
        loop {
            let Next { list, glance, vm } = match self.wanted.wait(|w| w.turn(thread, self.clock.elapsed())) {
                Turn::Over => return,
                Turn::Next(next) => next,
            };
            let left_behind = || self.wanted.look(|w| w.thread != thread);
            // Before a listing, which reads each VM after it: what changes from here on is found by the next glance.
            if glance || list {
                survives(|| {
                    for vm in changed(self.hypervisor.as_ref(), &self.seen, left_behind) {
                        want(&self.wanted, vm);
                    }
                });
            }
            if list || unlisted && glance {
                unlisted = !survives(|| match self.hypervisor.vms() {
                    Ok(_) if left_behind() => {}
                    Ok(vms) => (self.answer)(Event::Listed(vms)),
                    // The connection's own event follows, and after it the list is asked for again.
                    Err(e) => tracing::warn!(
                        MESSAGE_ID = message::UNREADABLE, error = %e,
                        "the VMs cannot be listed"
                    ),
                });
            }
            if let Some((vm, waiting)) = vm {
                if !survives(|| (self.answer)(read(self.hypervisor.as_ref(), &self.store, vm))) {
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
        let Some(thread) = self.0.wanted.look(|w| w.take_over(now)) else { return };
        tracing::warn!(
            MESSAGE_ID = message::UNREADABLE,
            "libvirt has not answered for {} s what it was asked of a VM: others are read without waiting for that",
            PATIENCE.as_secs()
        );
        if let Err(e) = Reading::start(&self.0, thread) {
            tracing::error!(
                MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                "there is no thread to read VMs: what is seen of them stays as it is until libvirt answers"
            );
            self.0.wanted.change(|w| w.not_begun(now));
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
struct Next {
    list: bool,
    glance: bool,
    vm: Option<(VmId, BTreeSet<u64>)>,
}

fn want(wanted: &Shared<Wanted>, vm: VmId) {
    wanted.change(|w| {
        w.vms.insert(vm);
    });
}

/// The VMs whose snapshots are others than they were.
fn changed(
    hypervisor: &dyn Hypervisor,
    seen: &Mutex<BTreeMap<VmId, u64>>,
    left_behind: impl Fn() -> bool,
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

fn read(hypervisor: &dyn Hypervisor, store: &Store, vm: VmId) -> Event {
    match reader::read(hypervisor, store, vm) {
        Ok(record) => Event::VmRead(Box::new(record)),
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::*;
    use crate::{
        clock::SystemClock,
        core::model::SnapshotName,
        hypervisor::sim::{Op, Sim, VmSpec},
    };

    #[test]
    fn a_vm_that_somebody_waits_for_is_read_before_all_others() {
        let vm = |n| VmId(uuid::Uuid::from_u128(n));
        let mut wanted = Wanted { vms: (1..=5).map(vm).collect(), ..Wanted::default() };
        assert_eq!([wanted.wait_for(vm(4)), wanted.wait_for(vm(9)), wanted.wait_for(vm(4))], [1, 2, 3]);
        let order: Vec<_> = std::iter::from_fn(|| wanted.next()).filter_map(|next| next.vm).collect();
        let expected = [(4, vec![1, 3]), (9, vec![2]), (1, vec![]), (2, vec![]), (3, vec![]), (5, vec![])];
        assert_eq!(order, expected.map(|(n, numbers)| (vm(n), numbers.into_iter().collect())));
    }

    #[test]
    fn what_takes_long_is_left_behind_and_its_vm_waits_for_the_answer() {
        let [a, b] = [1, 2].map(|n| VmId(uuid::Uuid::from_u128(n)));
        let mut wanted = Wanted { vms: [a, b].into(), ..Wanted::default() };
        let at = Duration::from_secs;
        let vm = |turn| match turn {
            Some(Turn::Next(Next { vm: Some((vm, _)), .. })) => Some(vm),
            _ => None,
        };
        assert_eq!(wanted.take_over(at(1000)), None, "it is at nothing");
        assert_eq!(vm(wanted.turn(0, at(1000))), Some(a));
        wanted.vms.insert(a);
        assert_eq!(wanted.take_over(at(1059)), None);
        assert_eq!(wanted.take_over(at(1060)), Some(1));
        assert_eq!(vm(wanted.turn(1, at(1060))), Some(b));
        assert!(wanted.turn(1, at(1061)).is_none(), "a is asked for, and being read");
        assert_eq!(wanted.take_over(at(9999)), None, "it waits");
        wanted.reading = [a].into();
        for (thread, more) in [(1, Some(2)), (2, None)] {
            wanted.vms.insert(b);
            assert_eq!(vm(wanted.turn(thread, at(2000))), Some(b));
            assert_eq!(wanted.take_over(at(3000)), more, "there are no more than so many");
            wanted.reading.remove(&b);
        }
        // The first one comes back.
        wanted.reading.clear();
        assert!(matches!(wanted.turn(0, at(3001)), Some(Turn::Over)));
        assert_eq!(wanted.take_over(at(3001)), Some(3));
        assert_eq!(vm(wanted.turn(3, at(3001))), Some(a));
    }

    #[test]
    fn a_bug_in_the_look_at_all_vms_ends_neither_the_thread_nor_their_listing() {
        let sim = Arc::new(Sim::new());
        let web = sim.add_vm(VmSpec::new("web", 1));
        let bug = Arc::new(AtomicBool::new(true));
        let is_bug = Arc::clone(&bug);
        sim.before_each_call(move |asked| {
            assert!(!is_bug.load(Ordering::SeqCst) || ![Op::Glance, Op::Vms].contains(&asked.op), "a bug");
            Ok(())
        });
        let (send, events) = mpsc::channel();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let store = Arc::new(Store::in_memory().unwrap());
        let answer = move |event| send.send(event).unwrap();
        let reader = Reader::start(sim, store, &clock, answer).unwrap();
        let next = || events.recv_timeout(Duration::from_secs(60)).unwrap();
        reader.list();
        reader.read(web);
        assert!(matches!(next(), Event::VmRead(record) if record.id == web));
        bug.store(false, Ordering::SeqCst);
        reader.glance();
        assert!(matches!(next(), Event::Listed(vms) if vms == [web]), "it was asked for");
    }

    #[test]
    fn a_glance_finds_what_others_did_to_snapshots_and_nothing_else() {
        let sim = Sim::new();
        let ids: Vec<VmId> = (1..=3).map(|n| sim.add_vm(VmSpec::new(&format!("vm{n}"), n))).collect();
        let seen = Mutex::default();
        let now = || changed(&sim, &seen, || false);
        sim.make_foreign_snapshot(ids[0], "a").unwrap();
        assert_eq!(now(), [ids[0]].into());
        assert!(now().is_empty());

        sim.make_foreign_snapshot(ids[0], "b").unwrap();
        sim.make_internal_snapshot(ids[1], "c").unwrap();
        assert_eq!(now(), [ids[0], ids[1]].into());
        assert!(now().is_empty());

        sim.forget_current(ids[0]).unwrap();
        assert_eq!(now(), [ids[0]].into());
        sim.forget_snapshot(ids[1], &SnapshotName::existing("c")).unwrap();
        assert_eq!(now(), [ids[1]].into(), "it has none any more");

        sim.make_foreign_snapshot(ids[2], "d").unwrap();
        sim.disconnect("gone");
        assert!(now().is_empty());
        sim.connect();
        assert_eq!(now(), [ids[2]].into(), "what was missed is found later");
    }
}
