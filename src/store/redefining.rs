//! Metadata that is being changed: how it was, and what there was around it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::params;

use super::{Result, Store};
use crate::{
    core::{
        model::{SnapshotName, VmId},
        redefining::Redefining,
    },
    logging::message,
};

/// A change of metadata that was begun, and whose end is not written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redefined {
    /// The snapshot's name.
    pub name: SnapshotName,
    /// Its metadata as it was.
    pub xml: String,
    /// What there was around it.
    pub around: Redefining,
}

impl Store {
    /// Before a snapshot's metadata is changed: where libvirt loses it, it is put back as it is now. A copy that was kept
    /// for something else is older, and of no use any more.
    pub fn redefines(&self, vm: VmId, begun: &Redefined, at: Timestamp) -> Result<()> {
        let around = serde_json::to_string(&begun.around).unwrap_or_default();
        self.write(
            "INSERT OR REPLACE INTO copy (vm, name, xml, at_usec, redefining) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![vm.to_string(), begun.name.as_str(), begun.xml, at.as_microsecond(), around],
        )
    }

    /// What was begun on this VM, the oldest first. [`drop_copy`](Self::drop_copy) takes one off the list.
    pub fn redefining(&self, vm: VmId) -> Result<Vec<Redefined>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT name, xml, redefining FROM copy WHERE vm = ?1 AND redefining IS NOT NULL ORDER BY at_usec, name",
        )?;
        let rows = statement.query_map(params![vm.to_string()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (name, xml, around) = row?;
            match serde_json::from_str(&around) {
                Ok(around) => all.push(Redefined { name: SnapshotName::existing(name), xml, around }),
                Err(e) => tracing::error!(
                    MESSAGE_ID = message::STORE_FAILED, error = %e,
                    "cannot read what was begun with the metadata of snapshot {name} of VM {vm}: {around}"
                ),
            }
        }
        Ok(all)
    }

    /// The VMs on which something is.
    pub fn redefined(&self) -> Result<BTreeSet<VmId>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT DISTINCT vm FROM copy WHERE redefining IS NOT NULL")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut all = BTreeSet::new();
        for row in rows {
            all.extend(row?.parse::<VmId>());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_being_changed_is_told_from_what_was_kept_for_something_else() {
        let store = Store::in_memory().unwrap();
        let [web, other] = [1, 2].map(|n| VmId(Uuid::from_u128(n)));
        let [a, b] = ["a", "b"].map(SnapshotName::existing);
        let at = Timestamp::UNIX_EPOCH;
        store.keep_copy(web, &a, "<kept/>", at).unwrap();
        store.keep_copy(web, &b, "<old/>", at).unwrap();
        assert!(store.redefined().unwrap().is_empty() && !store.unfinished(web).unwrap());
        let begun = Redefined { name: b.clone(), xml: "<new/>".to_owned(), around: Redefining::default() };
        store.redefines(web, &begun, at).unwrap();
        assert_eq!(store.redefining(web).unwrap(), [begun]);
        assert_eq!((store.redefining(other).unwrap(), store.redefined().unwrap()), (vec![], [web].into()));
        assert!(store.unfinished(web).unwrap() && store.at_work().unwrap() == [web].into());
        store.drop_copy(web, &b).unwrap();
        assert_eq!(store.copies(web).unwrap(), [a]);
        assert!(store.redefined().unwrap().is_empty() && !store.unfinished(web).unwrap());
    }
}
