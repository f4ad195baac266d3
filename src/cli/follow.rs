//! Jobs that a verb started: waiting for them, and saying how they ended.

use std::ops::ControlFlow;

use futures_util::future::join_all;
use serde::Serialize;
use zbus::{Connection, OwnedObjectPath};

use super::{
    args::Wait,
    console::Console,
    exit::{Exit, Failure, exit_of, hint_for},
    inventory::Object,
    progress,
    props::{self, Job},
    proxy::{JobProxy, Options, some_object},
    view,
};

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
        }
    }

    /// Says why a job failed; nothing about one that did not.
    pub(super) fn report(&self, what: &str, console: &mut Console<'_>) {
        if let Self::Failed { name, message } = self {
            console.error(&format!("{what}: {message}"), hint_for(name));
        }
    }
}

/// Waits until all of those jobs have ended, in whatever order they do. `None` if the person would not wait:
/// then they were told that the jobs go on.
pub(super) async fn wait_for(
    jobs: &[OwnedObjectPath],
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Option<Vec<Ended>>, Failure> {
    console.flush()?;
    let all = join_all(jobs.iter().map(|job| wait(job, bus)));
    // On a terminal it is seen how far they are.
    let drawn = console.interactive && !console.json && !jobs.is_empty();
    let ended = tokio::select! {
        ended = all => Some(ended),
        Ok(()) = tokio::signal::ctrl_c() => None,
        () = progress::draw(jobs, bus, console.err), if drawn => None,
    };
    if drawn {
        write!(console.err, "{}", progress::CLEAR)?;
    }
    if let Some(ended) = ended {
        return ended.into_iter().collect::<Result<Vec<_>, _>>().map(Some);
    }
    console.error("interrupted; the daemon goes on with it", Some("`virtsnap jobs` shows how far it is"));
    Ok(None)
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
    let ended = wait_for(std::slice::from_ref(job), bus, console).await?;
    let ended = ended.and_then(|all| all.into_iter().next());
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

async fn wait(job: &OwnedObjectPath, bus: &Connection) -> Result<Ended, Failure> {
    let proxy = JobProxy::new(bus, job).await?;
    match proxy.wait(Options::new()).await {
        Ok((result, object)) if result == "done" => Ok(Ended::Done(some_object(&object))),
        Ok((result, _)) => Ok(Ended::Failed {
            name: "org.virtsnap1.Error.Cancelled".to_owned(),
            message: format!("the job was {result}"),
        }),
        Err(error) => match error.into() {
            // The job itself is gone: we do not know how it ended.
            gone @ Failure::Answered { .. } if gone.exit() == Exit::NotFound && is_about_the_job(&gone) => {
                Err(gone)
            }
            Failure::Answered { name, message } if name.starts_with("org.virtsnap1.Error.") => {
                Ok(Ended::Failed { name, message })
            }
            other => Err(other),
        },
    }
}

fn is_about_the_job(failure: &Failure) -> bool {
    matches!(failure, Failure::Answered { name, .. }
        if matches!(name.as_str(), "org.virtsnap1.Error.NoSuchJob" | "org.freedesktop.DBus.Error.UnknownObject"))
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
}
