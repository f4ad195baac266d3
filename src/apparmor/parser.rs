//! What the parser and the kernel say of themselves.

use super::{VmId, profile_name};

/// A version of AppArmor's parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// What `apparmor_parser --version` prints: `AppArmor parser version 4.1.0~beta5`, and who wrote it.
    pub fn read(printed: &str) -> Option<Self> {
        let line = printed.lines().find_map(|l| l.trim().strip_prefix("AppArmor parser version "))?;
        let mut numbers = line.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self { major: next()?, minor: next()? })
    }

    /// Rules have priorities, so that an allow can stand above a deny. For older parsers that is a syntax error.
    pub fn knows_priority(self) -> bool {
        self >= Self { major: 4, minor: 1 }
    }
}

/// Whether a VM's profile is among the loaded ones, as the kernel lists them: `NAME (enforce)`.
pub fn is_loaded(profiles: &str, vm: VmId) -> bool {
    let name = profile_name(vm);
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_parsers_print_them() {
        let printed = |v: &str| {
            format!(
                "AppArmor parser version {v}\nCopyright (C) 1999-2008 Novell Inc.\nCopyright 2009-2018 Canonical Ltd.\n"
            )
        };
        for (version, priority) in [
            ("3.0.8", false),
            ("2.13.6", false),
            ("4.0.1", false),
            ("4.1.0~beta5", true),
            ("4.1.0", true),
            ("4.1", true),
            ("4.10.2", true),
            ("5.0.0~alpha1", true),
            ("10.0", true),
        ] {
            assert_eq!(Version::read(&printed(version)).unwrap().knows_priority(), priority, "{version}");
        }
        for nonsense in
            ["", "AppArmor parser version", "AppArmor parser version x.y", "apparmor_parser: not found"]
        {
            assert_eq!(Version::read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let vm = super::super::uuid("0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b").unwrap();
        let loaded =
            |line: &str| is_loaded(&format!("/usr/bin/man (enforce)\n{line}\nlibvirtd (enforce)\n"), vm);
        assert!(loaded("libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b (enforce)"));
        assert!(loaded("libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b (complain)"));
        assert!(!loaded("libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2c (enforce)"));
        assert!(!loaded("libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b//child (enforce)"));
        assert!(!loaded("x libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b (enforce)"));
        assert!(!is_loaded("", vm));
    }
}
