//! Snapshots inside images that libvirt does not know of: what the last look found.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{Result, Store};
use crate::core::{forgotten::Forgotten, model::VmId, qcow2::Inner};

impl Store {
    /// After a look: these there are, and no others; but what is known of the VMs in `skipped` stays. The VMs of which
    /// something else is known now.
    pub fn forgotten_found(
        &self,
        found: &BTreeMap<VmId, Vec<Forgotten>>,
        skipped: &BTreeSet<VmId>,
    ) -> Result<BTreeSet<VmId>> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut old = read(&transaction, None)?;
        let mut news = BTreeSet::new();
        let before: BTreeSet<VmId> = old.keys().copied().collect();
        for vm in
            found.keys().copied().chain(before).filter(|vm| !skipped.contains(vm)).collect::<BTreeSet<_>>()
        {
            let now = found.get(&vm).map(Vec::as_slice).unwrap_or_default();
            if old.remove(&vm).unwrap_or_default() == now {
                continue;
            }
            news.insert(vm);
            transaction.execute("DELETE FROM forgotten WHERE vm = ?1", params![vm.to_string()])?;
            for Forgotten { image, inner } in now {
                transaction.execute(
                    "INSERT INTO forgotten VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        vm.to_string(),
                        image,
                        inner.name,
                        inner.memory_bytes.cast_signed(),
                        inner.taken.as_microsecond()
                    ],
                )?;
            }
        }
        transaction.commit()?;
        Ok(news)
    }

    /// What the last look found in this VM's images.
    pub fn forgotten(&self, vm: VmId) -> Result<Vec<Forgotten>> {
        Ok(read(&self.lock(), Some(vm))?.remove(&vm).unwrap_or_default())
    }
}

fn read(connection: &Connection, vm: Option<VmId>) -> Result<BTreeMap<VmId, Vec<Forgotten>>> {
    let mut statement = connection.prepare_cached(
        "SELECT vm, image, name, bytes, taken_usec FROM forgotten WHERE ?1 IS NULL OR vm = ?1 ORDER BY rowid",
    )?;
    let rows = statement.query_map(params![vm.map(|vm| vm.to_string())], |row| {
        let inner = Inner {
            name: row.get(2)?,
            memory_bytes: row.get::<_, i64>(3)?.cast_unsigned(),
            taken: Timestamp::from_microsecond(row.get(4)?).unwrap_or_default(),
        };
        Ok((row.get::<_, String>(0)?, Forgotten { image: row.get(1)?, inner }))
    })?;
    let mut all: BTreeMap<VmId, Vec<Forgotten>> = BTreeMap::new();
    for row in rows {
        let (vm, forgotten) = row?;
        let Ok(vm) = vm.parse() else { continue };
        all.entry(vm).or_default().push(forgotten);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn one(image: &str, name: &str) -> Forgotten {
        let taken = Timestamp::constant(1_700_000_000, 5_000);
        let inner = Inner { name: name.to_owned(), memory_bytes: u64::MAX, taken };
        Forgotten { image: image.to_owned(), inner }
    }

    #[test]
    fn each_look_replaces_what_was_known_but_of_those_that_were_skipped() {
        let store = Store::in_memory().unwrap();
        let vm = |n| VmId(Uuid::from_u128(n));
        let look = |all: &[(VmId, Vec<Forgotten>)], skipped: &[VmId]| {
            let skipped = skipped.iter().copied().collect();
            store.forgotten_found(&all.iter().cloned().collect(), &skipped).unwrap()
        };
        let first = vec![one("/a", "x"), one("/b", "x")];
        assert_eq!(look(&[(vm(1), first.clone()), (vm(2), Vec::new())], &[]), [vm(1)].into());
        assert_eq!(
            (store.forgotten(vm(1)).unwrap(), store.forgotten(vm(2)).unwrap()),
            (first.clone(), vec![])
        );
        assert_eq!(look(&[(vm(1), first.clone())], &[]), [].into());
        assert_eq!(look(&[], &[vm(1)]), [].into());
        assert_eq!(store.forgotten(vm(1)).unwrap(), first);
        let other = vec![one("/b", "x")];
        assert_eq!(look(&[(vm(1), other.clone()), (vm(2), other.clone())], &[]), [vm(1), vm(2)].into());
        assert_eq!(look(&[(vm(2), other)], &[]), [vm(1)].into());
        assert_eq!(store.forgotten(vm(1)).unwrap(), []);
    }
}
