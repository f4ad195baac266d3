//! The arguments of `virtsnap pin`, `unpin` and `modify`.

use clap::{ArgGroup, Args};

use super::{Consent, Wait};

/// `virtsnap pin`
#[derive(Debug, Args)]
pub struct Pin {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// Why, for whoever looks for it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Hold it until then: a time (2026-12-31, "2026-12-31 18:00", 18:00) or from now on (12h, 30d) [default: until the
    /// pin is taken off]
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `virtsnap unpin`
#[derive(Debug, Args)]
pub struct Unpin {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// Take off everybody's pins of this snapshot, not only yours, which takes another right
    #[arg(long, conflicts_with = "owner")]
    pub all: bool,
    /// Take off this user's pin of it, not yours, which takes another right
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
}

/// `virtsnap modify`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
pub struct Modify {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// Keep this text with it, instead of the one there is
    #[arg(long, value_name = "TEXT", group = "change")]
    pub description: Option<String>,
    /// Give it this tag, too; may be repeated
    #[arg(long = "tag", value_name = "TAG", group = "change")]
    pub tags: Vec<String>,
    /// Take this tag off; may be repeated
    #[arg(long = "untag", value_name = "TAG", group = "change")]
    pub untag: Vec<String>,
    /// Have it pruned after this time (2026-12-31, 18:00, or from now on: 12h, 30d), whatever policies say;
    /// "never" takes that back
    #[arg(long, value_name = "TIME", group = "change")]
    pub expires: Option<String>,
    /// How to wait for a description to be written.
    #[command(flatten)]
    pub wait: Wait,
}
