//! Names and object paths.

use zbus::OwnedObjectPath;

use crate::core::{
    job::JobId,
    model::{PolicyName, SnapshotName, VmId},
};

/// The bus name.
pub const NAME: &str = "org.virtsnap1";
/// The root object.
pub const ROOT: &str = "/org/virtsnap1";
/// Below it are the VMs.
pub(super) const VMS: &str = "/org/virtsnap1/vm";
/// Below it are the policies.
pub(super) const POLICIES: &str = "/org/virtsnap1/policy";
/// Below it are the jobs.
pub(super) const JOBS: &str = "/org/virtsnap1/job";

pub(super) fn vm(id: VmId) -> OwnedObjectPath {
    made(format!("{VMS}/{}", id.to_string().replace('-', "_")))
}

pub(super) fn snapshot(id: VmId, name: &SnapshotName) -> OwnedObjectPath {
    let vm = id.to_string().replace('-', "_");
    made(format!("{VMS}/{vm}/snapshot/{}", escape_label(name.as_str())))
}

pub(super) fn policy(name: &PolicyName) -> OwnedObjectPath {
    made(format!("{POLICIES}/{}", escape_label(name.as_str())))
}

pub(super) fn job(id: JobId) -> OwnedObjectPath {
    made(format!("{JOBS}/{id}"))
}

/// No object.
pub(super) fn none() -> OwnedObjectPath {
    made("/".to_owned())
}

/// Which VM an object path stands for.
pub(super) fn vm_of(path: &str) -> Option<VmId> {
    path.strip_prefix(ROOT)?.strip_prefix("/vm/")?.replace('_', "-").parse().ok()
}

/// Any text as one element of an object path, as systemd's `bus_label_escape` does it: every byte other than an
/// ASCII letter or digit, and a digit that comes first, as `_` and two hexadecimal digits; nothing at all as `_`.
pub fn escape_label(text: &str) -> String {
    use std::fmt::Write as _;
    if text.is_empty() {
        return "_".to_owned();
    }
    let mut label = String::with_capacity(text.len());
    for (i, byte) in text.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (i > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            let _ = write!(label, "_{byte:02x}");
        }
    }
    label
}

fn made(path: String) -> OwnedObjectPath {
    // Made of ASCII letters, digits and underscores alone; the root stands in for what cannot happen.
    OwnedObjectPath::try_from(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_as_systemd_does() {
        for (text, label) in [("", "_"), ("a-1", "a_2d1"), ("1a", "_31a"), ("ü", "_c3_bc"), ("a\nb", "a_0ab")]
        {
            assert_eq!(escape_label(text), label);
        }
    }

    #[test]
    fn a_vm_path_leads_back_to_its_vm() {
        let id: VmId = "0cc175b9-c0f1-b6a8-31c3-99e269772661".parse().unwrap();
        assert_eq!(vm(id).as_str(), "/org/virtsnap1/vm/0cc175b9_c0f1_b6a8_31c3_99e269772661");
        assert_eq!(vm_of(vm(id).as_str()), Some(id));
        assert_eq!(vm_of("/org/virtsnap1/vm/x"), None);
        assert_eq!(none().as_str(), "/");
    }
}
