//! One snapshot's metadata changed, and put back where libvirt lost it on the way.
//!
//! | step | if it fails, or the daemon or libvirtd dies after it |
//! |---|---|
//! | what is changed is written down, with how it is and what is around it | nothing was touched |
//! | it is changed | it is on libvirt's list: it is as it was, or as it should be. It is not, and nobody deleted it: it is put back as it was |
//! | it is taken off the list | it is changed |
//!
//! To forget one changes others: its parent, and the one that is current then. These are written down, too.

use super::Tools;
use crate::{
    core::{
        model::{SnapshotName, VmId},
        redefining::Redefining,
    },
    hypervisor::{self, Error, ErrorKind, Redefine, Result, SnapshotRecord, SnapshotXml, Vm},
    logging::message,
    store::{Redefined, StoreError},
};

/// Does it. `records`: the VM's snapshots as they are.
pub(super) fn redefine(tools: &Tools, vm: &Vm, records: &[SnapshotRecord], change: &Redefine) -> Result<()> {
    let (hypervisor, name) = (&tools.hypervisor, &change.name);
    let facts = hypervisor::facts(vm, records, hypervisor.features()?, false);
    let begun = begin(tools, vm.id, name, Redefining::of(name, &facts))?;
    if let Err(e) = hypervisor.redefine(vm.id, change) {
        // Without a connection the next one shows what became of it.
        let lost = e.kind == ErrorKind::Disconnected;
        let settled = if lost { Ok(()) } else { one(tools, vm.id, &begun) };
        return Err(e.and_rollback(&settled, "putting it back"));
    }
    tools.store.drop_copy(vm.id, name).map_err(|e| stored(&e))
}

/// Takes a snapshot's metadata away, and keeps the others.
pub(super) fn forget(tools: &Tools, id: VmId, name: &SnapshotName) -> Result<()> {
    let hypervisor = tools.hypervisor.as_ref();
    let (vm, records) = (hypervisor.vm(id)?, hypervisor.snapshots(id)?);
    let facts = hypervisor::facts(&vm, &records, hypervisor.features()?, false);
    let mut begun = Vec::new();
    for (beside, around) in Redefining::beside(name, &facts) {
        begun.push(begin(tools, id, &beside, around)?);
    }
    let forgotten = hypervisor.forget(id, name);
    if matches!(&forgotten, Err(e) if e.kind == ErrorKind::Disconnected) {
        return forgotten;
    }
    let settled = begun.iter().try_for_each(|begun| one(tools, id, begun));
    match forgotten {
        Ok(()) => settled,
        Err(e) => Err(e.and_rollback(&settled, "putting back what is beside it")),
    }
}

/// Writes down what is about to be changed.
fn begin(tools: &Tools, vm: VmId, name: &SnapshotName, around: Redefining) -> Result<Redefined> {
    // Under the parent that it has then: none can be put back under one that is gone.
    let xml = tools.hypervisor.copy_under(vm, name, around.parent())?.as_str().to_owned();
    tools.store.redefines(vm, (name, &xml), &around, tools.clock.now()).map_err(|e| stored(&e))?;
    Ok(Redefined { name: name.clone(), xml, around: Ok(around) })
}

/// Puts back what libvirt lost of a VM's snapshots while their metadata was changed; for who holds the VM.
pub(crate) fn settle(tools: &Tools, vm: VmId) -> Result<()> {
    let begun = tools.store.redefining(vm).map_err(|e| stored(&e))?;
    begun.iter().try_for_each(|begun| one(tools, vm, begun))
}

fn one(tools: &Tools, id: VmId, begun: &Redefined) -> Result<()> {
    let name = &begun.name;
    let called = match tools.hypervisor.vm(id) {
        Err(e) if e.kind == ErrorKind::NoSuchVm => {
            return tools.store.drop_copy(id, name).map_err(|e| stored(&e));
        }
        Ok(vm) => settle_on(tools, &vm, begun).map_err(|e| (vm.name, e)),
        Err(e) => Err((id.to_string(), e)),
    };
    called.map_err(|(vm, e)| {
        e.context(format_args!(
            "the metadata of snapshot {name} of VM {vm} was being changed, and whether libvirt lost it is not settled yet. \
             Its images are untouched. It is tried again every few minutes and before each job of the VM, and ends by itself \
             when what is in the way is gone"
        ))
    })
}

