//! `virtsnap help`: what `--help` shows, asked for as many expect it.

use clap::CommandFactory as _;

use super::{
    args::{Cli, Help},
    console::Console,
    exit::{Exit, Failure},
};

/// Shows the help of a verb, or of all.
pub(super) fn help(args: &Help, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut client = Cli::command();
    // A verb's usage begins with the program's name.
    client.build();
    let shown = match &args.command {
        None => client.render_long_help(),
        Some(name) => client
            .find_subcommand_mut(name)
            .ok_or_else(|| {
                Failure::Usage(format!("there is no command {name:?}; `virtsnap help` lists the commands"))
            })?
            .render_long_help(),
    };
    // The client's output knows whether it goes to a terminal, and takes colours away where not.
    console.print(&shown.ansi().to_string())?;
    Ok(Exit::Done)
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
            watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
        };
        help(&Help { command: command.map(Into::into) }, &mut console)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_verb_s_help_is_what_its_option_shows() {
        for verb in [None, Some("list"), Some("help")] {
            let asked = ["virtsnap"].into_iter().chain(verb).chain(["--help"]);
            let wanted = <Cli as clap::Parser>::try_parse_from(asked).unwrap_err();
            assert_eq!(shown(verb).unwrap(), wanted.render().ansi().to_string());
        }
        assert_eq!(shown(Some("nonsense")).unwrap_err().exit(), Exit::Usage);
    }
}
