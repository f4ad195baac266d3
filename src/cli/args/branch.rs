//! What `virtsnap branch` and `virtsnap promote` take.

use clap::Args;

use super::{Pace, Wait};

/// `virtsnap branch`
#[derive(Debug, Args)]
pub struct Branch {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// The new VM's name
    pub new_name: String,
    /// Start the new VM
    #[arg(long)]
    pub start: bool,
    /// Leave out disks that have no part in the snapshot and are written to, instead of refusing
    #[arg(long)]
    pub leave_out: bool,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}

/// `virtsnap promote`
#[derive(Debug, Args)]
pub struct Promote {
    /// The VM's name or UUID
    pub vm: String,
    /// How fast, and for how long.
    #[command(flatten)]
    pub pace: Pace,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}
