//! What was begun: an operation is written down before its first step, and taken off when its end is certain.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{Result, Store, StoreError, labels, laid};
use crate::core::{
    branch::BranchPlan,
    inventory::Quality,
    label::Label,
    merge::Recipe,
    model::{SnapshotName, VmId},
    policy::Quiesce,
    revert::RevertPlan,
    taking::TakingPlan,
};
use crate::logging::message;

/// What is being done, with all that its end must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// A snapshot is taken.
    Create(Box<TakingPlan>),
    /// One is deleted by the hypervisor's own means.
    Delete,
    /// A run of snapshots is merged away.
    Merge(Recipe),
    /// The end of a branch that the VM left is deleted; `overlays` are the images that go with it.
    Drop,
    /// A VM is put back to a snapshot.
    Revert(Box<RevertPlan>),
    /// A VM is made on a snapshot.
    Branch(Box<BranchPlan>),
}

impl Begun {
    /// Its word in the database, and its detail.
    fn written(&self) -> Result<(&'static str, String)> {
        let detail = match self {
            Self::Create(plan) => json(plan)?,
            Self::Delete | Self::Drop => String::new(),
            Self::Merge(recipe) => json(recipe)?,
            Self::Revert(plan) => json(plan)?,
            Self::Branch(plan) => json(plan)?,
        };
        Ok((self.word(), detail))
    }

    /// What it is, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Delete => "delete",
            Self::Drop => "drop",
            Self::Merge(_) => "merge",
            Self::Revert(_) => "revert",
            Self::Branch(_) => "branch",
        }
    }

    pub(super) fn read(kind: &str, detail: &str) -> Option<Self> {
        match kind {
            // Of an older version: it made overlays, and nothing else is known.
            "create" if detail.is_empty() => Some(Self::Create(Box::default())),
            "create" => parsed(detail).map(|plan| Self::Create(Box::new(plan))),
            "delete" => Some(Self::Delete),
            "drop" => Some(Self::Drop),
            "merge" => parsed(detail).map(Self::Merge),
            "revert" => parsed(detail).map(|plan| Self::Revert(Box::new(plan))),
            "branch" => parsed(detail).map(|plan| Self::Branch(Box::new(plan))),
            _ => None,
        }
    }
}

pub(super) fn json(detail: &impl Serialize) -> Result<String> {
    serde_json::to_string(detail).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)).into())
}

fn parsed<T: DeserializeOwned>(detail: &str) -> Option<T> {
    serde_json::from_str(detail)
        .inspect_err(|e| {
            tracing::error!(
                MESSAGE_ID = message::STORE_FAILED, error = %e, "cannot read what was begun: {detail}"
            );
        })
        .ok()
}

/// Something that was about to be done and whose end is not written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The identity of the snapshot that it is about; of a merge, that of the oldest of its run; of a revert and a
    /// branch its own.
    pub id: Uuid,
    /// Its VM.
    pub vm: VmId,
    /// The snapshot's name.
    pub name: SnapshotName,
    /// What it is.
    pub what: Begun,
    /// The overlays that it makes.
    pub overlays: Vec<String>,
    /// The last step that was completed; empty before the first.
    pub phase: String,
}

impl Intent {
    /// The phase of a snapshot that was taken and is not what the hypervisor says of it.
    pub const WRONG: &'static str = "wrong";
    /// The phase of a snapshot, or a merge, of which QEMU has done its part and libvirt does not know.
    pub const ADRIFT: &'static str = "adrift";
    /// The phase of a merge whose VM is off by libvirt's word, and of which nobody knows how far QEMU came.
    pub const LOST: &'static str = "lost";

    /// The phase of a removal of which only images are left that a snapshot names, or lies on. They go when that does.
    pub const NAMED: &'static str = "named";

    /// The phase of a merge of which a disk is about to leave the image that it is written to; its target follows.
    const PIVOTING: &'static str = "pivoting ";

    /// The phase of a merge of which this disk is about to leave the image that it is written to.
    pub fn pivoting(target: &str) -> String {
        format!("{}{target}", Self::PIVOTING)
    }

    /// One of which nothing is done yet, and which makes no overlays.
    pub fn new(id: Uuid, vm: VmId, name: SnapshotName, what: Begun) -> Self {
        Self { id, vm, name, what, overlays: Vec::new(), phase: String::new() }
    }

