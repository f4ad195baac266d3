//! Jobs that a verb started: waiting for them, and saying how they ended.

use std::{future::pending, ops::ControlFlow, pin::pin};

use futures_util::{StreamExt as _, stream};
use nix::unistd::geteuid;
use serde::Serialize;
use zbus::{Connection, MatchRule, OwnedObjectPath, fdo::DBusProxy, message::Type};

use super::{
    args::Wait,
    console::Console,
    detach::detached,
    exit::{Exit, Failure, exit_of},
    inventory::Object,
    news, progress,
    props::{self, Job},
    proxy::{JobProxy, Options, ROOT, SERVICE, some_object},
    restart::{self, DEFERRED},
    view,
};

/// For so many jobs it is waited at once: a `dbus-daemon` has a connection wait for 128 answers and no more, and some of
/// them are about other things.
const AT_ONCE: usize = 64;

/// How a job ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It did what it was for; what it made, if anything.
    Done(Option<OwnedObjectPath>),
    /// It did not.
    Failed {
        /// The D-Bus error's name.
        name: String,
        /// What went wrong.
        message: String,
    },
    /// That could not be had.
    Unknown(Failure),
}

impl Ended {
    /// The exit status that says so.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Done(_) => Exit::Done,
            // It had begun, and what is so now is to be looked at first.
            Self::Failed { name, .. } if name == "org.virtsnap1.Error.Disconnected" => Exit::JobFailed,
            // Worth a second try, which a script should know.
            Self::Failed { name, .. } if exit_of(name) == Exit::Busy => Exit::Busy,
            Self::Failed { .. } => Exit::JobFailed,
            Self::Unknown(failure) => failure.exit(),
        }
    }

    /// Says why a job failed; nothing about one that did not.
    pub(super) fn report(&self, what: &str, console: &mut Console<'_>) {
        match self {
            Self::Done(_) => {}
            Self::Failed { name, message } => {
                console.named_error(name, self.exit(), &told_once(what, message));
            }
            Self::Unknown(failure) if failure.name() == Some(DEFERRED) => {
                console.failure_in(failure, &format!("{what}: {failure}"));
            }
            Self::Unknown(failure) => {
                console.failure_in(failure, &format!("{what}: how the job ended is not known: {failure}"));
            }
        }
    }
}

/// What failed, and why; where the reason says that itself, as the daemon's mostly do, not twice.
fn told_once(what: &str, message: &str) -> String {
    match what.rfind(" was ").map(|at| &what[at..]) {
        Some(outcome) if message.contains(outcome) => message.to_owned(),
        _ => format!("{what}: {message}"),
    }
}

/// A job that was waited for.
#[derive(Debug)]
pub(super) struct Followed {
    /// As it was when it had ended, if it could be read.
    pub(super) job: Option<Object<Job>>,
    /// How it ended.
    pub(super) ended: Ended,
}

/// Waits until all of those jobs have ended, in whatever order they do; how each did, in the order in which they are
/// given. `None` if the person would not wait: then they were told that the jobs go on.
pub(super) async fn wait_for(
    jobs: &[OwnedObjectPath],
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Option<Vec<Followed>>, Failure> {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
    };
    wait_until(interrupted, jobs, bus, console).await
}