fn settle_on(tools: &Tools, vm: &Vm, begun: &Redefined) -> Result<()> {
    let (hypervisor, id, name) = (tools.hypervisor.as_ref(), vm.id, &begun.name);
    let over = || tools.store.drop_copy(id, name).map_err(|e| stored(&e));
    let records = hypervisor.snapshots(id)?;
    if records.iter().any(|r| r.name == *name) {
        let facts = hypervisor::facts(vm, &records, hypervisor.features()?, true);
        if begun.around.as_ref().is_ok_and(|around| around.is_left_wrong(name, &facts)) {
            let copy = SnapshotXml::new(begun.xml.clone());
            let put_back = hypervisor.put_back(id, &copy, false);
            put_back.map_err(|e| {
                e.context("it names overlays that are not its own, and it cannot be put right yet")
            })?;
            tracing::warn!(
                MESSAGE_ID = message::METADATA_REPAIRED,
                VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id, VIRTSNAP_SNAPSHOT = %name,
                "snapshot {name} of VM {} named overlays that are not its own, as libvirt had forgotten a child of it: it \
                 is as it was before that", vm.name
            );
        }
        return over();
    }
    let facts = hypervisor::facts(vm, &records, hypervisor.features()?, true);
    let around = begun.around.as_ref().map_err(|why| {
        Error::new(
            ErrorKind::Failed,
            format!(
                "libvirt does not list it, and whether somebody deleted it cannot be told, as what there was around it cannot \
                 be read ({why}). If another version of virtsnapd wrote that, that one, started once, ends this; so does \
                 whoever defines the snapshot again (`virsh snapshot-create --redefine`)"
            ),
        )
    })?;
    let lost = match around.lost(&facts) {
        Ok(back) => gone(tools, vm, name, around)?.map_or(Ok(back), Err),
        Err(why) => Err(why),
    };
    match lost {
        Ok(back) => {
            let copy = SnapshotXml::new(begun.xml.clone());
            let put_back = hypervisor.put_back(id, &copy, back.current);
            put_back.map_err(|e| e.context("libvirt lost it, and it cannot be put back yet"))?;
            tracing::warn!(
                MESSAGE_ID = message::METADATA_REPAIRED,
                VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id, VIRTSNAP_SNAPSHOT = %name,
                "libvirt lost the metadata of snapshot {name} of VM {} while it was being changed: it is put back as it was \
                 before that", vm.name
            );
        }
        Err(why) => tracing::warn!(
            MESSAGE_ID = message::INTERRUPTED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %id, VIRTSNAP_SNAPSHOT = %name,
            "the metadata of snapshot {name} of VM {} was being changed when that was interrupted, and somebody has deleted \
             the snapshot since, as {why}: it is not put back", vm.name
        ),
    }
    over()
}

/// By what files it is seen that somebody deleted it.
fn gone(tools: &Tools, vm: &Vm, name: &SnapshotName, around: &Redefining) -> Result<Option<String>> {
    let hypervisor = tools.hypervisor.as_ref();
    for path in around.images() {
        let there = hypervisor.images_beside(path)?;
        // Where there is nothing at all, storage may only not be mounted yet; what is put back touches no image.
        if !there.is_empty() && there.iter().all(|image| image.path != *path) {
            return Ok(Some(format!("{path} is not there any more")));
        }
    }
    if !around.is_internal() {
        return Ok(None);
    }
    for layer in vm.disks.iter().flat_map(|d| &d.chain) {
        // Where nobody can look into it, nobody saw that it went.
        match hypervisor.snapshots_inside(&layer.path) {
            Ok(inner) if inner.iter().all(|i| i.name != name.as_str()) => {}
            _ => return Ok(None),
        }
    }
    Ok(Some("none of the VM's images holds it any more".to_owned()))
}

fn stored(e: &StoreError) -> Error {
    Error::new(ErrorKind::Failed, e.to_string())
}
