//! The overlays that we put under VMs' disks: what is ours and what is a template or a clone's base no name tells.

use std::collections::BTreeSet;

use rusqlite::{Connection, TransactionBehavior, params};

use super::{Begun, Intent, Result, Store};
use crate::core::model::VmId;

/// With the intent of what makes them: they may be there from now on.
pub(super) fn laid(connection: &Connection, intent: &Intent) -> Result<()> {
    if !matches!(intent.what, Begun::Create(_) | Begun::Revert(_)) {
        return Ok(());
    }
    for path in &intent.overlays {
        connection
            .execute("INSERT OR REPLACE INTO laid VALUES (?1, ?2)", params![path, intent.vm.to_string()])?;
    }
    Ok(())
}

impl Store {
    /// The files that were made for this VM's snapshots and reverts, and that nobody has removed since.
    pub fn laid(&self, vm: VmId) -> Result<BTreeSet<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT path FROM laid WHERE vm = ?1")?;
        let rows = statement.query_map(params![vm.to_string()], |row| row.get(0))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// After files were removed: whoever makes one of that name later may be anybody.
    pub fn discarded(&self, paths: &[String]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for path in paths {
            transaction.execute("DELETE FROM laid WHERE path = ?1", params![path])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::core::model::SnapshotName;

    #[test]
    fn what_was_laid_is_known_until_it_is_removed_whatever_became_of_the_snapshot() {
        let store = Store::in_memory().unwrap();
        let [web, other] = [1, 2].map(|n| VmId(Uuid::from_u128(n)));
        let begin = |n, vm, what, overlays: &[&str]| {
            let overlays = overlays.iter().map(|o| (*o).to_owned()).collect();
            let intent = Intent::new(Uuid::from_u128(n), vm, SnapshotName::existing("s"), what);
            store.begin(&Intent { overlays, ..intent }, Timestamp::UNIX_EPOCH).unwrap();
            Uuid::from_u128(n)
        };
        for _ in 0..2 {
            begin(1, web, Begun::Create(Box::default()), &["/i/a", "/i/b"]);
        }
        begin(2, other, Begun::Create(Box::default()), &["/i/c"]);
        let gone = begin(3, web, Begun::Drop, &["/i/base"]);
        store.gone(gone).unwrap();
        store.gone(Uuid::from_u128(1)).unwrap();
        assert_eq!(store.laid(web).unwrap(), ["/i/a".to_owned(), "/i/b".to_owned()].into());
        store.discarded(&["/i/a".to_owned(), "/i/never".to_owned()]).unwrap();
        assert_eq!(store.laid(web).unwrap(), ["/i/b".to_owned()].into());
        assert_eq!(store.laid(other).unwrap(), ["/i/c".to_owned()].into());
    }
}
