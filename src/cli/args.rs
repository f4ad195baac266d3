//! The command line.

mod branch;
mod rules;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{
    branch::{Branch, Promote},
    rules::InlineRules,
};

/// Snapshots of libvirt VMs: see, take, delete and prune them, through virtsnapd
#[derive(Debug, Parser)]
#[command(name = "virtsnap", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 not authorised, \
    5 daemon unreachable, 6 job failed, 75 busy (try again later).")]
pub struct Cli {
    /// What applies to every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Where the help texts list what every verb takes.
const GLOBAL: &str = "Options of every command";

/// Options that every verb takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON instead of text
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Talk to the daemon on the system bus (the default)
    #[arg(long, global = true, help_heading = GLOBAL, conflicts_with = "bus_address")]
    pub system: bool,
    /// Talk to the bus at this D-Bus address
    #[arg(long, global = true, hide = true, value_name = "ADDRESS")]
    pub bus_address: Option<String>,
}

/// What the client can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the VMs, or the snapshots of one
    List(List),
    /// Take a snapshot of a VM
    Create(Create),
    /// Delete a snapshot; the VM's disks read as before
    Delete(Delete),
    /// Take over snapshots that others made: they are deleted and pruned like virtsnap's own
    Adopt(Adopt),
    /// Put a VM back to a snapshot; another one that is taken first is the way back
    Revert(Revert),
    /// Make another VM that goes on from a snapshot, without copying its disks
    Branch(Branch),
    /// Make a branch independent of the snapshot that it goes on from
    Promote(Promote),
    /// Run a policy now
    Run(Run),
    /// Show what pruning would delete and keep, and why
    Plan(Plan),
    /// Delete the snapshots of a VM that no policy wants to keep
    Prune(Prune),
    /// Show the daemon, the policies and every VM, what is wrong first (exit status 1 if anything is)
    Status,
    /// Show the jobs that run, wait or have just ended
    Jobs,
    /// Have the daemon read its configuration again
    Reload,
    /// Show which policies are for a VM and why, and what they come to
    Explain(Explain),
    /// Read the configuration without the daemon: what is wrong with it, and when each policy runs next
    Check(Check),
    /// Try a policy on a list of snapshots, or on the days to come; needs no daemon
    Simulate(Box<Simulate>),
}

/// `virtsnap list`
#[derive(Debug, Args)]
pub struct List {
    /// Show the snapshots of this VM (name or UUID), newest last
    pub vm: Option<String>,
    /// Show what was taken on top of what
    #[arg(long, requires = "vm")]
    pub tree: bool,
}

/// `virtsnap create`
#[derive(Debug, Args)]
pub struct Create {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name [default: made of the time]
    #[arg(long)]
    pub name: Option<String>,
    /// A text to keep with it
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Freeze the guest's file systems, or fail / if possible / not at all [default: prefer]
    #[arg(long, value_enum, value_name = "HOW")]
    pub quiesce: Option<Quiesce>,
    /// Keep the memory of a VM that is on, or fail / if possible / not at all [default: never]
    #[arg(long, value_enum, value_name = "HOW")]
    pub memory: Option<Memory>,
    /// Only this disk, such as vda; may be repeated [default: all writable ones]
    #[arg(long = "disk", value_name = "TARGET")]
    pub disks: Vec<String>,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
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
    /// Keep it if the VM can be migrated
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

/// `virtsnap delete`
#[derive(Debug, Args)]
pub struct Delete {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
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
    /// They count for this policy, which may prune them; may be repeated [default: they stay until they are deleted]
    #[arg(long = "policy", value_name = "NAME")]
    pub policies: Vec<String>,
    /// Put the files on its images that belong to nobody in quarantine: if that is so for a week, they are removed
    #[arg(long, conflicts_with_all = ["snapshots", "policies", "layers"])]
    pub orphans: bool,
    /// Make a snapshot of each layer of its disks that belongs to none
    #[arg(long, conflicts_with = "snapshots")]
    pub layers: bool,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
}

/// `virtsnap revert`
#[derive(Debug, Args)]
pub struct Revert {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: String,
    /// What the VM is after it.
    #[command(flatten)]
    pub then: After,
    /// Keep the VM's definition as it is; only its disks go back
    #[arg(long)]
    pub keep_definition: bool,
    /// Take no snapshot first: what was written since the last one is lost
    #[arg(long)]
    pub no_safety: bool,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// How to wait for the job.
    #[command(flatten)]
    pub wait: Wait,
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

/// `virtsnap run`
#[derive(Debug, Args)]
pub struct Run {
    /// The policy's name
    pub policy: String,
    /// Only for this VM (name or UUID)
    #[arg(long)]
    pub vm: Option<String>,
    /// How to wait for the jobs.
    #[command(flatten)]
    pub wait: Wait,
}

/// `virtsnap plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// The VM's name or UUID
    #[arg(required_unless_present = "all")]
    pub vm: Option<String>,
    /// For every VM that has snapshots
    #[arg(long, conflicts_with = "vm")]
    pub all: bool,
}

/// `virtsnap prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// The VM's name or UUID
    pub vm: String,
    /// Delete more than the policy's max-delete at once, and take the clock for right if it was in doubt
    #[arg(long)]
    pub all: bool,
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

/// For verbs that discard something.
#[derive(Debug, Clone, Copy, Args)]
pub struct Consent {
    /// Don't ask; needed where there is no terminal to ask on
    #[arg(long, short)]
    pub yes: bool,
}

/// For verbs that merge or copy images.
#[derive(Debug, Clone, Default, Args)]
pub struct Pace {
    /// Copy at most this much per second, such as 100MiB
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// Stop at this time (06:00, or "2026-11-21 06:00"); what is cut short is finished later
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// For verbs that start a job.
#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// Return when the job is started
    #[arg(long)]
    pub no_wait: bool,
}

/// `virtsnap explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The VM's name or UUID
    pub vm: String,
}

/// `virtsnap check`
#[derive(Debug, Args)]
pub struct Check {
    /// Read this directory alone [default: /etc/virtsnap, /run/virtsnap and /usr/lib/virtsnap]
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
}

/// `virtsnap simulate`
#[derive(Debug, Default, Args)]
pub struct Simulate {
    /// The snapshots, and perhaps the policy, as JSON; `-`: standard input, which is also the default
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
    /// Show all that the policy lets go, whatever its max-delete
    #[arg(long)]
    pub all: bool,
    /// The rules of one policy, instead of files.
    #[command(flatten)]
    pub rules: InlineRules,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn plan_wants_a_vm_or_all_but_not_both() {
        assert!(Cli::try_parse_from(["virtsnap", "plan"]).is_err());
        assert!(Cli::try_parse_from(["virtsnap", "plan", "web1", "--all"]).is_err());
        assert!(Cli::try_parse_from(["virtsnap", "plan", "--all", "--json"]).is_ok());
    }

    #[test]
    fn disks_are_repeated_options() {
        let cli =
            Cli::try_parse_from(["virtsnap", "create", "db", "--disk", "vda", "--disk", "vdb"]).unwrap();
        let Verb::Create(create) = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(create.disks, ["vda", "vdb"]);
    }
}
