//! Replies to questions: where they come from, and waiting for one so that Ctrl-C is heard meanwhile.

use std::{
    io::{self, BufRead, Empty, StdinLock},
    os::fd::{AsFd as _, BorrowedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::{signal::unix::Signal, sync::oneshot};

/// Where replies are read.
pub trait Replies: BufRead {
    /// What has something to be read once a person has typed it, where to read would wait for that.
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Replies for StdinLock<'_> {
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Replies for &[u8] {}

impl Replies for Empty {}

/// Waits until there is something to read. `false`: the person typed Ctrl-C, which is heard from before the question on.
pub(super) async fn typed(fd: BorrowedFd<'_>, interrupts: &mut Signal) -> io::Result<bool> {
    let fd = fd.try_clone_to_owned()?;
    let (tell, told) = oneshot::channel();
    // Not one of the runtime's: that would wait for it in the end, and nothing may ever be typed.
    std::thread::Builder::new().name("reply".to_owned()).spawn(move || {
        let mut one = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut one, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let _ = tell.send(());
    })?;
    tokio::select! {
        _ = told => Ok(true),
        Some(()) = interrupts.recv() => Ok(false),
    }
}
