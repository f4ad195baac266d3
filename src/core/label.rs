//! What people attach to a snapshot of ours: pins that hold it, tags, and a time after which it may go.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// So many tags may one snapshot have.
pub const MOST_TAGS: usize = 32;
/// Longer reasons, in bytes, are none that anybody reads.
pub const LONGEST_REASON: usize = 1024;
/// A description is part of libvirt's metadata, which must stay small.
pub const LONGEST_DESCRIPTION: usize = 16 * 1024;

/// Why something cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It has none.
    #[error("a tag must not be empty")]
    EmptyTag,
    /// It is too long.
    #[error("a tag may have at most {limit} characters, {given:?} has {}", given.len(), limit = Tag::MAX)]
    LongTag {
        /// What was given.
        given: String,
    },
    /// A character that may not stand in one.
    #[error("a tag may have letters (a to z), digits and `.-_:`, which {found:?} in {given:?} is not")]
    BadTag {
        /// What was given.
        given: String,
        /// The first such one.
        found: char,
    },
    /// Too many.
    #[error("a snapshot may have at most {MOST_TAGS} tags, these are {0}")]
    ManyTags(usize),
    /// Too long.
    #[error("the reason has {0} bytes, more than {LONGEST_REASON}")]
    LongReason(usize),
    /// Too long.
    #[error("the description has {0} bytes, more than {LONGEST_DESCRIPTION}")]
    LongDescription(usize),
    /// Libvirt's metadata is XML.
    #[error("the description has the control character {0:?}, which libvirt cannot keep")]
    BadDescription(char),
    /// Too late.
    #[error("{0:.0} has passed already")]
    Passed(Timestamp),
}

/// A word that snapshots are found again by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(String);

impl Tag {
    /// The longest one.
    pub const MAX: usize = 64;

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = LabelError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let may = |c: &char| c.is_ascii_alphanumeric() || ".-_:".contains(*c);
        let given = s.to_owned();
        match s.chars().find(|c| !may(c)) {
            Some(found) => Err(LabelError::BadTag { given, found }),
            None if s.is_empty() => Err(LabelError::EmptyTag),
            None if s.len() > Self::MAX => Err(LabelError::LongTag { given }),
            None => Ok(Self(given)),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All tags of one snapshot, from words.
pub fn tags<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<BTreeSet<Tag>, LabelError> {
    let tags = words.into_iter().map(str::parse).collect::<Result<BTreeSet<Tag>, _>>()?;
    if tags.len() > MOST_TAGS { Err(LabelError::ManyTags(tags.len())) } else { Ok(tags) }
}

/// Whether a snapshot may have this description.
pub fn check_description(text: &str) -> Result<(), LabelError> {
    match text.chars().find(|c| c.is_control() && !"\n\t".contains(*c)) {
        Some(c) => Err(LabelError::BadDescription(c)),
        None if text.len() > LONGEST_DESCRIPTION => Err(LabelError::LongDescription(text.len())),
        None => Ok(()),
    }
}

/// A time from which on something is over must not have passed.
pub fn check_expiry(expires: Option<Timestamp>, now: Timestamp) -> Result<(), LabelError> {
    expires.filter(|at| *at <= now).map_or(Ok(()), |at| Err(LabelError::Passed(at)))
}

/// When something is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not by itself.
    Never,
    /// Then.
    At(Timestamp),
}

impl Expiry {
    /// The time, if there is one.
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(at),
        }
    }
}

/// What holds a snapshot: nobody prunes or deletes one with a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Who pinned it.
    pub owner: String,
    /// Why; may be empty.
    pub reason: String,
    /// When it is over by itself.
    pub expires: Option<Timestamp>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.owner)?;
        if let Some(at) = self.expires {
            write!(f, " until {at:.0}")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// All that is attached to one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Its tags.
    pub tags: BTreeSet<Tag>,
    /// From then on it goes with the next prune, whatever policies say.
    pub expires: Option<Timestamp>,
    /// Its pins, by owner: each has one at most.
    pub pins: Vec<Pin>,
    /// Counts the changes: of two readings the newer one counts.
    pub revision: u32,
}

