//! What is known of a VM's strays: files on its images that nobody has.
//!
//! None is removed when it is first seen. A person puts it in quarantine, where it stays as it is for some days; if
//! somebody has it or writes to it until then, it is out of it again.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::health::{Finding, Health};

/// So long a file stays in quarantine.
pub const QUARANTINE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A file that nobody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its path.
    pub path: String,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// Since when it has been in quarantine.
    pub quarantined: Option<Timestamp>,
}

impl Stray {
    /// When it is removed, if nobody has it until then.
    pub fn goes(&self) -> Option<Timestamp> {
        self.quarantined.map(|since| since.saturating_add(QUARANTINE).unwrap_or(Timestamp::MAX))
    }
}

/// What is kept beside the images with a snapshot of ours, in a file whose name says which: the end of that name.
pub const KEPT: [&str; 3] = ["memory", "nvram", "tpm"];

/// The name of the file in which that is kept with the snapshot of this identity.
pub fn kept_name(id: Uuid, what: &str) -> String {
    format!("virtsnap-{}.{what}", id.simple())
}

/// Of which snapshot this file is, if its name is one of those.
pub fn kept_with(path: &str) -> Option<Uuid> {
    let (_, name) = path.rsplit_once('/')?;
    let (id, what) = name.strip_prefix("virtsnap-")?.split_once('.')?;
    let id = Uuid::try_parse(id).ok().filter(|_| KEPT.contains(&what))?;
    (kept_name(id, what) == name).then_some(id)
}

/// What a person should know of them: nothing of those in quarantine.
pub fn finding(strays: &[Stray]) -> Option<Finding> {
    let free: Vec<&Stray> = strays.iter().filter(|s| s.quarantined.is_none()).collect();
    let (first, more) = free.split_first()?;
    let bytes = free.iter().fold(0_u64, |sum, s| sum.saturating_add(s.bytes));
    let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let text = format!(
        "{}{others} (in all {} KiB) lie on the VM's images, or were kept with snapshots of it, and belong to nobody. Left \
         over from a snapshot that broke off or was forgotten, they are to go: `virtsnap adopt --orphans` puts them in quarantine.",
        first.path,
        bytes / 1024
    );
    Some(Finding { health: Health::Degraded, text, repair: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray(path: &str, quarantined: bool) -> Stray {
        let since = Timestamp::UNIX_EPOCH;
        Stray { path: path.to_owned(), bytes: 4096, quarantined: quarantined.then_some(since) }
    }

    #[test]
    fn what_is_kept_with_a_snapshot_has_a_name_that_says_so() {
        let id = Uuid::from_u128(7);
        for what in KEPT {
            assert_eq!(kept_with(&format!("/i/{}", kept_name(id, what))), Some(id));
        }
        let hex = "00000000000000000000000000000007";
        for other in [
            format!("/i/virtsnap-{hex}.qcow2"),
            format!("/i/virtsnap-{hex}.memory.old"),
            format!("/i/x-virtsnap-{hex}.memory"),
            format!("/i/virtsnap-{}.memory", id.hyphenated()),
            format!("virtsnap-{hex}.memory"),
            "/i/virtsnap-.memory".to_owned(),
        ] {
            assert_eq!(kept_with(&other), None, "{other}");
        }
    }

    #[test]
    fn those_outside_of_quarantine_are_told() {
        assert_eq!(finding(&[]), None);
        assert_eq!(finding(&[stray("/a", true)]), None);
        let found = finding(&[stray("/a", false), stray("/b", true), stray("/c", false)]).unwrap();
        assert_eq!(found.health, Health::Degraded);
        assert!(found.text.starts_with("/a and 1 more (in all 8 KiB)"), "{}", found.text);
    }

    #[test]
    fn one_in_quarantine_goes_after_a_week() {
        assert_eq!(stray("/a", false).goes(), None);
        assert_eq!(stray("/a", true).goes(), Some(Timestamp::constant(7 * 86_400, 0)));
    }
}
