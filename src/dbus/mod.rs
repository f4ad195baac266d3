//! The daemon on D-Bus, as `org.virtsnap1`. The documented interface is the XML in `dbus/`.
//!
//! ```text
//!   engine ──watch──▶ publish.rs ──▶ objects come and go, PropertiesChanged, JobNew, JobRemoved
//!      ▲                  │ "generation N is out"
//!      │ Ask              ▼
//!   manager.rs vm.rs snapshot.rs policy.rs job.rs   one file per object; they hold no state: a getter reads the
//!      ▲                                            published view, a method authorises, asks and waits
//!   objects.rs tree.rs  all objects in one call, and what is below which
//!   log_control.rs  systemd's own interface, about the log
//!   calls.rs  who has how many calls under way; departures.rs  who left meanwhile
//!   auth.rs  makes what no change can be asked for without; polkit.rs is asked whether it may
//! ```
//!
//! A method that starts a job answers only when the job's object is on the bus, so that the caller can use what it
//! was given.

mod auth;
mod calls;
mod departures;
mod error;
mod hold;
mod job;
mod log_control;
mod manager;
mod objects;
mod path;
mod policy;
mod polkit;
mod publish;
mod refusals;
mod snapshot;
mod tree;
mod vm;

use std::{
    collections::{BTreeSet, HashMap},
    num::{NonZeroU64, NonZeroUsize},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::{RwLock, watch};
use zbus::{
    Connection, MatchRule, MessageStream, OwnedVariant,
    connection::Builder,
    fdo::RequestNameFlags,
    message::{Header, Type},
};

use self::{
    auth::Caller,
    calls::{Call, Calls, Kind},
    error::BusError,
    log_control::LogControl,
    objects::Objects,
    polkit::Polkit,
    publish::Publisher,
};
pub use self::{
    auth::{Permit, Permitted, Reload},
    path::{NAME, ROOT, escape_label},
    polkit::Patience,
};
use crate::{
    core::{
        deferred::{self, KEPT_FOR},
        job::{JobId, JobState, Outcome, Pace},
        label::{self, Expiry, Tag},
        machine::{Change, Query, Reply},
        model::UnknownWord,
        verb::Matter,
        view::{JobView, View},
    },
    engine::{Ask, Handle},
};

/// Where an object sees what is: what the publisher shows now, or, to compare, a view that is held.
///
/// Not the engine's newest view: an object would know of others that are not on the bus yet, and one that is about to
/// go would have lost its properties before it is gone.
#[derive(Debug, Clone)]
enum Lens {
    Live(watch::Receiver<Arc<View>>),
    Held(Arc<View>),
}

impl Lens {
    fn view(&self) -> Arc<View> {
        match self {
            Self::Live(shown) => Arc::clone(&shown.borrow()),
            Self::Held(view) => Arc::clone(view),
        }
    }
}

/// What every object has: sight of the view, and the way to the engine.
#[derive(Debug, Clone)]
struct Shared {
    lens: Lens,
    engine: Handle,
    settled: watch::Receiver<u64>,
    polkit: Arc<Polkit>,
    calls: Arc<Calls>,
}

impl Shared {
    fn held(&self, view: &Arc<View>) -> Self {
        Self { lens: Lens::Held(Arc::clone(view)), ..self.clone() }
    }

    /// Lets a call in that only reads, and may take a while. Where there is no bus, nobody has to be held apart.
    async fn reads(&self, connection: &Connection, header: &Header<'_>) -> Result<Option<Call>, BusError> {
        self.let_in(connection, header, Kind::Work).await
    }

    /// The same for one that waits for a job's end.
    async fn waits(&self, connection: &Connection, header: &Header<'_>) -> Result<Option<Call>, BusError> {
        self.let_in(connection, header, Kind::Wait).await
    }

    async fn let_in(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        kind: Kind,
    ) -> Result<Option<Call>, BusError> {
        match header.sender().filter(|_| connection.is_bus()) {
            None => calls::fits(header).map(|()| None),
            Some(sender) => {
                self.calls.enter(connection, header, sender.to_owned().into(), kind).await.map(Some)
            }
        }
    }

    async fn query(&self, query: Query) -> Result<Reply, BusError> {
        let (answer, _) = self.engine.ask(|reply| Ask::Query(query, reply)).await;
        Ok(answer?)
    }

    /// Does something for a caller, who must be allowed it.
    async fn change(&self, change: Change, caller: &Caller) -> Result<Reply, BusError> {
        let matter = Matter::of(&change, caller.known_user());
        self.carry_out(auth::authorise(caller, matter, self).await?.on(change)?).await
    }

    async fn carry_out(&self, change: Permitted<Change>) -> Result<Reply, BusError> {
        self.settle(self.engine.ask(|reply| Ask::Change(change, reply)).await).await
    }

    /// Waits until what the answer speaks of can be seen on the bus.
    async fn settle(&self, answer: crate::engine::Answer) -> Result<Reply, BusError> {
        let (answer, generation) = answer;
        let reply = answer?;
        let mut settled = self.settled.clone();
        // An error means that the publisher is gone, and the bus with it.
        let _ = settled.wait_for(|now| *now >= generation).await;
        Ok(reply)
    }

    async fn start(&self, change: Change, caller: &Caller) -> Result<zbus::OwnedObjectPath, BusError> {
        match self.change(change, caller).await? {
            Reply::Job(id) => Ok(path::job(id)),
            _ => Err(BusError::new("Failed", "the engine gave no job")),
        }
    }

    /// Waits until a job has ended, and until that can be seen on the bus; its view. An error says why it failed.
    async fn ended(&self, id: JobId) -> Result<Arc<JobView>, BusError> {
        let mut published = self.engine.published.clone();
        let ended =
            |p: &crate::engine::Published| p.view.jobs.get(&id).is_none_or(|j| j.state == JobState::Done);
        let (generation, job) = match published.wait_for(ended).await {
            Ok(p) => (p.generation, p.view.jobs.get(&id).cloned()),
            Err(_) => return Err(self.stopped_before(id)),
        };
        let job = job.ok_or_else(|| BusError::new("NoSuchJob", format!("job {id} ended long ago")))?;
        let mut settled = self.settled.clone();
        let _ = settled.wait_for(|now| *now >= generation).await;
        match &job.outcome {
            Some(Outcome::Done(_)) => Ok(job),
            Some(Outcome::Failed(failure)) => Err(failure.clone().into()),
            Some(Outcome::Cancelled(text)) => Err(BusError::new("Cancelled", text.clone())),
            None => Err(BusError::new("Failed", "the job ended without a result")),
        }
    }

    /// The same, for as long as whoever called is there: a job may take hours.
    async fn ended_for(
        &self,
        connection: &Connection,
        call: Option<&Call>,
        id: JobId,
    ) -> Result<Arc<JobView>, BusError> {
        tokio::select! {
            biased;
            job = self.ended(id) => job,
            () = calls::gone(connection, call) => {
                Err(BusError::new("Cancelled", "nobody waits for it any more"))
            }
        }
    }

    /// Why it is not known how a job ends: it waits for the daemon's next life, or that is to find out.
    fn stopped_before(&self, id: JobId) -> BusError {
        match self.job(id) {
            Some(job) if job.state == JobState::Queued && job.phase == deferred::PHASE => {
                let vm = self
                    .lens
                    .view()
                    .vms
                    .get(&job.vm)
                    .map_or_else(|| job.vm.to_string(), |vm| vm.record.name.clone());
                BusError::new(
                    "Deferred",
                    format!(
                        "job {id} ({} of VM {vm}) has not begun, as the daemon stops, and is kept: if it is back within {} \
                         minutes, and the host was not restarted, it does it then, as job {id}; if not, nothing is done",
                        job.operation,
                        KEPT_FOR.as_mins()
                    ),
                )
            }
            _ => BusError::new("Stopping", "the daemon is stopping"),
        }
    }

    fn job(&self, id: JobId) -> Option<Arc<JobView>> {
        self.lens.view().jobs.get(&id).cloned()
    }
}

/// A method's options, each of which must be known.
#[derive(Debug)]
struct Options(HashMap<String, OwnedVariant>);

impl Options {
    fn new(given: HashMap<String, OwnedVariant>, known: &[&str]) -> Result<Self, BusError> {
        match given.keys().find(|k| !known.contains(&k.as_str())) {
            None => Ok(Self(given)),
            Some(key) if known.is_empty() => {
                Err(BusError::invalid(format!("unknown option {key:?}; this method has none")))
            }
            Some(key) => {
                Err(BusError::invalid(format!("unknown option {key:?}; there are {}", known.join(", "))))
            }
        }
    }

    fn take<T>(&mut self, key: &str, wanted: &str) -> Result<Option<T>, BusError>
    where
        T: TryFrom<OwnedVariant>,
    {
        self.0
            .remove(key)
            .map(|v| {
                T::try_from(v).map_err(|_| BusError::invalid(format!("option {key:?} must be {wanted}")))
            })
            .transpose()
    }

    /// One of an enumeration's words.
    fn word<T: FromStr<Err = UnknownWord>>(&mut self, key: &str) -> Result<Option<T>, BusError> {
        let given = self.take::<String>(key, "a string")?;
        given.map(|w| w.parse().map_err(|e| BusError::invalid(format!("option {key:?}: {e}")))).transpose()
    }

    /// All tags of a snapshot.
    fn tags(&mut self) -> Result<Option<BTreeSet<Tag>>, BusError> {
        let words = self.take::<Vec<String>>("tags", "an array of strings")?;
        let parse = |words: Vec<String>| {
            label::tags(words.iter().map(String::as_str))
                .map_err(|e| BusError::invalid(format!("option \"tags\": {e}")))
        };
        words.map(parse).transpose()
    }

    /// A time; 0 stands for none.
    fn time(&mut self, key: &str) -> Result<Option<Expiry>, BusError> {
        let given = self.take::<u64>(key, "microseconds since the epoch (t)")?;
        given.map(|us| time(us).map_err(|e| BusError::invalid(format!("option {key:?}: {e}")))).transpose()
    }

    /// How fast images are merged, and until when; 0 stands for no limit.
    fn pace(&mut self) -> Result<Pace, BusError> {
        let bandwidth = self.take::<u64>("bandwidth", "bytes per second (t)")?.and_then(NonZeroU64::new);
        Ok(Pace { bandwidth, until: self.time("until")?.and_then(Expiry::at) })
    }
}

/// A time as the bus has it; 0 stands for none.
fn time(us: u64) -> Result<Expiry, String> {
    let at = i64::try_from(us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    let expiry = |at| if us == 0 { Expiry::Never } else { Expiry::At(at) };
    at.map(expiry).ok_or_else(|| format!("{us} is no time"))
}

/// Puts everything on the bus and then takes the name, if it is a bus: a peer alone has no names. Returns when the name is
/// ours and the first view is out.
///
/// What is returned publishes until it is dropped. `aside`: another connection to the same bus, on which nothing is served.
pub async fn serve(
    builder: Builder<'_>,
    aside: Option<Connection>,
    engine: Handle,
    patience: Patience,
) -> zbus::Result<Served> {
    let (settled_sender, settled) = watch::channel(0);
    let first = Arc::clone(&engine.published.borrow().view);
    let (objects_sender, objects) = watch::channel(Arc::clone(&first));
    let (manager_sender, manager) = watch::channel(first);
    let polkit = Arc::new(Polkit::new(patience, engine.clock()));
    let shared = Shared { lens: Lens::Live(objects), engine, settled, polkit, calls: Arc::default() };
    let manager = Shared { lens: Lens::Live(manager), ..shared.clone() };
    let still = Arc::new(RwLock::new(()));
    // By the builder, which waits until the object server listens: added later, the first calls could come while
    // nobody does, and would never be answered.
    let connection = builder
        .serve_at(path::ROOT, Objects::new(shared.clone(), Arc::clone(&still)))
        .serve_at(path::ROOT, manager::Manager::new(manager))
        .serve_at(log_control::PATH, LogControl::new(shared.clone(), aside))
        .build()
        .await?;
    tree::plant(connection.object_server(), &shared).await?;
    let mut publisher =
        Publisher::new(connection.clone(), shared, still, settled_sender, objects_sender, manager_sender);
    publisher.catch_up().await;
    if connection.is_bus() {
        // Not to be replaced, and nobody is: a second daemon has to fail, not to take over half of the work.
        connection.request_name_with_flags(path::NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
    }
    let task = tokio::spawn(async move { publisher.run().await });
    Ok(Served { connection, task })
}

/// So long at most the end waits for what is still to be told: a caller may be asked for a password at that moment.
const PARTING: Duration = Duration::from_secs(5);

/// The daemon's presence on the bus.
#[derive(Debug)]
pub struct Served {
    /// The connection it is on.
    pub connection: Connection,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Waits until the bus has gone, or has thrown us off. A peer alone is not waited for.
    pub async fn lost(connection: Connection) {
        let until_its_end = async {
            let rule = MatchRule::builder().msg_type(Type::Signal).sender("org.freedesktop.DBus");
            let rule = rule.interface("org.freedesktop.DBus").member("NameLost").build()?;
            let mut signals = MessageStream::for_match_rule(rule, &connection, NonZeroUsize::new(1)).await?;
            while let Some(signal) = signals.next().await {
                signal?;
            }
            zbus::Result::Ok(())
        };
        if connection.is_bus() {
            // An error is no less an end.
            let _ = until_its_end.await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Goes off the bus when the engine has ended: its last view is shown before, and whoever waits for an answer has it.
    pub async fn part(mut self) {
        let parting = async move {
            // It ends with the engine's views.
            let _ = (&mut self.task).await;
            let connection = self.connection.clone();
            drop(self);
            // Calls that are under way hold the connection until their replies are sent.
            connection.graceful_shutdown().await;
        };
        if tokio::time::timeout(PARTING, parting).await.is_err() {
            tracing::warn!("not everybody who waited for an answer got one within {PARTING:?}");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
