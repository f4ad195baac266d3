//! `virtsnap check`: the configuration as the daemon would read it, without the daemon.

use serde::Serialize;

use super::{
    args::Check,
    console::Console,
    exit::{Exit, Failure},
};
use crate::{
    config::{self, ConfigRoots, Diagnostics, Style},
    core::schedule::next_fire,
};

#[derive(Serialize)]
struct Checked<'a> {
    valid: bool,
    files: Vec<String>,
    diagnostics: Vec<Shown<'a>>,
    policies: Vec<Policy<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    severity: &'static str,
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    help: Option<&'a str>,
}

#[derive(Serialize)]
struct Policy<'a> {
    name: &'a str,
    source: String,
    next: Option<String>,
}

/// Reads, and says all that is wrong at once. The exit status is 1 if the daemon would not take it.
pub(super) fn check(args: &Check, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let roots = args.config_dir.as_ref().map_or_else(ConfigRoots::default, |dir| ConfigRoots::new([dir]));
    let loaded = config::load(&roots);
    if console.json {
        let (diagnostics, files) = match &loaded {
            Ok(loaded) => (&loaded.warnings, loaded.files.as_slice()),
            Err(errors) => (errors, &[][..]),
        };
        let policies = loaded.iter().flat_map(|l| l.settings.policies.values()).map(|policy| {
            let zone = &policy.retention.timezone;
            Policy {
                name: policy.name.as_str(),
                source: policy.source.to_string(),
                next: next_fire(&policy.schedules, console.watch.now, zone)
                    .map(|at| at.display_with_offset(zone.to_offset(at)).to_string()),
            }
        });
        let checked = Checked {
            valid: loaded.is_ok(),
            files: files.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            diagnostics: shown(diagnostics),
            policies: policies.collect(),
        };
        console.answer(&checked)?;
    } else {
        // The client's output knows whether it goes to a terminal, and takes colours away where not.
        console.print(&config::report(&loaded, console.watch.now, Style::Colour))?;
    }
    Ok(if loaded.is_ok() { Exit::Done } else { Exit::Failed })
}

fn shown(diagnostics: &Diagnostics) -> Vec<Shown<'_>> {
    diagnostics
        .iter()
        .map(|d| {
            let place = d.span.as_ref().map(|span| d.file.line_column(span.start));
            Shown {
                severity: d.severity.as_str(),
                file: &d.file.path,
                line: place.map(|(line, _)| line),
                column: place.map(|(_, column)| column),
                message: &d.message,
                help: d.help.as_deref(),
            }
        })
        .collect()
}
