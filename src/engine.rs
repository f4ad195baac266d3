//! The one owner task: everything that changes, changes here.
//!
//! It takes inputs in, hands each to the pure [`Machine`], carries the effects out, and publishes the view. It
//! never waits for the hypervisor, and for the disk only to note that a policy fired: that is done on threads, which send their answers as inputs. It pings
//! systemd's watchdog itself, so that an engine that is stuck is one that gets restarted.

mod handle;
mod held;
mod looking;
mod metrics;
mod reading;
mod recovering;
mod recovery;
mod reload;
mod remembering;
mod steps;
mod storing;
mod telling;
mod working;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::SignedDuration;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::handle::{Answer, Ask, Control, Handle, Published};
use self::{
    held::Held,
    metrics::Metrics,
    reading::Reader,
    recovery::line::Line,
    reload::{Broken, Reloads, Waiting},
    remembering::not_stored,
    steps::Ticks,
    telling::{log, status_line},
};
use crate::{
    access::Access,
    clock::{Clock, WakeUp},
    config::{self, ConfigRoots},
    core::{
        job::{JobId, Outcome},
        machine::{Effect, Entry, Event, Machine, Request, RequestId},
        model::VmId,
    },
    freeze::{Freezer, News, helper::Helper},
    hypervisor::{self, Hypervisor},
    logging::message,
    store::Store,
    systemd,
    worker::{CutShort, Tools},
};

/// So many requests of clients wait at most; who comes later waits at the door, on its own connection.
const REQUESTS: usize = 256;

/// What comes in from threads and signals.
enum Input {
    Hypervisor(hypervisor::Event),
    /// All was settled on the connection of this number, but what is about these VMs, as somebody had them.
    Recovered(u64, hypervisor::Info, BTreeSet<VmId>),
    Machine(Event),
    Loaded(Result<Box<config::Loaded>, Broken>, Waiting),
    Ended(JobId, Outcome),
    Stop,
    Reload,
}

/// What the engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The store.
    pub store: Arc<Store>,
    /// The way to the right to merge a confined VM's images.
    pub access: Arc<dyn Access>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who thaws a guest if this process cannot.
    pub helper: Arc<dyn Helper>,
    /// The machine, which knows its settings.
    pub machine: Machine,
    /// Where the configuration is read again from.
    pub roots: ConfigRoots,
    /// A file that stands for "the daemon ran since the host booted".
    pub boot_file: Option<PathBuf>,
}

