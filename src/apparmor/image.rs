//! Which paths may stand in a rule, and how.
//!
//! In AppArmor quotes keep blanks together and nothing else: `*`, `?`, `[…]`, `{…}` and `@{…}` are patterns inside
//! them, too. A backslash is no way out: parsers 3.0.8 and 4.1.0 both read `"/i/a\?b"` as "an `a` or none, then `b`".

use std::fmt;

/// Where no VM's images are. A VM that was defined with such a disk must not get to write there by our hand; these are
/// the places that libvirt's own helper refuses, so such a VM does not start anyway.
const SYSTEM: &[&str] = &[
    "/bin/",
    "/boot/",
    "/dev/",
    "/etc/",
    "/initrd",
    "/lib",
    "/lost+found/",
    "/proc/",
    "/sbin/",
    "/selinux/",
    "/sys/",
    "/usr/bin/",
    "/usr/lib",
    "/usr/local/bin/",
    "/usr/local/etc/",
    "/usr/local/lib",
    "/usr/local/sbin/",
    "/usr/sbin/",
    "/usr/share/",
    "/vmlinuz",
];

/// Why no rule is written for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It holds this character, which a rule takes for something else.
    Character(char),
    /// It is not an absolute path in its shortest form.
    NotAbsolute,
    /// It is a place of the system's own.
    System,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(c) => write!(f, "its path holds {c:?}, which AppArmor does not take literally"),
            Self::NotAbsolute => f.write_str("its path is not absolute, or goes through \".\" or \"..\""),
            Self::System => f.write_str("it lies where the system keeps its own files"),
        }
    }
}

/// The path as a rule's object, quoted.
pub fn quoted(path: &str) -> Result<String, Refused> {
    let special = |c: &char| c.is_control() || matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '"' | '\\');
    if let Some(c) = path.chars().find(special) {
        return Err(Refused::Character(c));
    }
    let parts = path.strip_prefix('/').ok_or(Refused::NotAbsolute)?;
    if parts.split('/').any(|p| matches!(p, "" | "." | "..")) {
        return Err(Refused::NotAbsolute);
    }
    if SYSTEM.iter().any(|place| path.starts_with(place)) {
        return Err(Refused::System);
    }
    Ok(format!("\"{path}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_literal_is_taken_as_it_is() {
        // Each was looked at with both parsers' `--dump rule-exprs`.
        for path in [
            "/var/lib/libvirt/images/web.qcow2",
            "/srv/we b,#+(x)|$~;:=<>&%b!-_.qcow2",
            "/srv/a@b^c'd`e.qcow2",
            "/srv/ü€é.qcow2",
            "/bootleg/a.qcow2",
            "/home/x/.images/a",
        ] {
            assert_eq!(quoted(path).unwrap(), format!("\"{path}\""));
        }
    }

    #[test]
    fn what_a_rule_takes_for_a_pattern_is_refused() {
        for c in ['*', '?', '[', ']', '{', '}', '"', '\\', '\n', '\t', '\0', '\u{7f}', '\u{85}'] {
            assert_eq!(quoted(&format!("/srv/a{c}b")), Err(Refused::Character(c)));
        }
        assert_eq!(quoted("/srv/@{HOME}/a"), Err(Refused::Character('{')));
    }

    #[test]
    fn only_the_shortest_absolute_form_is_taken() {
        for path in [
            "",
            "/",
            "a",
            "nbd:localhost",
            "//srv/a",
            "/srv//a",
            "/srv/./a",
            "/srv/../etc/a",
            "/srv/",
            "/srv/..",
        ] {
            assert_eq!(quoted(path), Err(Refused::NotAbsolute), "{path:?}");
        }
    }

    #[test]
    fn the_system_s_own_places_are_refused() {
        for path in [
            "/etc/passwd",
            "/usr/lib/x",
            "/lib64/x",
            "/boot/vmlinuz",
            "/dev/sda",
            "/proc/1/mem",
            "/vmlinuz.old",
        ] {
            assert_eq!(quoted(path), Err(Refused::System), "{path:?}");
        }
    }
}
