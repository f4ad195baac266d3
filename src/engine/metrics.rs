//! The file of metrics for `node_exporter`'s textfile collector: replaced as a whole, so that nobody reads half of it.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    mem,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    core::{
        settings::Settings,
        view::{View, metrics},
    },
    logging::message,
};

/// Between two writes: what comes in droves is written once.
const PAUSE: Duration = Duration::from_secs(1);

/// The way to the thread that writes. Without a path there is no such thread.
pub(super) struct Metrics {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// The thread runs.
    running: bool,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    news: Condvar,
}

#[derive(Default)]
struct Wanted {
    path: Option<PathBuf>,
    view: Option<Arc<View>>,
    /// Something is to be done.
    due: bool,
    /// Written also if it says what it said: its age shows that the daemon lives.
    again: bool,
    ended: bool,
}

impl Metrics {
    /// Writes where the settings say, this first.
    pub(super) fn new(settings: &Settings, first: &Arc<View>, clock: &Arc<dyn Clock>) -> Self {
        let mut new = Self { shared: Arc::default(), clock: Arc::clone(clock), running: false };
        new.publish(first);
        new.follow(settings.daemon.metrics_textfile.as_deref());
        new
    }

    /// The settings say this now. A file that was written elsewhere before goes, as nobody keeps it true.
    pub(super) fn follow(&mut self, path: Option<&Path>) {
        let mut wanted = self.shared.lock();
        if wanted.path.as_deref() == path {
            return;
        }
        wanted.path = path.map(Path::to_owned);
        wanted.due = true;
        drop(wanted);
        self.shared.news.notify_one();
        if path.is_some() && !self.running {
            let (shared, clock) = (Arc::clone(&self.shared), Arc::clone(&self.clock));
            self.running = super::started(&*self.clock, "metrics", move || write_all(&shared, &*clock));
        }
    }

    /// This is so now.
    pub(super) fn publish(&self, view: &Arc<View>) {
        let mut wanted = self.shared.lock();
        let same = wanted.view.as_ref().is_some_and(|old| says_the_same(old, view));
        wanted.view = Some(Arc::clone(view));
        if !same && wanted.path.is_some() {
            wanted.due = true;
            self.shared.news.notify_one();
        }
    }

    /// Writes what there is once more.
    pub(super) fn again(&self) {
        let mut wanted = self.shared.lock();
        (wanted.due, wanted.again) = (true, true);
        self.shared.news.notify_one();
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.news.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written where, and whether in any case; `None` at the end.
    fn next(&self) -> Option<(Option<PathBuf>, Option<Arc<View>>, bool)> {
        let mut wanted = self.lock();
        while !wanted.due && !wanted.ended {
            wanted = self.news.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
        wanted.due = false;
        let again = mem::take(&mut wanted.again);
        (!wanted.ended).then(|| (wanted.path.clone(), wanted.view.clone(), again))
    }
}

/// A job's progress is in no metric.
fn says_the_same(old: &View, new: &View) -> bool {
    Arc::ptr_eq(&old.manager, &new.manager)
        && Arc::ptr_eq(&old.counts, &new.counts)
        && super::pointers_equal(&old.vms, &new.vms)
        && super::pointers_equal(&old.policies, &new.policies)
}

fn write_all(shared: &Shared, clock: &dyn Clock) {
    let mut written: Option<(PathBuf, String)> = None;
    let mut failed = Failed::default();
    while let Some((path, view, again)) = shared.next() {
        if let Some((old, _)) = written.take_if(|(old, _)| Some(&*old) != path.as_ref())
            && let Err(e) = fs::remove_file(&old)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(
                MESSAGE_ID = message::METRICS_FAILED, error = %e,
                "{} is not written any more, and cannot be removed", old.display()
            );
        }
        if path.is_none() {
            failed = Failed::default();
        }
        if let (Some(path), Some(view)) = (path, view) {
            let text = metrics(&view, env!("CARGO_PKG_VERSION"), clock.now());
            if again || written.as_ref().is_none_or(|(_, old)| *old != text) {
                match replace(&path, &text) {
                    Ok(()) => {
                        written = Some((path, text));
                        failed = Failed::default();
                    }
                    Err(e) => {
                        // Once, or a full disk would fill the journal as well.
                        if failed.is_new(&path) {
                            tracing::warn!(
                                MESSAGE_ID = message::METRICS_FAILED, error = %e,
                                "cannot write metrics to {}; trying on", path.display()
                            );
                        }
                    }
                }
            }
        }
        clock.pause(PAUSE);
    }
}

/// The file that could not be written the last time.
#[derive(Default)]
struct Failed(Option<PathBuf>);

impl Failed {
    /// Nobody was told of this one yet.
    fn is_new(&mut self, path: &Path) -> bool {
        self.0.replace(path.to_owned()).as_deref() != Some(path)
    }
}

/// Whoever reads the file has the old one or the new one. The one in between does not end in `.prom`, so that no collector
/// takes it for one of its own.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    let done = file.write_all(text.as_bytes());
    // Whoever collects is another user, whatever the unit's umask.
    let done = done.and_then(|()| file.set_permissions(Permissions::from_mode(0o644)));
    let done = done.and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_cannot_be_written_is_told_once() {
        let mut failed = Failed::default();
        let told = ["/a", "/a", "/b", "/b", "/a"].map(|path| failed.is_new(Path::new(path)));
        assert_eq!(told, [true, false, true, false, true]);
    }
}
