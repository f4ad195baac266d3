//! What people attach to snapshots: checked here, stored before they are told, shown at once.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Effect, Machine, Note, Refusal, Reply, RequestId};
use crate::core::{
    inventory::VmRecord,
    job::Operation,
    label::{Expiry, LONGEST_REASON, Label, LabelError, Pin, Tag, check_description, check_expiry},
    model::{SnapshotName, SnapshotState, VmId},
    text::for_shell,
};

/// What changes of what is attached to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Its owner holds it from now on, or for another reason than before.
    Pin(Pin),
    /// These do so no more.
    Unpin(Whose),
    /// Other tags, another time after which it may go; `None`: as before.
    Set {
        /// All its tags.
        tags: Option<BTreeSet<Tag>>,
        /// When it is over, if ever.
        expires: Option<Expiry>,
    },
}

/// Whose pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// This owner's.
    Owner(String),
    /// All there are.
    All,
}

/// A snapshot, and what is attached to it from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The VM.
    pub vm: VmId,
    /// The snapshot.
    pub name: SnapshotName,
    /// Its own identity.
    pub id: Uuid,
    /// All that is attached to it.
    pub label: Label,
    /// What of it changed, for the journal.
    text: String,
    by_uid: u32,
}

impl Machine {
    /// What is to be stored, if it may be.
    pub(super) fn label(
        &self,
        vm: VmId,
        name: &SnapshotName,
        edit: Edit,
        by_uid: u32,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        let (id, mut label) = self.ours(vm, name, "pinned, tagged or given an expiry")?;
        let its = &self.known(vm)?.name;
        let text = match edit {
            Edit::Pin(pin) => {
                let length = pin.reason.len();
                attachable(if length > LONGEST_REASON {
                    Err(LabelError::LongReason(length))
                } else {
                    Ok(())
                })?;
                attachable(check_expiry(pin.expires, now))?;
                self.can_stay(vm, name)?;
                let text = format!("is pinned by {pin}");
                label.pin(pin);
                text
            }
            Edit::Unpin(whose) => {
                let held_by = label.held_by();
                let before = label.pins.len();
                match &whose {
                    Whose::Owner(owner) => label.pins.retain(|pin| pin.owner != *owner),
                    Whose::All => label.pins.clear(),
                }
                if label.pins.len() == before {
                    let who = match (&whose, held_by) {
                        (Whose::Owner(owner), Some(by)) => format!(
                            "is not pinned by {owner}, but by {by}: root may take that pin off (`virtsnap unpin --owner`)"
                        ),
                        _ => "is not pinned".to_owned(),
                    };
                    return Err(Refusal::new("NotPinned", format!("snapshot {name} of VM {its} {who}")));
                }
                let left = label.held_by().map(|by| format!("; still by {by}")).unwrap_or_default();
                match whose {
                    Whose::Owner(owner) => format!("is not pinned by {owner} any more{left}"),
                    Whose::All => "is not pinned any more".to_owned(),
                }
            }
            Edit::Set { tags, expires } => {
                let mut text = Vec::new();
                if let Some(tags) = tags {
                    let words: Vec<&str> = tags.iter().map(Tag::as_str).collect();
                    text.push(if words.is_empty() {
                        "has no tags".into()
                    } else {
                        format!("has the tags {}", words.join(", "))
                    });
                    label.tags = tags;
                }
                if let Some(expires) = expires.map(Expiry::at) {
                    attachable(check_expiry(expires, now))?;
                    text.push(expires.map_or("does not expire".into(), |at| format!("expires at {at:.0}")));
                    label.expires = expires;
                }
                text.join(" and ")
            }
        };
        label.revision = label.revision.wrapping_add(1);
        Ok(Reply::Stored(Box::new(Labelled { vm, name: name.clone(), id, label, text, by_uid })))
    }

    /// It is stored, or not.
    pub(super) fn on_labelled(
        &mut self,
        request: RequestId,
        labelled: Labelled,
        stored: Result<bool, String>,
        out: &mut Vec<Effect>,
    ) {
        let Labelled { vm, name, id, label, text, by_uid } = labelled;
        let vm_name = self.name_of(vm);
        let answer = match stored {
            Ok(true) => {
                self.attach(vm, &name, id, label);
                out.push(Effect::Log(Note::Labelled { vm, vm_name, name, text, by_uid: Some(by_uid) }));
                Ok(Reply::Done)
            }
            Ok(false) => Err(going(&vm_name, &name)),
            Err(why) => {
                let text = format!(
                    "snapshot {name} of VM {vm_name} stays as it was, as that cannot be stored: {why}"
                );
                Err(Refusal::new("Failed", text))
            }
        };
        out.push(Effect::Reply(request, answer));
    }

