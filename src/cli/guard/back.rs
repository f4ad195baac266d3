//! The way back: the VM is put back to what it was before the command, as often as that has to be tried.

use std::{collections::HashSet, future::pending, pin::pin, time::Duration};

use nix::sys::signal::Signal;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};
use zbus::{Connection, MatchRule, Message, OwnedObjectPath, fdo, message::Type};

use super::signals::Signals;
use crate::cli::{
    activation,
    console::Console,
    exit::{Exit, Failure, exit_of},
    follow::{self, Ended},
    inventory::{Inventory, Object},
    news, progress,
    props::{self, Manager, Snapshot, Vm},
    proxy::{Options, ROOT, SERVICE, SnapshotProxy},
    render::quoted,
    restart::DEFERRED,
};

/// For so long it is tried again, where it cannot be done now.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// So often at the least: most of what it waits for is told, but not the end of what others do to the VM.
const PAUSE: Duration = Duration::from_secs(5);

/// What has become of it.
#[derive(Debug)]
pub(super) enum Back {
    /// The VM is back; what was taken before that.
    Done(Option<OwnedObjectPath>),
    /// It is not; why, and a hint.
    Not(String, Option<String>),
    /// That cannot be had: the job that was at it, if it is known, and why.
    Unknown(Option<u32>, String),
}

/// Puts the VM back, with the power state that it had.
pub(super) async fn put_back(
    vm: &Object<Vm>,
    point: &Object<Snapshot>,
    signals: &mut Signals,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Back {
    let mut way = Way { vm, point, bus, before: None, job: None, doubt: false };
    let mut news = match News::about(point, bus).await {
        Ok(news) => news,
        Err(failure) => return way.given_up(&failure, console),
    };
    let mut over = pin!(timeout(PATIENCE, pending::<()>()));
    let mut said = false;
    loop {
        news.forget();
        let why = match way.once(signals, console).await {
            Ok(back) => return back,
            Err(failure) if way.may_pass(&failure) => failure,
            Err(failure) => return way.given_up(&failure, console),
        };
        if !said {
            // Who was impatient before this is said does not mean it.
            while signals.come().await.is_some() {}
            console.warning(&format!(
                "{} cannot be put back to snapshot {} now: {why}; that is tried again for five minutes (Ctrl-C ends that)",
                quoted(&vm.name),
                quoted(&point.name)
            ));
            said = true;
        }
        let own = way.job.as_ref().map(|(path, _)| path);
        let again = tokio::select! {
            _ = timeout(PAUSE, news.next(own)) => true,
            _ = &mut over => false,
            () = interrupted(signals) => false,
        };
        if !again {
            return way.given_up(&why, console);
        }
    }
}

/// By the person; a terminal that goes says nothing of what is wanted.
async fn interrupted(signals: &mut Signals) {
    while signals.next().await != Signal::SIGINT {}
}

struct Way<'a> {
    vm: &'a Object<Vm>,
    point: &'a Object<Snapshot>,
    bus: &'a Connection,
    /// The safety snapshots that there were before it was tried.
    before: Option<HashSet<OwnedObjectPath>>,
    /// What was at it last, and its number.
    job: Option<(OwnedObjectPath, Option<u32>)>,
    /// Whether what was begun may be done, or be under way.
    doubt: bool,
}

