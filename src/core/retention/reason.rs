//! The words of a verdict: the rules, the reasons, and the sentence made of them.

use std::{fmt, ops::Deref, sync::Arc};

use jiff::Timestamp;

use super::{bucket::Bucket, clock::ClockFault};
use crate::core::model::{PolicyName, SnapshotName, SnapshotState};

/// A keep rule, the finest first: in this order `extend` runs them, and in this order they give way when a
/// chain is full.
///
/// `keep-within` comes before `keep-last`, as in Borg: it thins nothing out, and what it keeps uses up no
/// slot of the others under `extend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `keep-within`
    Within,
    /// `keep-last`
    Last,
    /// `keep-hourly`
    Hourly,
    /// `keep-daily`
    Daily,
    /// `keep-weekly`
    Weekly,
    /// `keep-monthly`
    Monthly,
    /// `keep-yearly`
    Yearly,
}

impl Rule {
    /// Every rule, the finest first.
    pub const ALL: [Self; 7] =
        [Self::Within, Self::Last, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Its key in a policy file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Within => "keep-within",
            Self::Last => "keep-last",
            Self::Hourly => "keep-hourly",
            Self::Daily => "keep-daily",
            Self::Weekly => "keep-weekly",
            Self::Monthly => "keep-monthly",
            Self::Yearly => "keep-yearly",
        }
    }

    /// Its place in a set of rules.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who needs a snapshot's image to stay as and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Another VM's disk, or a snapshot of it, is based on the image: the VM's name.
    OtherVm(String),
    /// A VM that was branched off this snapshot: its name.
    Branch(String),
    /// This snapshot is half merged, and part of its data is still in the image.
    Unmerged(SnapshotName),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherVm(vm) => write!(f, "the VM {vm:?} uses its image"),
            Self::Branch(vm) => write!(f, "the VM {vm:?} was branched off it"),
            Self::Unmerged(name) => {
                write!(f, "the merge of {:?} is unfinished and needs its image", name.as_str())
            }
        }
    }
}

/// One reason why a snapshot stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<'a> {
    /// Stays: a keep rule wants it.
    Rule {
        /// Whose rule.
        policy: &'a PolicyName,
        /// The rule.
        rule: Rule,
        /// What it represents.
        bucket: Bucket,
    },
    /// Stays: the policy has limits but no keep rule, and it is within them.
    NoRule {
        /// The policy.
        policy: &'a PolicyName,
    },
    /// Stays: the policy has neither a keep rule nor a limit, so it deletes nothing.
    EmptyPolicy {
        /// The policy.
        policy: &'a PolicyName,
    },
    /// Stays: no policy in force let go of it; the one named, if any, is no longer in force for this VM.
    NoPolicy {
        /// The policy it counted for; `None`: it never counted for one.
        policy: Option<&'a PolicyName>,
    },
    /// Stays: pinned; by whom and why, if that is known.
    Pinned(Option<&'a str>),
    /// Stays: not ours.
    Foreign,
    /// Stays: no restore point, so no policy judges it; recovery deals with it.
    NotReady(SnapshotState),
    /// Stays: the newest good one of the VM, or of one of its policies.
    NewestGood,
    /// Stays: something else is built on its image.
    Needed(&'a Need),
    /// Stays, but would go if the clock could be believed.
    ImplausibleClock {
        /// What is wrong with the clock.
        why: Arc<ClockFault>,
    },
    /// Stays, but would go if this prune had not deleted enough already.
    MaxDelete {
        /// Whose limit.
        policy: &'a PolicyName,
    },
    /// Goes: its own time is over, which was set for it alone.
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// Goes: no keep rule of the policy wants it.
    NotWanted {
        /// The policy.
        policy: &'a PolicyName,
    },
    /// Goes: too old.
    MaxAge {
        /// Whose limit.
        policy: &'a PolicyName,
    },
    /// Goes: too many.
    MaxCount {
        /// Whose limit.
        policy: &'a PolicyName,
    },
    /// Goes: too many bytes in this policy.
    MaxSize {
        /// Whose limit.
        policy: &'a PolicyName,
    },
    /// Goes: too many bytes over all policies of the VM.
    VmMaxSize,
    /// Goes: the chain has no room, and the rule that wants it is the finest there is left.
    ChainFull {
        /// Whose rule gives way.
        policy: &'a PolicyName,
        /// The rule; `None`: the policy has limits only.
        rule: Option<Rule>,
    },
}

impl Reason<'_> {
    /// The machine's word for it: the key in the policy file where there is one.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Rule { rule, .. } => rule.as_str(),
            Self::NoRule { .. } => "no-rule",
            Self::EmptyPolicy { .. } => "empty-policy",
            Self::NoPolicy { .. } => "no-policy",
            Self::Pinned(_) => "pinned",
            Self::Foreign => "foreign",
            Self::NotReady(_) => "not-ready",
            Self::NewestGood => "newest-good",
            Self::Needed(_) => "needed",
            Self::ImplausibleClock { .. } => "implausible-clock",
            Self::MaxDelete { .. } => "max-delete",
            Self::Expired { .. } => "expired",
            Self::NotWanted { .. } => "not-wanted",
            Self::MaxAge { .. } => "max-age",
            Self::MaxCount { .. } => "max-count",
            Self::MaxSize { .. } => "max-size",
            Self::VmMaxSize => "vm-max-size",
            Self::ChainFull { .. } => "chain-full",
        }
    }

    /// The policy it comes from, if it comes from one.
    pub const fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Rule { policy, .. }
            | Self::NoRule { policy }
            | Self::EmptyPolicy { policy }
            | Self::MaxDelete { policy }
            | Self::NotWanted { policy }
            | Self::MaxAge { policy }
            | Self::MaxCount { policy }
            | Self::MaxSize { policy }
            | Self::ChainFull { policy, .. } => Some(policy),
            Self::NoPolicy { policy } => *policy,
            _ => None,
        }
    }

    /// What the snapshot represents in a rule (`2026-11-20`, `2026-W47` …); `None` for all else.
    pub const fn bucket(&self) -> Option<Bucket> {
        match self {
            Self::Rule { bucket, .. } => Some(*bucket),
            _ => None,
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, rule, bucket } => match bucket {
                Bucket::Span => write!(f, "{rule} of policy {policy} covers it"),
                Bucket::Number(n) => {
                    write!(f, "{rule} of policy {policy} keeps it, number {n} from the newest")
                }
                _ => write!(f, "{rule} of policy {policy} keeps it for {bucket}"),
            },
            Self::NoRule { policy } => {
                write!(f, "policy {policy} has no keep rule, and it is within the limits")
            }
            Self::EmptyPolicy { policy } => write!(f, "policy {policy} has neither a keep rule nor a limit"),
            Self::NoPolicy { policy: Some(policy) } => write!(f, "its policy {policy} is no longer in force"),
            Self::NoPolicy { policy: None } => f.write_str("it counts for no policy"),
            Self::Pinned(None) => f.write_str("it is pinned"),
            Self::Pinned(Some(by)) => write!(f, "it is pinned by {by}"),
            Self::Foreign => f.write_str("virtsnap did not make it"),
            Self::NotReady(state) => write!(f, "it is {state}, so no policy judges it"),
            Self::NewestGood => f.write_str("it is the newest good one"),
            Self::Needed(need) => need.fmt(f),
            Self::ImplausibleClock { why } => write!(f, "it would go, but the clock is implausible: {why}"),
            Self::MaxDelete { policy } => {
                write!(f, "it would go, but max-delete of policy {policy} allows no more in one prune")
            }
            Self::Expired { at } => write!(f, "it expired at {at:.0}"),
            Self::NotWanted { policy } => write!(f, "no keep rule of policy {policy} wants it"),
            Self::MaxAge { policy } => write!(f, "it is older than max-age of policy {policy}"),
            Self::MaxCount { policy } => write!(f, "policy {policy} has more than max-count"),
            Self::MaxSize { policy } => write!(f, "the snapshots of policy {policy} exceed max-size"),
            Self::VmMaxSize => f.write_str("the snapshots of all policies exceed the VM's max-size"),
            Self::ChainFull { policy, rule: Some(rule) } => {
                write!(f, "the chain is full, and {rule} of policy {policy} gives way first")
            }
            Self::ChainFull { policy, rule: None } => {
                write!(f, "the chain is full, and policy {policy} has no keep rule for it")
            }
        }
    }
}

