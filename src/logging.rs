//! The log: the journal with its fields where standard error is one, plain lines elsewhere.

#[cfg(test)]
pub(crate) mod heard;
mod level;
pub mod message;

use std::{fmt, io};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter, Layer, fmt::format, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

pub use self::level::{LEVELS, Target, is_less, level, set_level, target};

/// The environment variable with the filter, such as `info,virtsnap=debug`.
pub const FILTER: &str = "VIRTSNAPD_LOG";
/// What the journal has in each entry of ours.
pub const IDENTIFIER: &str = "virtsnapd";

/// Sets the log up for the whole process.
pub fn init() {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    let lets_through = filter.max_level_hint();
    let (filter, handle) = reload::Layer::new(filter);
    let journal = if on_journal() { tracing_journald::layer().ok() } else { None };
    // The fields' names are the design's own, so no prefix is put before them.
    let journal = journal.map(|j| j.with_field_prefix(None).with_syslog_identifier(IDENTIFIER.into()));
    let target = if journal.is_some() { Target::Journal } else { Target::Console };
    let plain = journal.is_none().then(|| {
        let layer = tracing_subscriber::fmt::layer().fmt_fields(format::debug_fn(plain_field));
        layer.with_writer(io::stderr).with_target(false).with_ansi(false).boxed()
    });
    // A second initialisation (in a test) keeps the first one.
    if tracing_subscriber::registry().with(filter).with(journal).with(plain).try_init().is_ok() {
        let reload = move |filter| handle.reload(filter).map_err(|e| e.to_string());
        level::remember(target, lets_through, Box::new(reload));
    }
}

/// As people read it: what is for programs is left out.
fn plain_field(writer: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "MESSAGE_ID" => Ok(()),
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, " {name}={value:?}"),
    }
}

/// `JOURNAL_STREAM` names the device and inode that the journal gave us; somebody may have redirected since.
fn on_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|s| device.parse() == Ok(s.st_dev) && inode.parse() == Ok(s.st_ino))
}
