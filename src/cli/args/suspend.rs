//! The arguments of `virtsnap suspend` and `virtsnap resume`.

use clap::Args;

/// `virtsnap suspend`
#[derive(Debug, Args)]
pub struct Suspend {
    /// The policy's name
    pub policy: String,
    /// Only on this VM (name or UUID)
    #[arg(long)]
    pub vm: Option<String>,
    /// Why, for whoever looks for it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `virtsnap resume`
#[derive(Debug, Args)]
pub struct Resume {
    /// The policy's name
    pub policy: String,
    /// Only on this VM (name or UUID)
    #[arg(long)]
    pub vm: Option<String>,
}
