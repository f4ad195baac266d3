//! The command-line client. Everything it does is in [`virtsnap::cli`]; here it gets the real terminal,
//! clock and environment.

use std::{
    env,
    io::{self, BufWriter, IsTerminal as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use jiff::tz::TimeZone;
use virtsnap::{
    cli::{self, args::Cli, console::Console, render::Watch},
    clock::{Clock as _, SystemClock},
};

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the event loop")?;
    let address = env::var("VIRTSNAP_BUS_ADDRESS").ok();
    let mut console = Console {
        out: &mut BufWriter::new(anstream::stdout().lock()),
        err: &mut anstream::stderr().lock(),
        input: &mut io::stdin().lock(),
        interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
        json: cli.global.json,
        watch: Watch { zone: TimeZone::system(), now: SystemClock::default().now() },
    };
    Ok(runtime.block_on(cli::run(&cli, address.as_deref(), &mut console)).into())
}
