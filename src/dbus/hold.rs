//! What somebody keeps for as long as they want something to last: one end of a pipe. It is gone when all copies are
//! closed, by whom and however that may be: the kernel closes those of who dies.

use std::io;

use tokio::{io::Interest, net::unix::pipe};
use zbus::OwnedFd;

use crate::{core::inhibit::InhibitorId, engine::Handle};

/// Our end and theirs. Theirs is the one that is read from: nothing can be written to us.
pub(super) fn pair() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (ours, theirs) = pipe::pipe()?;
    Ok((ours, theirs.into_blocking_fd()?.into()))
}

/// Tells the engine when nobody has the other end any more.
pub(super) fn watch(ours: pipe::Sender, id: InhibitorId, engine: Handle) {
    tokio::spawn(async move {
        loop {
            // An error says that there is no runtime any more, or no pipe: nobody can keep it then, either.
            let Ok(state) = ours.ready(Interest::ERROR).await else { break };
            if state.is_error() || state.is_write_closed() {
                break;
            }
        }
        engine.released(id).await;
    });
}
