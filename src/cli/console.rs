//! Where the client reads and writes: handles that a test can replace.

use std::{fmt, io::Write};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    exit::{Exit, Failure},
    hint::hint_for,
    place::Place,
    render::{Watch, safe_lines},
    reply::{self, Replies},
};
use crate::clock::Clock;

/// What progress is shown on, and the clock that it is measured with.
#[derive(Debug, Clone, Copy)]
pub struct Screen<'a> {
    /// In so many columns something can be drawn over; `None`: it is no terminal, or a dumb one.
    pub columns: Option<usize>,
    /// The clock.
    pub clock: &'a dyn Clock,
}

/// The client's ends towards a person or a script.
pub struct Console<'a> {
    /// The answer.
    pub out: &'a mut dyn Write,
    /// Questions, errors, and what is not part of the answer.
    pub err: &'a mut dyn Write,
    /// Replies to questions.
    pub input: &'a mut dyn Replies,
    /// Whether a person sits there to be asked: input and `err` are terminals.
    pub interactive: bool,
    /// What `err` stands on.
    pub screen: Screen<'a>,
    /// Whether the answer is to be JSON.
    pub json: bool,
    /// The machine of the daemon.
    pub place: Place,
    /// How times are shown.
    pub watch: Watch,
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("interactive", &self.interactive)
            .field("screen", &self.screen)
            .field("json", &self.json)
            .field("place", &self.place)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl Console<'_> {
    /// Writes text of the answer as it is, lines and all.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// Writes one line of the answer.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Writes the answer for a script.
    pub fn answer<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.out, value).map_err(std::io::Error::from)?;
        self.line("")
    }

    /// Says something to a person who watches; nothing to a script.
    pub fn remark(&mut self, text: &str) {
        if self.interactive {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Says what is no error and yet should be seen, to scripts as well.
    pub fn warning(&mut self, text: &str) {
        let _ = self.flush();
        if self.json {
            self.object(&json!({ "warning": { "message": text } }));
        } else {
            let _ = writeln!(self.err, "{}", safe_lines(text));
        }
    }

    /// An object a line, so that a script can tell each from what else is written there.
    fn object(&mut self, object: &Value) {
        let _ = writeln!(self.err, "{object}");
    }

    /// Sends off what was written so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Asks before something is discarded. Without a person to ask, only `yes` will do.
    pub async fn confirm(&mut self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !self.interactive {
            return Err(Failure::Usage(
                "there is no terminal to ask on; with --yes it does not ask".to_owned(),
            ));
        }
        self.flush()?;
        // Once a verb has waited for a job, SIGINT is caught for good, and nobody would hear Ctrl-C while this reads.
        let asks = self.input.awaited().is_some();
        let mut interrupts = asks.then(|| signal(SignalKind::interrupt())).transpose()?;
        write!(self.err, "{question} [y/N] ")?;
        self.err.flush()?;
        if let (Some(fd), Some(interrupts)) = (self.input.awaited(), &mut interrupts)
            && !reply::typed(fd, interrupts).await?
        {
            writeln!(self.err)?;
            return Err(Failure::Interrupted);
        }
        let mut reply = String::new();
        self.input.read_line(&mut reply)?;
        match reply.trim() {
            "y" | "Y" | "yes" | "Yes" => Ok(()),
            _ => Err(Failure::Declined),
        }
    }

    /// Reports an error and its next step. A closed pipe is left alone.
    pub fn failure(&mut self, failure: &Failure) {
        self.failure_in(failure, &failure.to_string());
    }

    /// The same, in these words.
    pub fn failure_in(&mut self, failure: &Failure, text: &str) {
        let exit = failure.exit();
        if exit != Exit::Done {
            let hint = failure.hint(&self.place);
            self.complain((failure.name(), Some(exit)), text, hint.as_deref());
        }
    }

    /// The same for a text.
    pub fn error(&mut self, text: &str, hint: Option<&str>) {
        self.complain((None, None), text, hint);
    }

    /// The same for a text about a D-Bus error of this name, with which the client ends so.
    pub fn named_error(&mut self, name: &str, exit: Exit, text: &str) {
        let hint = hint_for(name, &self.place);
        self.complain((Some(name), Some(exit)), text, hint.as_deref());
    }

    /// The same for a person who would not wait.
    pub fn interrupted(&mut self, text: &str, hint: &str) {
        self.complain((None, Some(Exit::Interrupted)), text, Some(hint));
    }

    fn complain(&mut self, (name, exit): (Option<&str>, Option<Exit>), text: &str, hint: Option<&str>) {
        // What was said before comes first. Nowhere is left to report that any of it could not be written.
        let _ = self.flush();
        if self.json {
            let exit = exit.map(Exit::code);
            let error = json!({ "name": name, "message": text, "hint": hint, "exit_status": exit });
            self.object(&json!({ "error": error }));
            return;
        }
        let text = safe_lines(text);
        // The daemon's messages about files bring their own heading.
        let heading = if text.starts_with("error") { "" } else { "error: " };
        let _ = writeln!(self.err, "{heading}{text}");
        if let Some(hint) = hint {
            let _ = writeln!(self.err, "  hint: {hint}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::FutureExt as _;
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::clock::SystemClock;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ask(reply: &str, interactive: bool, yes: bool) -> (Result<(), Failure>, String) {
        let mut err = Vec::new();
        let answer = Console {
            out: &mut io::sink(),
            err: &mut err,
            input: &mut reply.as_bytes(),
            interactive,
            screen: Screen { columns: None, clock: &SystemClock::default() },
            json: false,
            place: Place::default(),
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
        }
        .confirm("Delete it?", yes)
        .now_or_never()
        .expect("nobody is waited for");
        (answer, String::from_utf8(err).unwrap())
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        assert_eq!(ask("y\n", true, false).1, "Delete it? [y/N] ");
        assert!(ask("yes\n", true, false).0.is_ok());
        for no in ["", "\n", "n\n", "yess\n"] {
            assert!(matches!(ask(no, true, false).0, Err(Failure::Declined)), "{no:?}");
        }
    }

    #[test]
    fn without_a_terminal_only_the_option_counts() {
        assert!(matches!(ask("y\n", false, false).0, Err(Failure::Usage(_))));
        let (answer, asked) = ask("", false, true);
        assert!(answer.is_ok() && asked.is_empty());
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_other_errors_cannot_drive_the_terminal() {
        let mut err = Vec::new();
        let mut console = Console {
            out: &mut Closed,
            err: &mut err,
            input: &mut io::empty(),
            interactive: false,
            screen: Screen { columns: None, clock: &SystemClock::default() },
            json: false,
            place: Place::default(),
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
        };
        let failure = console.answer(&[1, 2]).unwrap_err();
        console.failure(&failure);
        console.failure(&Failure::Answer("a\x1b[2J\nb".to_owned()));
        assert!(
            String::from_utf8(err)
                .unwrap()
                .starts_with("error: cannot read the daemon's answer: a\\u{1b}[2J\nb\n")
        );
    }

    #[test]
    fn a_script_reads_what_went_wrong_as_an_object_a_line() {
        let mut err = Vec::new();
        let mut console = Console {
            out: &mut io::sink(),
            err: &mut err,
            input: &mut io::empty(),
            interactive: true,
            screen: Screen { columns: Some(80), clock: &SystemClock::default() },
            json: true,
            place: Place::default(),
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
        };
        let name = "org.virtsnap1.Error.NoSuchVM".to_owned();
        console.failure(&Failure::Answered { name, message: "no\nVM".to_owned() });
        console.warning("careful");
        console.error("it failed", None);
        console.named_error("org.virtsnap1.Error.NoSpace", Exit::JobFailed, "no room");
        console.interrupted("interrupted", "look");
        let text = String::from_utf8(err).unwrap();
        let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(all.len(), 5, "{text}");
        let first = &all[0]["error"];
        assert_eq!(
            (&first["name"], &first["exit_status"]),
            (&"org.virtsnap1.Error.NoSuchVM".into(), &3.into())
        );
        assert_eq!(
            (&first["message"], &first["hint"]),
            (&"no\nVM".into(), &"`virtsnap list` shows the VMs".into())
        );
        assert_eq!(all[1]["warning"]["message"], "careful");
        assert!(all[2]["error"]["name"].is_null() && all[2]["error"]["hint"].is_null(), "{text}");
        let exits: Vec<_> = all[3..].iter().map(|line| &line["error"]["exit_status"]).collect();
        assert_eq!(exits, [6, 130]);
    }
}
