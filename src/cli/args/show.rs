//! What `virtsnap show`, `watch`, `completion` and `help` take.

use clap::{Args, ValueEnum};

/// `virtsnap show`
#[derive(Debug, Args)]
pub struct Show {
    /// The VM's name or UUID
    pub vm: String,
    /// The snapshot's name
    pub snapshot: Option<String>,
}

/// `virtsnap watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// Only what is about this VM (name or UUID)
    pub vm: Option<String>,
}

/// `virtsnap help`
#[derive(Debug, Args)]
pub struct Help {
    /// Of this one [default: all of them, in short]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// `virtsnap completion`
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Those that it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// In ~/.bashrc: eval "$(virtsnap completion bash)"
    Bash,
    /// In ~/.zshrc: eval "$(virtsnap completion zsh)"
    Zsh,
    /// In config.fish: virtsnap completion fish | source
    Fish,
}

/// `virtsnap complete`
#[derive(Debug, Args)]
pub struct Complete {
    /// What is typed so far, without the program's name; the last one is being typed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}
