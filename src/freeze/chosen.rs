//! Which of a guest's file systems are frozen for a snapshot.

use std::time::Duration;

use super::Freezer;
use crate::{
    core::policy::{How, Mountpoints},
    hypervisor::{Result, Vm},
};

/// Those to freeze.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// `None`: all there are.
    pub(super) mountpoints: Option<Vec<String>>,
    /// What a policy names and the guest has not mounted. Its agent passes these over without a word.
    pub(super) missing: Vec<String>,
}

impl Chosen {
    /// Why not all is held still that was to be, if so.
    pub(super) fn lacks(&self) -> Option<String> {
        let missing = self.missing.join(", ");
        (!missing.is_empty()).then(|| {
            format!("the guest has nothing mounted at {missing}, as `mountpoints` has it: not all of that was to be frozen")
        })
    }
}

impl Freezer {
    pub(super) fn choose(&self, vm: &Vm, how: &How, targets: &[String], limit: Duration) -> Result<Chosen> {
        match &how.mountpoints {
            Mountpoints::All => Ok(Chosen::default()),
            Mountpoints::List(list) => {
                let mounted = self.hypervisor.file_systems(vm.id, limit)?;
                let is_mounted = |path: &String| mounted.iter().any(|fs| fs.mountpoint == *path);
                let missing = list.iter().filter(|path| !is_mounted(path)).cloned().collect();
                Ok(Chosen { mountpoints: Some(list.clone()), missing })
            }
            Mountpoints::Auto => {
                let all = vm.disks.iter().filter(|d| d.writable).all(|d| targets.contains(&d.target));
                if all {
                    return Ok(Chosen::default());
                }
                let mut wanted = Vec::new();
                for fs in self.hypervisor.file_systems(vm.id, limit)? {
                    // One whose disk is not known is frozen too: too much does no harm to the data.
                    if fs.disks.is_empty() || fs.disks.iter().any(|d| targets.contains(d)) {
                        wanted.push(fs.mountpoint);
                    }
                }
                Ok(Chosen { mountpoints: Some(wanted), ..Chosen::default() })
            }
        }
    }
}
