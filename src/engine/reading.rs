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

/// The numbers of those who wait.
type Waiting = BTreeSet<u64>;

/// What is to be read, and who waits for it. What is asked for twice before it was begun is read once.
#[derive(Debug, Default)]
struct Wanted {
    list: bool,
    glance: bool,
    vms: BTreeMap<VmId, Waiting>,
    /// So many have waited.
    waited: u64,
    /// For these it is done.
    done: Waiting,
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
            loop {
                let Next { list, glance, vm } = thread.wait(next);
                // Before a listing, which reads each VM after it: what changes from here on is found by the next glance.
                if glance || list {
                    for vm in changed(hypervisor.as_ref(), &mut seen) {
                        want(&thread, vm);
                    }
                }
                if list {
                    match hypervisor.vms() {
                        Ok(vms) => answer(Event::Listed(vms)),
                        // The connection's own event follows, and after it the list is asked for again.
                        Err(e) => tracing::warn!(
                            MESSAGE_ID = message::UNREADABLE, error = %e,
                            "the VMs cannot be listed"
                        ),
                    }
                }
                if let Some((vm, waiting)) = vm {
                    // This thread must not end: jobs wait for it.
                    let read = catch_unwind(AssertUnwindSafe(|| read(hypervisor.as_ref(), &store, vm)));
                    answer(read.unwrap_or_else(|_| {
                        let why = "a bug in virtsnapd (a panic; the journal has it)".to_owned();
                        Event::VmUnreadable(vm, why)
                    }));
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
        let number = self.0.change(|w| {
            w.waited += 1;
            w.vms.entry(vm).or_default().insert(w.waited);
            w.waited
        });
        self.0.wait(|w| w.done.remove(&number).then_some(()));
    }
}

/// What is to be done next.
struct Next {
    list: bool,
    glance: bool,
    vm: Option<(VmId, Waiting)>,
}

fn want(wanted: &Shared<Wanted>, vm: VmId) {
    wanted.change(|w| {
        w.vms.entry(vm).or_default();
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

/// `None` if there is nothing to do.
fn next(wanted: &mut Wanted) -> Option<Next> {
    let some = wanted.list || wanted.glance || !wanted.vms.is_empty();
    some.then(|| Next {
        list: std::mem::take(&mut wanted.list),
        glance: std::mem::take(&mut wanted.glance),
        vm: wanted.vms.pop_first(),
    })
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
    use super::*;
    use crate::{
        core::model::SnapshotName,
        hypervisor::sim::{Sim, VmSpec},
    };

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
