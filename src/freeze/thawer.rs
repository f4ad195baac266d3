//! The helper outside: a process that holds a line to the daemon for each freeze, and thaws when that line breaks or
//! nobody says for too long that the freeze is over.
//!
//! It is connected to libvirt before it says that it is ready, and reads and writes no file: what it needs later it has.
//! It never thaws a guest of which it was not told that a freeze begins, for somebody else may have frozen that; and
//! while it tries to thaw one it takes no other line for it, for it would thaw the new freeze instead.
mod rescue;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufReader},
    net::Shutdown,
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use self::rescue::Rescue;
use super::line::{self, Reply, Word};
use crate::{
    clock::Clock,
    core::model::VmId,
    hypervisor::{Hypervisor, Result},
};

/// Who opens a line has something to say at once.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// How long it waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// Between two tries to thaw: the first pause, and the longest.
    pub tries: (Duration, Duration),
    /// After a thaw in a dead daemon's stead: what it had still asked of libvirt is carried out by then.
    pub settling: Duration,
    /// For the end of an earlier freeze of the same guest.
    pub patience: Duration,
    /// For another line, before it ends. The next one has it started again.
    pub idle: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            tries: (Duration::from_millis(200), Duration::from_secs(30)),
            settling: Duration::from_secs(5),
            patience: Duration::from_secs(3),
            idle: Duration::from_secs(30),
        }
    }
}

type Connect = dyn Fn(&str) -> Result<Arc<dyn Hypervisor>> + Send + Sync;

/// What reaches the one who watches a guest.
#[derive(Debug)]
enum Told {
    /// The daemon said it.
    Word(Word),
    /// The line is broken.
    Gone,
    /// Somebody is in need of an end.
    Hurry,
}

/// The helper.
pub struct Thawer {
    connect: Box<Connect>,
    pauses: Pauses,
    clock: Arc<dyn Clock>,
    hosts: Mutex<BTreeMap<String, Arc<dyn Hypervisor>>>,
    watched: Mutex<BTreeMap<VmId, Sender<Told>>>,
    left: Condvar,
    lines: AtomicUsize,
}

impl fmt::Debug for Thawer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thawer").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Thawer {
    /// `connect` gives a connection to a libvirt that stands, and is kept up.
    pub fn new(connect: Box<Connect>, pauses: Pauses, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            connect,
            pauses,
            clock,
            hosts: Mutex::default(),
            watched: Mutex::default(),
            left: Condvar::new(),
            lines: AtomicUsize::new(0),
        })
    }

    /// Attends to all who come to a socket, and ends when nobody has come for a while and nobody is left.
    pub fn listen(self: &Arc<Self>, socket: &UnixListener) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let idle = PollTimeout::try_from(self.pauses.idle).unwrap_or(PollTimeout::MAX);
        let mut quiet = false;
        loop {
            // What comes after this waits in the socket, and has the next one started.
            match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], idle) {
                Ok(0) if quiet => return Ok(()),
                Ok(0) => quiet = self.lines.load(Ordering::SeqCst) == 0,
                Ok(_) => {
                    quiet = false;
                    match socket.accept() {
                        Ok((line, _)) => self.attend_beside(line)?,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn attend_beside(self: &Arc<Self>, line: UnixStream) -> io::Result<()> {
        let this = Arc::clone(self);
        self.lines.fetch_add(1, Ordering::SeqCst);
        let attended = std::thread::Builder::new().name("line".into()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| this.attend(&line)));
            if let Ok(Err(e)) = result {
                tracing::debug!(error = %e, "a line broke before anything was frozen");
            }
            this.lines.fetch_sub(1, Ordering::SeqCst);
        });
        attended.map(drop).inspect_err(|_| {
            self.lines.fetch_sub(1, Ordering::SeqCst);
        })
    }

    /// Watches the guest of one line until that is over, and thaws it if need be.
    pub fn attend(&self, line: &UnixStream) -> io::Result<()> {
        line.set_read_timeout(Some(FIRST_WORD))?;
        let mut words = BufReader::new(line.try_clone()?);
        let Some(Word::Watch { vm, uri }) = line::hear(&mut words)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say whom to watch"));
        };
        let answer = |reply: &Reply| line::say(&mut &*line, reply);
        let host = match self.host(&uri) {
            Ok(host) => host,
            Err(e) => return answer(&Reply::No(e.to_string())),
        };
        let (tell, told) = mpsc::channel();
        let Some(_place) = self.place(vm, tell.clone()) else { return answer(&Reply::Busy) };
        line.set_read_timeout(None)?;
        std::thread::Builder::new().name("words".into()).spawn(move || {
            loop {
                let next = match line::hear(&mut words) {
                    Ok(Some(word)) => Told::Word(word),
                    Ok(None) | Err(_) => Told::Gone,
                };
                let gone = matches!(next, Told::Gone);
                if tell.send(next).is_err() || gone {
                    return;
                }
            }
        })?;
        let result = answer(&Reply::Ready);
        if result.is_ok() {
            Rescue::new(self, vm, host.as_ref(), &told).watch();
        }
        // For who listens to it.
        let _ = line.shutdown(Shutdown::Both);
        result
    }

    fn host(&self, uri: &str) -> Result<Arc<dyn Hypervisor>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(uri) {
            return Ok(Arc::clone(host));
        }
        let host = (self.connect)(uri)?;
        hosts.insert(uri.to_owned(), Arc::clone(&host));
        Ok(host)
    }

    /// The only place at this guest; who has it now is asked to hurry up.
    fn place(&self, vm: VmId, tell: Sender<Told>) -> Option<Place<'_>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = watched.get(&vm) {
            let _ = before.send(Told::Hurry);
        }
        let (mut watched, _) = self
            .left
            .wait_timeout_while(watched, self.pauses.patience, |watched| watched.contains_key(&vm))
            .unwrap_or_else(PoisonError::into_inner);
        if watched.contains_key(&vm) {
            return None;
        }
        watched.insert(vm, tell);
        Some(Place { thawer: self, vm })
    }
}

/// Held by who watches a guest.
struct Place<'a> {
    thawer: &'a Thawer,
    vm: VmId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.thawer.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.vm);
        self.thawer.left.notify_all();
    }
}
