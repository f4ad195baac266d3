//! `virtsnap jobs`: what runs, waits or has just ended; and `virtsnap cancel`.

use serde::Serialize;
use zbus::Connection;

use super::{
    args::Cancel,
    console::Console,
    exit::{Exit, Failure},
    follow,
    inventory::Inventory,
    props::Job,
    proxy::{JobProxy, Options},
    render::{Column, cell, names, quoted, safe, size, table},
    view,
};

#[derive(Serialize)]
struct Jobs<'a> {
    jobs: Vec<view::Job<'a>>,
}

/// Lists the jobs.
pub(super) async fn jobs(bus: &Connection, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    if console.json {
        let jobs = all.jobs().iter().map(|job| view::Job::new(job, &console.watch)).collect();
        console.answer(&Jobs { jobs })?;
        return Ok(Exit::Done);
    }
    if all.jobs().is_empty() {
        console.remark("no job runs or has ended lately");
        return Ok(Exit::Done);
    }
    let columns = [
        Column::Right("ID"),
        Column::Left("OPERATION"),
        Column::Left("VM"),
        Column::Left("SNAPSHOT"),
        Column::Left("STARTED"),
        Column::Left("ORIGIN"),
        Column::Right("UID"),
        Column::Left("CANCELABLE"),
        Column::Left("STATE"),
    ];
    let rows = all.jobs().iter().map(|job| {
        let vms: Vec<_> = job.objects.iter().filter_map(|path| all.vm_name(path)).collect();
        // What a job deleted is on the bus no more.
        let snapshots: Vec<_> = job.objects.iter().filter_map(|path| all.snapshot_name(path)).collect();
        vec![
            job.id.to_string(),
            cell(&job.operation),
            names(&vms),
            names(&snapshots),
            console.watch.relative(job.start),
            cell(&job.origin),
            job.started_by.to_string(),
            if job.cancelable { "yes" } else { "no" }.to_owned(),
            state(job),
        ]
    });
    let rows = rows.collect();
    console.print(&table(&columns, rows))?;
    Ok(Exit::Done)
}

/// Has a job stop, and says how it ended.
pub(super) async fn cancel(
    args: &Cancel,
    bus: &Connection,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Inventory::fetch(bus).await?;
    let job = all.job(args.job)?;
    if cuts_short(job) {
        let vms: Vec<_> = job.objects.iter().filter_map(|path| all.vm_name(path)).map(quoted).collect();
        let question = format!(
            "Stop job {} ({} of {}), which merges or copies images? What it cuts short is finished later, and snapshots \
             that it spoils are no restore points until then.",
            job.id,
            safe(&job.operation),
            vms.join(", ")
        );
        console.confirm(&question, args.consent.yes).await?;
    }
    JobProxy::new(bus, &job.path).await?.cancel(Options::new()).await?;
    if !args.wait.no_wait && follow::wait_for_one(&job.path, bus, console).await?.is_none() {
        return Ok(Exit::Interrupted);
    }
    if console.json {
        follow::answer(&job.path, bus, console).await?;
    } else {
        let job = follow::read(&job.path, bus).await?;
        let so = if job.state == "running" { "is told to stop".to_owned() } else { state(&job) };
        console.line(&format!("job {} ({}): {so}", job.id, safe(&job.operation)))?;
    }
    Ok(Exit::Done)
}

/// Whether to stop it leaves something undone.
fn cuts_short(job: &Job) -> bool {
    job.state == "running"
        && job.cancelable
        && ["delete", "prune", "promote", "finish"].contains(&job.operation.as_str())
}

/// What a job is at, or how it ended.
pub(super) fn state(job: &Job) -> String {
    match (job.state.as_str(), job.result.as_str()) {
        ("done", result) if !job.error_message.is_empty() => {
            format!("{}: {}", safe(result), safe(&job.error_message))
        }
        ("done", result) => cell(result),
        (state, _) => {
            let mut text = safe(state);
            if !job.phase.is_empty() {
                text = format!("{text}: {}", safe(&job.phase));
            }
            if job.progress_valid {
                text = format!("{text} {:.0} %", (job.progress * 100.0).clamp(0.0, 100.0));
            }
            if job.bytes_total > 0 {
                text = format!("{text}, {} of {}", size(job.bytes_done), size(job.bytes_total));
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_shows_what_it_is_at_and_then_how_it_ended() {
        let mut job = Job { state: "queued".into(), ..Job::default() };
        assert_eq!(state(&job), "queued");
        job.state = "running".into();
        job.phase = "merging vda".into();
        job.progress = 0.456;
        job.progress_valid = true;
        assert_eq!(state(&job), "running: merging vda 46 %");
        (job.bytes_done, job.bytes_total) = (3 << 29, 5 << 30);
        assert_eq!(state(&job), "running: merging vda 46 %, 1.5 GiB of 5 GiB");
        job.state = "done".into();
        job.result = "failed".into();
        job.error_message = "no\nspace".into();
        assert_eq!(state(&job), "failed: no\\nspace");
        job.result = "cancelled".into();
        job.error_message = "its time was over".into();
        assert_eq!(state(&job), "cancelled: its time was over");
        job.result = "done".into();
        job.error_message.clear();
        assert_eq!(state(&job), "done");
    }
}
