//! The daemon's end of the line to a helper outside, which thaws a guest if the daemon cannot.
//!
//! As systemd runs it the helper is a unit of its own, which lives on when everything in the daemon's is killed; a
//! socket starts it when it is wanted. Where there is no such socket a child has to do: it does not outlive a unit, but a
//! daemon that hangs, or was started by hand.

use std::{
    fmt,
    io::{self, BufReader},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use super::line::{self, Reply, Word};
use crate::core::model::VmId;

/// The socket of the helper's unit.
pub const SOCKET: &str = "/run/virtsnap-thaw.socket";
/// The daemon's option that makes it the helper, and whose it is then: that of all who come to a socket, or of one line.
pub const OPTION: &str = "--thawer";
/// How long the helper may take to be started and to connect. Nothing is frozen meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to somebody who thaws guests if this process cannot.
pub trait Helper: Send + Sync + fmt::Debug + 'static {
    /// A new line to it; `None` if nobody is there, nor ought to be.
    fn call(&self) -> io::Result<Option<UnixStream>>;

    /// The libvirt that it has to thaw on.
    fn uri(&self) -> &str;
}

/// Nobody: for those who are the last resort themselves.
#[derive(Debug)]
pub struct Nobody;

impl Helper for Nobody {
    fn call(&self) -> io::Result<Option<UnixStream>> {
        Ok(None)
    }

    fn uri(&self) -> &'static str {
        ""
    }
}

/// The unit behind a socket, or else a child.
#[derive(Debug)]
pub struct Outside {
    /// The libvirt.
    pub uri: String,
    /// The socket.
    pub socket: PathBuf,
}

impl Helper for Outside {
    fn call(&self) -> io::Result<Option<UnixStream>> {
        let line = UnixStream::connect(&self.socket).or_else(|e| {
            tracing::debug!(error = %e, "no helper at {}: a child is started", self.socket.display());
            child()
        });
        line.map(Some)
    }

    fn uri(&self) -> &str {
        &self.uri
    }
}

/// A process for one line. It is this very program, whatever lies in its place meanwhile.
fn child() -> io::Result<UnixStream> {
    let (ours, its) = UnixStream::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("virtsnapd")
        .args([OPTION, "line"])
        .stdin(Stdio::from(OwnedFd::from(its)))
        .stdout(Stdio::null())
        // A Ctrl-C at the terminal is for the daemon.
        .process_group(0)
        .spawn()?;
    std::thread::Builder::new().name("thawer".into()).spawn(move || child.wait())?;
    Ok(ours)
}

/// A guest that the helper watches, for as long as this lives. Dropped once freezing began, without [`Watch::over`], it
/// has the guest thawed.
#[derive(Debug)]
pub(super) struct Watch(UnixStream);

impl Watch {
    /// Asks for it, and does not wait for the answer.
    pub(super) fn ask(helper: &dyn Helper, vm: VmId) -> io::Result<Option<Self>> {
        let Some(line) = helper.call()? else { return Ok(None) };
        line.set_read_timeout(Some(PATIENCE))?;
        line.set_write_timeout(Some(PATIENCE))?;
        let mut watch = Self(line);
        watch.say(&Word::Watch { vm, uri: helper.uri().to_owned() })?;
        Ok(Some(watch))
    }

    /// Waits for the answer.
    pub(super) fn answer(&mut self) -> io::Result<Reply> {
        match line::hear(&mut BufReader::new(&self.0)) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let why = format!("no answer within {} s", PATIENCE.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            Err(e) => Err(e),
        }
    }

    /// Tells it what happens now.
    pub(super) fn say(&mut self, word: &Word) -> io::Result<()> {
        line::say(&mut self.0, word)
    }

    /// Tells it that the guest is proven to be thawed.
    pub(super) fn over(mut self) {
        if let Err(e) = self.say(&Word::Over) {
            // Nobody is there any more; or it takes the line's end for ours, and thaws what is thawed.
            tracing::debug!(error = %e, "the helper was not told that a freeze is over");
        }
    }
}
