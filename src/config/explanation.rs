//! Why a VM's settings are what they are: what `virtsnap explain VM` shows.

use std::fmt;

use crate::core::{model::PolicyName, policy::Source};

/// What an explanation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// A selector makes a policy hold for the VM.
    Selected,
    /// A selector with `!` leaves the VM out of a policy that would hold for it.
    Excluded,
    /// No selector of a policy matches.
    NotSelected,
    /// A `[vm.*]` sets a policy's key for this VM.
    Overridden,
    /// A `[vm.*]` sets what belongs to the VM itself.
    Set,
    /// A `[vm.*]` has exceptions to a policy that does not hold for the VM.
    Unused,
    /// What a policy comes to for this VM, all exceptions worked in.
    Holds,
}

impl About {
    /// The word for it in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Selected => "selected",
            Self::Excluded => "excluded",
            Self::NotSelected => "not-selected",
            Self::Overridden => "overridden",
            Self::Set => "set",
            Self::Unused => "unused",
            Self::Holds => "holds",
        }
    }
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What it is about.
    pub about: About,
    /// The policy; `None` if it is about the VM itself.
    pub policy: Option<PolicyName>,
    /// The key that is set.
    pub key: Option<String>,
    /// The selector, or the value as it was written.
    pub text: String,
    /// Where that stands.
    pub source: Source,
    /// What would hold otherwise and where that stands; `None`: the default, or nothing.
    pub instead_of: Option<(String, Source)>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, policy, key, text, source, instead_of } = self;
        if let Some(policy) = policy {
            write!(f, "{policy}: ")?;
        }
        match about {
            About::Selected => write!(f, "selected by `{text}` ({source})"),
            About::Excluded => {
                write!(f, "left out by `{text}` ({source})")?;
                match instead_of {
                    Some((other, at)) => write!(f, ", though `{other}` ({at}) selects it"),
                    None => Ok(()),
                }
            }
            About::NotSelected => write!(f, "not selected: none of its selectors matches ({source})"),
            About::Holds => f.write_str(text),
            About::Unused => write!(f, "not selected, so that the exceptions at {source} have no effect"),
            About::Overridden | About::Set => {
                write!(f, "{} = {text} ({source})", key.as_deref().unwrap_or_default())?;
                match instead_of {
                    Some((other, at)) => write!(f, " instead of {other} ({at})"),
                    None => f.write_str(" instead of the default"),
                }
            }
        }
    }
}
