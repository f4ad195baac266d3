//! The thread that lists and reads VMs, so that a slow libvirt delays news, never the engine.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
};

use crate::{
    core::{machine::Event, model::VmId},
    hypervisor::{ErrorKind, Hypervisor},
    reader::{self, ReadError},
    store::Store,
};

type Waiting = Vec<mpsc::Sender<()>>;

/// What is to be read, and who waits for it. What is asked for twice before it was begun is read once.
#[derive(Debug, Default)]
struct Wanted {
    list: bool,
    vms: BTreeMap<VmId, Waiting>,
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(super) struct Reader(Arc<(Mutex<Wanted>, Condvar)>);

impl Reader {
    pub(super) fn start(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<Store>,
        answer: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Wanted::default()), Condvar::new()));
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("inventory".into()).spawn(move || {
            loop {
                let (list, vm) = next(&thread);
                if list {
                    match hypervisor.vms() {
                        Ok(vms) => answer(Event::Listed(vms)),
                        // The connection's own event follows, and after it the list is asked for again.
                        Err(e) => tracing::warn!(error = %e, "the VMs cannot be listed"),
                    }
                }
                if let Some((vm, waiting)) = vm {
                    // This thread must not end: jobs wait for it.
                    let read = catch_unwind(AssertUnwindSafe(|| read(hypervisor.as_ref(), &store, vm)));
                    answer(read.unwrap_or_else(|_| {
                        let why = "a bug in virtsnapd (a panic; the journal has it)".to_owned();
                        Event::VmUnreadable(vm, why)
                    }));
                    for waits in waiting {
                        let _ = waits.send(());
                    }
                }
            }
        })?;
        Ok(Self(shared))
    }

    pub(super) fn list(&self) {
        self.want(|w| w.list = true);
    }

    pub(super) fn read(&self, vm: VmId) {
        self.want(|w| {
            w.vms.entry(vm).or_default();
        });
    }

    /// Blocks until the VM was read, from its beginning, after now, and the answer is on its way: what this caller says
    /// next, it says after it. By one thread alone, so that an older answer never comes after a newer one.
    pub(super) fn read_and_wait(&self, vm: VmId) {
        let (sender, receiver) = mpsc::channel();
        self.want(|w| w.vms.entry(vm).or_default().push(sender));
        // An error means that the thread is gone, and then there is nothing to wait for.
        let _ = receiver.recv();
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        let (wanted, news) = &*self.0;
        change(&mut wanted.lock().unwrap_or_else(PoisonError::into_inner));
        news.notify_one();
    }
}

fn next(shared: &(Mutex<Wanted>, Condvar)) -> (bool, Option<(VmId, Waiting)>) {
    let (wanted, news) = shared;
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if wanted.list || !wanted.vms.is_empty() {
            return (std::mem::take(&mut wanted.list), wanted.vms.pop_first());
        }
        wanted = news.wait(wanted).unwrap_or_else(PoisonError::into_inner);
    }
}

fn read(hypervisor: &dyn Hypervisor, store: &Store, vm: VmId) -> Event {
    match reader::read(hypervisor, store, vm) {
        Ok(record) => Event::VmRead(Box::new(record)),
        Err(ReadError::Hypervisor(e)) if e.kind == ErrorKind::NoSuchVm => Event::VmGone(vm),
        Err(e) => {
            tracing::warn!(VIRTSNAP_VM_UUID = %vm, error = %e, "the VM cannot be read");
            Event::VmUnreadable(vm, e.to_string())
        }
    }
}
