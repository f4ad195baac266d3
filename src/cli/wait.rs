//! `virtsnap wait`: follows jobs to their end, whoever began them.

use serde::Serialize;
use zbus::Connection;

use super::{
    args::Await,
    console::Console,
    create::taken,
    detach::titled,
    exit::{Exit, Failure},
    follow::{self, Ended, Followed},
    inventory::{Inventory, Object},
    props::{self, Job},
    render::safe,
    revert, view,
};

#[derive(Serialize)]
struct Jobs<'a> {
    jobs: Vec<view::Job<'a>>,
}

/// Waits for jobs, and says how each ended.
pub(super) async fn wait(args: &Await, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    let mut jobs: Vec<&Object<Job>> = Vec::with_capacity(args.jobs.len());
    for id in &args.jobs {
        let job = all.job(*id)?;
        if !jobs.iter().any(|other| other.id == job.id) {
            jobs.push(job);
        }
    }
    let paths: Vec<_> = jobs.iter().map(|job| job.path.clone()).collect();
    let Some(followed) = follow::wait_for(&paths, bus, console).await? else { return Ok(Exit::Interrupted) };
    if console.json {
        // One that the daemon let go of meanwhile is as it was.
        let now = jobs.iter().zip(&followed).map(|(before, one)| one.job.as_ref().unwrap_or(before));
        let jobs = now.map(|job| view::Job::new(job, &console.watch)).collect();
        console.answer(&Jobs { jobs })?;
    }
    for (job, one) in jobs.into_iter().zip(&followed) {
        tell(job, one, &all, bus, console).await?;
    }
    Ok(first(followed.iter().map(|one| &one.ended)))
}

/// How one ended, in a line.
async fn tell(
    job: &Object<Job>,
    Followed { ended, .. }: &Followed,
    all: &Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if let (Ended::Done(made), false) = (ended, console.json) {
        let vm = job.objects.iter().find_map(|path| all.vm_name(path));
        let vm = vm.map_or_else(String::new, |vm| format!("{}: ", safe(vm)));
        let done = format!("job {} ({}) done", job.id, safe(&job.operation));
        let line = match (job.operation.as_str(), made) {
            // What it took may be gone by now.
            ("create", Some(made)) => props::read(bus, made).await.map_or(done, |made| taken(&made)),
            ("revert", made) => {
                let way_back = revert::way_back(made.as_ref(), bus).await.unwrap_or_default();
                format!("{done}{way_back}")
            }
            _ => done,
        };
        console.line(&format!("{vm}{line}"))?;
    }
    ended.report(&format!("{} was not finished", titled(job, all)), console);
    Ok(())
}

/// The first that did not end well, in the order in which they are asked for.
fn first<'a>(ended: impl IntoIterator<Item = &'a Ended>) -> Exit {
    ended.into_iter().map(Ended::exit).find(|exit| *exit != Exit::Done).unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_failed_says_how_it_ended() {
        let done = || Ended::Done(None);
        let failed = |name: &str| Ended::Failed { name: name.into(), message: String::new() };
        let busy = || failed("org.virtsnap1.Error.Busy");
        assert_eq!(first(&[done(), done()]), Exit::Done);
        assert_eq!(first(&[done(), busy(), failed("org.virtsnap1.Error.NoSpace")]), Exit::Busy);
        assert_eq!(first(&[failed("org.virtsnap1.Error.NoSpace"), busy()]), Exit::JobFailed);
    }
}
