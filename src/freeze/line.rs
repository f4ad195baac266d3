//! What the daemon and its helper outside say to each other: on a line of its own for each freeze.
//!
//! ```text
//!   daemon                              helper
//!   watch VM URI  ───────────────────▶  connects to that libvirt, if it has not yet
//!                 ◀───────────────────  ready | busy | no WHY
//!   (intent on disk; status: thawed)
//!   freezing MS   ───────────────────▶  from here on it thaws if MS pass without another word, or the line breaks
//!   (freeze)
//!   frozen MS     ───────────────────▶  the same
//!   (transaction, thaw, status: thawed)
//!   over          ───────────────────▶  looks away
//! ```
//!
//! Only the first word is answered: what is in a socket is read even if whoever wrote it has died since.

use std::{
    fmt,
    io::{self, BufRead, Read as _, Write},
    str::FromStr,
    time::Duration,
};

use uuid::Uuid;

use crate::core::model::VmId;

/// No word is longer than this, in bytes: the longest holds a URI.
const LONGEST: u64 = 8192;

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This VM is about to be frozen, on the libvirt at `uri`.
    Watch {
        /// The VM.
        vm: VmId,
        /// Where it is.
        uri: String,
    },
    /// The freeze begins now; the next word comes within this time.
    Freezing(Duration),
    /// The guest is frozen; the next word comes within this time.
    Frozen(Duration),
    /// The guest is proven to be thawed.
    Over,
}

/// What the helper answers to the first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It watches.
    Ready,
    /// An earlier freeze of this guest is not proven to be over: whoever tries to thaw that would thaw this one.
    Busy,
    /// It cannot; why.
    No(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watch { vm, uri } => write!(f, "watch {vm} {uri}"),
            Self::Freezing(limit) => write!(f, "freezing {}", limit.as_millis()),
            Self::Frozen(limit) => write!(f, "frozen {}", limit.as_millis()),
            Self::Over => f.write_str("over"),
        }
    }
}

impl FromStr for Word {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let limit = || rest.parse().map(Duration::from_millis).map_err(|_| strange(text));
        match word {
            "watch" => {
                let (vm, uri) = rest.split_once(' ').ok_or_else(|| strange(text))?;
                let vm = VmId(Uuid::parse_str(vm).map_err(|_| strange(text))?);
                Ok(Self::Watch { vm, uri: uri.to_owned() })
            }
            "freezing" => limit().map(Self::Freezing),
            "frozen" => limit().map(Self::Frozen),
            "over" if rest.is_empty() => Ok(Self::Over),
            _ => Err(strange(text)),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Busy => f.write_str("busy"),
            Self::No(why) => write!(f, "no {why}"),
        }
    }
}

impl FromStr for Reply {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        match text.split_once(' ') {
            None if text == "ready" => Ok(Self::Ready),
            None if text == "busy" => Ok(Self::Busy),
            Some(("no", why)) => Ok(Self::No(why.to_owned())),
            _ => Err(strange(text)),
        }
    }
}

fn strange(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no word of this language"))
}

/// Says it, as one write.
pub fn say(to: &mut impl Write, what: &impl fmt::Display) -> io::Result<()> {
    // What comes from elsewhere, as an error's text does, may hold a line break.
    let line = what.to_string().replace(['\n', '\r'], " ");
    to.write_all(format!("{line}\n").as_bytes())
}

/// Waits for what is said next; `None` once the line is closed. What breaks off within a word was never said.
pub fn hear<T: FromStr<Err = io::Error>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut text = String::new();
    from.take(LONGEST).read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(word) => word.parse().map(Some),
        None if text.len() as u64 == LONGEST => Err(strange("what has no end")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId(Uuid::from_u128(7));

    #[test]
    fn what_is_said_is_heard() {
        let words = [
            Word::Watch { vm: VM, uri: "qemu+ssh://root@host/system?a=b c".into() },
            Word::Freezing(Duration::from_millis(18_000)),
            Word::Frozen(Duration::from_millis(1)),
            Word::Over,
        ];
        let mut wire = Vec::new();
        for word in &words {
            say(&mut wire, word).unwrap();
        }
        let mut from = wire.as_slice();
        for word in words {
            assert_eq!(hear(&mut from).unwrap(), Some(word));
        }
        assert_eq!(hear::<Word>(&mut from).unwrap(), None);
        for reply in [Reply::Ready, Reply::Busy, Reply::No("it broke\nover".into())] {
            let mut wire = Vec::new();
            say(&mut wire, &reply).unwrap();
            let heard: Reply = hear(&mut wire.as_slice()).unwrap().unwrap();
            assert_eq!(heard.to_string(), reply.to_string().replace('\n', " "));
        }
    }

    #[test]
    fn what_is_no_word_is_refused_and_half_a_word_was_never_said() {
        for text in ["", "ov er", "over it", "watch", "watch 7 x", "freezing", "freezing soon", "frozen -1"] {
            assert!(hear::<Word>(&mut format!("{text}\n").as_bytes()).is_err(), "{text}");
        }
        for text in ["", "yes", "no"] {
            assert!(hear::<Reply>(&mut format!("{text}\n").as_bytes()).is_err(), "{text}");
        }
        assert_eq!(hear::<Word>(&mut &b"over"[..]).unwrap(), None);
        assert!(hear::<Word>(&mut io::BufReader::new(io::repeat(b'o'))).is_err(), "it has no end");
    }
}