    /// The snapshots of ours that are no more when it has ended.
    pub(super) fn ends(&self) -> Vec<Uuid> {
        match &self.what {
            Begun::Delete | Begun::Drop => vec![self.id],
            Begun::Merge(recipe) => recipe.run.iter().filter_map(|doomed| doomed.id).collect(),
            Begun::Create(_) | Begun::Revert(_) | Begun::Branch(_) => Vec::new(),
        }
    }

    /// Whether QEMU has done its part of it, or may have, and libvirt does not know.
    pub fn is_adrift(&self) -> bool {
        [Self::ADRIFT, Self::LOST].contains(&self.phase.as_str())
    }

    /// Whether nobody knows if QEMU has left the image that a disk was written to.
    pub fn is_unsure(&self) -> bool {
        self.phase == Self::LOST || self.phase.starts_with(Self::PIVOTING)
    }

    /// Whether all that is left of it are images to be removed once no snapshot needs them any more. Nothing is done
    /// until then, and nothing is in its way.
    pub fn is_named(&self) -> bool {
        self.what == Begun::Drop && self.phase == Self::NAMED
    }

    /// Whether it is about a snapshot that was found wrong. It is over, and a person's to look at: nobody ends it, and
    /// it stays for as long as the snapshot does.
    pub fn is_wrong(&self) -> bool {
        matches!(self.what, Begun::Create(_)) && self.phase == Self::WRONG
    }
}

fn insert(connection: &Connection, intent: &Intent, at: Timestamp) -> Result<()> {
    let (kind, detail) = intent.what.written()?;
    // A path may hold anything but a NUL byte.
    let overlays = intent.overlays.join("\0");
    connection.execute(
        "INSERT OR REPLACE INTO intent (id, vm, name, kind, at_usec, overlays, detail, phase)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            intent.id.to_string(),
            intent.vm.to_string(),
            intent.name.as_str(),
            kind,
            at.as_microsecond(),
            overlays,
            detail,
            intent.phase,
        ],
    )?;
    laid::laid(connection, intent)
}

/// Intents, and what is known of their snapshots.
fn delete(connection: &Connection, ids: impl IntoIterator<Item = Uuid>) -> Result<()> {
    for id in ids {
        connection.execute("DELETE FROM quality WHERE id = ?1", params![id.to_string()])?;
        connection.execute("DELETE FROM intent WHERE id = ?1", params![id.to_string()])?;
        labels::delete(connection, id)?;
    }
    Ok(())
}

/// What was begun and not ended, in the order in which it was begun.
pub(super) fn all(connection: &Connection) -> Result<Vec<Intent>> {
    let mut statement = connection
        .prepare("SELECT id, vm, name, kind, overlays, detail, phase FROM intent ORDER BY at_usec, id")?;
    let rows = statement.query_map([], |row| {
        let mut texts = [const { String::new() }; 7];
        for (i, text) in texts.iter_mut().enumerate() {
            *text = row.get(i)?;
        }
        Ok(texts)
    })?;
    let mut all = Vec::new();
    for row in rows {
        let [id, vm, name, kind, overlays, detail, phase] = row?;
        let (Ok(id), Ok(vm), Some(what)) = (id.parse(), vm.parse(), Begun::read(&kind, &detail)) else {
            continue;
        };
        let overlays = overlays.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        all.push(Intent { id, vm, name: SnapshotName::existing(name), what, overlays, phase });
    }
    Ok(all)
}

impl Store {
    /// Before an operation's first step. What is pinned nothing is begun of that ends it.
    pub fn begin(&self, intent: &Intent, at: Timestamp) -> Result<()> {
        let begun = self.written(intent, at);
        self.noted(begun)
    }

