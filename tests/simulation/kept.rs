//! Snapshots that were there once: nobody but a person who asked for it and a policy that has newer ones takes them away.

use std::collections::{BTreeMap, BTreeSet};

use virtsnap::core::model::{Origin, PolicyName, SnapshotName, SnapshotState, VmId};

use super::world::World;

/// Those of all VMs.
#[derive(Debug, Default)]
pub struct Kept {
    seen: BTreeMap<VmId, BTreeMap<SnapshotName, BTreeSet<PolicyName>>>,
    asked: BTreeSet<(VmId, SnapshotName)>,
}

impl Kept {
    /// A person wants it to go.
    pub fn delete(&mut self, vm: VmId, name: &SnapshotName) {
        self.asked.insert((vm, name.clone()));
    }

    /// Those that are there now. A safety snapshot goes by itself when its time is over.
    pub fn look(&mut self, world: &World) {
        let Some(life) = &world.life else { return };
        for vm in life.engine.view().vms.values() {
            let seen = self.seen.entry(vm.record.id).or_default();
            for record in vm.record.snapshots.values() {
                let snapshot = &record.snapshot;
                if snapshot.state == SnapshotState::Ready && snapshot.origin != Origin::Safety {
                    seen.insert(snapshot.name.clone(), snapshot.policies.clone());
                }
            }
        }
    }

    /// Those that are gone and may not be.
    pub fn lost(&mut self, world: &World) -> Vec<String> {
        self.look(world);
        let now = world.seen();
        let mut wrong = Vec::new();
        for (vm, seen) in &self.seen {
            let left = now.get(vm).cloned().unwrap_or_default();
            let asked = |name: &SnapshotName| self.asked.contains(&(*vm, name.clone()));
            // A policy deletes none before it has a newer one, which a person alone deletes.
            let goes_on = |policy: &PolicyName| {
                let its = seen.iter().filter(|(_, policies)| policies.contains(policy)).map(|(name, _)| name);
                its.into_iter().any(|name| left.contains(name) || asked(name))
            };
            let lost = seen.iter().filter(|(name, _)| !left.contains(*name) && !asked(name));
            let lost = lost.filter(|(_, policies)| policies.is_empty() || !policies.iter().all(goes_on));
            wrong
                .extend(lost.map(|(name, policies)| format!("VM {vm} lost snapshot {name} of {policies:?}")));
        }
        wrong
    }
}