/// The reasons of one verdict; read it as a slice. At least one in every verdict.
///
/// Of a million verdicts nearly all have exactly one: that costs no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reasons<'a>(Few<'a>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Few<'a> {
    #[default]
    None,
    One(Reason<'a>),
    Many(Vec<Reason<'a>>),
}

impl<'a> Reasons<'a> {
    pub(super) fn one(reason: Reason<'a>) -> Self {
        Self(Few::One(reason))
    }

    pub(super) fn push(&mut self, reason: Reason<'a>) {
        self.0 = match std::mem::take(&mut self.0) {
            Few::None => Few::One(reason),
            Few::One(first) => Few::Many(vec![first, reason]),
            Few::Many(mut many) => {
                many.push(reason);
                Few::Many(many)
            }
        };
    }
}

impl<'a> Deref for Reasons<'a> {
    type Target = [Reason<'a>];
    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Few::None => &[],
            Few::One(reason) => std::slice::from_ref(reason),
            Few::Many(many) => many,
        }
    }
}

impl<'a> IntoIterator for &'a Reasons<'a> {
    type Item = &'a Reason<'a>;
    type IntoIter = std::slice::Iter<'a, Reason<'a>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What becomes of one snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Whose verdict.
    pub name: &'a SnapshotName,
    /// True: it stays.
    pub keep: bool,
    /// Why: only reasons to stay if it stays, only reasons to go if it goes.
    pub reasons: Reasons<'a>,
}

impl<'a> Verdict<'a> {
    /// One sentence for people.
    pub fn text(&self) -> String {
        let mut text = String::from(if self.keep { "Stays: " } else { "Goes: " });
        for (i, reason) in self.reasons.iter().enumerate() {
            if i > 0 {
                text.push_str("; ");
            }
            text.push_str(&reason.to_string());
        }
        text.push('.');
        text
    }

    /// One reason to stay outweighs all reasons to go.
    pub(super) fn stay(&mut self, reason: Reason<'a>) {
        if self.keep {
            self.reasons.push(reason);
        } else {
            self.keep = true;
            self.reasons = Reasons::one(reason);
        }
    }

    /// One reason to go, which counts only while there is none to stay.
    pub(super) fn let_go(&mut self, reason: Reason<'a>) {
        if !self.keep {
            self.reasons.push(reason);
        }
    }

    /// A limit that stands above the policies: it goes, whatever they said.
    pub(super) fn overrule(&mut self, reason: Reason<'a>) {
        self.keep = false;
        self.reasons = Reasons::one(reason);
    }
}
