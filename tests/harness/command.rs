//! Commands with a deadline, and all of their output.

use std::fmt;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status; 124 if the deadline ended it, 128 + N if signal N did.
    pub status: i32,
    /// What it wrote on stdout.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs a command of this host, and ends it when the deadline passes.
///
/// Output goes through files rather than pipes: something that the command leaves running in the
/// background may hold them open without holding us up.
pub(super) fn run(within: Duration, program: &str, args: &[&str]) -> Output {
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    let mut child = Command::new("timeout")
        .args(["--kill-after=5", &within.as_secs_f64().to_string(), program])
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a second handle"))
        .stderr(stderr.try_clone().expect("a second handle"))
        .spawn()
        .expect("timeout(1) starts");
    let status = child.wait().expect("our child is there to wait for");
    let text = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("the output can be read back");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Output { status: status.code().unwrap_or(137), stdout: text(&mut stdout), stderr: text(&mut stderr) }
}

/// `text` as one word of a shell command, whatever is in it.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
