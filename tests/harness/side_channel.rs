//! A root shell in the guest that is apart from its agent: see `tests/testbed/guest/side-channel`.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The host's end of the guest's side channel. QEMU serves one client at a time.
#[derive(Debug)]
pub(super) struct SideChannel {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl SideChannel {
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(socket)?, pending: Vec::new() })
    }

    /// Runs a shell script in the guest: its exit status, and its stdout and stderr together.
    pub(super) fn run(&mut self, script: &str, within: Duration) -> io::Result<(i32, String)> {
        // Unlike that of any earlier request, whose reply may still be on its way.
        static REQUESTS: AtomicU32 = AtomicU32::new(0);
        let deadline = Instant::now() + within;
        let id = format!("{}.{}", std::process::id(), REQUESTS.fetch_add(1, Ordering::Relaxed));
        self.stream.set_write_timeout(Some(within))?;
        // The newline ends what an earlier client may have left unfinished.
        self.stream.write_all(format!("\n{id} {}\n", encode(script.as_bytes())).as_bytes())?;
        let (output_of, end_of) = (format!("@{id} + "), format!("@{id} "));
        let mut output = Vec::new();
        loop {
            let line = self.line(deadline)?;
            if let Some(piece) = line.strip_prefix(&output_of) {
                output.extend(decode(piece));
            } else if let Some(status) = line.strip_prefix(&end_of) {
                let status = status.parse().map_err(|_| io::Error::other(format!("no status: {line}")))?;
                return Ok((status, String::from_utf8_lossy(&output).into_owned()));
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "the guest does not answer"));
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 8192];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the guest is gone")),
                Ok(n) => self.pending.extend(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, which is not worth a dependency here.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_usize, |g, &b| g << 8 | usize::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = group >> (18 - 6 * i) & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

/// The other way. It reads what busybox wrote, and skips what isn't base64.
fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut group, mut bits) = (Vec::new(), 0_usize, 0);
    for sextet in text.bytes().filter_map(|b| ALPHABET.iter().position(|&a| a == b)) {
        group = (group << 6 | sextet) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xff).expect("eight bits"));
        }
    }
    bytes
}
