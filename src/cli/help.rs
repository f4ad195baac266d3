//! `virtsnap help`: what `--help` shows, asked for as many expect it.

use clap::{Parser as _, error::ErrorKind};

use super::{
    args::{Cli, Help},
    console::Console,
    exit::{Exit, Failure},
};

/// Shows the help of a verb, or of all.
pub(super) fn help(args: &Help, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let words = ["virtsnap"].into_iter().chain(args.command.as_deref()).chain(["--help"]);
    match Cli::try_parse_from(words) {
        // The client's output knows whether it goes to a terminal, and takes colours away where not.
        Err(shown) if shown.kind() == ErrorKind::DisplayHelp => {
            console.print(&shown.render().ansi().to_string())?;
            Ok(Exit::Done)
        }
        _ => {
            let unknown = args.command.as_deref().unwrap_or_default();
            Err(Failure::Usage(format!(
                "there is no command {unknown:?}; `virtsnap help` lists the commands"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::{
        cli::{console::Screen, render::Watch},
        clock::SystemClock,
    };

    fn shown(command: Option<&str>) -> Result<String, Failure> {
        let mut out = Vec::new();
        let mut console = Console {
            out: &mut out,
            err: &mut std::io::sink(),
            input: &mut std::io::empty(),
            interactive: false,
            screen: Screen { columns: None, clock: &SystemClock::default() },
            json: false,
            place: crate::cli::place::Place::default(),
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
        };
        help(&Help { command: command.map(Into::into) }, &mut console)?;
        Ok(anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string())
    }

    #[test]
    fn a_verb_s_help_is_shown_or_that_of_all() {
        let list = shown(Some("list")).unwrap();
        assert!(
            list.contains("Usage: virtsnap list [OPTIONS] [VM]") && list.contains("--timeline"),
            "{list}"
        );
        let all = shown(None).unwrap();
        assert!(all.contains("Usage: virtsnap [OPTIONS] <COMMAND>") && all.contains("time-travel"), "{all}");
        for unknown in ["nonsense", "", "--version"] {
            assert_eq!(shown(Some(unknown)).unwrap_err().exit(), Exit::Usage, "{unknown}");
        }
    }
}
