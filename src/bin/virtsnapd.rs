//! `virtsnapd`: arguments, log, runtime, exit status. Everything else is in the library.
//!
//! Exit status: 0 ended as asked; 1 failed; 2 wrong usage; 75 (`EX_TEMPFAIL`) another one uses the
//! state directory; 78 (`EX_CONFIG`) the configuration is broken.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use virtsnap::{
    clock::{Clock, SystemClock},
    config::{self, ConfigRoots, Style},
    daemon::{self, Another, Bus, Options, Watched},
    logging::{self, message},
};

/// `EX_CONFIG` of sysexits.h; the unit's `RestartPreventExitStatus=` names it.
const BROKEN_CONFIGURATION: u8 = 78;
/// `EX_TEMPFAIL`: once the other one has ended it is another matter.
const NOT_ALONE: u8 = 75;

/// Takes, keeps and prunes snapshots of libvirt/QEMU virtual machines by policy, as a D-Bus service.
#[derive(Debug, Parser)]
#[command(name = "virtsnapd", version)]
struct Arguments {
    /// Read the configuration, say what is wrong with it and when each policy runs next, and exit.
    #[arg(long)]
    check: bool,

    /// With --check: say nothing but what is wrong.
    #[arg(long, requires = "check")]
    quiet: bool,

    /// Thaw guests that a virtsnapd which is no more left frozen, and exit.
    #[arg(long, conflicts_with = "check")]
    thaw: bool,

    /// Thaw guests of a virtsnapd that dies or hangs, as it says on standard input.
    #[arg(long, value_name = "WHOSE", hide = true)]
    thawer: Option<Watched>,

    /// Read the configuration from this directory alone, instead of /etc/virtsnap, /run/virtsnap and
    /// /usr/lib/virtsnap.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// Keep the state in this directory.
    #[arg(long, value_name = "DIR", env = "STATE_DIRECTORY", default_value = daemon::STATE_DIRECTORY)]
    state_dir: PathBuf,

    /// A directory that is empty after the host boots.
    #[arg(long, value_name = "DIR", env = "RUNTIME_DIRECTORY", hide = true)]
    runtime_dir: Option<PathBuf>,

    /// Serve on the bus at this address instead of the system bus.
    #[arg(long, value_name = "ADDRESS", hide = true)]
    bus_address: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(whose) = arguments.thawer {
        logging::init();
        return match daemon::thawer(whose) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e),
        };
    }
    let roots = arguments.config_dir.map_or_else(ConfigRoots::default, |dir| ConfigRoots::new([dir]));
    let loaded = config::load(&roots);
    if arguments.check {
        let style = if io::stdout().is_terminal() { Style::Colour } else { Style::Plain };
        if arguments.quiet && loaded.is_ok() {
            return ExitCode::SUCCESS;
        }
        let report = config::report(&loaded, SystemClock::default().now(), style);
        // A closed pipe is no reason to hide what was found.
        let _ = io::stdout().write_all(report.as_bytes());
        return if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN_CONFIGURATION) };
    }
    logging::init();
    if arguments.thaw {
        // Whatever became of the configuration meanwhile: a guest that is frozen must not wait until it is mended.
        return match daemon::thaw(&arguments.state_dir) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => fail(&e),
        };
    }
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            tracing::error!(
                MESSAGE_ID = message::CONFIGURATION_BROKEN,
                "the configuration is broken:\n{}",
                diagnostics.render(Style::Plain)
            );
            return ExitCode::from(BROKEN_CONFIGURATION);
        }
    };
    for line in loaded.warnings.lines() {
        tracing::warn!(MESSAGE_ID = message::CONFIGURATION_WARNING, "{line}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e.into()),
    };
    let options = Options {
        roots,
        settings: loaded.settings,
        bus: arguments.bus_address.map_or(Bus::System, Bus::Address),
        state: arguments.state_dir,
        runtime: arguments.runtime_dir,
    };
    match runtime.block_on(daemon::run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn fail(e: &anyhow::Error) -> ExitCode {
    tracing::error!(MESSAGE_ID = message::ENDED, "{e:#}");
    if e.is::<Another>() { ExitCode::from(NOT_ALONE) } else { ExitCode::FAILURE }
}
