//! The command-line client. Everything it does is in [`virtsnap::cli`]; here it gets the real terminal,
//! clock and environment.

use std::{
    env,
    io::{self, BufWriter, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use jiff::tz::TimeZone;
use virtsnap::{
    cli::{
        self,
        args::{Cli, Verb},
        ascii::{self, Ascii, Instead},
        console::{Console, Screen},
        place::Place,
        render::Watch,
    },
    clock::{Clock as _, SystemClock},
};

fn main() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return Ok(usage(&error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the event loop")?;
    let address = env::var("VIRTSNAP_BUS_ADDRESS").ok();
    let clock = SystemClock::default();
    // What a shell completes is what a file or a VM is called, letter by letter.
    let utf8 = matches!(cli.verb, Verb::Complete(_)) || ascii::is_utf8(|name| env::var_os(name));
    let instead = |terminal| Instead::of(utf8, terminal, cli.global.json);
    let mut console = Console {
        out: &mut Ascii::new(BufWriter::new(anstream::stdout().lock()), instead(io::stdout().is_terminal())),
        // As it is: nothing coloured is written there, and what clears a line is no colour that NO_COLOR takes away.
        err: &mut Ascii::new(io::stderr().lock(), instead(io::stderr().is_terminal())),
        input: &mut io::stdin().lock(),
        interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        screen: Screen { columns: columns(), clock: &clock },
        json: cli.global.json,
        place: Place::default(),
        watch: Watch { zone: TimeZone::system(), now: clock.now() },
    };
    Ok(runtime.block_on(cli::run(&cli, address.as_deref(), &mut console)).into())
}

/// How wide the terminal is that something can be drawn over on.
fn columns() -> Option<usize> {
    let drawn = io::stderr().is_terminal()
        && env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    let wide = || terminal_size::terminal_size_of(io::stderr()).map(|(wide, _)| usize::from(wide.0));
    // A line of its own may not know.
    drawn.then(|| wide().filter(|wide| *wide > 0).unwrap_or(80))
}

/// What clap has to say; to a script as any other error.
fn usage(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    let mut words = env::args_os().skip(1).take_while(|word| word != "--");
    if error.use_stderr() && words.any(|word| word == "--json") {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        // What is wrong, and then what may be meant and how it is used.
        let (message, hint) = text.split_once("\n\n").unwrap_or((text, ""));
        let hint = Some(hint.trim()).filter(|hint| !hint.is_empty());
        let error =
            serde_json::json!({ "name": null, "message": message.trim(), "hint": hint, "exit_status": code });
        let _ = writeln!(io::stderr(), "{}", serde_json::json!({ "error": error }));
    } else {
        let _ = error.print();
    }
    code.into()
}