    /// Another text for one of ours: libvirt keeps it, so a job writes it.
    pub(super) fn describe(
        &mut self,
        vm: VmId,
        name: SnapshotName,
        description: String,
        uid: u32,
        now: Timestamp,
    ) -> Result<Reply, Refusal> {
        attachable(check_description(&description))?;
        self.ours(vm, &name, "described anew")?;
        self.queue(vm, Operation::Describe { name, description }, uid, now)
    }

    /// Shows what is attached to a snapshot, if it still is the same one.
    pub(super) fn attach(&mut self, vm: VmId, name: &SnapshotName, id: Uuid, label: Label) {
        let Some(record) = self.vms.get_mut(&vm) else { return };
        if let Some(snapshot) = Arc::make_mut(record).snapshots.get_mut(name).filter(|s| s.id == Some(id)) {
            snapshot.set_label(label);
            self.stale.insert(vm);
        }
    }

    /// Nobody pinned it, so it may be deleted.
    pub(super) fn unpinned(&self, vm: VmId, name: &SnapshotName) -> Result<(), Refusal> {
        let Some(by) = self.snapshot(vm, name)?.label.held_by() else { return Ok(()) };
        Err(pinned(&self.known(vm)?.name, name, &by))
    }

    fn ours(&self, vm: VmId, name: &SnapshotName, what: &str) -> Result<(Uuid, Label), Refusal> {
        let found = self.snapshot(vm, name)?;
        let its = &self.known(vm)?.name;
        found.id.map(|id| (id, found.label.clone())).ok_or_else(|| {
            let text = format!(
                "snapshot {name} of VM {its} was not made by virtsnap, so it cannot be {what}, and is never pruned; to make it \
                 one of virtsnap's: `virtsnap adopt {} {}`",
                for_shell(its),
                for_shell(name.as_str())
            );
            Refusal::new("NotManaged", text)
        })
    }

    /// What is on its way out cannot be held.
    fn can_stay(&self, vm: VmId, name: &SnapshotName) -> Result<(), Refusal> {
        let its = &self.known(vm)?.name;
        if self.jobs.deleting(vm).contains(name) {
            return Err(going(its, name));
        }
        match self.snapshot(vm, name)?.snapshot.state {
            SnapshotState::Ready | SnapshotState::Reverting => Ok(()),
            state => Err(Refusal::new(
                "Unsupported",
                format!(
                    "snapshot {name} of VM {its} is {state}, so there is nothing to hold: it is no restore point"
                ),
            )),
        }
    }
}

/// Of two readings of a snapshot's label the newer one counts: the reader may have begun before the last change.
pub(super) fn keep(old: &VmRecord, new: &mut VmRecord) {
    for (name, snapshot) in &mut new.snapshots {
        let known = old.snapshots.get(name).filter(|known| known.id == snapshot.id);
        if let Some(known) = known.filter(|known| known.label.revision > snapshot.label.revision) {
            snapshot.set_label(known.label.clone());
        }
    }
}

/// What is wrong with it is wrong with the request.
pub(super) fn attachable(checked: Result<(), LabelError>) -> Result<(), Refusal> {
    checked.map_err(|e| Refusal::new("InvalidArgument", e.to_string()))
}

fn pinned(vm: &str, name: &SnapshotName, by: &str) -> Refusal {
    let text = format!(
        "snapshot {name} of VM {vm} was not deleted, as it is pinned by {by}. Nothing was touched; once nobody needs it: \
         `virtsnap unpin {} {}` (root may take off everybody's pins, with --all)",
        for_shell(vm),
        for_shell(name.as_str())
    );
    Refusal::new("Pinned", text)
}

fn going(vm: &str, name: &SnapshotName) -> Refusal {
    let text =
        format!("snapshot {name} of VM {vm} is being deleted already, so it cannot be pinned any more");
    Refusal::new("Busy", text)
}
