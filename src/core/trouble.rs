//! What keeps the daemon itself from doing what it is there for, for as long as it does.

/// A trouble, with why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nothing can be written down, so nothing is begun.
    Store(String),
    /// The configuration was read anew and is broken, so what was read before is in force.
    Configuration(String),
}

impl Trouble {
    /// One line, for people.
    pub fn text(&self) -> String {
        match self {
            Self::Store(why) => format!(
                "nothing can be written down ({why}): no snapshot is taken, deleted or reverted to until that works again"
            ),
            Self::Configuration(why) => format!(
                "the configuration is broken ({why}): what was read before is in force, and a restart would fail. \
                 `virtsnapd --check` shows all of it; then `systemctl reload virtsnapd`"
            ),
        }
    }
}
