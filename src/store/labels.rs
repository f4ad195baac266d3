//! What people attach to snapshots: pins, tags, and a time after which one may go. By the snapshots' own identity.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::{Result, Store, begun};
use crate::core::{
    label::{Label, Pin, Tag, tags},
    model::VmId,
};

/// Writes down what is attached to one now.
pub(super) fn write(connection: &Connection, vm: VmId, id: Uuid, label: &Label) -> rusqlite::Result<()> {
    let Label { tags, expires, pins, revision } = label;
    let (key, usec) = (id.to_string(), |at: &Timestamp| at.as_microsecond());
    let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    delete(connection, id)?;
    connection
        .prepare_cached(
            "INSERT INTO label (id, vm, tags, expires_usec, revision) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![key, vm.to_string(), tags.join(" "), expires.as_ref().map(usec), revision])?;
    let mut insert = connection.prepare_cached("INSERT INTO pin VALUES (?1, ?2, ?3, ?4)")?;
    for Pin { owner, reason, expires } in pins {
        insert.execute(params![key, owner, reason, expires.as_ref().map(usec)])?;
    }
    Ok(())
}

/// The snapshot is no more.
pub(super) fn delete(connection: &Connection, id: Uuid) -> rusqlite::Result<()> {
    for sql in ["DELETE FROM pin WHERE id = ?1", "DELETE FROM label WHERE id = ?1"] {
        connection.prepare_cached(sql)?.execute(params![id.to_string()])?;
    }
    Ok(())
}

/// Who pinned it, and why; `None` if nobody did.
pub(super) fn held_by(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT owner, reason, expires_usec FROM pin WHERE id = ?1")?;
    let pins = statement.query_map(params![id.to_string()], |row| pin(row, 0))?;
    Ok(Label { pins: pins.collect::<rusqlite::Result<_>>()?, ..Label::default() }.held_by())
}

fn pin(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Pin> {
    Ok(Pin { owner: row.get(at)?, reason: row.get(at + 1)?, expires: time(row.get(at + 2)?) })
}

fn time(usec: Option<i64>) -> Option<Timestamp> {
    usec.and_then(|usec| Timestamp::from_microsecond(usec).ok())
}

impl Store {
    /// Writes down what is attached to a snapshot, but no pin on one whose deletion was begun: false, and all is as
    /// before.
    pub fn label(&self, vm: VmId, id: Uuid, label: &Label) -> Result<bool> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if !label.pins.is_empty() && begun::all(&transaction)?.iter().any(|begun| begun.ends().contains(&id))
        {
            return Ok(false);
        }
        write(&transaction, vm, id, label)?;
        transaction.commit()?;
        Ok(true)
    }

    /// What is attached to this VM's snapshots.
    pub fn labels(&self, vm: VmId) -> Result<BTreeMap<Uuid, Label>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT id, tags, expires_usec, revision FROM label WHERE vm = ?1")?;
        let mut all = BTreeMap::new();
        let mut rows = statement.query(params![vm.to_string()])?;
        while let Some(row) = rows.next()? {
            let (id, words): (String, String) = (row.get(0)?, row.get(1)?);
            let Ok(id) = id.parse::<Uuid>() else { continue };
            let tags = tags(words.split(' ').filter(|word| !word.is_empty())).unwrap_or_default();
            let label = Label { tags, expires: time(row.get(2)?), pins: Vec::new(), revision: row.get(3)? };
            all.insert(id, label);
        }
        let mut statement = connection.prepare_cached(
            "SELECT pin.id, owner, reason, pin.expires_usec FROM pin JOIN label ON label.id = pin.id
             WHERE label.vm = ?1 ORDER BY pin.id, owner",
        )?;
        let mut rows = statement.query(params![vm.to_string()])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, String>(0)?.parse::<Uuid>();
            if let Some(label) = id.ok().and_then(|id| all.get_mut(&id)) {
                label.pins.push(pin(row, 1)?);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{inventory::Quality, machine::Entry, model::SnapshotName, taking::TakingPlan},
        store::{Begun, Intent, MIGRATIONS, StoreError},
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn label(revision: u32) -> Label {
        let pin = |owner: &str, expires| Pin { owner: owner.into(), reason: "why\nnot".into(), expires };
        let pins = vec![pin("alice", Some(at(9))), pin("bob", None)];
        Label { tags: tags(["prod", "a:b"]).unwrap(), expires: Some(at(7)), pins, revision }
    }

    const VM: VmId = VmId(Uuid::from_u128(1));
    const A: Uuid = Uuid::from_u128(10);
    const B: Uuid = Uuid::from_u128(11);

    fn intent(id: Uuid, what: Begun) -> Intent {
        Intent::new(id, VM, SnapshotName::existing("s"), what)
    }

    #[test]
    fn it_is_there_after_a_restart_and_goes_with_the_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let before = MIGRATIONS.iter().position(|step| step.contains("TABLE label")).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        for step in &MIGRATIONS[..before] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", u32::try_from(before).unwrap()).unwrap();
        drop(connection);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.labels(VM).unwrap(), BTreeMap::new(), "of an older version");
        assert!(store.label(VM, A, &label(1)).unwrap());
        store.remember(&[Entry::Label(VM, B, label(1)), Entry::Label(VM, B, Label::default())]).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.labels(VM).unwrap(), [(A, label(1)), (B, Label::default())].into());
        assert_eq!(store.labels(VmId(B)).unwrap(), BTreeMap::new());
        store.gone(A).unwrap();
        assert_eq!(store.labels(VM).unwrap().into_keys().collect::<Vec<_>>(), [B]);
        assert_eq!(held_by(&store.lock(), A).unwrap(), None);
    }

    #[test]
    fn of_a_pin_and_a_deletion_the_first_one_counts() {
        let store = Store::in_memory().unwrap();
        store.label(VM, A, &label(1)).unwrap();
        for what in [Begun::Delete, Begun::Drop] {
            let pinned = store.begin(&intent(A, what.clone()), at(1)).unwrap_err();
            let StoreError::Pinned(by) = &pinned else { panic!("{pinned}") };
            assert!(by.contains("alice until") && by.contains("bob"), "{by}");
            store.begin(&intent(B, what), at(1)).unwrap();
            assert!(!store.label(VM, B, &label(1)).unwrap());
            assert!(store.label(VM, B, &Label { pins: vec![], ..label(2) }).unwrap(), "tags harm nobody");
            store.abandoned(B).unwrap();
        }
        assert!(store.label(VM, B, &label(3)).unwrap());
        store.label(VM, A, &Label::default()).unwrap();
        store.begin(&intent(A, Begun::Delete), at(1)).unwrap();
    }

    #[test]
    fn what_a_new_one_is_to_have_it_has_when_it_is_there() {
        let store = Store::in_memory().unwrap();
        let plan = TakingPlan { label: label(0), ..TakingPlan::default() };
        store.begin(&intent(A, Begun::Create(Box::new(plan))), at(1)).unwrap();
        assert_eq!(store.labels(VM).unwrap(), BTreeMap::new());
        // As another life of the daemon finds it.
        let begun = store.intents().unwrap().remove(0);
        store.created(&begun, &Quality::unknown(false)).unwrap();
        assert_eq!(store.labels(VM).unwrap(), [(A, label(0))].into());
        let other = intent(B, Begun::Create(Box::default()));
        store.begin(&other, at(1)).unwrap();
        store.created(&other, &Quality::unknown(false)).unwrap();
        assert_eq!(store.labels(VM).unwrap().len(), 1);
    }
}
