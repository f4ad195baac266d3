//! polkit's agent for text, which asks for a password on this terminal where no desktop does, as `systemctl` has it.

use std::{future::poll_fn, pin::Pin, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    process::{Child, Command},
    time::timeout,
};

/// No longer is it waited for an agent to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// An agent at work.
#[derive(Debug)]
pub(super) struct Agent(Child);

impl Agent {
    /// Starts one for this process, and waits until polkit knows of it. root is asked nothing, and without polkit there
    /// is none. A steady one stays when Ctrl-C is typed or the terminal goes, so that what is then to be done can be asked
    /// about.
    pub(super) async fn start(steady: bool) -> Option<Self> {
        if geteuid().is_root() {
            return None;
        }
        let own = std::process::id().to_string();
        let mut agent = if steady {
            let mut shell = Command::new("sh");
            let run = "trap '' INT HUP QUIT; command -v pkttyagent >/dev/null && exec pkttyagent \"$@\"";
            shell.args(["-c", run, "pkttyagent"]);
            shell
        } else {
            Command::new("pkttyagent")
        };
        // It closes its standard output once it is registered; to ask, it opens the terminal itself.
        agent.args(["--process", &own, "--notify-fd", "1", "--fallback"]).stdin(Stdio::null());
        let mut agent = agent.stdout(Stdio::piped()).kill_on_drop(true).spawn().ok()?;
        let mut ready = agent.stdout.take()?;
        let mut byte = [0];
        let closed = poll_fn(|context| Pin::new(&mut ready).poll_read(context, &mut ReadBuf::new(&mut byte)));
        let _ = timeout(PATIENCE, closed).await;
        Some(Self(agent))
    }

    /// Ends it in peace: it puts the terminal in order.
    pub(super) async fn end(mut self) {
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = timeout(PATIENCE, self.0.wait()).await;
        }
    }
}
