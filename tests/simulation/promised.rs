//! What an operation promises: what goes and comes with it and nothing else, that it is so when it says that it is done, and
//! that each snapshot is as consistent as it says.

use std::collections::{BTreeMap, BTreeSet};

use virtsnap::{
    core::{
        inventory::SnapshotRecord,
        model::{Consistency, Content, SnapshotName, VmId},
    },
    hypervisor::Hypervisor as _,
};

use super::{
    oracle::Taken,
    table::Case,
    world::{WEB, World, name},
};

/// The snapshots of all VMs.
pub type Seen = BTreeMap<VmId, BTreeSet<SnapshotName>>;

impl World {
    pub fn seen(&self) -> Seen {
        let names = |vm: VmId| self.sim.snapshots(vm).unwrap().into_iter().map(|s| s.name).collect();
        self.vms().into_iter().map(|vm| (vm, names(vm))).collect()
    }

    /// The snapshots that were there before and are not now, but those of the VM that may go.
    pub fn lost(&self, before: &Seen, goes: &[&str]) -> Vec<String> {
        let now = self.seen();
        let mut wrong = Vec::new();
        for (vm, names) in before {
            let Some(left) = now.get(vm) else {
                wrong.push(format!("VM {vm} is no more"));
                continue;
            };
            let may = |lost: &SnapshotName| *vm == WEB && goes.contains(&lost.as_str());
            wrong.extend(
                names.difference(left).filter(|n| !may(n)).map(|n| format!("VM {vm} lost snapshot {n}")),
            );
        }
        wrong
    }

    /// What the case promises and is not so.
    pub fn broken_promises(&self, case: &Case) -> Vec<String> {
        let now = &self.seen()[&WEB];
        let has = |label: &&&str| now.contains(&name(label));
        let mut wrong = Vec::new();
        wrong.extend(case.goes.iter().filter(has).map(|s| format!("it is done, and snapshot {s} is there")));
        wrong.extend(
            case.comes
                .iter()
                .filter(|s| !has(s))
                .map(|s| format!("it is done, and there is no snapshot {s}")),
        );
        if let Some(to) = case.reverts_to {
            let (holds, wanted) = (self.plan.oracle.now(WEB), self.plan.oracle.snapshot(WEB, to));
            if wanted.as_ref() != Some(&holds) {
                wrong.push(format!("it is reverted to {to}, and holds {holds:?}, not {wanted:?}"));
            }
        }
        if !(case.also)(self) {
            wrong.push("it is done, and has not done all that it is for".to_owned());
        }
        wrong
    }

    /// The VMs that are not in the state that they were left in.
    pub fn unpowered(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for vm in self.vms() {
            let (now, left) = (self.sim.vm(vm).unwrap().state, self.plan.oracle.power(vm));
            if !left.is_empty() && !left.contains(&now) {
                wrong.push(format!("VM {vm} is {now}, and was {left:?}"));
            }
        }
        wrong
    }
}

/// What a snapshot says of itself that was not so when it was taken.
pub fn dishonest(record: &SnapshotRecord, taken: Taken) -> Option<String> {
    let quality = &record.quality;
    let so = match quality.reached {
        Consistency::Application | Consistency::Filesystem => taken.frozen,
        Consistency::Offline => taken.off,
        Consistency::Memory => record.snapshot.content == Content::Full,
        Consistency::Crash => true,
    };
    let name = &record.snapshot.name;
    // Whoever finished it knows it from the journal, and so that no merge spoiled it unseen.
    if quality.requested.is_none() && record.snapshot.managed {
        return Some(format!("snapshot {name} does not say what was asked for"));
    }
    (!so).then(|| {
        format!("snapshot {name} says that it is {} ({}), and was {taken:?}", quality.reached, quality.note)
    })
}

/// One that was taken with nothing in the way has to be as good as it can be, too.
pub fn modest(record: &SnapshotRecord, taken: Taken) -> Option<String> {
    let poor = record.quality.reached == Consistency::Crash && (taken.frozen || taken.off);
    poor.then(|| {
        format!(
            "snapshot {} says that it is {}, and was {taken:?}",
            record.snapshot.name, record.quality.reached
        )
    })
}
