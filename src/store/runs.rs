//! The policies' runs: how far each policy got, and what it owes; and what failed last.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{TransactionBehavior, params};

use super::{Result, Store, awaited, labels, standings};
use crate::core::{
    job::JobResult,
    machine::{Entry, Failed, Owed, Place},
    model::{PolicyName, VmId},
};

impl Store {
    /// Writes down what became of the policies' runs: all of it or nothing, and on the disk once.
    pub fn remember(&self, entries: &[Entry]) -> Result<()> {
        let remembered = self.write_down(entries);
        self.noted(remembered)
    }

    fn write_down(&self, entries: &[Entry]) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for entry in entries {
            match entry {
                Entry::Place(policy, place) => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO handled
                         (policy, at_usec, peak_usec, times, last_run_usec, last_result)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        params![
                            policy.as_str(),
                            place.handled.as_microsecond(),
                            place.peak.map(Timestamp::as_microsecond),
                            place.times,
                            place.last_run.map(Timestamp::as_microsecond),
                            place.last_result.map_or("", JobResult::as_str),
                        ],
                    )?;
                }
                Entry::Owed(policy, rows) => {
                    let mut insert =
                        transaction.prepare_cached("INSERT OR REPLACE INTO due VALUES (?1, ?2, ?3, ?4)")?;
                    for (vm, owed) in rows {
                        insert.execute(params![
                            policy.as_str(),
                            vm.to_string(),
                            owed.fired.as_microsecond(),
                            owed.not_before.as_microsecond()
                        ])?;
                    }
                }
                Entry::Settled(policy, vm) => {
                    let mut delete =
                        transaction.prepare_cached("DELETE FROM due WHERE policy = ?1 AND vm = ?2")?;
                    delete.execute(params![policy.as_str(), vm.to_string()])?;
                }
                Entry::Cleared(policy) => {
                    transaction.execute("DELETE FROM due WHERE policy = ?1", params![policy.as_str()])?;
                }
                Entry::Standing(policy, vm, standing) => {
                    standings::write(&transaction, policy, *vm, standing)?;
                }
                Entry::Label(vm, id, label) => labels::write(&transaction, *vm, *id, label)?,
                Entry::Awaited(policy, vm, now) => awaited::write(&transaction, policy, *vm, *now)?,
                Entry::Failed(vm, failed) => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO failed VALUES (?1, ?2, ?3)",
                        params![vm.to_string(), failed.effort.as_str(), failed.text],
                    )?;
                }
                Entry::Worked(vm) => {
                    transaction.execute("DELETE FROM failed WHERE vm = ?1", params![vm.to_string()])?;
                }
                Entry::Undeferred(job) => {
                    let sql = "DELETE FROM deferred WHERE json_extract(job, '$.id') = ?1";
                    transaction.execute(sql, params![job])?;
                }
                Entry::Gone(policy) => {
                    transaction.execute("DELETE FROM due WHERE policy = ?1", params![policy.as_str()])?;
                    transaction.execute("DELETE FROM handled WHERE policy = ?1", params![policy.as_str()])?;
                    transaction
                        .execute("DELETE FROM standing WHERE policy = ?1", params![policy.as_str()])?;
                    transaction.execute("DELETE FROM awaited WHERE policy = ?1", params![policy.as_str()])?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// How far each policy got.
    pub fn places(&self) -> Result<BTreeMap<PolicyName, Place>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT policy, at_usec, peak_usec, times, last_run_usec, last_result FROM handled")?;
        let time = |at: Option<i64>| at.and_then(|at| Timestamp::from_microsecond(at).ok());
        let mut all = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (policy, result): (String, String) = (row.get(0)?, row.get(5)?);
            // A name that is none any more belongs to no policy either.
            let (Ok(policy), Some(handled)) = (policy.parse(), time(row.get(1)?)) else { continue };
            let place = Place {
                handled,
                peak: time(row.get(2)?),
                times: row.get(3)?,
                last_run: time(row.get(4)?),
                last_result: result.parse().ok(),
            };
            all.insert(policy, place);
        }
        Ok(all)
    }

    /// What failed last on VMs, and was not made up for.
    pub fn failed(&self) -> Result<BTreeMap<VmId, Failed>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT vm, effort, text FROM failed")?;
        let mut all = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (vm, effort): (String, String) = (row.get(0)?, row.get(1)?);
            if let (Ok(vm), Ok(effort)) = (vm.parse(), effort.parse()) {
                all.insert(vm, Failed { effort, text: row.get(2)? });
            }
        }
        Ok(all)
    }

    /// What each policy owes.
    pub fn owed(&self) -> Result<BTreeMap<PolicyName, BTreeMap<VmId, Owed>>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT policy, vm, fired_usec, not_before_usec FROM due")?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })?;
        let mut all: BTreeMap<PolicyName, BTreeMap<VmId, Owed>> = BTreeMap::new();
        for row in rows {
            let (policy, vm, fired, not_before) = row?;
            let (Ok(policy), Ok(vm)) = (policy.parse(), vm.parse()) else { continue };
            let (Ok(fired), Ok(not_before)) =
                (Timestamp::from_microsecond(fired), Timestamp::from_microsecond(not_before))
            else {
                continue;
            };
            all.entry(policy).or_default().insert(vm, Owed { fired, not_before });
        }
        Ok(all)
    }
}
