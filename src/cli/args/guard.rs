//! What `virtsnap guard` takes.

use std::ffi::OsString;

use clap::Args;

use super::Taken;

/// `virtsnap guard`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  virtsnap guard web1 -- ssh web1 apt-get -y upgrade
  virtsnap guard web1 --operation upgrade --keep-for 30d -- ./upgrade-web1
  virtsnap guard web1 --no-rollback -- ssh web1 ./migrate")]
pub struct Guard {
    /// The VM's name or UUID
    pub vm: String,
    /// Take what the policies take that list this operation, such as upgrade, in "before"; if none does, a plain
    /// snapshot, and only for that are --name, --description, --tag, --quiesce, --memory and --disk
    #[arg(long, value_name = "NAME")]
    pub operation: Option<String>,
    /// How a plain snapshot is taken.
    #[command(flatten)]
    pub taken: Taken,
    /// Have the snapshot pruned after this time (12h, 30d, 2026-12-31); with "never" it stays until it is deleted
    /// [default: 7d, or what the policies say]
    #[arg(long, value_name = "TIME")]
    pub keep_for: Option<String>,
    /// Leave the VM as it is if the command fails; the snapshot is kept either way
    #[arg(long, visible_alias = "keep-on-failure")]
    pub no_rollback: bool,
    /// What to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
