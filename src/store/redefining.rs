//! Metadata that is being changed: how it was, and what there was around it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::params;

use super::{Result, Store, begun::json};
use crate::core::{
    model::{SnapshotName, VmId},
    redefining::Redefining,
};

/// A change of metadata that was begun, and whose end is not written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redefined {
    /// The snapshot's name.
    pub name: SnapshotName,
    /// Its metadata as it was.
    pub xml: String,
    /// What there was around it; or why that cannot be read, as where another version of this program wrote it.
    pub around: std::result::Result<Redefining, String>,
}

impl Store {
    /// Before a snapshot's metadata is changed: where libvirt loses it, it is put back as it is now. A copy that was kept
    /// for something else is older, and of no use any more.
    pub fn redefines(
        &self,
        vm: VmId,
        (name, xml): (&SnapshotName, &str),
        around: &Redefining,
        at: Timestamp,
    ) -> Result<()> {
        self.write(
            "INSERT OR REPLACE INTO copy (vm, name, xml, at_usec, redefining) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![vm.to_string(), name.as_str(), xml, at.as_microsecond(), json(around)?],
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
            let around = serde_json::from_str(&around).map_err(|e| format!("{around:?}: {e}"));
            all.push(Redefined { name: SnapshotName::existing(name), xml, around });
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
        let around = Redefining::default();
        store.redefines(web, (&b, "<new/>"), &around, at).unwrap();
        let begun = Redefined { name: b.clone(), xml: "<new/>".to_owned(), around: Ok(around) };
        assert_eq!(store.redefining(web).unwrap(), [begun]);
        assert_eq!((store.redefining(other).unwrap(), store.redefined().unwrap()), (vec![], [web].into()));
        assert!(store.unfinished(web).unwrap() && store.at_work().unwrap() == [web].into());
        store.drop_copy(web, &b).unwrap();
        assert_eq!(store.copies(web).unwrap(), [a]);
        assert!(store.redefined().unwrap().is_empty() && !store.unfinished(web).unwrap());
    }

    #[test]
    fn what_another_version_wrote_is_told_and_not_passed_over() {
        let store = Store::in_memory().unwrap();
        let (web, a) = (VmId(Uuid::from_u128(1)), SnapshotName::existing("a"));
        store.redefines(web, (&a, "<a/>"), &Redefining::default(), Timestamp::UNIX_EPOCH).unwrap();
        store.write("UPDATE copy SET redefining = '[\"newer\"]'", []).unwrap();
        let begun = store.redefining(web).unwrap().remove(0);
        assert_eq!((&begun.name, begun.xml.as_str()), (&a, "<a/>"));
        assert!(begun.around.unwrap_err().contains("newer"));
        assert!(store.unfinished(web).unwrap());
    }
}
