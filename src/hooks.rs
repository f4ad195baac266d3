//! Runs hooks: one program after the other, none for longer than it may, what it says into the journal.

use std::{
    fs,
    io::{self, Read as _, Seek as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

use crate::{
    clock::{Clock as _, SystemClock},
    core::hook::{self, Event},
};

/// One that takes longer is killed, with what it has started.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// What was killed ends as soon as it is out of the kernel.
const GRACE: Duration = Duration::from_secs(2);
/// More of what it says is not read.
const LONGEST: u64 = 64 * 1024;
/// The directories that its programs are looked for in.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its file's name.
    pub name: String,
    path: PathBuf,
    /// Anybody could have written it.
    loose: bool,
}

/// The hooks in this directory, in their order; none if there is no such directory.
pub fn all(directory: &Path) -> io::Result<Vec<Hook>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Through links: a hook may be one.
        let Ok(about) = fs::metadata(entry.path()) else { continue };
        let mode = about.permissions().mode();
        if hook::is_hook(&name) && about.is_file() && mode & 0o111 != 0 {
            all.push(Hook { name, path: entry.path(), loose: mode & 0o002 != 0 });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// A hook that has been run.
#[derive(Debug)]
pub struct Ran {
    /// How it ended. The error is the end of a sentence that begins with its name.
    pub result: Result<(), String>,
    /// The hook's name.
    pub hook: String,
    event: Event,
    said: Vec<String>,
}

impl Ran {
    /// Puts into the journal what it said.
    pub fn tell(&self) {
        for line in &self.said {
            tracing::info!(VIRTSNAP_HOOK = %self.hook, "hook {} ({}): {line}", self.hook, self.event.as_str());
        }
    }
}

/// A time that several share. Real time, whatever the daemon's clock is.
#[derive(Debug)]
pub struct Budget {
    clock: SystemClock,
    all: Duration,
}

impl Budget {
    /// It begins to pass.
    pub fn begin(all: Duration) -> Self {
        Self { clock: SystemClock::default(), all }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.all.saturating_sub(self.clock.elapsed())
    }
}

impl Hook {
    /// Runs it, and has what it says in the journal. The error is the end of a sentence that begins with its name.
    pub fn run(
        &self,
        event: Event,
        operation: &str,
        environment: &[(&str, String)],
        timeout: Duration,
    ) -> Result<(), String> {
        let ran = self.run_quietly(event, operation, environment, timeout);
        ran.tell();
        ran.result
    }

    /// Runs it where there is no time for the journal.
    pub fn run_quietly(
        &self,
        event: Event,
        operation: &str,
        environment: &[(&str, String)],
        timeout: Duration,
    ) -> Ran {
        let mut said = Vec::new();
        let result = self.watch(event, operation, environment, timeout, &mut said);
        Ran { result, hook: self.name.clone(), event, said }
    }

    /// One that is not run, and counts as failed.
    pub fn left_out(&self, event: Event, why: String) -> Ran {
        Ran { result: Err(why), hook: self.name.clone(), event, said: Vec::new() }
    }

    fn watch(
        &self,
        event: Event,
        operation: &str,
        environment: &[(&str, String)],
        timeout: Duration,
        lines: &mut Vec<String>,
    ) -> Result<(), String> {
        if self.loose {
            return Err(format!(
                "is not run, as everybody may write to {}: `chmod o-w` it",
                self.path.display()
            ));
        }
        let cannot = |e: io::Error| format!("cannot be run: {e}");
        let mut said =
            fs::File::from(memfd_create(c"hook", MFdFlags::MFD_CLOEXEC).map_err(|e| cannot(e.into()))?);
        let mut command = Command::new(&self.path);
        command.args([event.as_str(), operation]).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8");
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.env("VIRTSNAP_EVENT", event.as_str()).current_dir("/").stdin(Stdio::null());
        command.stdout(said.try_clone().map_err(cannot)?).stderr(said.try_clone().map_err(cannot)?);
        // What it starts can be killed with it.
        let mut child = command.process_group(0).spawn().map_err(cannot)?;
        let group = child.id();
        let (send, ends) = mpsc::channel();
        let wait = move || {
            let _ = send.send(child.wait());
        };
        if let Err(e) = thread::Builder::new().name("hook".to_owned()).spawn(wait) {
            kill(group);
            return Err(format!("was killed, as there was no thread to watch its time: {e}"));
        }
        let (ended, killed) = wait_for(&ends, timeout, || kill(group));
        let Some(ended) = ended else {
            return Err(format!(
                "had not ended after {} s, and does not though it was killed, as where what it reads or writes hangs; it is \
                 left behind (process {group})",
                tenths(timeout)
            ));
        };
        let mut bytes = Vec::new();
        let read = said.rewind().and_then(|()| said.take(LONGEST).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        lines.extend(text.lines().map(str::trim_end).filter(|l| !l.is_empty()).map(str::to_owned));
        if let Err(e) = read {
            tracing::debug!(error = %e, "what hook {} said cannot be read", self.name);
        }
        let last = lines.last().map(|line| format!(", saying \"{line}\"")).unwrap_or_default();
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(_) if killed => {
                Err(format!("was killed, as it had not ended after {} s{last}", tenths(timeout)))
            }
            Ok(status) => Err(format!("failed ({status}){last}")),
            Err(e) => Err(format!("cannot be waited for: {e}")),
        }
    }
}

/// How it ended, if it did, and whether it had to be killed. One that waits for storage which hangs does not end then either.
fn wait_for<T>(ends: &mpsc::Receiver<T>, timeout: Duration, kill: impl FnOnce()) -> (Option<T>, bool) {
    if let Ok(ended) = ends.recv_timeout(timeout) {
        return (Some(ended), false);
    }
    kill();
    (ends.recv_timeout(GRACE).ok(), true)
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// With what it has started.
fn kill(group: u32) {
    if let Ok(group) = i32::try_from(group) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, name: &str, mode: u32, text: &str) {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(directory: &Path, name: &str, timeout: Duration) -> Result<(), String> {
        let all = all(directory).unwrap();
        let environment = [("VIRTSNAP_VM", "a b".to_owned())];
        all.iter().find(|h| h.name == name).unwrap().run(Event::Before, "create", &environment, timeout)
    }

    #[test]
    fn they_are_the_executables_with_right_names_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["90-b", "10-a", "notes.txt", "50-c.optional"] {
            put(directory.path(), name, 0o755, "true");
        }
        put(directory.path(), "20-off", 0o644, "true");
        fs::create_dir(directory.path().join("30-directory")).unwrap();
        let names: Vec<String> = all(directory.path()).unwrap().into_iter().map(|h| h.name).collect();
        assert_eq!(names, ["10-a", "50-c.optional", "90-b"]);
        assert_eq!(all(&directory.path().join("none")).unwrap(), []);
    }

    #[test]
    fn each_is_told_what_it_is_about_and_how_it_ends_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name, text: &str| put(directory.path(), name, 0o755, text);
        put(
            "told",
            r#"[ "$1 $2 $VIRTSNAP_EVENT $VIRTSNAP_VM" = "before create before a b" ] && [ -z "$HOME" ]"#,
        );
        put("fails", "echo no such table; exit 3");
        put("stays", "echo waiting; exec tail -f /dev/null");
        let left = directory.path().join("left");
        put("leaves", &format!("tail -f /dev/null & echo $! >{}", left.display()));
        assert_eq!(run(directory.path(), "told", TIMEOUT), Ok(()));
        let failed = run(directory.path(), "fails", TIMEOUT).unwrap_err();
        assert_eq!(failed, "failed (exit status: 3), saying \"no such table\"");
        let killed = run(directory.path(), "stays", Duration::from_secs(1)).unwrap_err();
        assert_eq!(killed, "was killed, as it had not ended after 1 s, saying \"waiting\"");
        // What it leaves running holds nobody up.
        assert_eq!(run(directory.path(), "leaves", TIMEOUT), Ok(()));
        let left = fs::read_to_string(left).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn one_that_cannot_be_killed_holds_nobody_up() {
        let (hangs, ends) = mpsc::channel::<()>();
        let mut killed = false;
        assert_eq!(wait_for(&ends, Duration::from_millis(1), || killed = true), (None, true));
        assert!(killed);
        hangs.send(()).unwrap();
        assert_eq!(wait_for(&ends, Duration::from_millis(1), || ()), (Some(()), false));
    }

    #[test]
    fn what_everybody_may_write_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "loose", 0o757, "true");
        assert!(run(directory.path(), "loose", TIMEOUT).unwrap_err().contains("everybody may write"));
    }
}
