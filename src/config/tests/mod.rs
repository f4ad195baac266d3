//! The module as a whole: what is said about files, word by word, and what they come to.

mod contradictions;
mod files;
mod messages;
mod plans;
mod random;
mod shipped;

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Diagnostics, Environment, FileKind, Loaded, SourceFile, parse};

fn environment() -> Environment {
    Environment { timezone: TimeZone::get("Europe/Vienna").unwrap(), cores: 4 }
}

/// Files by name; `virtsnapd.toml` is the main one.
fn files(texts: &[(&str, &str)]) -> Vec<(FileKind, Arc<SourceFile>)> {
    let kind = |name: &str| if name == "virtsnapd.toml" { FileKind::Main } else { FileKind::DropIn };
    texts.iter().map(|(name, text)| (kind(name), SourceFile::new(*name, *text))).collect()
}

fn read(texts: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    parse(&files(texts), &environment())
}

/// What is said about one drop-in, errors and warnings alike.
fn said(text: &str) -> Diagnostics {
    match read(&[("p.toml", text)]) {
        Ok(loaded) => loaded.warnings,
        Err(errors) => errors,
    }
}

/// The same as lines, without the file's name.
fn lines(text: &str) -> Vec<String> {
    said(text).lines().iter().map(|l| l.strip_prefix("p.toml:").unwrap().to_owned()).collect()
}

/// A policy that nothing is said about, with more keys.
fn policy(keys: &str) -> String {
    format!("[policy.p]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nmax-count = 10\n{keys}")
}
