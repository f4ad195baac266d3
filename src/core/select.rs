//! Which VMs a policy is for: selectors, and what they say about one VM.
//!
//! A VM is selected if any selector matches it and no `!` selector does, wherever that stands in the list.
//! Resolved anew at every run: names and tags change.

use std::{collections::BTreeSet, fmt, ops::Range};

use super::{
    glob::Glob,
    model::VmId,
    policy::{Matcher, Selector},
};

/// What selectors look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmFacts<'a> {
    /// The VM's UUID.
    pub id: VmId,
    /// Its name.
    pub name: &'a str,
    /// The tags in its libvirt metadata.
    pub tags: &'a BTreeSet<String>,
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// What is wrong.
    pub message: String,
    /// Where in the text, in bytes.
    pub span: Range<usize>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Selector {
    /// Reads `NAME-GLOB`, `UUID` or `tag:TAG`, each perhaps after a `!`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let error = |message: &str, span: Range<usize>, help: &str| {
            Err(SelectorError { message: message.to_owned(), span, help: Some(help.to_owned()) })
        };
        let exclude = text.starts_with('!');
        let skip = usize::from(exclude);
        let body = &text[skip..];
        if body.is_empty() {
            return error(
                "an empty selector matches nothing",
                0..text.len(),
                "a name (`web*` for several), a UUID or `tag:…`; `!` before it leaves VMs out",
            );
        }
        if body.starts_with('!') {
            return error(
                "one `!` is enough",
                skip..skip + 1,
                "a name that starts with `!` is written `\\!…`",
            );
        }
        let matcher = if let Some(tag) = body.strip_prefix("tag:") {
            if tag.trim() != tag || tag.is_empty() {
                return error(
                    "a tag is not empty and has no space around it",
                    skip + 4..text.len(),
                    "write `tag:prod`",
                );
            }
            Matcher::Tag(tag.to_owned())
        } else if let Some(id) = parse_uuid(body) {
            Matcher::Uuid(id)
        } else {
            if let Err(e) = Glob::parse(body) {
                return error(
                    e.message,
                    e.span.start + skip..e.span.end + skip,
                    "`*`, `?`, `[a-z]` and `{a,b}` match several names; `\\` takes the next character literally",
                );
            }
            Matcher::Name(body.to_owned())
        };
        Ok(Self { exclude, matcher })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.exclude { "!" } else { "" };
        match &self.matcher {
            Matcher::Name(glob) => write!(f, "{not}{glob}"),
            Matcher::Uuid(id) => write!(f, "{not}{id}"),
            Matcher::Tag(tag) => write!(f, "{not}tag:{tag}"),
        }
    }
}

/// A UUID in its usual form, with hyphens: without them it could as well be a name.
pub fn parse_uuid(text: &str) -> Option<VmId> {
    if text.len() == 36 { text.parse().ok() } else { None }
}

/// What a policy's selectors say about one VM; the numbers are positions in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the policy; the first selector that matches it.
    Selected(usize),
    /// It would belong (`although`), but `by` leaves it out.
    Excluded {
        /// The selector with `!`.
        by: usize,
        /// The first that matches it.
        although: usize,
    },
    /// None matches it.
    NotSelected,
}

/// A policy's selectors, their patterns read once.
#[derive(Debug, Clone)]
pub struct SelectorSet(Vec<(bool, Ready)>);

#[derive(Debug, Clone)]
enum Ready {
    Name(Glob),
    Uuid(VmId),
    Tag(String),
    /// A pattern that [`Selector::parse`] would not have let through.
    Nothing,
}

impl SelectorSet {
    /// Prepares `selectors`.
    pub fn new(selectors: &[Selector]) -> Self {
        let ready = |matcher: &Matcher| match matcher {
            Matcher::Name(glob) => Glob::parse(glob).map_or(Ready::Nothing, Ready::Name),
            Matcher::Uuid(id) => Ready::Uuid(*id),
            Matcher::Tag(tag) => Ready::Tag(tag.clone()),
        };
        Self(selectors.iter().map(|s| (s.exclude, ready(&s.matcher))).collect())
    }

    /// True if the selector at `index` matches, `!` or not.
    pub fn matches(&self, index: usize, vm: &VmFacts<'_>) -> bool {
        self.0.get(index).is_some_and(|(_, ready)| ready.matches(vm))
    }

    /// What the list says about `vm`.
    pub fn verdict(&self, vm: &VmFacts<'_>) -> Verdict {
        let first = |exclude: bool| self.0.iter().position(|(x, ready)| *x == exclude && ready.matches(vm));
        match (first(false), first(true)) {
            (None, _) => Verdict::NotSelected,
            (Some(by), None) => Verdict::Selected(by),
            (Some(although), Some(by)) => Verdict::Excluded { by, although },
        }
    }
}

impl Ready {
    fn matches(&self, vm: &VmFacts<'_>) -> bool {
        match self {
            Self::Name(glob) => glob.matches(vm.name),
            Self::Uuid(id) => *id == vm.id,
            Self::Tag(tag) => vm.tags.contains(tag),
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b2e4c1a-6f0d-4e8e-9a55-0123456789ab";

    fn verdict(list: &[&str], name: &str, tags: &[&str]) -> Verdict {
        let set = SelectorSet::new(&list.iter().map(|s| Selector::parse(s).unwrap()).collect::<Vec<_>>());
        let tags = tags.iter().map(|t| (*t).to_owned()).collect();
        set.verdict(&VmFacts { id: ID.parse().unwrap(), name, tags: &tags })
    }

    #[test]
    fn an_exclusion_counts_wherever_it_stands() {
        let list = ["!*-scratch", "web*", "tag:prod", "!tag:no-backup"];
        assert_eq!(verdict(&list, "web1", &[]), Verdict::Selected(1));
        assert_eq!(verdict(&list, "db", &["prod"]), Verdict::Selected(2));
        assert_eq!(verdict(&list, "web-scratch", &[]), Verdict::Excluded { by: 0, although: 1 });
        assert_eq!(verdict(&list, "web1", &["no-backup"]), Verdict::Excluded { by: 3, although: 1 });
        assert_eq!(verdict(&list, "db-scratch", &[]), Verdict::NotSelected);
        assert_eq!(verdict(&[], "web1", &[]), Verdict::NotSelected);
    }

    #[test]
    fn uuids_match_in_either_case_and_names_only_in_theirs() {
        assert_eq!(verdict(&[&ID.to_uppercase()], "x", &[]), Verdict::Selected(0));
        assert_eq!(verdict(&["Web"], "web", &[]), Verdict::NotSelected);
        // 32 digits without hyphens are a name.
        let bare = ID.replace('-', "");
        assert_eq!(verdict(&[&bare], "x", &[]), Verdict::NotSelected);
        assert_eq!(verdict(&[&bare], &bare, &[]), Verdict::Selected(0));
        assert_eq!(verdict(&[r"\!x"], "!x", &[]), Verdict::Selected(0));
    }

    #[test]
    fn what_is_no_selector_says_where() {
        for (text, span) in
            [("", 0..0), ("!", 0..1), ("!!a", 1..2), ("tag:", 4..4), ("!tag: x", 5..7), ("!a[b", 2..4)]
        {
            assert_eq!(Selector::parse(text).unwrap_err().span, span, "{text:?}");
        }
    }

    #[test]
    fn a_selector_is_shown_as_it_was_written() {
        for text in ["web*", "!tag:prod", ID] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }
}
