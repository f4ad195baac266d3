//! How far jobs are, on one line of a terminal that is drawn anew at each change.

use std::{future::pending, io::Write};

use unicode_width::UnicodeWidthChar as _;
use zbus::{Connection, MatchRule, OwnedObjectPath, message::Type};

use super::{exit::Failure, follow, inventory::Object, news, props::Job, proxy::SERVICE, render::safe};

/// Takes the line away again.
pub(super) const CLEAR: &str = "\r\u{1b}[2K";

/// So many columns at most: a line that wraps could not be drawn over.
const WIDTH: usize = 79;
const BAR: u8 = 24;

/// Draws for ever. Where that cannot be had, it waits for ever: the jobs' end is for others to see.
pub(super) async fn draw(jobs: &[OwnedObjectPath], bus: &Connection, to: &mut dyn Write) {
    if draw_until(jobs, bus, to).await.is_err() {
        let _ = write!(to, "{CLEAR}");
    }
    pending::<()>().await;
}

async fn draw_until(jobs: &[OwnedObjectPath], bus: &Connection, to: &mut dyn Write) -> Result<(), Failure> {
    let rule =
        MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).member("PropertiesChanged").build()?;
    let mut changes = news::signals(rule, bus).await?;
    let mut now = Vec::with_capacity(jobs.len());
    for job in jobs {
        now.push(follow::read(job, bus).await?);
    }
    loop {
        write!(to, "{CLEAR}{}", line(&now))?;
        to.flush()?;
        loop {
            let Some(change) = changes.recv().await else { return Ok(()) };
            let change = change?;
            let header = change.header();
            let path = header.path().map(zbus::ObjectPath::as_str).unwrap_or_default();
            if let Some(of) = jobs.iter().position(|job| job.as_str() == path) {
                now[of] = follow::read(&jobs[of], bus).await?;
                break;
            }
        }
    }
}

/// `[######------------------]  25 %  merging vda (1/2)`; of several jobs how many have ended, and what one is at.
fn line(jobs: &[Object<Job>]) -> String {
    let ended = jobs.iter().filter(|job| job.state == "done").count();
    let at_work = jobs.iter().find(|job| job.state == "running").or_else(|| jobs.first());
    let Some(job) = at_work else { return String::new() };
    let phase = if job.phase.is_empty() { safe(&job.state) } else { safe(&job.phase) };
    let line = if jobs.len() > 1 {
        format!("{ended} of {} done; {phase}", jobs.len())
    } else if job.progress_valid {
        let share = job.progress.clamp(0.0, 1.0);
        let full = (1..=BAR).filter(|cell| f64::from(*cell) <= share * f64::from(BAR) + 1e-9).count();
        let bar = format!("{}{}", "#".repeat(full), "-".repeat(usize::from(BAR) - full));
        format!("[{bar}] {:>3.0} %  {phase}", share * 100.0)
    } else {
        format!("{phase} …")
    };
    shortened(&line)
}

/// What of it stands in the columns that there are; some characters take two.
fn shortened(line: &str) -> String {
    let columns = line.chars().scan(0, |sum, c| {
        *sum += c.width().unwrap_or(0);
        Some((*sum, c))
    });
    columns.take_while(|(sum, _)| *sum <= WIDTH).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inventory::tests::path;

    fn job(state: &str, phase: &str, progress: Option<f64>) -> Object<Job> {
        let props = Job {
            state: state.into(),
            phase: phase.into(),
            progress: progress.unwrap_or(0.0),
            progress_valid: progress.is_some(),
            ..Job::default()
        };
        Object::new(path("/j"), props)
    }

    #[test]
    fn the_line_shows_how_far_it_is_and_never_wraps() {
        assert_eq!(line(&[job("queued", "waiting", None)]), "waiting …");
        assert_eq!(
            line(&[job("running", "merging vda (1/2)", Some(0.25))]),
            "[######------------------]  25 %  merging vda (1/2)"
        );
        assert!(
            line(&[job("running", "m", Some(1.0))])
                .starts_with(&format!("[{}] 100 %", "#".repeat(usize::from(BAR))))
        );
        let several =
            [job("done", "", None), job("running", "freezing", None), job("queued", "waiting", None)];
        assert_eq!(line(&several), "1 of 3 done; freezing");
        assert_eq!(line(&[job("running", &"x\n".repeat(99), None)]).chars().count(), WIDTH);
        let wide = line(&[job("running", &"快".repeat(99), None)]);
        assert_eq!(wide, "快".repeat(WIDTH / 2));
    }
}
