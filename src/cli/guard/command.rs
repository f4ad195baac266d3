//! The command that is guarded: found before anything is done for it, run with the client's own input and outputs, told
//! of the signals that the client gets.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{AccessFlags, Pid, access, getpgrp, tcgetpgrp},
};
use tokio::process::Command;

use super::signals::Signals;

/// Where a shell looks that has no PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a command cannot be run, in the words and statuses of shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    NotFound,
    NotExecutable,
}

impl Unfit {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
        }
    }

    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::NotFound => "there is no such command",
            Self::NotExecutable => "it cannot be executed",
        }
    }
}

/// The file that the name stands for in this environment.
pub(super) fn find(name: &OsStr) -> Result<PathBuf, Unfit> {
    find_in(name, &env::var_os("PATH").unwrap_or_else(|| PATH.into()))
}

fn find_in(name: &OsStr, path: &OsStr) -> Result<PathBuf, Unfit> {
    if name.is_empty() {
        return Err(Unfit::NotFound);
    }
    let candidates: Vec<PathBuf> = if name.as_encoded_bytes().contains(&b'/') {
        vec![name.into()]
    } else {
        env::split_paths(path).map(|directory| directory.join(name)).collect()
    };
    let mut found = Err(Unfit::NotFound);
    for candidate in candidates {
        if is_executable(&candidate) {
            return Ok(candidate);
        }
        if candidate.exists() {
            found = Err(Unfit::NotExecutable);
        }
    }
    found
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Else why that cannot be had.
    status: Result<ExitStatus, String>,
    /// The first signal that the client got meanwhile.
    pub(super) told: Option<Signal>,
}

impl Ended {
    /// Whether it did what it was for. Who interrupts a command does not expect that, even if it ends in peace.
    pub(super) fn well(&self) -> bool {
        self.status.as_ref().is_ok_and(ExitStatus::success) && self.told.is_none()
    }

    /// The exit status that a shell would have for it.
    pub(super) fn code(&self) -> u8 {
        let Ok(status) = &self.status else { return u8::MAX };
        match (status.code(), status.signal(), self.told) {
            (Some(0), _, Some(told)) => by_signal(told as i32),
            (Some(code), ..) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal), _) => by_signal(signal),
            (None, None, _) => u8::MAX,
        }
    }

    /// `ended with exit status 3`
    pub(super) fn how(&self) -> String {
        let status = match &self.status {
            Ok(status) => status,
            Err(why) => return format!("ended, and how is not known ({why})"),
        };
        match (status.code(), status.signal(), self.told) {
            (Some(0), _, Some(told)) => format!("was interrupted by {told}"),
            (Some(code), ..) => format!("ended with exit status {code}"),
            (None, signal, _) => {
                let name = signal.and_then(|signal| Signal::try_from(signal).ok());
                format!("was killed by {}", name.map_or("a signal", Signal::as_str))
            }
        }
    }
}

/// The exit status that a shell has for what a signal ended.
pub(super) fn by_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Runs it to its end. An error says that it did not begin.
pub(super) async fn run(program: &Path, command: &[OsString], signals: &mut Signals) -> io::Result<Ended> {
    let mut child = Command::new(program);
    // What it is called by, as busybox and the like want it.
    child.arg0(&command[0]).args(&command[1..]);
    let mut child = child.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let mut told = None;
    loop {
        tokio::select! {
            // First: what ends as it is interrupted was interrupted.
            biased;
            signal = signals.next() => {
                told = told.or(Some(signal));
                // What is typed at a terminal has reached it by itself, and twice is more than once to many a program.
                let by_key = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && typed();
                if !by_key && let Some(pid) = pid {
                    let _ = kill(pid, signal);
                }
            }
            status = child.wait() => {
                return Ok(Ended { status: status.map_err(|error| error.to_string()), told });
            }
        }
    }
}

/// Whether a terminal sends its signals to this process, and so to those it runs.
fn typed() -> bool {
    let input = io::stdin();
    input.is_terminal() && tcgetpgrp(&input).is_ok_and(|group| group == getpgrp())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn it_is_looked_for_as_a_shell_does() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        for (path, mode) in
            [(first.join("tool"), 0o644), (second.join("tool"), 0o755), (first.join("text"), 0o644)]
        {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(second.join("text")).unwrap();
        let path = env::join_paths([&first, &second]).unwrap();
        let find = |name: &str| find_in(name.as_ref(), &path);
        assert_eq!(find("tool"), Ok(second.join("tool")));
        assert_eq!(find("text"), Err(Unfit::NotExecutable));
        assert_eq!(find("none"), Err(Unfit::NotFound));
        assert_eq!(find(""), Err(Unfit::NotFound));
        let at = |path: &Path| find(path.to_str().unwrap());
        assert_eq!(at(&second.join("tool")), Ok(second.join("tool")));
        assert_eq!(at(&first), Err(Unfit::NotExecutable), "a directory");
        assert_eq!(at(&first.join("nothing")), Err(Unfit::NotFound));
    }

    #[test]
    fn its_exit_status_is_the_shell_s() {
        let ended = |raw, told| Ended { status: Ok(ExitStatus::from_raw(raw)), told };
        assert!(ended(0, None).well());
        assert_eq!((ended(3 << 8, None).code(), ended(3 << 8, None).well()), (3, false));
        assert_eq!((ended(15, None).code(), ended(15, None).how().as_str()), (143, "was killed by SIGTERM"));
        let in_peace = ended(0, Some(Signal::SIGINT));
        assert_eq!((in_peace.code(), in_peace.well()), (130, false));
        assert_eq!(ended(7 << 8, Some(Signal::SIGINT)).code(), 7);
        let lost = Ended { status: Err("No child processes".to_owned()), told: None };
        assert_eq!((lost.code(), lost.well()), (255, false), "it has run, and may have done anything");
    }
}
