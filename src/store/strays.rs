//! Files that nobody has: what the last look found, and which of them are in quarantine.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{TransactionBehavior, params};

use super::{Result, Store};
use crate::core::{model::VmId, stray::Stray};

/// One that a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// On whose images it lies.
    pub vm: VmId,
    /// Its path.
    pub path: String,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// Another one when somebody wrote to the file.
    pub stamp: String,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// The VMs of which something else is known now.
    pub vms: BTreeSet<VmId>,
    /// What is out of quarantine: somebody has it, it was written to, or it is gone.
    pub released: Vec<String>,
}

impl Store {
    /// After a look: these there are, and no others; but what is known of the VMs in `skipped` stays.
    pub fn strays_found(&self, found: &[Found], skipped: &BTreeSet<VmId>) -> Result<News> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut old = BTreeMap::new();
        {
            let mut statement = transaction.prepare("SELECT path, vm, bytes, stamp FROM stray")?;
            let rows = statement.query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?,
                ))
            })?;
            for row in rows {
                let (path, vm, bytes, stamp) = row?;
                let Ok(vm) = vm.parse() else { continue };
                old.insert(path.clone(), Found { vm, path, bytes: bytes.cast_unsigned(), stamp });
            }
        }
        let mut news = News::default();
        let known = |vm: &VmId| !skipped.contains(vm);
        for before in old.values().filter(|f| known(&f.vm)) {
            let now = found.iter().find(|f| f.path == before.path && f.vm == before.vm);
            if now.is_none_or(|now| now.stamp != before.stamp) {
                transaction.execute("DELETE FROM stray WHERE path = ?1", params![before.path])?;
                let left =
                    transaction.execute("DELETE FROM quarantine WHERE path = ?1", params![before.path])?;
                news.released.extend((left > 0).then(|| before.path.clone()));
                news.vms.insert(before.vm);
            }
        }
        for now in found.iter().filter(|f| known(&f.vm) && old.get(&f.path) != Some(f)) {
            transaction.execute(
                "INSERT OR REPLACE INTO stray VALUES (?1, ?2, ?3, ?4)",
                params![now.path, now.vm.to_string(), now.bytes.cast_signed(), now.stamp],
            )?;
            news.vms.insert(now.vm);
        }
        transaction.commit()?;
        Ok(news)
    }

    /// What the last look found on this VM's images, by path.
    pub fn strays(&self, vm: VmId) -> Result<Vec<Stray>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT stray.path, bytes, since_usec FROM stray LEFT JOIN quarantine USING (path)
             WHERE stray.vm = ?1 ORDER BY stray.path",
        )?;
        let rows = statement.query_map(params![vm.to_string()], |row| {
            let since: Option<i64> = row.get(2)?;
            Ok(Stray {
                path: row.get(0)?,
                bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                quarantined: since.and_then(|us| Timestamp::from_microsecond(us).ok()),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// These are in quarantine from now on; those that are already stay in it since they came.
    pub fn quarantine(&self, vm: VmId, paths: &[String], at: Timestamp) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for path in paths {
            transaction.execute(
                "INSERT INTO quarantine VALUES (?1, ?2, ?3, 'stray') ON CONFLICT (path) DO NOTHING",
                params![path, vm.to_string(), at.as_microsecond()],
            )?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The VMs with files that have been in quarantine since then, or longer.
    pub fn quarantined_since(&self, at: Timestamp) -> Result<BTreeSet<VmId>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT vm FROM quarantine WHERE since_usec <= ?1")?;
        let rows = statement.query_map(params![at.as_microsecond()], |row| row.get::<_, String>(0))?;
        let mut all = BTreeSet::new();
        for row in rows {
            all.extend(row?.parse::<VmId>());
        }
        Ok(all)
    }

    /// These files are gone.
    pub fn strays_removed(&self, paths: &[String]) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for path in paths {
            transaction.execute("DELETE FROM stray WHERE path = ?1", params![path])?;
            transaction.execute("DELETE FROM quarantine WHERE path = ?1", params![path])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    fn found(n: u128, path: &str, stamp: &str) -> Found {
        Found { vm: vm(n), path: path.to_owned(), bytes: 7, stamp: stamp.to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn known(store: &Store, n: u128) -> Vec<(String, Option<Timestamp>)> {
        store.strays(vm(n)).unwrap().into_iter().map(|s| (s.path, s.quarantined)).collect()
    }

    #[test]
    fn what_a_look_found_is_known_until_the_next_and_what_is_the_same_is_no_news() {
        let store = Store::in_memory().unwrap();
        let look = |all: &[Found]| store.strays_found(all, &BTreeSet::new()).unwrap();
        let two = [found(1, "/a", "x"), found(2, "/b", "x")];
        assert_eq!(look(&two).vms, [vm(1), vm(2)].into());
        assert_eq!(look(&two), News::default());
        assert_eq!(known(&store, 1), [("/a".to_owned(), None)]);
        assert_eq!(look(&two[..1]).vms, [vm(2)].into());
        assert_eq!(known(&store, 2), []);
    }

    #[test]
    fn what_is_used_written_to_or_another_s_leaves_quarantine() {
        for (after, released) in [
            (vec![found(1, "/a", "x")], false),
            (vec![], true),
            (vec![found(1, "/a", "y")], true),
            (vec![found(2, "/a", "x")], true),
        ] {
            let store = Store::in_memory().unwrap();
            store.strays_found(&[found(1, "/a", "x")], &BTreeSet::new()).unwrap();
            store.quarantine(vm(1), &["/a".to_owned()], at(5)).unwrap();
            store.quarantine(vm(1), &["/a".to_owned()], at(9)).unwrap();
            assert_eq!(
                known(&store, 1),
                [("/a".to_owned(), Some(at(5)))],
                "it counts from the first time on"
            );
            let skipped = store.strays_found(&after, &[vm(1), vm(2)].into()).unwrap();
            assert_eq!(skipped, News::default());
            let news = store.strays_found(&after, &BTreeSet::new()).unwrap();
            assert_eq!(news.released, if released { vec!["/a".to_owned()] } else { vec![] }, "{after:?}");
            assert_eq!(store.quarantined_since(at(5)).unwrap().is_empty(), released);
        }
    }

    #[test]
    fn the_time_is_over_when_it_is_and_what_is_removed_is_forgotten() {
        let store = Store::in_memory().unwrap();
        store.strays_found(&[found(1, "/a", "x")], &BTreeSet::new()).unwrap();
        store.quarantine(vm(1), &["/a".to_owned()], at(5)).unwrap();
        assert_eq!(store.quarantined_since(at(4)).unwrap(), BTreeSet::new());
        assert_eq!(store.quarantined_since(at(5)).unwrap(), [vm(1)].into());
        store.strays_removed(&["/a".to_owned()]).unwrap();
        assert_eq!(store.quarantined_since(at(9)).unwrap(), BTreeSet::new());
        assert_eq!(known(&store, 1), []);
    }
}
