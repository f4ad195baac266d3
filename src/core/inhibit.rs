//! Who wants that nothing happens by itself for a while, and why: programs that copy images, or are about to do
//! something with a VM. It lasts as long as they keep what they got for it, and never beyond their end.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::job::Failure;

/// An inhibitor's number, unique in a daemon's life.
pub type InhibitorId = u64;

/// So many one user may have at once.
pub const PER_USER: usize = 16;
/// So many there may be at once: each holds a file descriptor of the daemon's.
pub const AT_ONCE: usize = 128;
/// So many bytes a program's name may have.
pub const WHO_MAX: usize = 128;
/// So many bytes a reason may have.
pub const WHY_MAX: usize = 1024;

/// Who wants it so for longer may have been forgotten.
pub const LONG: SignedDuration = SignedDuration::from_hours(24);

/// One who wants it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// The program, as it calls itself.
    pub who: String,
    /// Why; may be empty.
    pub why: String,
    /// The user.
    pub uid: u32,
    /// Since when.
    pub since: Timestamp,
}

/// All there are.
#[derive(Debug, Default)]
pub struct Inhibitors {
    all: BTreeMap<InhibitorId, Inhibitor>,
    last: InhibitorId,
    /// Those that were told of because it is long ago.
    long: BTreeSet<InhibitorId>,
}

impl Inhibitors {
    /// One more, unless there are too many.
    pub fn add(&mut self, inhibitor: Inhibitor) -> Result<InhibitorId, Failure> {
        let Inhibitor { who, why, uid, .. } = &inhibitor;
        if who.trim().is_empty() {
            return Err(invalid("who inhibits must have a name".to_owned()));
        }
        for (what, text, most) in [("name", who, WHO_MAX), ("reason", why, WHY_MAX)] {
            if text.chars().any(char::is_control) {
                return Err(invalid(format!("the {what} has control characters")));
            }
            if text.len() > most {
                return Err(invalid(format!("the {what} has {} bytes, more than {most}", text.len())));
            }
        }
        let full = |text| Err(Failure::new("LimitExceeded", text));
        if self.all.values().filter(|i| i.uid == *uid).count() >= PER_USER {
            return full(format!(
                "user {uid} has {PER_USER} inhibitors already, and no user may have more: close one of them"
            ));
        }
        if self.all.len() >= AT_ONCE {
            return full(format!(
                "there are {AT_ONCE} inhibitors already, which is all there may be: try later"
            ));
        }
        self.last += 1;
        self.all.insert(self.last, inhibitor);
        Ok(self.last)
    }

    /// One less.
    pub fn remove(&mut self, id: InhibitorId) -> Option<Inhibitor> {
        self.long.remove(&id);
        self.all.remove(&id)
    }

    /// When the next one has wanted it so for long.
    pub fn next(&self) -> Option<Timestamp> {
        let new = self.all.iter().filter(|(id, _)| !self.long.contains(id));
        new.map(|(_, inhibitor)| inhibitor.since.saturating_add(LONG).unwrap_or(Timestamp::MAX)).min()
    }

    /// Those who have wanted it so for long, each once.
    pub fn take_forgotten(&mut self, now: Timestamp) -> Vec<Inhibitor> {
        let long: Vec<_> = self
            .all
            .iter()
            .filter(|(id, i)| !self.long.contains(id) && now.duration_since(i.since) >= LONG)
            .map(|(id, inhibitor)| (*id, inhibitor.clone()))
            .collect();
        self.long.extend(long.iter().map(|(id, _)| *id));
        long.into_iter().map(|(_, inhibitor)| inhibitor).collect()
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Inhibitor> {
        self.all.values()
    }

    /// Who was the first of them; `None`: nothing is held.
    pub fn first(&self) -> Option<&Inhibitor> {
        self.all.values().next()
    }
}

fn invalid(text: String) -> Failure {
    Failure::new("InvalidArgument", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(uid: u32) -> Inhibitor {
        Inhibitor { who: "backup".into(), why: String::new(), uid, since: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_user_who_has_all_leaves_some_to_others() {
        let mut all = Inhibitors::default();
        for _ in 0..PER_USER {
            all.add(one(1000)).unwrap();
        }
        assert_eq!(all.add(one(1000)).unwrap_err().name, "LimitExceeded");
        for uid in 0..u32::try_from(AT_ONCE - PER_USER).unwrap() {
            all.add(one(uid)).unwrap();
        }
        let refused = all.add(one(2000)).unwrap_err();
        assert!(refused.name == "LimitExceeded" && refused.message.contains("128"), "{refused:?}");
        assert!(all.remove(1).is_some() && all.remove(1).is_none());
        assert_eq!(all.add(one(1000)).unwrap(), u64::try_from(AT_ONCE).unwrap() + 1);
    }

    #[test]
    fn a_name_is_wanted_and_texts_have_an_end() {
        let mut all = Inhibitors::default();
        let long = |n| "x".repeat(n);
        for (who, why, ok) in [
            (" ".to_owned(), String::new(), false),
            (long(WHO_MAX), long(WHY_MAX), true),
            (long(WHO_MAX + 1), String::new(), false),
            ("a".to_owned(), long(WHY_MAX + 1), false),
            ("a\nb".to_owned(), String::new(), false),
        ] {
            let added = all.add(Inhibitor { who, why, ..one(0) });
            assert_eq!(added.err().map(|e| e.name), (!ok).then_some("InvalidArgument"));
        }
    }
}