    fn written(&self, intent: &Intent, at: Timestamp) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for id in intent.ends() {
            if let Some(by) = labels::held_by(&transaction, id)? {
                return Err(StoreError::Pinned(by));
            }
        }
        insert(&transaction, intent, at)?;
        transaction.commit()?;
        Ok(())
    }

    /// After the step that decides what was begun: nothing is left of the operations with these identities and of their
    /// snapshots but `next`. It is all or nothing: on an error what was written before still holds.
    pub fn becomes(&self, ended: impl IntoIterator<Item = Uuid>, next: &Intent, at: Timestamp) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        delete(&transaction, ended)?;
        insert(&transaction, next, at)?;
        transaction.commit()?;
        Ok(())
    }

    /// After a step of it: what follows needs not do that one again.
    pub fn reached(&self, id: Uuid, phase: &str) -> Result<()> {
        self.write("UPDATE intent SET phase = ?2 WHERE id = ?1", params![id.to_string(), phase])
    }

    /// After an operation's last step: the snapshot is there, and this is how well it was taken.
    pub fn created(&self, intent: &Intent, quality: &Quality) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT OR REPLACE INTO quality (id, vm, name, reached, requested, note, frozen_usec, memory)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                intent.id.to_string(),
                intent.vm.to_string(),
                intent.name.as_str(),
                quality.reached.as_str(),
                quality.requested.map_or("", Quiesce::as_str),
                quality.note,
                i64::try_from(quality.frozen.as_micros()).unwrap_or(i64::MAX),
                quality.memory,
            ],
        )?;
        if let Begun::Create(plan) = &intent.what
            && plan.label != Label::default()
        {
            labels::write(&transaction, intent.vm, intent.id, &plan.label)?;
        }
        transaction.execute("DELETE FROM intent WHERE id = ?1", params![intent.id.to_string()])?;
        transaction.commit()?;
        Ok(())
    }

    /// After an operation's last step: nothing of the snapshot is left.
    pub fn gone(&self, id: Uuid) -> Result<()> {
        self.all_gone([id])
    }

    /// After an operation's last step: nothing of these snapshots is left.
    pub fn all_gone(&self, ids: impl IntoIterator<Item = Uuid>) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        delete(&transaction, ids)?;
        transaction.commit()?;
        Ok(())
    }

    /// The operation was given up; what was known of the snapshot before stays.
    pub fn abandoned(&self, id: Uuid) -> Result<()> {
        self.write("DELETE FROM intent WHERE id = ?1", params![id.to_string()])
    }

    /// What was begun and not ended, in the order in which it was begun.
    pub fn intents(&self) -> Result<Vec<Intent>> {
        all(&self.lock())
    }

    /// What was begun on this VM by another version of this program, and cannot be read by this one: the word for it.
    pub fn not_understood(&self, vm: VmId) -> Result<Option<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT kind, detail FROM intent WHERE vm = ?1")?;
        let rows = statement.query_map(params![vm.to_string()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        for row in rows {
            let (kind, detail) = row?;
            if Begun::read(&kind, &detail).is_none() {
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    /// The VMs on which something is made or removed: what is seen of their files may be half of it.
    pub fn at_work(&self) -> Result<BTreeSet<VmId>> {
        let begun = self.intents()?.into_iter().filter(|i| !i.is_named()).map(|i| i.vm);
        Ok(begun.chain(self.redefined()?).collect())
    }

    /// The images that are to be removed once no snapshot names them any more: nobody else's, and not lost.
    pub fn named(&self) -> Result<BTreeSet<String>> {
        Ok(self.intents()?.into_iter().filter(Intent::is_named).flat_map(|i| i.overlays).collect())
    }

    /// Whether something was begun on this VM that leaves its images and its metadata apart until it is ended.
    pub fn unfinished(&self, vm: VmId) -> Result<bool> {
        // Images that still wait for their removal are in nobody's chain, a branch's are another VM's, and what is wrong
        // is to be told.
        let apart =
            |intent: &Intent| !matches!(intent.what, Begun::Drop | Begun::Branch(_)) && !intent.is_wrong();
        let apart = self.intents()?.iter().any(|intent| intent.vm == vm && apart(intent));
        // One whose metadata is being changed may be off libvirt's list.
        Ok(apart || self.redefined()?.contains(&vm))
    }

    /// What left this VM's QEMU on images that libvirt does not know of, if something has.
    pub fn adrift(&self, vm: VmId) -> Result<Option<Intent>> {
        Ok(self.intents()?.into_iter().find(|i| i.vm == vm && i.is_adrift()))
    }

    /// The snapshots of this VM that were found wrong when they were taken.
    pub fn wrong(&self, vm: VmId) -> Result<BTreeSet<Uuid>> {
        Ok(self.intents()?.into_iter().filter(|i| i.vm == vm && i.is_wrong()).map(|i| i.id).collect())
    }

    /// The snapshots of this VM that are being taken.
    pub fn creating(&self, vm: VmId) -> Result<BTreeSet<Uuid>> {
        let taken =
            |i: &Intent| i.vm == vm && matches!(i.what, Begun::Create(_)) && !i.is_wrong() && !i.is_adrift();
        Ok(self.intents()?.into_iter().filter(taken).map(|i| i.id).collect())
    }
}
