//! How far jobs are: on a terminal one line that is drawn anew at each change, elsewhere a line now and then.

use std::{future::pending, io::Write, time::Duration};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};
use zbus::{Connection, MatchRule, OwnedObjectPath, message::Type};

use super::{
    console::Screen, exit::Failure, follow, inventory::Object, news, props::Job, proxy::SERVICE, rate::Rate,
    render::safe,
};
use crate::core::deferred;

/// Takes the line away again.
pub(super) const CLEAR: &str = "\r\u{1b}[2K";

/// The bar's cells, and how many there are where the line has no room for so many.
const BAR: (u8, u8) = (24, 8);
/// What is copied at no speed any more is drawn as such, though nothing is heard of it.
const TICK: Duration = Duration::from_secs(1);
/// As long as something moves, a log hears of it so often at least.
const SILENCE: Duration = Duration::from_secs(10);

/// Shows it for ever. Where that cannot be had, it waits for ever: the jobs' end is for others to see.
pub(super) async fn show(jobs: &[OwnedObjectPath], bus: &Connection, screen: Screen<'_>, to: &mut dyn Write) {
    if show_until(jobs, bus, screen, to).await.is_err() && screen.columns.is_some() {
        let _ = write!(to, "{CLEAR}");
    }
    pending::<()>().await;
}

async fn show_until(
    jobs: &[OwnedObjectPath],
    bus: &Connection,
    screen: Screen<'_>,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    let rule =
        MatchRule::builder().msg_type(Type::Signal).sender(SERVICE).member("PropertiesChanged").build()?;
    let mut changes = news::signals(rule, bus).await?;
    let mut now = Vec::with_capacity(jobs.len());
    for job in jobs {
        now.push(follow::read(job, bus).await?);
    }
    let (mut told, mut rate) = (Told::default(), Rate::default());
    loop {
        let at = screen.clock.elapsed();
        if let [job] = now.as_slice() {
            rate.feel(job, at);
        }
        if let Some(columns) = screen.columns {
            write!(to, "{CLEAR}{}", line(&now, &rate.parts(at), columns))?;
        } else if let Some(line) = told.next(&now, &rate.parts(at), at) {
            writeln!(to, "{line}")?;
        }
        to.flush()?;
        loop {
            let change = if screen.columns.is_some() && rate.is_felt() {
                let Ok(change) = tokio::time::timeout(TICK, changes.recv()).await else { break };
                change
            } else {
                changes.recv().await
            };
            let Some(change) = change else { return Ok(()) };
            let change = change?;
            let header = change.header();
            let path = header.path().map(zbus::ObjectPath::as_str).unwrap_or_default();
            if let Some(of) = jobs.iter().position(|job| job.as_str() == path) {
                // A daemon that is restarted says more later.
                if let Ok(job) = follow::read(&jobs[of], bus).await {
                    now[of] = job;
                }
                break;
            }
        }
    }
}

/// What was told line by line, which a log may keep: only another phase, or another tenth, is worth a line, and now and
/// then that it still goes on.
#[derive(Debug, Default)]
struct Told {
    news: Option<(String, usize)>,
    line: String,
    at: Duration,
}

