//! Since when policies await good snapshots of VMs, and which of them are stale.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::{Result, Store};
use crate::core::{
    awaited::Awaited,
    model::{PolicyName, VmId},
};

/// Writes one down, or that there is none any more.
pub(super) fn write(
    transaction: &Transaction<'_>,
    policy: &PolicyName,
    vm: VmId,
    awaited: Option<Awaited>,
) -> rusqlite::Result<()> {
    let (policy, vm) = (policy.as_str(), vm.to_string());
    if let Some(Awaited { since, stale }) = awaited {
        let sql = "INSERT OR REPLACE INTO awaited VALUES (?1, ?2, ?3, ?4)";
        transaction.prepare_cached(sql)?.execute(params![policy, vm, since.as_microsecond(), stale])?;
    } else {
        let sql = "DELETE FROM awaited WHERE policy = ?1 AND vm = ?2";
        transaction.prepare_cached(sql)?.execute(params![policy, vm])?;
    }
    Ok(())
}

impl Store {
    /// What policies await of VMs.
    pub fn awaited(&self) -> Result<BTreeMap<VmId, BTreeMap<PolicyName, Awaited>>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT policy, vm, since_usec, stale FROM awaited")?;
        let mut all: BTreeMap<VmId, BTreeMap<PolicyName, Awaited>> = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (policy, vm): (String, String) = (row.get(0)?, row.get(1)?);
            let since = Timestamp::from_microsecond(row.get(2)?);
            let (Ok(policy), Ok(vm), Ok(since)) = (policy.parse(), vm.parse(), since) else { continue };
            all.entry(vm).or_default().insert(policy, Awaited { since, stale: row.get(3)? });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::machine::Entry;

    #[test]
    fn what_is_awaited_is_known_until_it_is_not_or_its_policy_is_gone() {
        let store = Store::in_memory().unwrap();
        let (a, b): (PolicyName, PolicyName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let vm = |n| VmId(Uuid::from_u128(n));
        let of = |since, stale| Awaited { since: Timestamp::from_microsecond(since).unwrap(), stale };
        store
            .remember(&[
                Entry::Awaited(a.clone(), vm(1), Some(of(7, false))),
                Entry::Awaited(a.clone(), vm(1), Some(of(7, true))),
                Entry::Awaited(a.clone(), vm(2), Some(of(8, false))),
                Entry::Awaited(b.clone(), vm(1), Some(of(9, false))),
            ])
            .unwrap();
        store.remember(&[Entry::Awaited(a.clone(), vm(2), None)]).unwrap();
        let of_1 = BTreeMap::from([(a.clone(), of(7, true)), (b.clone(), of(9, false))]);
        assert_eq!(store.awaited().unwrap(), [(vm(1), of_1)].into());
        store.remember(&[Entry::Gone(a)]).unwrap();
        assert_eq!(store.awaited().unwrap(), [(vm(1), [(b, of(9, false))].into())].into());
    }
}
