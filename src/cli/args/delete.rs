//! What `virtsnap delete` and `virtsnap adopt` take.

use clap::Args;

use super::{Consent, Pace, Wait};

/// `virtsnap delete`
#[derive(Debug, Args)]
pub struct Delete {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// Delete all that were taken on top of it, too, one after the other
    #[arg(long, conflicts_with = "metadata_only")]
    pub recursive: bool,
    /// Delete it though others made it
    #[arg(long)]
    pub foreign: bool,
    /// Its images are gone: take away only what libvirt still has of it
    #[arg(long, conflicts_with_all = ["foreign", "bandwidth", "until"])]
    pub metadata_only: bool,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// How fast, and for how long.
    #[command(flatten)]
    pub pace: Pace,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}

/// `virtsnap adopt`
#[derive(Debug, Args)]
pub struct Adopt {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshots' names [default: all that others made]
    pub snapshots: Vec<String>,
    /// Have them count for this policy, which may prune them; may be repeated [default: none, and they stay until they are
    /// deleted]
    #[arg(long = "policy", value_name = "NAME")]
    pub policies: Vec<String>,
    /// Put the files on the VM's images that belong to nobody in quarantine; if that is so for a week, they are removed
    #[arg(long, conflicts_with_all = ["snapshots", "policies", "layers"])]
    pub orphans: bool,
    /// Make a snapshot of each layer of the VM's disks that belongs to none
    #[arg(long, conflicts_with = "snapshots")]
    pub layers: bool,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
}
