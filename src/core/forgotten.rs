//! Snapshots inside images that libvirt does not know of.
//!
//! It forgets one whose metadata alone was deleted, with a VM that is undefined and defined anew, and where its deletion
//! failed on one disk of several. They take room, nobody lists them, and a merge that removes their image destroys them.

use super::{
    health::{Finding, Health},
    qcow2::Inner,
    text::for_shell,
};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// The image that it is in.
    pub image: String,
    /// What the image says of it.
    pub inner: Inner,
}

impl Forgotten {
    /// How to be rid of it: what no daemon can do for want of the right to write images.
    pub fn way_out(&self) -> String {
        format!(
            "`qemu-img snapshot -d {} {}` while the VM is off",
            for_shell(&self.inner.name),
            for_shell(&self.image)
        )
    }
}

/// What a person should know of them.
pub fn finding(forgotten: &[Forgotten]) -> Option<Finding> {
    let (first, more) = forgotten.split_first()?;
    let others = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
    let memory = match first.inner.memory_bytes {
        0 => "without memory".to_owned(),
        bytes => format!("with {} KiB of memory", bytes / 1024),
    };
    let text = format!(
        "Image {} holds snapshot {} inside it, {memory}{others}, which libvirt does not know of. If nobody wants it: {}.",
        first.image,
        for_shell(&first.inner.name),
        first.way_out()
    );
    Some(Finding { health: Health::Degraded, text, repair: None })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn one(name: &str, memory_bytes: u64) -> Forgotten {
        let inner = Inner { name: name.to_owned(), memory_bytes, taken: Timestamp::UNIX_EPOCH };
        Forgotten { image: "/i/a.qcow2".to_owned(), inner }
    }

    #[test]
    fn they_are_told_with_the_way_out() {
        assert_eq!(finding(&[]), None);
        let found = finding(&[one("it's", 4096), one("b", 0)]).unwrap();
        assert_eq!(found.health, Health::Degraded);
        assert_eq!(
            found.text,
            r"Image /i/a.qcow2 holds snapshot 'it'\''s' inside it, with 4 KiB of memory, and 1 more, which libvirt does not know of. If nobody wants it: `qemu-img snapshot -d 'it'\''s' /i/a.qcow2` while the VM is off."
        );
        let found = finding(&[one("b", 0)]).unwrap();
        assert!(found.text.contains("snapshot b inside it, without memory, which"), "{}", found.text);
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for (text, wanted) in [("a-1", "a-1"), ("", "''"), ("a b", "'a b'"), ("-d", "'-d'"), ("$x", "'$x'")] {
            assert_eq!(for_shell(text), wanted);
        }
    }
}
