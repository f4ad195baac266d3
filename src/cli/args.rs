//! The command line. What `man/virtsnap.1` says of each command, option and argument begins with its help text here.

mod branch;
mod create;
mod delete;
mod guard;
mod help;
mod pin;
mod revert;
mod rules;
mod show;
mod simulate;
mod suspend;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::{
    branch::{Branch, Promote},
    create::{Create, Memory, Quiesce, Taken},
    delete::{Adopt, Delete},
    guard::Guard,
    pin::{Modify, Pin, Unpin},
    revert::{After, Back, Revert, TimeTravel},
    rules::InlineRules,
    show::{Complete, Completion, Help, Shell, Show, Watch},
    simulate::Simulate,
    suspend::{Resume, Suspend},
};

/// Snapshots of libvirt VMs: see, take, delete and prune them, through virtsnapd
#[derive(Debug, Parser)]
#[command(name = "virtsnap", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(help_template = help::template(), after_help = help::AFTER)]
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
    /// Talk to the daemon of another machine ([USER@]HOST[:PORT]), over ssh
    #[arg(long, short = 'H', global = true, help_heading = GLOBAL, value_name = "HOST", conflicts_with_all = ["bus_address", "system"])]
    pub host: Option<String>,
    /// Don't have polkit ask for a password on this terminal
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub no_ask_password: bool,
    /// Talk to the bus at this D-Bus address
    #[arg(long, global = true, hide = true, value_name = "ADDRESS")]
    pub bus_address: Option<String>,
}

/// What the client can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the VMs, or the snapshots of one
    List(List),
    /// Show all that is known of a VM, or of one of its snapshots
    Show(Show),
    /// Take a snapshot of a VM
    Create(Create),
    /// Delete a snapshot; the VM's disks read as before
    Delete(Delete),
    /// Hold a snapshot, so that it is neither pruned nor deleted
    Pin(Pin),
    /// Take a pin off a snapshot
    Unpin(Unpin),
    /// Change a snapshot's description, its tags, or when it expires
    Modify(Modify),
    /// Take over snapshots that others made, for virtsnap to manage
    Adopt(Adopt),
    /// Put a VM back to a snapshot; one is taken first, as the way back
    Revert(Revert),
    /// Put a VM back to its newest restore point before a given time
    TimeTravel(TimeTravel),
    /// Take a snapshot, run a command, and go back if the command fails
    Guard(Guard),
    /// Make another VM from a snapshot, without copying its disks
    Branch(Branch),
    /// Make a branch independent of the snapshot that it goes on from
    Promote(Promote),
    /// Run a policy now
    Run(Run),
    /// Stop a policy's schedule from running it, on all VMs or on one
    Suspend(Suspend),
    /// Have a policy's schedule run it again where it is suspended
    Resume(Resume),
    /// Show what pruning would delete and keep, and why
    Plan(Plan),
    /// Delete the snapshots of a VM that no policy wants to keep
    Prune(Prune),
    /// Show the daemon, the policies and every VM, what is wrong first
    #[command(after_help = "The exit status is 1 if anything is wrong.")]
    Status,
    /// Show each policy: when it runs, what it keeps, for which VMs
    Policies,
    /// Show the jobs that run, wait or have just ended
    Jobs,
    /// Follow jobs to their end, as the command that began them does
    Wait(Await),
    /// Show each change as it happens, until it is interrupted
    Watch(Watch),
    /// Stop a job that waits, or one that merges or copies images
    Cancel(Cancel),
    /// Have the daemon read its configuration again
    Reload,
    /// Show which policies are for a VM and why, and what they come to
    Explain(Explain),
    /// Check the configuration, and say when each policy runs next
    Check(Check),
    /// Try a policy on a list of snapshots, or on the days to come
    Simulate(Box<Simulate>),
    /// Print the completion script for a shell
    Completion(Completion),
    /// Show what a command does and takes
    Help(Help),
    /// Say what fits for the last of these words
    #[command(hide = true)]
    Complete(Complete),
}

