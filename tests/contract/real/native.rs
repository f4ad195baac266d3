//! libvirt's own deletion and revert, by `virsh`.

use virtsnap::core::model::{SnapshotName, VmId};

use super::RealRig;
use crate::{
    contract::{DEADLINE, native::Native},
    harness::{quote, wait_for},
};

impl Native for RealRig {
    fn delete_natively(&mut self, vm: VmId, name: &SnapshotName) {
        self.tb().ok(&format!("virsh -q snapshot-delete {} {} >&2", vm.0, quote(name.as_str())));
    }

    /// Its overlays are named by the second: another in the same one finds files in its way.
    fn revert_natively(&mut self, vm: VmId, name: &SnapshotName) {
        let revert =
            format!("virsh -q snapshot-revert {} {} --running >&2; date +%s", vm.0, quote(name.as_str()));
        let at = self.tb().ok(&revert);
        wait_for(DEADLINE, "the next second", || (self.tb().ok("date +%s") != at).then_some(()));
    }
}
