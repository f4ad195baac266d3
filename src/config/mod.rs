//! The configuration: from files to settings.
//!
//! ```text
//!  disk ──text──▶ fragment ──▶ merged ──▶ Settings ──for_vm──▶ VmPlan (what holds for a VM, and why)
//!                    │            │
//!                    │            └── contradiction, rules: what hardly was meant (pace: how often schedules fire)
//!                    └── keys: what each key of a policy is; item: a key's value; values, names, selectors
//!
//!            all of them ──▶ Diagnostics, which check shows
//! ```
//!
//! - Only `disk.rs` touches the disk; [`parse`] takes texts, the system's zone and its cores.
//! - Nothing stops at the first error: all files are read to their end, and each problem has its place.
//! - What this version does not do yet is a matter of the daemon that reads files ([`load`]), not of what they mean.
//! - A file that TOML cannot read is not guessed at: what stands in it is unknown, and what others say about
//!   that is not held against them.
//!
//! `virtsnapd.toml` comes from the first directory that has one; of `policies.d/*.toml` the first of each file
//! name counts, and an empty one or a link to `/dev/null` masks those after it.

mod against;
mod check;
mod contradiction;
mod diagnostic;
mod disk;
mod explanation;
mod fragment;
mod item;
mod keys;
mod merged;
mod names;
mod not_yet;
mod pace;
mod rules;
mod selectors;
mod settings;
mod similar;
#[cfg(test)]
mod tests;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use against::check_against;
pub use check::report;
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity, SourceFile, Style};
pub use disk::{ConfigRoots, DROP_INS, MAIN_FILE, decode, read_file};
pub use explanation::{About, Explanation};
pub use fragment::FileKind;
use jiff::tz::TimeZone;
pub use names::operation_name;
pub use settings::{Daemon, MinFree, Settings, VmEntry, VmKey, VmPlan, room};
pub use values::{ValueError, duration, show_duration, show_size, size};

use crate::core::{model::PolicyName, policy::Policy};
use fragment::{Fragment, PolicyFragment, document, policy_keys};
use keys::Scope;
use pace::Pace;

/// What defaults depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// The system's time zone.
    pub timezone: TimeZone,
    /// How many processors there are.
    pub cores: u32,
}

impl Environment {
    /// This system's.
    pub fn of_this_system() -> Self {
        Self::look(&mut Diagnostics::default())
    }

    /// The same, and says what is wrong with it.
    fn look(out: &mut Diagnostics) -> Self {
        // The zone as it is now: of both, the rules and the choice, jiff remembers what was five minutes ago.
        jiff::tz::db().reset();
        let timezone = disk::system_zone(Path::new("/etc/localtime"), out);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { timezone, cores: u32::try_from(cores).unwrap_or(u32::MAX) }
    }
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What holds.
    pub settings: Settings,
    /// What hardly was meant.
    pub warnings: Diagnostics,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Reads all files. Fails if there is any error; then warnings are among the diagnostics, too.
pub fn load(roots: &ConfigRoots) -> Result<Loaded, Diagnostics> {
    let mut out = Diagnostics::default();
    let files = disk::read(roots, &mut out);
    // Not among the files' own errors, which would make it look as if one could not be read.
    let mut zone = Diagnostics::default();
    let environment = Environment::look(&mut zone);
    let mut loaded = finish(&files, &environment, out)?;
    loaded.warnings.append(zone);
    loaded.warnings.append(not_yet::warnings(&loaded.settings));
    loaded.warnings.sort();
    loaded.settings.warnings = loaded.warnings.lines();
    Ok(loaded)
}

/// The same for texts that are there already, in the order of precedence.
pub fn parse(
    files: &[(FileKind, Arc<SourceFile>)],
    environment: &Environment,
) -> Result<Loaded, Diagnostics> {
    finish(files, environment, Diagnostics::default())
}

fn finish(
    files: &[(FileKind, Arc<SourceFile>)],
    environment: &Environment,
    mut out: Diagnostics,
) -> Result<Loaded, Diagnostics> {
    // One that could not be read may hold any policy.
    let unread = out.has_errors();
    let mut fragments: Vec<_> =
        files.iter().map(|(kind, file)| Fragment::parse(file, *kind, environment, &mut out)).collect();
    if unread {
        fragments.push(Fragment { broken: true, ..Fragment::default() });
    }
    let settings = merged::merge(fragments, environment, &mut out);
    out.sort();
    if out.has_errors() {
        return Err(out);
    }
    let files = files.iter().map(|(_, file)| PathBuf::from(&file.path)).collect();
    Ok(Loaded { settings, warnings: out, files })
}

/// Reads the keys of one policy from TOML without a table header, as `virtsnap simulate` gets them. `vms` may
/// be missing. With the policy come warnings.
pub fn parse_policy(
    name: PolicyName,
    file: &Arc<SourceFile>,
    environment: &Environment,
) -> Result<(Policy, Diagnostics), Diagnostics> {
    let mut out = Diagnostics::default();
    let Some(table) = document(file, &mut out) else { return Err(out) };
    let scope = Scope { environment, exception: false };
    let keys = policy_keys(file, &table, "a policy", scope, &mut out);
    if out.has_errors() {
        return Err(out);
    }
    let fragment = PolicyFragment { name, place: Place::new(file, 0..0), keys, broken: false };
    let daemon = Daemon::defaults(environment);
    let policy = merged::build(&fragment, &daemon);
    let checked = contradiction::Checked::judge(&policy, &fragment.keys, &fragment.place);
    let pace = Pace::of(&policy.schedules, &policy.retention.timezone);
    contradiction::check(&checked, pace.as_ref(), &daemon, &mut out);
    out.sort();
    Ok((policy, out))
}