/// The engine, before it runs.
pub struct Engine {
    machine: Machine,
    tools: Tools,
    roots: ConfigRoots,
    boot_file: Option<PathBuf>,
    reader: Reader,
    wake: Box<dyn WakeUp>,
    ticks: Ticks,
    send: mpsc::UnboundedSender<Input>,
    inputs: mpsc::UnboundedReceiver<Input>,
    requests: mpsc::Receiver<Ask>,
    publish: watch::Sender<Published>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    last_request: RequestId,
    reloads: Reloads,
    cancels: BTreeMap<JobId, Arc<AtomicBool>>,
    status: String,
    metrics: Metrics,
    /// What the machine wants written down and the store has not taken.
    unstored: Vec<Entry>,
    /// Files that nobody has are to be looked for.
    look_due: bool,
    /// That is being done.
    looking: Arc<AtomicBool>,
    /// Counts connections and their ends.
    connection: u64,
    /// There was no thread to settle on this one what was begun.
    unrecovered: Option<hypervisor::Info>,
    held: Held,
    /// How VMs are gone through.
    line: Line,
    /// VMs of which not all was settled, and whose jobs do not count as ended before that.
    skipped: BTreeSet<VmId>,
    /// What could not be settled is being tried again.
    recovering: Arc<AtomicBool>,
    /// Nothing can be written down, which was told.
    store_fails: bool,
    stopped: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Engine {
    /// Puts it together; nothing happens before [`Engine::run`].
    pub fn new(parts: Parts) -> io::Result<(Self, Handle, Control)> {
        let (send, inputs) = mpsc::unbounded_channel();
        let (request_sender, requests) = mpsc::channel(REQUESTS);
        let first = Published { generation: 0, view: Arc::new(parts.machine.view().clone()) };
        let metrics = Metrics::new(parts.machine.settings(), &first.view, &parts.clock);
        let (publish, published) = watch::channel(first);
        let report = send.clone();
        let freezer = Freezer::new(
            Arc::clone(&parts.hypervisor),
            Arc::clone(&parts.store),
            Arc::clone(&parts.clock),
            parts.helper,
            Box::new(move |vm: VmId, news| {
                let _ = report.send(Input::Machine(match news {
                    News::Frozen => Event::Frozen(vm, true),
                    News::Thawed => Event::Frozen(vm, false),
                    News::Held(time) => Event::Held(vm, time.try_into().unwrap_or(SignedDuration::MAX)),
                }));
            }),
        );
        let answers = send.clone();
        let (hypervisor, store) = (Arc::clone(&parts.hypervisor), Arc::clone(&parts.store));
        let reader = Reader::start(hypervisor, store, &parts.clock, move |event| {
            let _ = answers.send(Input::Machine(event));
        })?;
        let woken = send.clone();
        let wake = parts.clock.wake_up(Box::new(move || {
            let _ = woken.send(Input::Machine(Event::Timer));
        }))?;
        let counted = send.clone();
        let cut_short = CutShort::told_to(move |operation| {
            let _ = counted.send(Input::Machine(Event::Interrupted(operation)));
        });
        let (held, line) = (Held::new(&parts.clock), Line::new(&parts.clock));
        let engine = Self {
            machine: parts.machine,
            tools: Tools {
                hypervisor: parts.hypervisor,
                store: parts.store,
                access: parts.access,
                clock: parts.clock,
                freezer,
                rooms: Arc::default(),
                cut_short,
            },
            roots: parts.roots,
            boot_file: parts.boot_file,
            reader,
            wake,
            ticks: Ticks::new(),
            inputs,
            requests,
            publish,
            waiting: BTreeMap::new(),
            last_request: 0,
            reloads: Reloads::default(),
            cancels: BTreeMap::new(),
            status: String::new(),
            unstored: Vec::new(),
            metrics,
            look_due: false,
            looking: Arc::default(),
            connection: 0,
            unrecovered: None,
            held,
            line,
            skipped: BTreeSet::new(),
            recovering: Arc::default(),
            store_fails: false,
            stopped: false,
            send: send.clone(),
        };
        let clock = Arc::clone(&engine.tools.clock);
        Ok((engine, Handle { requests: request_sender, clock, published }, Control(send)))
    }

    fn take_hypervisor(&mut self, event: hypervisor::Event) {
        match event {
            hypervisor::Event::Connected(info) => {
                tracing::info!(
                    MESSAGE_ID = message::CONNECTED,
                    "connected to {} ({})",
                    info.uri,
                    info.version
                );
                self.recover(info);
            }
            hypervisor::Event::Disconnected(reason) => {
                tracing::warn!(
                    MESSAGE_ID = message::DISCONNECTED,
                    "no connection to libvirt: {reason}; trying again, with growing pauses"
                );
                self.connection += 1;
                self.unrecovered = None;
                self.handle(Event::Disconnected);
            }
            hypervisor::Event::Changed(vm) => self.handle(Event::Changed(vm)),
            hypervisor::Event::Gone(vm) => {
                self.handle(Event::VmGone(vm));
                // Read before and told after that, it would seem to be there for a long time.
                self.reader.read(vm);
            }
        }
    }

    fn request(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        self.last_request += 1;
        self.waiting.insert(self.last_request, reply);
        self.handle(Event::Request(self.last_request, request));
    }

    fn handle(&mut self, event: Event) {
        self.mind_store();
        self.reader.attend();
        self.look_due |= matches!(event, Event::Connected { .. });
        if matches!(event, Event::Connected { .. } | Event::VmGone(_)) {
            self.tidy();
        }
        let now = self.tools.clock.now();
        self.machine.passes(self.tools.clock.elapsed());
        let effects = self.machine.handle(event, now);
        let (mut replies, mut labels) = (Vec::new(), Vec::new());
        let (mut stored, mut deferred) = (Ok(()), None);
        for effect in effects {
            match effect {
                Effect::List => self.reader.list(),
                Effect::Read(vm) => self.reader.read(vm),
                Effect::Defer(jobs) => deferred = Some(self.tools.store.defer(&jobs)),
                Effect::Start(job) => self.start(job),
                Effect::Cancel(job) => {
                    if let Some(cancel) = self.cancels.get(&job) {
                        cancel.store(true, Ordering::SeqCst);
                    }
                }
                Effect::Reply(id, answer) => replies.push((id, answer)),
                Effect::Label(id, labelled) => labels.push((id, labelled)),
                Effect::WakeAt(at) => {
                    if let Err(e) = self.wake.arm(at, now) {
                        tracing::error!(
                            MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                            "the timer cannot be set; scheduled runs will be late"
                        );
                    }
                }
                Effect::Remember(entries) => stored = stored.and(self.remember(entries)),
                Effect::Booted => self.booted(),
                Effect::Log(note) => log(&note),
                Effect::Stopped => self.stopped = true,
            }
        }
        self.look_if_due();
        if let Some(deferred) = deferred {
            self.handle(Event::Deferred(deferred.map_err(|e| e.to_string())));
        }
        self.publish_view();
        let generation = self.publish.borrow().generation;
        for (id, mut answer) in replies {
            if let Err(e) = &stored {
                not_stored(&mut answer, e);
            }
            if let Some(waiting) = self.waiting.remove(&id) {
                let _ = waiting.send((answer, generation));
            }
        }
        for (id, labelled) in labels {
            let stored = self.tools.store.label(labelled.vm, labelled.id, &labelled.label);
            self.handle(Event::Labelled(id, labelled, stored.map_err(|e| e.to_string())));
        }
    }

    fn thread(&self, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
        started(&*self.tools.clock, name, work)
    }

    /// Not before it fired: a restart while libvirt is away would lose what is to run after a boot.
    fn booted(&self) {
        if let Some(file) = &self.boot_file
            && let Err(e) = std::fs::write(file, [])
        {
            tracing::warn!(
                MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                "cannot write {}: @reboot may fire again", file.display()
            );
        }
    }

    fn publish_view(&mut self) {
        let new = self.machine.view();
        let same = {
            let old = self.publish.borrow();
            Arc::ptr_eq(&old.view.manager, &new.manager)
                && pointers_equal(&old.view.vms, &new.vms)
                && pointers_equal(&old.view.policies, &new.policies)
                && pointers_equal(&old.view.jobs, &new.jobs)
                && Arc::ptr_eq(&old.view.counts, &new.counts)
        };
        if same {
            return;
        }
        let view = Arc::new(new.clone());
        self.metrics.publish(&view);
        let status = status_line(&view, self.machine.settings(), self.store_fails);
        if status != self.status {
            systemd::status(&status);
            self.status = status;
        }
        self.publish.send_modify(|p| {
            p.generation += 1;
            p.view = view;
        });
    }
}

/// False if there is no thread for it, which the log is told.
fn started(clock: &dyn Clock, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let started = clock.start(name, Box::new(work));
    if let Err(e) = &started {
        tracing::error!(MESSAGE_ID = message::INTERNAL_ERROR, error = %e, "cannot start the thread for {name}");
    }
    started.is_ok()
}

fn pointers_equal<K: Eq, V>(a: &BTreeMap<K, Arc<V>>, b: &BTreeMap<K, Arc<V>>) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && Arc::ptr_eq(v, w))
}