/// The same, for a person who says otherwise that they would not wait.
pub(super) async fn wait_until(
    stop: impl Future<Output = ()>,
    jobs: &[OwnedObjectPath],
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Option<Vec<Followed>>, Failure> {
    console.flush()?;
    // Not in their order: one that takes long must not keep those behind it from being waited for.
    let each = jobs.iter().enumerate().map(async |(place, job)| (place, follow(job, bus).await));
    let all = stream::iter(each).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
    let shown = !console.json && !jobs.is_empty();
    let ended = tokio::select! {
        ended = all => Some(ended),
        () = stop => None,
        () = progress::show(jobs, bus, console.screen, console.err), if shown => None,
    };
    if shown && console.screen.columns.is_some() {
        // How they ended is worth more than a terminal that has gone.
        let _ = write!(console.err, "{}", progress::CLEAR);
    }
    if let Some(mut ended) = ended {
        ended.sort_by_key(|(place, _)| *place);
        return Ok(Some(ended.into_iter().map(|(_, ended)| ended).collect()));
    }
    detached(jobs, bus, console).await;
    Ok(None)
}

/// Waits for a call that answers only when a job of the daemon has ended, as for that job: with how far it is, and no longer
/// than the person wants to. `Break` where there is nothing more to say.
pub(super) async fn within(
    call: impl Future<Output = zbus::Result<()>>,
    (operation, vm): (&str, &OwnedObjectPath),
    asked: &Wait,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<ControlFlow<Exit>, Failure> {
    console.flush()?;
    let rule =
        MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).path(ROOT).member("JobNew").build()?;
    let mut news = news::signals(rule, bus).await?;
    // As the bus knows it, which may be another machine's.
    let own = match bus.unique_name() {
        Some(name) => DBusProxy::new(bus).await?.get_connection_unix_user(name.clone().into()).await?,
        None => geteuid().as_raw(),
    };
    let mut call = pin!(call);
    let mut job = None;
    while job.is_none() {
        let new = tokio::select! {
            ended = &mut call => return ended.map(ControlFlow::Continue).map_err(Failure::from),
            new = news.recv() => new,
            Ok(()) = tokio::signal::ctrl_c() => {
                detached(&[], bus, console).await;
                return Ok(ControlFlow::Break(Exit::Interrupted));
            }
        };
        let Some(new) = new else { break };
        let (_, path): (u32, OwnedObjectPath) = new?.body().deserialize()?;
        // One that is gone again says nothing of this call.
        let read = read(&path, bus).await.ok();
        let ours = |job: &Object<Job>| {
            job.operation == operation && job.objects.contains(vm) && job.started_by == own
        };
        job = read.filter(ours).map(|_| path);
    }
    let jobs: Vec<_> = job.into_iter().collect();
    if let ([job], true) = (jobs.as_slice(), asked.no_wait) {
        return started(job, bus, console).await.map(ControlFlow::Break);
    }
    let shown = !console.json && !jobs.is_empty();
    let ended = tokio::select! {
        ended = call => Some(ended),
        Ok(()) = tokio::signal::ctrl_c() => None,
        () = progress::show(&jobs, bus, console.screen, console.err), if shown => None,
    };
    if shown && console.screen.columns.is_some() {
        write!(console.err, "{}", progress::CLEAR)?;
    }
    if let Some(ended) = ended {
        let ended = match (ended.map_err(Failure::from), &jobs[..]) {
            (Err(Failure::Answered { name, .. }), [job]) if name == DEFERRED => {
                match wait_for_one(job, bus, console).await? {
                    None => return Ok(ControlFlow::Break(Exit::Interrupted)),
                    Some(Ended::Done(_)) => Ok(()),
                    Some(Ended::Failed { name, message }) => Err(Failure::Answered { name, message }),
                    Some(Ended::Unknown(failure)) => Err(failure),
                }
            }
            (ended, _) => ended,
        };
        return ended.map(ControlFlow::Continue).map_err(left);
    }
    detached(&jobs, bus, console).await;
    Ok(ControlFlow::Break(Exit::Interrupted))
}

/// Waits until this job has ended. `None` if the person would not.
pub(super) async fn wait_for_one(
    job: &OwnedObjectPath,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Option<Ended>, Failure> {
    let ended = wait_for(std::slice::from_ref(job), bus, console).await?;
    match ended.and_then(|all| all.into_iter().next()).map(|one| one.ended) {
        Some(Ended::Unknown(failure)) => Err(failure),
        ended => Ok(ended),
    }
}

/// Follows a verb's only job to its end. `Break` where there is nothing more to say: it was only to be started, or the
/// person would not wait.
pub(super) async fn one(
    job: &OwnedObjectPath,
    asked: &Wait,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<ControlFlow<Exit, Ended>, Failure> {
    if asked.no_wait {
        return started(job, bus, console).await.map(ControlFlow::Break);
    }
    let ended = wait_for_one(job, bus, console).await?;
    Ok(ended.map_or(ControlFlow::Break(Exit::Interrupted), ControlFlow::Continue))
}

/// As [`one`], for a verb that has one thing to say whichever way it ended.
pub(super) async fn told(
    job: &OwnedObjectPath,
    asked: &Wait,
    (done, failed): (&str, &str),
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let ended = match one(job, asked, bus, console).await? {
        ControlFlow::Continue(ended) => ended,
        ControlFlow::Break(exit) => return Ok(exit),
    };
    if console.json {
        answer(job, bus, console).await?;
    } else if matches!(ended, Ended::Done(_)) {
        console.line(done)?;
    }
    ended.report(failed, console);
    Ok(ended.exit())
}

/// Answers with the job as it is by now.
pub(super) async fn answer(
    job: &OwnedObjectPath,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let job = read(job, bus).await?;
    let shown = view::Job::new(&job, &console.watch);
    console.answer(&OneJob { job: Some(shown) })
}

/// Waits until it has ended, whatever a person says. The job is read at once: while others still run, the daemon may let go of it.
pub(super) async fn follow(job: &OwnedObjectPath, bus: &Connection) -> Followed {
    // Before, too: if the daemon is gone by its end, this still says what it was about.
    let (before, mut life) = (read(job, bus).await.ok(), restart::life(bus).await);
    let ended = loop {
        match (wait(job, bus).await, &before) {
            (Some(ended), _) => break ended,
            // Whether that does the job is not to be told without knowing it again.
            (None, None) => break Ended::Unknown(Failure::Stopped),
            (None, Some(before)) => match restart::takes_up(before, life.as_ref(), bus).await {
                Ok(true) => life = restart::life(bus).await,
                Ok(false) => break restart::not_taken_up(),
                Err(unknown) => break Ended::Unknown(unknown),
            },
        }
    };
    let after = if matches!(ended, Ended::Unknown(_)) { None } else { read(job, bus).await.ok() };
    Followed { job: after.or(before), ended }
}

/// How it ended; `None`: the daemon stops, and its next life does it.
async fn wait(job: &OwnedObjectPath, bus: &Connection) -> Option<Ended> {
    let answer = async { JobProxy::new(bus, job).await?.wait(Options::new()).await };
    match answer.await {
        Ok((result, object)) if result == "done" => Some(Ended::Done(some_object(&object))),
        Ok((result, _)) => Some(Ended::Failed {
            name: "org.virtsnap1.Error.Cancelled".to_owned(),
            message: format!("the job was {result}"),
        }),
        Err(error) => match error.into() {
            Failure::Answered { name, .. } if name == DEFERRED => None,
            other => Some(not_done(other)),
        },
    }
}

/// What became of a job, by the error that whoever waits for it was answered.
fn not_done(answer: Failure) -> Ended {
    match answer {
        Failure::Answered { name, message } if is_of_job(&name) => Ended::Failed { name, message },
        other => Ended::Unknown(left(other)),
    }
}

/// A daemon that stops begins nothing; what it has begun its next life ends.
fn left(answer: Failure) -> Failure {
    match answer {
        Failure::Answered { name, .. } if name == "org.virtsnap1.Error.Stopping" => Failure::Stopped,
        other => other,
    }
}

/// Whether an error says how a job ended: without the job itself nobody knows that, and where too many wait already, or
/// the daemon stops, the job goes on.
fn is_of_job(name: &str) -> bool {
    let own = name.strip_prefix("org.virtsnap1.Error.");
    own.is_some_and(|own| !matches!(own, "NoSuchJob" | "LimitExceeded" | "Stopping"))
}

/// A job's properties. It stays for a while after its end, so this works then too.
pub(super) async fn read(job: &OwnedObjectPath, bus: &Connection) -> Result<Object<Job>, Failure> {
    Ok(Object::new(job.clone(), props::read(bus, job).await?))
}

/// The answer of a verb that started one job.
#[derive(Debug, Serialize)]
pub(super) struct OneJob<'a> {
    /// The job, if there was anything to do.
    pub(super) job: Option<view::Job<'a>>,
}

/// Answers for `--no-wait`: the job is started.
pub(super) async fn started(
    job: &OwnedObjectPath,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    if console.json {
        answer(job, bus, console).await?;
    } else {
        let job = read(job, bus).await?;
        console.line(&started_line(&job))?;
    }
    Ok(Exit::Done)
}

/// `job 7 (create) started`
pub(super) fn started_line(job: &Object<Job>) -> String {
    format!("job {} ({}) started", job.id, job.operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &str) -> Ended {
        Ended::Failed { name: format!("org.virtsnap1.Error.{error}"), message: String::new() }
    }

    #[test]
    fn a_failed_job_is_told_from_one_worth_another_try() {
        assert_eq!(Ended::Done(None).exit(), Exit::Done);
        assert_eq!(failed("InUse").exit(), Exit::JobFailed);
        assert_eq!(failed("NoSuchVM").exit(), Exit::JobFailed);
        assert_eq!(failed("Cancelled").exit(), Exit::JobFailed);
        assert_eq!(failed("Disconnected").exit(), Exit::JobFailed);
        assert_eq!(failed("Busy").exit(), Exit::Busy);
    }

    #[test]
    fn what_was_not_done_is_said_once() {
        let what = "snapshot s1 of VM web was not taken";
        assert_eq!(
            told_once(what, "snapshot s1 of VM web was not taken: no room"),
            "snapshot s1 of VM web was not taken: no room"
        );
        assert_eq!(told_once(what, "no room"), "snapshot s1 of VM web was not taken: no room");
    }

    #[test]
    fn whom_the_daemon_does_not_let_wait_does_not_know_how_the_job_ends() {
        for (error, known) in
            [("NoSpace", true), ("NoSuchJob", false), ("LimitExceeded", false), ("Stopping", false)]
        {
            let name = format!("org.virtsnap1.Error.{error}");
            let ended = not_done(Failure::Answered { name, message: String::new() });
            assert_eq!(matches!(ended, Ended::Failed { .. }), known, "{error}");
        }
    }
}
