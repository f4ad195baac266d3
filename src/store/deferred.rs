//! Jobs that waited when the daemon was told to stop.

use jiff::Timestamp;
use rusqlite::{TransactionBehavior, params};

use super::{Result, Store, begun::json};
use crate::{core::deferred::Deferred, logging::message};

impl Store {
    /// These wait for the next life, in this order, and no others do.
    pub fn defer(&self, jobs: &[Deferred]) -> Result<()> {
        let written = self.write_deferred(jobs);
        self.noted(written)
    }

    fn write_deferred(&self, jobs: &[Deferred]) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM deferred", [])?;
        let mut insert =
            transaction.prepare("INSERT INTO deferred (place, job, since_usec) VALUES (?1, ?2, ?3)")?;
        for (place, Deferred { job, since }) in (0_i64..).zip(jobs) {
            insert.execute(params![place, json(job)?, since.map(Timestamp::as_microsecond)])?;
        }
        drop(insert);
        transaction.commit()?;
        Ok(())
    }

    /// What waits for this life. What cannot be read is told once.
    pub fn deferred(&self) -> Result<Vec<Deferred>> {
        let (read, unreadable) = self.read_deferred()?;
        for place in unreadable {
            // Where that cannot be written, it is told again.
            let _ = self.write("DELETE FROM deferred WHERE place = ?1", params![place]);
        }
        Ok(read)
    }

    fn read_deferred(&self) -> Result<(Vec<Deferred>, Vec<i64>)> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT job, since_usec, place FROM deferred ORDER BY place")?;
        let mut rows = statement.query([])?;
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            let (job, since): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            let since = since.and_then(|since| Timestamp::from_microsecond(since).ok());
            match serde_json::from_str(&job) {
                Ok(job) => all.push(Deferred { job, since }),
                Err(e) => {
                    tracing::error!(
                        MESSAGE_ID = message::STORE_FAILED, error = %e,
                        "what was asked for before the daemon was stopped was written down by another version of \
                         virtsnapd, cannot be read and is not done: {job}"
                    );
                    unreadable.push(row.get(2)?);
                }
            }
        }
        Ok((all, unreadable))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::SignedDuration;
    use uuid::Uuid;

    use super::*;
    use crate::core::{
        branch::BranchJob,
        job::{AdoptJob, Asker, CreateJob, Job, Operation, Pace, RevertJob},
        label::Label,
        machine::Entry,
        model::{Origin, SnapshotName, VmId, VmState},
        policy::{How, Memory, Mountpoints, Quiesce},
        revert::{DefinitionOf, Then},
    };

    fn job(id: u32, operation: Operation) -> Job {
        Job {
            id,
            vm: VmId(Uuid::from_u128(id.into())),
            operation,
            asker: Asker { origin: Origin::Manual, uid: 1000 + id },
            asked: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    /// One of each kind that somebody can ask for.
    fn jobs() -> Vec<Job> {
        let name = || SnapshotName::existing("s 1\n");
        let create = CreateJob {
            name: Some(name()),
            description: "before \"it\"".to_owned(),
            policies: ["nightly".parse().unwrap()].into(),
            how: How {
                quiesce: Quiesce::Require,
                freeze_timeout: SignedDuration::from_millis(8500),
                mountpoints: Mountpoints::List(vec!["/srv".to_owned()]),
                memory: Memory::Prefer,
                when: BTreeSet::from([VmState::Running, VmState::ShutOff]),
                skip_unchanged: true,
                name: "{policy}-{timestamp}".to_owned(),
            },
            disks: Some(vec!["vda".to_owned()]),
            label: Label { tags: ["t".parse().unwrap()].into(), ..Label::default() },
        };
        let until = Timestamp::from_second(1_800_000_000).ok();
        let pace = Pace { bandwidth: 7_u64.try_into().ok(), until };
        let revert = RevertJob {
            name: name(),
            then: Then::Paused,
            definition: DefinitionOf::Keep,
            safety: Some(create.clone()),
        };
        let adopt = AdoptJob {
            snapshots: vec![name()],
            strays: vec!["/a".to_owned()],
            layers: true,
            ..AdoptJob::default()
        };
        let branch = BranchJob { name: name(), new_vm: "trial".to_owned(), start: true, leave_out: false };
        let all = [
            Operation::Create(create),
            Operation::Delete { name: name(), pace, foreign: true },
            Operation::Forget(name()),
            Operation::Adopt(adopt),
            Operation::Describe { name: name(), description: String::new() },
            Operation::Revert(Box::new(revert)),
            Operation::Branch(branch),
            Operation::Promote { pace: Pace::default() },
            Operation::Prune { all: true, pace },
        ];
        all.into_iter().zip(1..).map(|(operation, id)| job(id, operation)).collect()
    }

    #[test]
    fn each_is_read_as_it_was_written_in_its_order_until_it_begins() {
        let store = Store::in_memory().unwrap();
        let since = Timestamp::from_second(1_700_000_100).unwrap();
        let deferred = |since| jobs().into_iter().map(|job| Deferred { job, since }).collect::<Vec<_>>();
        store.defer(&deferred(None)[..2]).unwrap();
        store.defer(&deferred(Some(since))).unwrap();
        assert_eq!(store.deferred().unwrap(), deferred(Some(since)));
        store.boots("one").unwrap();
        store.boots("one").unwrap();
        assert_eq!(store.deferred().unwrap(), deferred(Some(since)), "the same boot");
        store.boots("other").unwrap();
        assert_eq!(store.deferred().unwrap(), deferred(None));
        store.remember(&[Entry::Undeferred(1), Entry::Undeferred(99)]).unwrap();
        assert_eq!(store.deferred().unwrap(), deferred(None)[1..]);
    }

    #[test]
    fn what_another_version_wrote_is_left_out_and_told_once() {
        let store = Store::in_memory().unwrap();
        let one = Deferred { job: jobs().remove(0), since: None };
        store.defer(std::slice::from_ref(&one)).unwrap();
        let sql = "INSERT INTO deferred VALUES (-1, '{\"id\":1,\"operation\":\"Fly\"}', 0)";
        store.lock().execute(sql, []).unwrap();
        for _ in 0..2 {
            assert_eq!(store.deferred().unwrap(), std::slice::from_ref(&one));
        }
        let rows = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
        assert_eq!(
            store.lock().query_row("SELECT count(*) FROM deferred", [], rows).unwrap(),
            1,
            "told once"
        );
    }
}
