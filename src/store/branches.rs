//! Which VMs are branches, of what: so that it can be said. That they stand on other VMs' images libvirt knows.

use std::collections::BTreeMap;

use rusqlite::{TransactionBehavior, params};

use super::{Result, Store};
use crate::core::{
    branch::Stem,
    model::{SnapshotName, VmId},
};

/// A branch, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branched {
    /// What it stands on.
    pub stem: Stem,
    /// The overlays that were made for it.
    pub overlays: Vec<String>,
}

impl Store {
    /// Before a branch is defined: these overlays are its own.
    pub fn branches_off(&self, vm: VmId, branched: &Branched) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for overlay in &branched.overlays {
            let Stem { vm: source, snapshot } = &branched.stem;
            transaction.execute(
                "INSERT OR REPLACE INTO branch (image, vm, source_vm, snapshot) VALUES (?1, ?2, ?3, ?4)",
                params![overlay, vm.to_string(), source.to_string(), snapshot.as_str()],
            )?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// It is no branch any more, or is gone.
    pub fn branch_ended(&self, vm: VmId) -> Result<()> {
        self.write("DELETE FROM branch WHERE vm = ?1", params![vm.to_string()])
    }

    /// What this VM was branched off, if it was.
    pub fn stem_of(&self, vm: VmId) -> Result<Option<Stem>> {
        Ok(self.branched()?.remove(&vm).map(|b| b.stem))
    }

    /// All branches.
    pub fn branched(&self) -> Result<BTreeMap<VmId, Branched>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT image, vm, source_vm, snapshot FROM branch ORDER BY image")?;
        let rows = statement
            .query_map([], |row| Ok([row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
        let mut all: BTreeMap<VmId, Branched> = BTreeMap::new();
        for row in rows {
            let [overlay, vm, source, snapshot] = row?;
            let (Ok(vm), Ok(source)) = (vm.parse(), source.parse()) else { continue };
            let stem = Stem { vm: source, snapshot: SnapshotName::existing(snapshot) };
            all.entry(vm).or_insert_with(|| Branched { stem, overlays: Vec::new() }).overlays.push(overlay);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn branches_are_known_with_what_they_stand_on_until_they_end() {
        let store = Store::in_memory().unwrap();
        let [web, trial, other] = [1, 2, 3].map(|n| VmId(Uuid::from_u128(n)));
        let stem = Stem { vm: web, snapshot: SnapshotName::existing("a\nb") };
        let branched = |overlays: &[&str]| Branched {
            stem: stem.clone(),
            overlays: overlays.iter().map(|o| (*o).to_owned()).collect(),
        };
        let (two, one) = (branched(&["/i/t-vda", "/i/t-vdb"]), branched(&["/i/o"]));
        for _ in 0..2 {
            store.branches_off(trial, &two).unwrap();
        }
        store.branches_off(other, &one).unwrap();
        assert_eq!(store.branched().unwrap(), [(trial, two), (other, one.clone())].into());
        assert_eq!(store.stem_of(trial).unwrap(), Some(stem.clone()));
        assert_eq!(store.stem_of(web).unwrap(), None);
        store.branch_ended(trial).unwrap();
        assert_eq!(store.branched().unwrap(), [(other, one)].into());
    }
}
