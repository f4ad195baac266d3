//! What the libvirt at hand can do, so that nobody compares version numbers elsewhere.

use crate::hypervisor::Features;

/// From libvirt's own version (as `virConnectGetLibVersion` gives it).
pub(super) fn of(version: u32) -> Features {
    Features {
        // Came with its own reverts to external snapshots; what later versions repaired of those is no matter to this.
        revert_disks: version >= 9_009_000,
        // Before, the profiles that libvirt makes deny it.
        confined_merge: version >= 12_001_000,
        // A chain is told to QEMU as JSON, and these cannot parse what is nested deeper. All know 200 at most.
        layer_limit: if (10_008_000..12_000_000).contains(&version) { 25 } else { 200 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_known_for_what_it_can_do() {
        let bookworm = Features { revert_disks: false, confined_merge: false, layer_limit: 200 };
        assert_eq!(of(9_000_000), bookworm);
        let trixie = Features { revert_disks: true, confined_merge: false, layer_limit: 25 };
        assert_eq!(of(11_003_000), trixie);
        let latest = Features { layer_limit: 200, ..trixie };
        assert_eq!(of(12_000_000), latest);
        assert_eq!(of(12_001_000), Features { confined_merge: true, ..latest });
    }
}
