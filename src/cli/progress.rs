//! How far jobs are: on a terminal one line that is drawn anew at each change, elsewhere a line now and then.

use std::{future::pending, io::Write};

use unicode_width::UnicodeWidthChar as _;
use zbus::{Connection, MatchRule, OwnedObjectPath, message::Type};

use super::{exit::Failure, follow, inventory::Object, news, props::Job, proxy::SERVICE, render::safe};

/// Takes the line away again.
pub(super) const CLEAR: &str = "\r\u{1b}[2K";

/// So many columns at most: a line that wraps could not be drawn over.
const WIDTH: usize = 79;
const BAR: u8 = 24;

/// Shows it for ever. Where that cannot be had, it waits for ever: the jobs' end is for others to see.
pub(super) async fn show(jobs: &[OwnedObjectPath], bus: &Connection, drawn: bool, to: &mut dyn Write) {
    if show_until(jobs, bus, drawn, to).await.is_err() && drawn {
        let _ = write!(to, "{CLEAR}");
    }
    pending::<()>().await;
}

async fn show_until(
    jobs: &[OwnedObjectPath],
    bus: &Connection,
    drawn: bool,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    let rule =
        MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).member("PropertiesChanged").build()?;
    let mut changes = news::signals(rule, bus).await?;
    let mut now = Vec::with_capacity(jobs.len());
    for job in jobs {
        now.push(follow::read(job, bus).await?);
    }
    let mut told = Told::default();
    loop {
        if drawn {
            write!(to, "{CLEAR}{}", line(&now))?;
        } else if let Some(line) = told.next(&now) {
            writeln!(to, "{line}")?;
        }
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

/// What was told line by line, which a log may keep: only another phase, or another tenth, is worth a line.
#[derive(Debug, Default)]
struct Told(Option<(String, usize)>);

impl Told {
    fn next(&mut self, jobs: &[Object<Job>]) -> Option<String> {
        let (news, line) = match jobs {
            [job] if job.state != "running" || job.phase.is_empty() => return None,
            [job] => {
                let phase = safe(&job.phase);
                let share = job.progress_valid.then(|| job.progress.clamp(0.0, 1.0));
                let tenth =
                    (1..=10_u8).filter(|n| share.is_some_and(|s| f64::from(*n) <= s * 10.0 + 1e-9)).count();
                let far = share.map(|share| format!(", {:.0} %", share * 100.0)).unwrap_or_default();
                let line = format!("job {} ({}): {phase}{far}", job.id, safe(&job.operation));
                ((phase, tenth), line)
            }
            jobs => {
                let ended = jobs.iter().filter(|job| job.state == "done").count();
                (
                    (String::new(), ended * 10 / jobs.len().max(1)),
                    format!("{ended} of {} jobs done", jobs.len()),
                )
            }
        };
        if self.0.as_ref() == Some(&news) {
            return None;
        }
        self.0 = Some(news);
        Some(line)
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

    #[test]
    fn without_a_terminal_a_line_is_told_for_each_phase_and_each_tenth() {
        let mut told = Told::default();
        let mut next = |job: Object<Job>| told.next(&[job]);
        assert_eq!(next(job("queued", "waiting", None)), None);
        let first = next(job("running", "merging vda", Some(0.0)));
        assert_eq!(first.as_deref(), Some("job 0 (): merging vda, 0 %"));
        assert_eq!(next(job("running", "merging vda", Some(0.09))), None);
        assert!(next(job("running", "merging vda", Some(0.31))).is_some());
        assert_eq!(next(job("running", "merging vda", Some(0.39))), None);
        assert!(next(job("running", "merging vdb", Some(0.39))).is_some());
        assert_eq!(next(job("done", "", None)), None);

        let mut told = Told::default();
        let many = |ended: usize| -> Vec<_> {
            (0..40).map(|n| job(if n < ended { "done" } else { "running" }, "freezing", None)).collect()
        };
        assert_eq!(told.next(&many(0)).as_deref(), Some("0 of 40 jobs done"));
        assert_eq!((1..=40).filter(|ended| told.next(&many(*ended)).is_some()).count(), 10);
    }
}
