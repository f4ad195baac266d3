//! What is kept for the way back: which VMs were started only to work on their disks, and metadata as it was.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Result, Store};
use crate::core::model::{SnapshotName, VmId};

impl Store {
    /// The host that the VMs are on runs since this boot. What tells a VM's life from others begins anew with each, so what
    /// is known of lives before it is nobody's now.
    pub fn boots(&self, boot: &str) -> Result<()> {
        let mut connection = self.writer()?;
        let mut written = || -> Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let last: Option<String> = transaction
                .query_row("SELECT value FROM fact WHERE key = 'boot'", [], |row| row.get(0))
                .optional()?;
            if last.as_deref() == Some(boot) {
                return Ok(());
            }
            transaction.execute(
                "INSERT INTO fact VALUES ('boot', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
                params![boot],
            )?;
            // A store from before this was written down knows of no other boot.
            if last.is_some() {
                transaction.execute_batch(
                    "DELETE FROM awake; DELETE FROM stilled; UPDATE copied SET life = NULL;
                     UPDATE deferred SET since_usec = NULL;",
                )?;
            }
            Ok(transaction.commit()?)
        };
        let written = written();
        self.noted(written)
    }

    /// Before a stopped VM is started, paused, to work on its disks: it is to be off again, whatever comes.
    pub fn wakes(&self, vm: VmId, at: Timestamp) -> Result<()> {
        self.write(
            "INSERT INTO awake (vm, since_usec) VALUES (?1, ?2) ON CONFLICT (vm) DO UPDATE SET life = NULL",
            params![vm.to_string(), at.as_microsecond()],
        )
    }

    /// It is started, and this tells that life of it from others: one that somebody starts later is theirs.
    pub fn woken(&self, vm: VmId, life: u64) -> Result<()> {
        self.write(
            "UPDATE awake SET life = ?2 WHERE vm = ?1",
            params![vm.to_string(), i64::try_from(life).unwrap_or(i64::MAX)],
        )
    }

    /// Whether it may be started for our work, where it lives this life now.
    pub fn is_awake(&self, vm: VmId, life: Option<u64>) -> Result<bool> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT life FROM awake WHERE vm = ?1")?;
        let ours: Option<Option<i64>> =
            statement.query_row(params![vm.to_string()], |row| row.get(0)).optional()?;
        let now = life.map(|life| i64::try_from(life).unwrap_or(i64::MAX));
        // Where it is not written down, whoever started it died in the same moment.
        Ok(ours.is_some_and(|ours| ours.is_none() || ours == now))
    }

    /// It is off again, or somebody else has it now.
    pub fn sleeps(&self, vm: VmId) -> Result<()> {
        self.write("DELETE FROM awake WHERE vm = ?1", params![vm.to_string()])
    }

    /// The VMs that may be started, paused, for no other reason than our work.
    pub fn awake(&self) -> Result<BTreeSet<VmId>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT vm FROM awake")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut all = BTreeSet::new();
        for row in rows {
            all.extend(row?.parse::<VmId>());
        }
        Ok(all)
    }

    /// Before the CPUs of a running VM are stopped for a moment: in this life of it they are to go on.
    pub fn stills(&self, vm: VmId, life: u64) -> Result<()> {
        self.write(
            "INSERT OR REPLACE INTO stilled VALUES (?1, ?2)",
            params![vm.to_string(), i64::try_from(life).unwrap_or(i64::MAX)],
        )
    }

    /// They go on, or it is somebody else's by now.
    pub fn goes_on(&self, vm: VmId) -> Result<()> {
        self.write("DELETE FROM stilled WHERE vm = ?1", params![vm.to_string()])
    }

    /// The VMs whose CPUs may stand still for no other reason than our work, and in which life.
    pub fn stilled(&self) -> Result<BTreeMap<VmId, u64>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT vm, life FROM stilled")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        let mut all = BTreeMap::new();
        for row in rows {
            let (vm, life) = row?;
            if let (Ok(vm), Ok(life)) = (vm.parse(), u64::try_from(life)) {
                all.insert(vm, life);
            }
        }
        Ok(all)
    }

    /// Before a snapshot's metadata is changed: this is how it was. A copy that is there already is older, and stays.
    pub fn keep_copy(&self, vm: VmId, name: &SnapshotName, xml: &str, at: Timestamp) -> Result<()> {
        self.write(
            "INSERT INTO copy (vm, name, xml, at_usec) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (vm, name) DO NOTHING",
            params![vm.to_string(), name.as_str(), xml, at.as_microsecond()],
        )
    }

    /// How a snapshot's metadata was, if that was kept.
    pub fn copy(&self, vm: VmId, name: &SnapshotName) -> Result<Option<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT xml FROM copy WHERE vm = ?1 AND name = ?2")?;
        Ok(statement.query_row(params![vm.to_string(), name.as_str()], |row| row.get(0)).optional()?)
    }

    /// The snapshots of this VM whose metadata was kept, the oldest copy first.
    pub fn copies(&self, vm: VmId) -> Result<Vec<SnapshotName>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT name FROM copy WHERE vm = ?1 ORDER BY at_usec, name")?;
        let rows = statement.query_map(params![vm.to_string()], |row| row.get::<_, String>(0))?;
        rows.map(|name| Ok(SnapshotName::existing(name?))).collect()
    }

    /// What it became is right: the copy is needed no longer.
    pub fn drop_copy(&self, vm: VmId, name: &SnapshotName) -> Result<()> {
        self.write("DELETE FROM copy WHERE vm = ?1 AND name = ?2", params![vm.to_string(), name.as_str()])
    }
}