impl Verb {
    /// What it is called if it asks no daemon, so that it works on this machine alone.
    pub const fn without_daemon(&self) -> Option<&'static str> {
        match self {
            Self::Check(_) => Some("check"),
            Self::Simulate(_) => Some("simulate"),
            Self::Completion(_) => Some("completion"),
            _ => None,
        }
    }

    /// Whether it does more than look, so that polkit may ask who somebody is.
    pub const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::List(_)
                | Self::Show(_)
                | Self::Plan(_)
                | Self::Status
                | Self::Policies
                | Self::Jobs
                | Self::Wait(_)
                | Self::Watch(_)
                | Self::Explain(_)
                | Self::Check(_)
                | Self::Simulate(_)
                | Self::Completion(_)
                | Self::Help(_)
                | Self::Complete(_)
        )
    }
}

/// `virtsnap list`
#[derive(Debug, Args)]
pub struct List {
    /// Show the snapshots of this VM (name or UUID), newest last
    pub vm: Option<String>,
    /// Show what was taken on top of what
    #[arg(long, requires = "vm")]
    pub tree: bool,
    /// Show the newest first, and what becomes of each: who pinned it, when it expires, at which run it goes
    #[arg(long, requires = "vm", conflicts_with = "tree")]
    pub timeline: bool,
    /// Only those with this tag; may be repeated for those with all of them
    #[arg(long = "tag", value_name = "TAG", requires = "vm", conflicts_with = "tree")]
    pub tags: Vec<String>,
    /// Only those that somebody pinned
    #[arg(long, requires = "vm", conflicts_with = "tree")]
    pub pinned: bool,
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
#[command(after_long_help = "\
Examples:
  virtsnap plan web1
  virtsnap plan --all
  virtsnap plan web1 --beyond-max-delete
  virtsnap plan --policy nightly web1")]
pub struct Plan {
    /// The VM's name or UUID
    #[arg(required_unless_present_any = ["all", "policy"])]
    pub vm: Option<String>,
    /// Show what a run of this policy would take, and delete after it, on all of its VMs or on this one
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["all", "beyond_max_delete"])]
    pub policy: Option<String>,
    /// Show the plan of every VM that has snapshots, instead of one
    #[arg(long, conflicts_with = "vm")]
    pub all: bool,
    /// Show what `virtsnap prune --all` would do, which goes beyond max-delete and takes the clock for right
    #[arg(long)]
    pub beyond_max_delete: bool,
}

/// `virtsnap prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// The VM's name or UUID
    pub vm: String,
    /// Delete all of this VM's snapshots that no policy wants to keep, beyond max-delete, and take the clock for
    /// right if it was in doubt
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

/// `virtsnap wait`
#[derive(Debug, Args)]
pub struct Await {
    /// The jobs' numbers, as `virtsnap jobs` shows them
    #[arg(value_name = "JOB", required = true)]
    pub jobs: Vec<u32>,
}

/// `virtsnap cancel`
#[derive(Debug, Args)]
pub struct Cancel {
    /// The job's number, as `virtsnap jobs` shows it
    #[arg(value_name = "JOB")]
    pub job: u32,
    /// Whether to ask first.
    #[command(flatten)]
    pub consent: Consent,
    /// Whether to wait until it has ended.
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
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Wait {
    /// Don't wait until the job has ended
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
    /// Wait until the job has ended (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
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
        assert!(Cli::try_parse_from(["virtsnap", "plan", "--all", "--policy", "p"]).is_err());
        assert!(Cli::try_parse_from(["virtsnap", "plan", "web1", "--policy", "p"]).is_ok());
    }

    #[test]
    fn what_a_guard_runs_is_the_command_s_own() {
        let cli = Cli::try_parse_from(["virtsnap", "guard", "db", "--", "apt", "--json", "-y"]).unwrap();
        assert!(!cli.global.json);
        let Verb::Guard(guard) = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(guard.command, ["apt", "--json", "-y"]);
        assert!(Cli::try_parse_from(["virtsnap", "guard", "db", "apt"]).is_err());
        assert!(Cli::try_parse_from(["virtsnap", "guard", "db", "--"]).is_err());
    }

    #[test]
    fn disks_are_repeated_options() {
        let cli =
            Cli::try_parse_from(["virtsnap", "create", "db", "--disk", "vda", "--disk", "vdb"]).unwrap();
        let Verb::Create(create) = cli.verb else { panic!("{:?}", cli.verb) };
        assert_eq!(create.taken.disks, ["vda", "vdb"]);
    }
}
