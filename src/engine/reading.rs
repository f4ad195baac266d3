//! The thread that lists and reads VMs, so that a slow libvirt delays news, never the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
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
        let some = self.list || self.glance || !self.vms.is_empty();
        some.then(|| {
            // A job that waits keeps its place among those that may be at work, however many are read for no job.
            let vm = self.waiting.values().next().copied().or_else(|| self.vms.first().copied());
            Next {
                list: std::mem::take(&mut self.list),
                glance: std::mem::take(&mut self.glance),
                vm: vm.map(|vm| {
                    self.vms.remove(&vm);
                    (vm, self.waiting.extract_if(.., |_, of| *of == vm).map(|(number, _)| number).collect())
                }),
            }
        })
    }
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(super) struct Reader(Arc<Shared<Wanted>>);

impl Reader {
    pub(super) fn start(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<Store>,
        clock: &Arc<dyn Clock>,
        answer: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(Wanted::default(), clock));
        let thread = Arc::clone(&shared);
        let work = move || {
            let mut seen = BTreeMap::new();
            // A bug kept it from being listed.
            let mut unlisted = false;
            loop {
                let Next { list, glance, vm } = thread.wait(Wanted::next);
                // Before a listing, which reads each VM after it: what changes from here on is found by the next glance.
                if glance || list {
                    survives(|| {
                        for vm in changed(hypervisor.as_ref(), &mut seen) {
                            want(&thread, vm);
                        }
                    });
                }
                if list || unlisted && glance {
                    unlisted = !survives(|| match hypervisor.vms() {
                        Ok(vms) => answer(Event::Listed(vms)),
                        // The connection's own event follows, and after it the list is asked for again.
                        Err(e) => tracing::warn!(
                            MESSAGE_ID = message::UNREADABLE, error = %e,
                            "the VMs cannot be listed"
                        ),
                    });
                }
                if let Some((vm, waiting)) = vm {
                    if !survives(|| answer(read(hypervisor.as_ref(), &store, vm))) {
                        let why = "a bug in virtsnapd (a panic; the journal has it)".to_owned();
                        survives(|| answer(Event::VmUnreadable(vm, why)));
                    }
                    if !waiting.is_empty() {
                        thread.change(|w| w.done.extend(waiting));
                    }
                }
            }
        };
        clock.start("inventory", Box::new(work))?;
        Ok(Self(shared))
    }

    pub(super) fn list(&self) {
        self.0.change(|w| w.list = true);
    }

    /// Reads the VMs whose snapshots are others than at the last glance.
    pub(super) fn glance(&self) {
        self.0.change(|w| w.glance = true);
    }

    pub(super) fn read(&self, vm: VmId) {
        want(&self.0, vm);
    }

    /// Blocks until the VM was read, from its beginning, after now, and the answer is on its way: what this caller says
    /// next, it says after it. By one thread alone, so that an older answer never comes after a newer one.
    pub(super) fn read_and_wait(&self, vm: VmId) {
        let number = self.0.change(|w| w.wait_for(vm));
        self.0.wait(|w| w.done.remove(&number).then_some(()));
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
fn changed(hypervisor: &dyn Hypervisor, seen: &mut BTreeMap<VmId, u64>) -> BTreeSet<VmId> {
    match hypervisor.glance() {
        Ok(now) => {
            let before = std::mem::replace(seen, now);
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
        let mut seen = BTreeMap::new();
        sim.make_foreign_snapshot(ids[0], "a").unwrap();
        assert_eq!(changed(&sim, &mut seen), [ids[0]].into());
        assert!(changed(&sim, &mut seen).is_empty());

        sim.make_foreign_snapshot(ids[0], "b").unwrap();
        sim.make_internal_snapshot(ids[1], "c").unwrap();
        assert_eq!(changed(&sim, &mut seen), [ids[0], ids[1]].into());
        assert!(changed(&sim, &mut seen).is_empty());

        sim.forget_current(ids[0]).unwrap();
        assert_eq!(changed(&sim, &mut seen), [ids[0]].into());
        sim.forget_snapshot(ids[1], &SnapshotName::existing("c")).unwrap();
        assert_eq!(changed(&sim, &mut seen), [ids[1]].into(), "it has none any more");

        sim.make_foreign_snapshot(ids[2], "d").unwrap();
        sim.disconnect("gone");
        assert!(changed(&sim, &mut seen).is_empty());
        sim.connect();
        assert_eq!(changed(&sim, &mut seen), [ids[2]].into(), "what was missed is found later");
    }
}
