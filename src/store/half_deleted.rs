//! Deletions that were begun and did not end.

use std::collections::BTreeSet;

use rusqlite::params;
use uuid::Uuid;

use super::{Begun, Result, Store};
use crate::core::model::{SnapshotName, VmId};

/// The snapshots of a VM whose deletion was begun and did not end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HalfDeleted {
    ids: BTreeSet<Uuid>,
    /// Of those that have no identity of ours.
    names: BTreeSet<SnapshotName>,
}

impl HalfDeleted {
    /// Whether this one is among them. `id`: its own identity, if it has one; names are used again.
    pub fn has(&self, name: &SnapshotName, id: Option<Uuid>) -> bool {
        id.map_or_else(|| self.names.contains(name), |id| self.ids.contains(&id))
    }
}

impl Store {
    /// Snapshots of this VM whose deletion was begun and did not end: their data cannot be trusted, and they are to go.
    pub fn half_deleted(&self, vm: VmId) -> Result<HalfDeleted> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT id, kind, detail FROM intent WHERE vm = ?1 AND kind IN ('delete', 'merge')",
        )?;
        let rows = statement.query_map(params![vm.to_string()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut all = HalfDeleted::default();
        for row in rows {
            let (id, kind, detail) = row?;
            all.ids.extend(id.parse::<Uuid>());
            if let Some(Begun::Merge(recipe)) = Begun::read(&kind, &detail) {
                // A commit that was cut short spoils all of them: each reads through the image that is written to.
                for doomed in recipe.run {
                    match doomed.id {
                        Some(id) => drop(all.ids.insert(id)),
                        None => drop(all.names.insert(doomed.name)),
                    }
                }
            }
        }
        Ok(all)
    }
}
