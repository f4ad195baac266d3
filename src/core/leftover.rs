//! Telling of a paused VM whose block jobs wait: it may be what libvirt's own deletion left.

use super::health::{Finding, Health, Repair};

/// What to do about it where nobody can tell; to be put behind what is refused.
pub const DOUBT: &str = ". If nobody is at work on it and the VM was off, it is what libvirt's own deletion left when \
                         libvirtd died: `virsh destroy` ends it, and loses nothing that a guest wrote; then `virtsnap delete` \
                         what was to go (`virsh blockjob --abort` may crash libvirtd)";

/// Told of a paused VM with a block job, on which nothing of ours was begun.
pub fn finding() -> Finding {
    Finding {
        health: Health::Degraded,
        text: format!(
            "The VM is paused, and there is a block job on one of its disks{DOUBT}. Where that is certain, it is ended by \
             itself."
        ),
        repair: Some(Repair::EndLeftOver),
    }
}
