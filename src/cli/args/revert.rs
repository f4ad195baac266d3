//! What `virtsnap revert` takes.

use clap::Args;

use super::{Consent, Wait};

/// `virtsnap revert`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  virtsnap revert web1 before-upgrade
  virtsnap revert web1 before-upgrade --start --yes
  virtsnap revert web1 before-upgrade --keep-definition --off")]
pub struct Revert {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// How it goes back.
    #[command(flatten)]
    pub back: Back,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}

/// `virtsnap time-travel`
#[derive(Debug, Args)]
pub struct TimeTravel {
    /// The VM's name or UUID
    pub vm: String,
    /// To the newest restore point that is no newer ("2026-01-31 14:30", "yesterday 14:30", 14:30, "2h ago")
    #[arg(long, value_name = "TIME")]
    pub to: String,
    /// Only say which it is, how far off, and what it would cost
    #[arg(long)]
    pub dry_run: bool,
    /// How it goes back.
    #[command(flatten)]
    pub back: Back,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}

/// How a VM is put back.
#[derive(Debug, Clone, Copy, Args)]
pub struct Back {
    /// What the VM is after it.
    #[command(flatten)]
    pub then: After,
    /// Keep the VM's definition as it is; only its disks go back
    #[arg(long)]
    pub keep_definition: bool,
    /// Take no snapshot first: what was written since the last one is lost
    #[arg(long)]
    pub no_safety: bool,
}

/// What a VM is after a revert; if nothing is said, what it was before.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub struct After {
    /// Start the VM afterwards, whatever it was before
    #[arg(long)]
    pub start: bool,
    /// Start it with its CPUs stopped
    #[arg(long)]
    pub paused: bool,
    /// Leave it off
    #[arg(long)]
    pub off: bool,
}