impl Label {
    /// With this pin, instead of one that its owner has already.
    pub fn pin(&mut self, pin: Pin) {
        self.pins.retain(|p| p.owner != pin.owner);
        let at = self.pins.partition_point(|p| p.owner < pin.owner);
        self.pins.insert(at, pin);
    }

    /// Takes off the pins that are over; these.
    pub fn lapse(&mut self, now: Timestamp) -> Vec<Pin> {
        let over = |pin: &mut Pin| pin.expires.is_some_and(|at| at <= now);
        self.pins.extract_if(.., over).collect()
    }

    /// When something of it is over next.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let of_pins = self.pins.iter().filter_map(|pin| pin.expires);
        of_pins.chain(self.expires.filter(|at| *at > now)).min()
    }

    /// Whether the snapshot itself is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Who pinned it, and why; `None` if nobody did.
    pub fn held_by(&self) -> Option<String> {
        let all: Vec<String> = self.pins.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pin(owner: &str, reason: &str, expires: Option<i64>) -> Pin {
        Pin { owner: owner.to_owned(), reason: reason.to_owned(), expires: expires.map(at) }
    }

    #[test]
    fn tags_are_words_that_a_shell_needs_no_quotes_for() {
        let longest = "x".repeat(Tag::MAX);
        for good in ["prod", "ticket:4711", "v1.2-rc_3", "0", &longest] {
            assert_eq!(good.parse::<Tag>().unwrap().to_string(), good);
        }
        let error = |text: &str| text.parse::<Tag>().unwrap_err().to_string();
        assert_eq!(error(""), "a tag must not be empty");
        assert!(error("a b").contains("' ' in \"a b\""), "{}", error("a b"));
        assert!(error("grün").contains("'ü'"), "{}", error("grün"));
        assert!(error(&format!("{longest}x")).contains("at most 64 characters"));
        let many: Vec<String> = (0..=MOST_TAGS).map(|n| n.to_string()).collect();
        assert_eq!(tags(many.iter().map(String::as_str)), Err(LabelError::ManyTags(MOST_TAGS + 1)));
        let twice = many[1..].iter().chain(&many[1..]).map(String::as_str);
        assert_eq!(tags(twice).unwrap().len(), MOST_TAGS, "the same twice is once");
    }

    #[test]
    fn a_description_is_what_xml_can_hold() {
        assert_eq!(check_description("two\nlines\t<&>"), Ok(()));
        assert_eq!(check_description("a\u{1b}b"), Err(LabelError::BadDescription('\u{1b}')));
        let long = "x".repeat(LONGEST_DESCRIPTION + 1);
        assert_eq!(check_description(&long), Err(LabelError::LongDescription(long.len())));
    }

    #[test]
    fn each_owner_has_one_pin_and_each_is_over_by_itself() {
        let mut label = Label { expires: Some(at(50)), ..Label::default() };
        assert_eq!((label.held_by(), label.next(at(0))), (None, Some(at(50))));
        label.pin(pin("bob", "", Some(20)));
        label.pin(pin("alice", "old", None));
        label.pin(pin("alice", "audit", Some(10)));
        assert_eq!(
            label.held_by().unwrap(),
            "alice until 1970-01-01T00:00:10Z (audit), bob until 1970-01-01T00:00:20Z"
        );
        assert_eq!(label.next(at(0)), Some(at(10)));
        assert_eq!(label.lapse(at(9)), []);
        assert_eq!(label.lapse(at(10)), [pin("alice", "audit", Some(10))]);
        assert_eq!(label.next(at(10)), Some(at(20)));
        assert_eq!(label.lapse(at(60)).len(), 1);
        assert_eq!((label.next(at(60)), label.is_over(at(49)), label.is_over(at(50))), (None, false, true));
    }

    #[test]
    fn what_has_passed_is_no_time_to_wait_for() {
        assert_eq!(check_expiry(None, at(5)), Ok(()));
        assert_eq!(check_expiry(Some(at(6)), at(5)), Ok(()));
        let error = check_expiry(Some(at(5)), at(5)).unwrap_err();
        assert_eq!(error.to_string(), "1970-01-01T00:00:05Z has passed already");
    }
}
