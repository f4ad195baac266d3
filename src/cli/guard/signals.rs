//! The signals that the client would die of, caught while there is something to put in order.

use std::{fs, future::poll_fn, io, task::Poll};

use futures_util::FutureExt as _;
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

const FATAL: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// From when this is made the client does not die of them.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        // Where that is ignored, as who started the client may have it, nobody is told how a command ended.
        drop(unix::signal(SignalKind::child())?);
        // What `nohup` and the like have ignored is to stay so, for the command as well.
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let heard = FATAL.into_iter().filter(|signal| !ignored.contains(signal));
        let caught = heard.map(|signal| Ok((signal, unix::signal(SignalKind::from_raw(signal as i32))?)));
        Ok(Self(caught.collect::<io::Result<_>>()?))
    }

    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let heard = self.0.iter_mut().find_map(|(signal, caught)| {
                matches!(caught.poll_recv(context), Poll::Ready(Some(()))).then_some(*signal)
            });
            heard.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// What has come already.
    pub(super) async fn come(&mut self) -> Option<Signal> {
        // The runtime looks for them when nobody goes on at once.
        tokio::task::yield_now().await;
        self.next().now_or_never()
    }
}

/// Which of them are ignored, by the kernel's word on a process. (`sigaction` would say it, and is unsafe to call.)
fn ignored(status: &str) -> Vec<Signal> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    FATAL.into_iter().filter(|signal| mask & (1 << (*signal as i32 - 1)) != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_ignored_are_read_off_the_kernel_s_mask() {
        let status = "Name:\tvirtsnap\nSigBlk:\t0000000000000007\nSigIgn:\t0000000000001003\nSigCgt:\tf\n";
        assert_eq!(ignored(status), [Signal::SIGINT, Signal::SIGHUP]);
        assert_eq!(ignored(""), []);
    }
}