impl Told {
    /// The line that is to be told at this time, by a clock that only goes forward. `parts`: what is said of what is copied.
    fn next(&mut self, jobs: &[Object<Job>], parts: &[String], at: Duration) -> Option<String> {
        let (news, line) = match jobs {
            // That it waits for its turn is no news; that the daemon has gone is.
            [job] if job.state == "queued" && job.phase != deferred::PHASE => return None,
            [job] if job.state == "done" || job.phase.is_empty() => return None,
            [job] => {
                let phase = safe(&job.phase);
                let share = share(job);
                let tenth =
                    (1..=10_u8).filter(|n| share.is_some_and(|s| f64::from(*n) <= s * 10.0 + 1e-9)).count();
                let far = share.map(|share| format!("{:.0} %", share * 100.0));
                let all: Vec<_> = far.iter().chain(parts).map(|part| format!(", {part}")).collect();
                let line = format!("job {} ({}): {phase}{}", job.id, safe(&job.operation), all.concat());
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
        let still = line != self.line && at.saturating_sub(self.at) >= SILENCE;
        if self.news.as_ref() == Some(&news) && !still {
            return None;
        }
        *self = Self { news: Some(news), line: line.clone(), at };
        Some(line)
    }
}

fn share(job: &Job) -> Option<f64> {
    job.progress_valid.then(|| job.progress.clamp(0.0, 1.0))
}

/// `[######------------------]  25 %  merging vda (1/2), 1.2 GiB of 4.8 GiB, 210 MiB/s, 17 s left`, or what of it stands in
/// the columns that there are; of several jobs how many have ended, and what one is at.
fn line(jobs: &[Object<Job>], parts: &[String], columns: usize) -> String {
    // What reaches the last column has some terminals wrap, and a line that wraps cannot be drawn over.
    let width = columns.saturating_sub(1);
    let ended = jobs.iter().filter(|job| job.state == "done").count();
    let at_work = jobs.iter().find(|job| job.state == "running").or_else(|| jobs.first());
    let Some(job) = at_work else { return String::new() };
    let phase = if job.phase.is_empty() { safe(&job.state) } else { safe(&job.phase) };
    let line = if jobs.len() > 1 {
        format!("{ended} of {} done; {phase}", jobs.len())
    } else if let Some(share) = share(job) {
        let whole = |cells: u8, parts: &[String]| {
            let full = (1..=cells).filter(|cell| f64::from(*cell) <= share * f64::from(cells) + 1e-9).count();
            let bar = format!("{}{}", "#".repeat(full), "-".repeat(usize::from(cells) - full));
            let parts: Vec<_> = parts.iter().map(|part| format!(", {part}")).collect();
            format!("[{bar}] {:>3.0} %  {phase}{}", share * 100.0, parts.concat())
        };
        // When it will be done is worth the most, and stands last.
        let less = (0..=parts.len()).map(|from| whole(BAR.1, &parts[from..]));
        let all: Vec<_> = std::iter::once(whole(BAR.0, parts)).chain(less).collect();
        all.iter().find(|line| line.width() <= width).or(all.last()).cloned().unwrap_or_default()
    } else {
        format!("{phase} ...")
    };
    shortened(&line, width)
}

/// What of it stands in so many columns; some characters take two.
fn shortened(line: &str, width: usize) -> String {
    let columns = line.chars().scan(0, |sum, c| {
        *sum += c.width().unwrap_or(0);
        Some((*sum, c))
    });
    columns.take_while(|(sum, _)| *sum <= width).map(|(_, c)| c).collect()
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
        let line = |jobs: &[Object<Job>]| line(jobs, &[], 80);
        assert_eq!(line(&[job("queued", "waiting", None)]), "waiting ...");
        assert_eq!(
            line(&[job("running", "merging vda (1/2)", Some(0.25))]),
            "[######------------------]  25 %  merging vda (1/2)"
        );
        let all = line(&[job("running", "m", Some(1.0))]);
        assert!(all.starts_with(&format!("[{}] 100 %", "#".repeat(usize::from(BAR.0)))), "{all}");
        let several =
            [job("done", "", None), job("running", "freezing", None), job("queued", "waiting", None)];
        assert_eq!(line(&several), "1 of 3 done; freezing");
        assert_eq!(line(&[job("running", &"x\n".repeat(99), None)]).chars().count(), 79);
        let wide = line(&[job("running", &"快".repeat(99), None)]);
        assert_eq!(wide, "快".repeat(79 / 2));
    }

    #[test]
    fn what_has_no_room_is_left_out_and_when_it_is_done_last() {
        let parts = ["1.2 GiB of 4.8 GiB", "210 MiB/s", "17 s left"].map(str::to_owned);
        let merging = [job("running", "merging vda (1/2)", Some(0.25))];
        for (columns, expected) in [
            (
                200,
                "[######------------------]  25 %  merging vda (1/2), 1.2 GiB of 4.8 GiB, 210 MiB/s, 17 s left",
            ),
            (80, "[##------]  25 %  merging vda (1/2), 1.2 GiB of 4.8 GiB, 210 MiB/s, 17 s left"),
            (60, "[##------]  25 %  merging vda (1/2), 210 MiB/s, 17 s left"),
            (50, "[##------]  25 %  merging vda (1/2), 17 s left"),
            (40, "[##------]  25 %  merging vda (1/2)"),
            (20, "[##------]  25 %  me"),
        ] {
            let seen = line(&merging, &parts, columns);
            assert_eq!(seen, expected[..expected.len().min(columns - 1)], "{columns}");
        }
    }

    #[test]
    fn without_a_terminal_a_line_is_told_for_each_phase_and_each_tenth() {
        let mut told = Told::default();
        let mut next = |job: Object<Job>| told.next(&[job], &[], Duration::ZERO);
        assert_eq!(next(job("queued", "waiting", None)), None);
        let first = next(job("running", "merging vda", Some(0.0)));
        assert_eq!(first.as_deref(), Some("job 0 (): merging vda, 0 %"));
        assert_eq!(next(job("running", "merging vda", Some(0.09))), None);
        assert!(next(job("running", "merging vda", Some(0.31))).is_some());
        assert_eq!(next(job("running", "merging vda", Some(0.39))), None);
        assert!(next(job("running", "merging vdb", Some(0.39))).is_some());
        assert_eq!(next(job("done", "", None)), None);
        let gone = next(job("queued", deferred::PHASE, None));
        assert_eq!(gone.as_deref(), Some("job 0 (): waiting for the daemon to start again"));

        let mut told = Told::default();
        let many = |ended: usize| -> Vec<_> {
            (0..40).map(|n| job(if n < ended { "done" } else { "running" }, "freezing", None)).collect()
        };
        let mut next = |ended: usize| told.next(&many(ended), &[], Duration::ZERO);
        assert_eq!(next(0).as_deref(), Some("0 of 40 jobs done"));
        assert_eq!((1..=40).filter(|ended| next(*ended).is_some()).count(), 10);
    }

    #[test]
    fn what_goes_on_within_a_tenth_is_told_every_ten_seconds_and_what_stands_still_is_not() {
        let mut told = Told::default();
        let mut next = |seconds: u64, done: &str| {
            let merging = [job("running", "merging vda", Some(0.01))];
            told.next(&merging, &[format!("{done} of 1 TiB")], Duration::from_secs(seconds))
        };
        assert!(next(100, "1 GiB").is_some());
        assert_eq!(next(109, "2 GiB"), None);
        assert_eq!(next(110, "3 GiB").as_deref(), Some("job 0 (): merging vda, 1 %, 3 GiB of 1 TiB"));
        assert_eq!(next(119, "4 GiB"), None);
        assert!(next(121, "5 GiB").is_some());
        assert_eq!(next(500, "5 GiB"), None);
        assert!(next(501, "6 GiB").is_some());
    }
}
