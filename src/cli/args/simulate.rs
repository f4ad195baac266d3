//! What `virtsnap simulate` takes.

use std::path::PathBuf;

use clap::Args;

use super::InlineRules;

/// `virtsnap simulate`
#[derive(Debug, Default, Args)]
pub struct Simulate {
    /// The snapshots, and perhaps the policy, as JSON [default: -, standard input]
    pub input: Option<PathBuf>,
    /// Let time go by until then: take what is due, prune after each run, and show each day
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    /// Decide as of this time [default: that of the input, or now]
    #[arg(long, value_name = "TIME")]
    pub now: Option<String>,
    /// The zone of policies that name none, and of times without an offset [default: the system's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Take the policies from this file
    #[arg(long, value_name = "FILE", conflicts_with = "config_dir")]
    pub policy_file: Option<PathBuf>,
    /// Take the policies from this directory, such as /etc/virtsnap
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Only this policy of the files; may be repeated
    #[arg(long = "policy", value_name = "NAME")]
    pub policies: Vec<String>,
    /// Only the policies of the files that are for a VM of this name (or UUID), with its exceptions
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// A tag that the VM has; may be repeated
    #[arg(long = "tag", value_name = "TAG", requires = "vm")]
    pub tags: Vec<String>,
    /// The size of each snapshot that --until takes, such as 2GiB [default: unknown]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// How many layers a chain may have [default: that of the files; with --until 16; else any]
    #[arg(long, value_name = "LAYERS")]
    pub max_chain: Option<u32>,
    /// Show all snapshots that the policy lets go, beyond its max-delete
    #[arg(long)]
    pub all: bool,
    /// The rules of one policy, instead of files.
    #[command(flatten)]
    pub rules: InlineRules,
}
