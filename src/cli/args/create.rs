//! What `virtsnap create` takes.

use clap::{Args, ValueEnum};

use super::Wait;

/// `virtsnap create`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  virtsnap create web1
  virtsnap create web1 --name before-upgrade --quiesce require
  virtsnap create web1 --disk vda --disk vdb --expires 30d
  virtsnap create web1 --memory prefer --tag release")]
pub struct Create {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name, as with --name
    #[arg(value_name = "SNAPSHOT", conflicts_with = "name")]
    pub called: Option<String>,
    /// What it is to be.
    #[command(flatten)]
    pub taken: Taken,
    /// Have it pruned after this time (2026-12-31, 18:00, or from now on: 12h, 30d), whatever policies say
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}

/// How a snapshot is taken.
#[derive(Debug, Clone, Default, Args)]
pub struct Taken {
    /// The snapshot's name [default: made of the time]
    #[arg(long)]
    pub name: Option<String>,
    /// A text to keep with it
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Give it this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Whether to freeze the guest's file systems [default: prefer]
    #[arg(long, value_enum, value_name = "HOW")]
    pub quiesce: Option<Quiesce>,
    /// Whether to keep the memory of a VM that is on [default: never]
    #[arg(long, value_enum, value_name = "HOW")]
    pub memory: Option<Memory>,
    /// Only this disk, such as vda; may be repeated [default: all writable ones]
    #[arg(long = "disk", value_name = "TARGET")]
    pub disks: Vec<String>,
}

/// What to do about the guest's file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quiesce {
    /// Freeze them, or take no snapshot
    Require,
    /// Freeze them if the guest lets us
    Prefer,
    /// Don't freeze them
    Never,
}

impl Quiesce {
    /// The word for it on the bus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Never => "never",
        }
    }
}

/// What to do about the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Memory {
    /// Keep it, or take no snapshot
    Require,
    /// Keep it where the VM can be migrated and there is room
    Prefer,
    /// Don't keep it
    Never,
}

impl Memory {
    /// The word for it on the bus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Never => "never",
        }
    }
}
