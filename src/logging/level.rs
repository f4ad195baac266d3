//! How much of the log is let through, by the words that systemd and syslog have for it, and that it can be changed.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// The words, and the filter for each: in detail only of what is ours, as libraries tell too much of themselves.
///
/// tracing has five levels, syslog eight: what lies between two is the one that lets less through, if that is not nothing.
pub const LEVELS: [(&str, &str); 8] = [
    ("emerg", "error"),
    ("alert", "error"),
    ("crit", "error"),
    ("err", "error"),
    ("warning", "warn"),
    ("notice", "info"),
    ("info", "info"),
    ("debug", "info,virtsnap=debug"),
];

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the journal, with fields.
    Journal,
    /// To standard error, as lines.
    Console,
}

impl Target {
    /// systemd's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Console => "console",
        }
    }
}

/// Puts another filter in the place of the one there is.
pub(super) type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

struct Log {
    target: Target,
    level: Mutex<&'static str>,
    reload: Reload,
}

/// The process has one log.
static LOG: OnceLock<Log> = OnceLock::new();

/// The log was set up so.
pub(super) fn remember(target: Target, lets_through: Option<LevelFilter>, reload: Reload) {
    let level = match lets_through {
        Some(LevelFilter::OFF | LevelFilter::ERROR) => "err",
        Some(LevelFilter::WARN) => "warning",
        Some(LevelFilter::INFO) => "info",
        _ => "debug",
    };
    let _ = LOG.set(Log { target, level: Mutex::new(level), reload });
}

/// Where the log goes; nowhere before it is set up.
pub fn target() -> Option<Target> {
    LOG.get().map(|log| log.target)
}

/// What is let through, at least; `None` before the log is set up.
pub fn level() -> Option<&'static str> {
    LOG.get().map(|log| *log.level.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether there is such a level, and it lets less through than the other.
pub fn is_less(one: &str, other: &str) -> bool {
    let place = |wanted: &str| LEVELS.iter().position(|(word, _)| *word == wanted);
    place(one).is_some_and(|one| Some(one) < place(other))
}

/// Lets this through and what is worse, until the process ends. An error says why not.
pub fn set_level(wanted: &str) -> Result<(), String> {
    let Some((word, filter)) = LEVELS.iter().find(|(word, _)| *word == wanted) else {
        let all = LEVELS.map(|(word, _)| word).join(", ");
        return Err(format!("there is no such level; there are {all}"));
    };
    let log = LOG.get().ok_or("there is no log to be changed")?;
    let mut level = log.level.lock().unwrap_or_else(PoisonError::into_inner);
    (log.reload)(EnvFilter::new(filter))?;
    *level = word;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_a_filter_and_none_lets_everything_of_libraries_through() {
        for (word, filter) in LEVELS {
            let filter = EnvFilter::try_new(filter).unwrap_or_else(|e| panic!("{word}: {e}"));
            assert!(filter.max_level_hint() <= Some(LevelFilter::DEBUG), "{word}");
            assert!(
                filter.max_level_hint() >= Some(LevelFilter::ERROR),
                "{word}: what failed is always told"
            );
        }
    }
}
