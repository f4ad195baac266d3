//! The person would not wait: which jobs go on without them, and what there is to do about each.

use std::fmt::Write as _;

use tokio::signal::ctrl_c;
use zbus::{Connection, OwnedObjectPath};

use super::{
    console::Console,
    inventory::{Inventory, Object},
    place::Place,
    props::Job,
    render::{count, quoted, safe},
    restart,
};
use crate::core::deferred::KEPT_FOR;

/// So many are told one by one.
const SHOWN: usize = 20;

/// Says that the daemon goes on with these jobs.
pub(super) async fn detached(jobs: &[OwnedObjectPath], bus: &Connection, console: &mut Console<'_>) {
    if restart::life(bus).await.is_none() {
        // It is not to be started to tell what it would have said.
        let text = format!(
            "interrupted; the daemon has stopped: if it is there again within {} minutes, it does what it had not begun",
            KEPT_FOR.as_mins()
        );
        let status = console.place.command("systemctl status virtsnapd");
        return console.interrupted(&text, &format!("{status} tells whether it runs"));
    }
    let known = tokio::select! {
        all = Inventory::fetch(bus) => all.ok(),
        // Who is that impatient is told what their paths say.
        Ok(()) = ctrl_c() => None,
    };
    let open = jobs.iter().filter_map(|path| Open::of(path, known.as_ref()));
    let (text, hint) = told(&open.collect::<Vec<_>>(), &console.place);
    console.interrupted(&text, &hint);
}

/// A job as a person knows it: `job 7 (delete) of "web"`
pub(super) fn titled(job: &Object<Job>, all: &Inventory) -> String {
    let vms: Vec<_> = job.objects.iter().filter_map(|path| all.vm_name(path)).map(quoted).collect();
    let of = if vms.is_empty() { String::new() } else { format!(" of {}", vms.join(", ")) };
    format!("job {} ({}){of}", job.id, safe(&job.operation))
}

/// One that has not ended, for all that is known.
struct Open {
    id: String,
    title: String,
}

impl Open {
    fn of(path: &OwnedObjectPath, all: Option<&Inventory>) -> Option<Self> {
        let id = path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        let job = all.and_then(|all| Some((all, all.jobs().iter().find(|job| job.path == *path)?)));
        match job {
            Some((_, job)) if job.state == "done" => None,
            Some((all, job)) => Some(Self { id, title: titled(job, all) }),
            None => Some(Self { title: format!("job {id}"), id }),
        }
    }
}

/// What is said, and the next step.
fn told(open: &[Open], place: &Place) -> (String, String) {
    let wait = |ids: &str| place.virtsnap(&format!("wait {ids}"));
    let cancel = |id: &str| place.virtsnap(&format!("cancel {id}"));
    let jobs = place.virtsnap("jobs");
    match open {
        // It is not known which, or all ended meanwhile.
        [] => {
            let text = "interrupted; the daemon goes on with what it has begun".to_owned();
            (text, format!("{jobs} shows how far it is"))
        }
        [Open { id, title }] => (
            format!("interrupted; the daemon goes on with {title}"),
            format!("{} follows it, {} stops it if that can be", wait(id), cancel(id)),
        ),
        several => {
            let number = count(several.len(), "job");
            let mut text =
                format!("interrupted; the daemon goes on with {number}; to follow each, or to stop it:");
            for Open { id, title } in several.iter().take(SHOWN) {
                let _ = write!(text, "\n  {title}: {}, {}", wait(id), cancel(id));
            }
            if several.len() > SHOWN {
                let more = several.len() - SHOWN;
                return (text + &format!("\n  and {more} more"), format!("{jobs} shows them all"));
            }
            let ids: Vec<_> = several.iter().map(|one| one.id.as_str()).collect();
            (text, format!("{} follows them all", wait(&ids.join(" "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ids: std::ops::Range<u32>) -> Vec<Open> {
        ids.map(|id| Open { id: id.to_string(), title: format!("job {id} (create) of \"web\"") }).collect()
    }

    #[test]
    fn every_job_is_named_with_the_commands_for_it() {
        let here = Place::default();
        let (text, hint) = told(&open(7..8), &here);
        assert_eq!(text, "interrupted; the daemon goes on with job 7 (create) of \"web\"");
        assert_eq!(hint, "`virtsnap wait 7` follows it, `virtsnap cancel 7` stops it if that can be");
        let (text, hint) = told(&open(7..9), &Place::of(Some("far")));
        assert_eq!(
            text,
            "interrupted; the daemon goes on with 2 jobs; to follow each, or to stop it:\n  \
             job 7 (create) of \"web\": `virtsnap -H far wait 7`, `virtsnap -H far cancel 7`\n  \
             job 8 (create) of \"web\": `virtsnap -H far wait 8`, `virtsnap -H far cancel 8`"
        );
        assert_eq!(hint, "`virtsnap -H far wait 7 8` follows them all");
        assert_eq!(told(&[], &here).1, "`virtsnap jobs` shows how far it is");
    }

    #[test]
    fn of_very_many_some_are_named() {
        let (text, hint) = told(&open(1..101), &Place::default());
        assert_eq!(text.lines().count(), 22, "{text}");
        assert!(text.ends_with("\n  and 80 more"), "{text}");
        assert_eq!(hint, "`virtsnap jobs` shows them all");
    }
}
