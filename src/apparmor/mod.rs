//! What AppArmor lets a VM's QEMU write.
//!
//! libvirt before 12.1 forbids a confined QEMU to write its backing images, and AppArmor's word stands above what
//! libvirt allows for a commit: a merge then fails, or QEMU crashes at its end. This gives *one* VM's profile the right
//! to write the images that are *that VM's alone*. It is all that `virtsnap-apparmor` does, the only part of virtsnap
//! with privileges, so it is told a UUID and nothing else.
//!
//! ```text
//!   UUID ─▶ own.rs     asks libvirt which images are this VM's, and nobody else's
//!             │        image.rs   …and passes over each that no rule could name safely
//!             ▼
//!         grant.rs     parser 4.1 and newer                    older parsers
//!             │        profile.rs: priority=1 "IMAGE" rwk,     files.rs: without deny "IMAGE" w,
//!             │        in libvirt-UUID, which libvirt          in libvirt-UUID.files, which libvirt
//!             │        never writes again                      writes anew at the end of each commit
//!             ▼
//!         host.rs      the files and the parser: written by rename, loaded, put back if that fails
//!             ▼
//!         answer.rs    which images these were and which were passed over, for virtsnapd to read
//! ```
//!
//! `profile`, `files`, `image` and `parser` are text in, text out.

mod answer;
pub mod files;
mod grant;
mod host;
pub mod image;
mod own;
pub mod parser;
pub mod profile;

use std::fmt;

pub use self::{
    answer::{ANSWERS, Answer, Answers, LeftOut},
    grant::{Granted, grant, tidy},
    host::Host,
};

use crate::core::model::VmId;

/// Where the VMs are whose profiles are this machine's.
pub const URI: &str = "qemu:///system";

/// Why a VM's profile was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There is nothing to change, or nothing that may be: AppArmor does not confine the VM now by a profile that libvirt
    /// made for it, or no image is its alone.
    Nothing(String),
    /// Something went wrong. What the profile was before, it is again.
    Failed(String),
}

impl Failure {
    /// The exit status.
    pub const fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Nothing(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// At the end of each line that is ours; such a line is taken away and written anew, all others are left alone.
const MARK: &str = "# virtsnap";

/// The name of a VM's profile, which is also its file's.
pub fn profile_name(vm: VmId) -> String {
    format!("libvirt-{vm}")
}

/// A VM's UUID exactly as libvirt writes it: 36 characters, lower case. It becomes part of a path, so no other way of
/// writing one is taken.
pub fn uuid(text: &str) -> Option<VmId> {
    let vm: VmId = text.parse().ok()?;
    (vm.to_string() == text).then_some(vm)
}

/// A profile's or an included file's text without our lines.
pub fn without_ours(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(MARK)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const VM: &str = "0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b";

    #[test]
    fn a_uuid_is_what_libvirt_writes_and_nothing_else() {
        assert_eq!(profile_name(uuid(VM).unwrap()), format!("libvirt-{VM}"));
        for wrong in [
            "",
            "web",
            "0D2F5B3C-7A4E-4C1B-9D57-3F9D7F0C1A2B",
            "0d2f5b3c7a4e4c1b9d573f9d7f0c1a2b",
            "{0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b}",
            "urn:uuid:0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b",
            "0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b\n",
            " 0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b",
            "0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b/../../passwd",
            "../0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a",
            "0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b.files",
        ] {
            assert_eq!(uuid(wrong), None, "{wrong:?}");
        }
    }
}
