//! How policies stand on VMs: failures in a row, and where they are suspended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::{Result, Store};
use crate::core::{
    model::{PolicyName, VmId},
    suspend::{OfPolicy, Standing, Suspender, Suspension},
};

/// Writes one down, or forgets it if there is nothing to say of it.
pub(super) fn write(
    transaction: &Transaction<'_>,
    policy: &PolicyName,
    vm: Option<VmId>,
    standing: &Standing,
) -> rusqlite::Result<()> {
    let vm = vm.map(|vm| vm.to_string()).unwrap_or_default();
    if *standing == Standing::default() {
        let sql = "DELETE FROM standing WHERE policy = ?1 AND vm = ?2";
        transaction.prepare_cached(sql)?.execute(params![policy.as_str(), vm])?;
        return Ok(());
    }
    let suspension = standing.suspension.as_ref();
    let sql = "INSERT OR REPLACE INTO standing VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    transaction.prepare_cached(sql)?.execute(params![
        policy.as_str(),
        vm,
        standing.failures,
        suspension.map_or("", |s| s.by.as_str()),
        suspension.map_or(0, |s| s.since.as_microsecond()),
        suspension.map_or("", |s| s.reason.as_str()),
    ])?;
    Ok(())
}

impl Store {
    /// How each policy stands, on VMs and as a whole.
    pub fn standings(&self) -> Result<BTreeMap<PolicyName, OfPolicy>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT policy, vm, failures, suspended_by, since_usec, reason FROM standing")?;
        let mut all: BTreeMap<PolicyName, OfPolicy> = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (policy, vm, by): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
            let vm = if vm.is_empty() { Ok(None) } else { vm.parse().map(Some) };
            // A name that is none any more belongs to no policy either.
            let (Ok(policy), Ok(vm)) = (policy.parse(), vm) else { continue };
            let suspension = by.parse::<Suspender>().ok().map(|by| {
                let since = row.get(4).map(|at| Timestamp::from_microsecond(at).unwrap_or_default())?;
                Ok::<_, rusqlite::Error>(Suspension { by, since, reason: row.get(5)? })
            });
            let standing = Standing { failures: row.get(2)?, suspension: suspension.transpose()? };
            all.entry(policy).or_default().insert(vm, standing);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{core::machine::Entry, store::MIGRATIONS};

    fn of(failures: u32, suspended: Option<(Suspender, &str)>) -> Standing {
        let since = Timestamp::from_microsecond(1_700_000_000_000_001).unwrap();
        let suspension = suspended.map(|(by, reason)| Suspension { by, since, reason: reason.to_owned() });
        Standing { failures, suspension }
    }

    #[test]
    fn failures_and_suspensions_are_known_until_they_are_over_or_their_policy_is_gone() {
        let store = Store::in_memory().unwrap();
        let (a, b): (PolicyName, PolicyName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let vm = |n| Some(VmId(Uuid::from_u128(n)));
        let by_failures = of(5, Some((Suspender::Failures, "no\nagent")));
        let by_hand = of(0, Some((Suspender::Person, "")));
        store
            .remember(&[
                Entry::Standing(a.clone(), vm(1), of(4, None)),
                Entry::Standing(a.clone(), vm(1), by_failures.clone()),
                Entry::Standing(a.clone(), vm(2), of(1, None)),
                Entry::Standing(a.clone(), None, by_hand.clone()),
                Entry::Standing(b.clone(), vm(1), of(2, None)),
            ])
            .unwrap();
        store.remember(&[Entry::Standing(a.clone(), vm(2), Standing::default())]).unwrap();
        let of_b = OfPolicy::from([(vm(1), of(2, None))]);
        let of_a = OfPolicy::from([(None, by_hand), (vm(1), by_failures)]);
        assert_eq!(store.standings().unwrap(), [(a.clone(), of_a), (b.clone(), of_b.clone())].into());
        store.remember(&[Entry::Gone(a)]).unwrap();
        assert_eq!(store.standings().unwrap(), [(b, of_b)].into());
    }

    #[test]
    fn a_database_from_before_knows_of_no_failures_and_keeps_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let before = MIGRATIONS.iter().position(|step| step.contains("TABLE standing")).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        for step in &MIGRATIONS[..before] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", u32::try_from(before).unwrap()).unwrap();
        connection.execute("INSERT INTO fact VALUES ('uri', 'test:///default')", []).unwrap();
        drop(connection);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.standings().unwrap(), BTreeMap::new());
        assert_eq!(store.uri().unwrap().as_deref(), Some("test:///default"));
        let policy: PolicyName = "a".parse().unwrap();
        store.remember(&[Entry::Standing(policy.clone(), None, of(1, None))]).unwrap();
        drop(store);
        assert!(Store::open(&path).unwrap().standings().unwrap().contains_key(&policy));
    }
}
