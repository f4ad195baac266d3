//! `virtsnap run`: runs a policy now.

use serde::Serialize;
use zbus::{Connection, ObjectPath, OwnedObjectPath, Variant};

use super::{
    args::Run,
    console::Console,
    create::taken,
    exit::{Exit, Failure},
    follow::{self, Ended, Followed},
    inventory::{Inventory, Object},
    props::{self, Job, Policy},
    proxy::{Options, PolicyProxy},
    render::{quoted, safe},
    view,
};

#[derive(Serialize)]
struct Jobs<'a> {
    jobs: Vec<view::Job<'a>>,
}

/// Runs a policy.
pub(super) async fn run(args: &Run, bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = match &args.vm {
        None => Inventory::fetch(bus).await?,
        Some(vm) => Inventory::about(vm, bus).await?,
    };
    let policy = all.policy(&args.policy)?;
    let mut options = Options::new();
    if let Some(vm) = &args.vm {
        options.insert("vm", Variant::from(ObjectPath::from(&all.vm(vm)?.path)));
    }
    let paths = PolicyProxy::new(bus, &policy.path).await?.run(options).await?;
    if paths.is_empty() {
        console.warning(&format!(
            "policy {} ran on no VM: none is for it, or none is in a state that its `when` names; {} shows them",
            quoted(&policy.name),
            console.place.virtsnap("status")
        ));
    }

    if args.wait.no_wait {
        return started(&paths, &all, bus, console).await;
    }
    let Some(followed) = follow::wait_for(&paths, bus, console).await? else { return Ok(Exit::Interrupted) };
    if console.json {
        let read = followed.iter().filter_map(|one| one.job.as_ref());
        let jobs = read.map(|job| view::Job::new(job, &console.watch)).collect();
        console.answer(&Jobs { jobs })?;
    }
    for (path, one) in paths.iter().zip(&followed) {
        tell(path, one, &all, bus, console).await?;
    }
    tell_resumed(policy, &all, bus, console).await?;
    Ok(worst(followed.iter().map(|one| &one.ended)))
}

/// Says for `--no-wait` what was started.
async fn started(
    paths: &[OwnedObjectPath],
    all: &Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let mut jobs = Vec::with_capacity(paths.len());
    for path in paths {
        jobs.push(follow::read(path, bus).await?);
    }
    if console.json {
        let jobs = jobs.iter().map(|job| view::Job::new(job, &console.watch)).collect();
        console.answer(&Jobs { jobs })?;
        return Ok(Exit::Done);
    }
    for job in &jobs {
        console.line(&format!("{}: {}", about(job, all), follow::started_line(job)))?;
    }
    Ok(Exit::Done)
}

/// One VM's result, in a line.
async fn tell(
    path: &OwnedObjectPath,
    Followed { job, ended }: &Followed,
    all: &Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let vm = job.as_ref().map_or_else(|| path.to_string(), |job| about(job, all));
    if let (Ended::Done(made), false) = (ended, console.json) {
        let line = match made {
            None => {
                let operation = job.as_ref().map_or("job", |job| job.operation.as_str());
                format!("{vm}: {} done", safe(operation))
            }
            Some(made) => match props::read(bus, made).await {
                Ok(snapshot) => format!("{vm}: {}", taken(&snapshot)),
                // A long run outlives what it began with, and the other VMs' results are to be told all the same.
                Err(gone) if gone.exit() == Exit::NotFound => {
                    format!("{vm}: a snapshot was taken, which is gone by now")
                }
                Err(why) => format!("{vm}: a snapshot was taken; what it is like cannot be read: {why}"),
            },
        };
        console.line(&line)?;
    }
    ended.report(&vm, console);
    Ok(())
}

/// On which VMs it is not suspended any more, since it worked there.
async fn tell_resumed(
    before: &Object<Policy>,
    all: &Inventory,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if before.suspended_vms.is_empty() || console.json {
        return Ok(());
    }
    let now: Policy = props::read(bus, &before.path).await?;
    let still = |path: &OwnedObjectPath| now.suspended_vms.iter().any(|(other, ..)| other == path);
    for vm in before.suspended_vms.iter().map(|(path, ..)| path).filter(|path| !still(path)) {
        // Of another VM than the one that it was asked for, somebody else has.
        let Some(vm) = all.vm_name(vm).map(safe) else { continue };
        console.line(&format!("{vm}: policy {} is resumed", quoted(&before.name)))?;
    }
    Ok(())
}

/// The VM that a job is about, by name.
fn about(job: &Job, all: &Inventory) -> String {
    let name = job.objects.iter().find_map(|path| all.vm_name(path));
    name.map_or_else(|| format!("job {}", job.id), safe)
}

/// One failure is a failure; all of them having been busy is worth another try.
fn worst<'a>(ended: impl IntoIterator<Item = &'a Ended>) -> Exit {
    let exits: Vec<Exit> = ended.into_iter().map(Ended::exit).filter(|exit| *exit != Exit::Done).collect();
    let worst = exits.iter().find(|exit| **exit != Exit::Busy).or(exits.first());
    worst.copied().unwrap_or(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_vm_that_failed_fails_the_run() {
        let done = || Ended::Done(None);
        let failed = |name: &str| Ended::Failed { name: name.into(), message: String::new() };
        let busy = || failed("org.virtsnap1.Error.Busy");
        assert_eq!(worst(&[]), Exit::Done);
        assert_eq!(worst(&[done(), done()]), Exit::Done);
        assert_eq!(worst(&[done(), busy()]), Exit::Busy);
        assert_eq!(worst(&[busy(), done(), failed("org.virtsnap1.Error.NoSpace")]), Exit::JobFailed);
        let lost = Ended::Unknown(Failure::NoDaemon(String::new()));
        assert_eq!(worst(&[done(), busy(), lost]), Exit::Unreachable);
    }
}