impl Way<'_> {
    async fn once(&mut self, signals: &mut Signals, console: &mut Console<'_>) -> Result<Back, Failure> {
        let safeties = self.look().await?;
        if self.doubt {
            let new = safeties.iter().find(|path| !self.before.as_ref().is_some_and(|b| b.contains(*path)));
            if let (Some(safety), true) = (new, self.is_current().await?) {
                return Ok(Back::Done(Some(safety.clone())));
            }
            self.doubt = false;
        }
        self.before = Some(safeties);
        let proxy = SnapshotProxy::new(self.bus, &self.point.path).await?;
        let job = match proxy.revert(state(self.vm)).await {
            Ok(job) => job,
            Err(error) => {
                self.doubt = unanswered(&error);
                return Err(error.into());
            }
        };
        (self.job, self.doubt) = (Some((job.clone(), None)), true);
        let followed = self.follow(&job, signals, console).await;
        self.job = Some((job, followed.job.map(|job| job.id)));
        match followed.ended {
            Ended::Done(safety) => Ok(Back::Done(safety)),
            Ended::Failed { name, message } => {
                // Cut short in the midst: it is ended or undone later.
                self.doubt = name.ends_with(".Disconnected");
                Err(Failure::Answered { name, message })
            }
            Ended::Unknown(failure) => {
                // Nothing was done where no life of the daemon did it.
                self.doubt = failure.name() != Some(DEFERRED);
                Err(failure)
            }
        }
    }

    /// Waits until the job has ended. The daemon goes on with it whatever the client is told, so that this does, too.
    async fn follow(
        &self,
        job: &OwnedObjectPath,
        signals: &mut Signals,
        console: &mut Console<'_>,
    ) -> follow::Followed {
        let jobs = std::slice::from_ref(job);
        let mut end = pin!(follow::follow(job, self.bus));
        let mut said = false;
        loop {
            let told = tokio::select! {
                followed = &mut end => Ok(followed),
                signal = signals.next() => Err(signal),
                () = progress::show(jobs, self.bus, console.screen, console.err), if !console.json => continue,
            };
            if console.screen.columns.is_some() && !console.json {
                // A terminal that has gone changes nothing.
                let _ = write!(console.err, "{}", progress::CLEAR);
            }
            match told {
                Ok(followed) => return followed,
                Err(signal) if !said => {
                    said = true;
                    console.warning(&format!(
                        "{signal} does not stop that {} is put back to snapshot {}; it is waited for",
                        quoted(&self.vm.name),
                        quoted(&self.point.name)
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// The VM's safety snapshots, once the daemon has settled what was begun.
    async fn look(&self) -> Result<HashSet<OwnedObjectPath>, Failure> {
        // Also one that somebody stopped: the VM is to be put back.
        activation::awake(self.bus).await?;
        let manager: Manager = props::read(self.bus, ROOT).await?;
        if manager.state != "running" {
            return Err(Failure::NoDaemon(format!("it is {}", manager.state)));
        }
        // What was cut short is settled when libvirt is back.
        if !manager.hypervisor_connected {
            let name = "org.virtsnap1.Error.Disconnected".to_owned();
            return Err(Failure::Answered {
                name,
                message: "the daemon has no connection to libvirt".to_owned(),
            });
        }
        let all = Inventory::fetch(self.bus).await?;
        let vm = all.vms().iter().find(|vm| vm.path == self.vm.path);
        let vm =
            vm.ok_or_else(|| Failure::NoDaemon(format!("it has no VM {} yet", quoted(&self.vm.name))))?;
        let safeties = all.snapshots(vm).iter().filter(|s| s.origin == "safety" && s.state == "ready");
        Ok(safeties.map(|s| s.path.clone()).collect())
    }

    /// Whether the VM goes on from where it is to be put back to.
    async fn is_current(&self) -> Result<bool, Failure> {
        let (vm, point): (Vm, Snapshot) =
            (props::read(self.bus, &self.vm.path).await?, props::read(self.bus, &self.point.path).await?);
        Ok(vm.current_snapshot == self.point.path && point.state == "ready")
    }

    /// Whether it may be otherwise in a moment.
    fn may_pass(&self, failure: &Failure) -> bool {
        match failure {
            Failure::NoDaemon(_) | Failure::Stopped => true,
            Failure::Answered { name, .. } => {
                self.doubt || exit_of(name) == Exit::Busy || name.ends_with(".UnknownObject")
            }
            _ => false,
        }
    }

    fn given_up(&self, why: &Failure, console: &Console<'_>) -> Back {
        if self.doubt {
            Back::Unknown(self.job.as_ref().and_then(|(_, id)| *id), why.to_string())
        } else {
            Back::Not(why.to_string(), why.hint(&console.place))
        }
    }
}

/// What may be the end of what it waits for.
struct News {
    daemon: UnboundedReceiver<zbus::Result<Message>>,
    name: UnboundedReceiver<zbus::Result<Message>>,
    point: OwnedObjectPath,
}

impl News {
    async fn about(point: &Object<Snapshot>, bus: &Connection) -> Result<Self, Failure> {
        let of_daemon = MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).path(ROOT).build()?;
        let of_name = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SERVICE)
            .build()?;
        Ok(Self {
            daemon: news::signals(of_daemon, bus).await?,
            name: news::signals(of_name, bus).await?,
            point: point.path.clone(),
        })
    }

    /// What has come until now is in what is seen next.
    fn forget(&mut self) {
        for news in [&mut self.daemon, &mut self.name] {
            while news.try_recv().is_ok() {}
        }
    }

    /// The next; that its own job is over is none.
    async fn next(&mut self, own: Option<&OwnedObjectPath>) {
        loop {
            let news = tokio::select! {
                news = self.daemon.recv() => news,
                news = self.name.recv() => news,
            };
            let Some(Ok(news)) = news else { return pending().await };
            if self.counts(&news, own) {
                return;
            }
        }
    }

    fn counts(&self, news: &Message, own: Option<&OwnedObjectPath>) -> bool {
        let header = news.header();
        match header.member().map(zbus::names::MemberName::as_str) {
            Some("NameOwnerChanged" | "PropertiesChanged") => true,
            Some("JobRemoved") => {
                let removed: zbus::Result<(u32, OwnedObjectPath, String)> = news.body().deserialize();
                removed.is_ok_and(|(_, path, _)| Some(&path) != own)
            }
            Some("InterfacesAdded") => {
                let added: zbus::Result<(OwnedObjectPath, props::Interfaces)> = news.body().deserialize();
                added.is_ok_and(|(path, _)| path == self.point)
            }
            _ => false,
        }
    }
}

/// Whether whoever was called may have done it all the same.
fn unanswered(error: &zbus::Error) -> bool {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        zbus::Error::FDO(error) => {
            return matches!(
                **error,
                fdo::Error::NoReply(_) | fdo::Error::Timeout(_) | fdo::Error::TimedOut(_)
            );
        }
        // The call may have been sent before the bus was lost.
        _ => return true,
    };
    ["NoReply", "Timeout", "TimedOut"].iter().any(|rest| name.ends_with(&format!(".{rest}")))
}

/// What it was before the command, and not what the command has made of it.
fn state(vm: &Vm) -> Options<'static> {
    let known = ["running", "paused", "shut-off"].into_iter().find(|word| *word == vm.state);
    known.map(|word| ("state", word.into())).into_iter().collect()
}
