//! Changing: taking and deleting snapshots, with the checks that keep libvirt from losing data.

use std::collections::BTreeSet;

use virt::{connect::Connect, domain::Domain, enumutil::Enum, error::ErrorNumber};

use super::{Connections, domain, errors, images, inside, inspect, redefine, saving, storage, wake, xml};
use crate::{
    core::{
        chain,
        model::{SnapshotName, Storage, VmId, VmState},
    },
    hypervisor::{
        Copied, CreateSpec, Error, ErrorKind, Layer, Overlay, Result, SnapshotRecord, Vm, line_to_current,
        told,
    },
    logging::message,
};

pub(super) fn create(
    connections: &Connections,
    id: VmId,
    spec: &CreateSpec,
    told: &mut dyn FnMut(Copied),
) -> Result<()> {
    let domain = domain(&connections.work, id)?;
    let definition = xml::domain(&domain.xml_desc(0)?)?;
    // Looked at once more at the last moment: what somebody else put on top since the overlays were made would be
    // cut out of the chain, and its data lost at the VM's next start.
    check_backing(&definition, &spec.overlays)?;
    let targets: Vec<String> = definition.disks.into_iter().map(|d| d.disk.target).collect();
    let how = match &spec.memory {
        None => virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
        // The reuse of what is there holds for this file as well: libvirt would write over it.
        Some(path) if storage::known(&connections.work, path)?.is_some() => {
            return Err(Error::new(ErrorKind::Exists, format!("there is a file at {path} already")));
        }
        Some(_) => virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_LIVE,
    };
    let flags =
        how | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | virt_sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
    let request = xml::snapshot_request(spec, &targets);
    let take = || domain.create_snapshot_xml(&request, flags).map(drop);
    let taken = match &spec.memory {
        None => take().map_err(Error::from),
        Some(_) => saving::watched(connections, id, told, take).map_err(errors::of_memory),
    };
    taken.map_err(left_behind)
}

/// A libvirtd that was killed while it took a snapshot leaves its QEMU with images that the next one does not know
/// (seen with 9.0.0): they are in the way of every other snapshot for as long as that QEMU runs.
fn left_behind(mut error: Error) -> Error {
    let signs = ["Duplicate nodes with node-name", "node is used as backing hd"];
    if signs.iter().any(|sign| error.message.contains(sign)) {
        error.message += ". libvirtd ended in the middle of an earlier snapshot, and the VM's QEMU has images that libvirt \
                          does not know of, to which it may be writing: save what matters from inside the guest, and \
                          only then shut the VM down and start it again";
    }
    error
}

/// Each overlay must lie on what its disk is written to now.
pub(super) fn check_backing(definition: &xml::DomainXml, overlays: &[Overlay]) -> Result<()> {
    for overlay in overlays {
        let disk = definition.disks.iter().map(|d| &d.disk).find(|d| d.target == overlay.target);
        match disk.and_then(|d| d.chain.first()) {
            Some(active) if active.path == overlay.backing.path => {}
            Some(active) => {
                return Err(mismatch(&format!(
                    "disk {} runs on {} now, not on {}: somebody else changed it meanwhile",
                    overlay.target, active.path, overlay.backing.path
                )));
            }
            None => return Err(mismatch(&format!("the VM has no disk {} any more", overlay.target))),
        }
    }
    Ok(())
}

pub(super) fn delete(connections: &Connections, id: VmId, name: &SnapshotName) -> Result<()> {
    let vm = inspect::vm(connections, id)?;
    let records = inspect::snapshots(connections, id)?;
    let work = domain(&connections.work, id)?;
    let record = records
        .iter()
        .find(|r| r.name == *name)
        .ok_or_else(|| Error::new(ErrorKind::NoSuchSnapshot, format!("there is no snapshot {name}")))?;
    check_vm(&vm, &work, record.storage)?;
    match record.storage {
        // Each one is for itself inside the image: no chain to agree with. QEMU reaches those alone that are in what
        // it writes to.
        Storage::Internal => {
            if let Some(target) = inside::elsewhere(&vm, record).filter(|_| vm.state != VmState::ShutOff) {
                let text = format!(
                    "disk {target} is no longer on the image that it is inside of: shut the VM down first. Nothing was \
                     touched"
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        Storage::External => {
            check_place(record, &records)?;
            check_chain(&vm, record, &records)?;
            check_branches(&connections.work, record, &records)?;
            check_users(&connections.work, id, record)?;
        }
    }
    let awake = match vm.state {
        VmState::ShutOff if record.storage == Storage::External => Some(Awake::start(&work)?),
        _ => None,
    };
    if awake.is_some() {
        // Once more on what QEMU has really opened.
        check_chain(&inspect::vm(connections, id)?, record, &records)?;
    }
    let deleted = Domain::lookup_snapshot_by_name(&work, name.as_str(), 0)
        .map_err(Error::from)
        .and_then(|snapshot| snapshot.delete(0).map_err(perhaps_begun));
    drop(awake);
    deleted?;
    storage::refresh_pools(&connections.work, record.disks.iter().map(|d| d.overlay.clone()));
    // Creating it took the overlays of a revert off its parent, and deleting it does not give them back.
    if let Err(e) = redefine::name_what_it_runs_on(connections, id) {
        tracing::error!(
            MESSAGE_ID = message::INTERRUPTED,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name, error = %e,
            "snapshot {name} is deleted, but the one before it does not name what the VM runs on"
        );
    }
    Ok(())
}

/// Whatever libvirt says of a merge that it did not carry out, by then one disk may be merged and another not: the
/// image under the snapshot is not what it was, though libvirt's chain and metadata are. Only the wait for the VM's
/// lock comes before all that.
fn perhaps_begun(e: virt::error::Error) -> Error {
    let waited = e.code() == Enum::Known(ErrorNumber::OperationTimeout);
    let mut error = Error::from(e);
    if error.kind.untouched() && !waited {
        error.kind = ErrorKind::Failed;
    }
    error
}

/// A stopped VM whose QEMU runs, with its CPUs stopped, for as long as this lives.
///
/// libvirt 9.0 cannot merge any but the newest snapshot of a stopped VM ("could not find base disk source in disk
/// source chain"), and both 9.0 and 11.3 leave its QEMU behind, paused, when libvirtd dies meanwhile. Started like
/// this it merges as a running one does; whoever calls this has written down that it is to be off again.
struct Awake<'a>(&'a Domain);

impl<'a> Awake<'a> {
    fn start(domain: &'a Domain) -> Result<Self> {
        wake::begin(domain)?;
        Ok(Self(domain))
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        // Whoever has let it go on has it.
        if let Err(e) = wake::end(self.0) {
            tracing::error!(
                MESSAGE_ID = message::LEFT_BEHIND, error = %e,
                "a stopped VM that was started, paused, for a merge cannot be stopped again"
            );
        }
    }
}

/// What forbids any change of this VM's chain.
fn check_vm(vm: &Vm, domain: &Domain, storage: Storage) -> Result<()> {
    if let Some(model) = vm.confined_by.as_ref().filter(|_| storage == Storage::External) {
        return Err(Error::new(
            // Ours, before anything is touched; `Denied` would be libvirt's, in the middle of it.
            ErrorKind::Unsupported,
            format!(
                "the VM is confined by {model}, whose profile denies writing to backing images: a merge would fail, \
                 or crash the running VM. Nothing was touched; the snapshot stays until the profile allows it"
            ),
        ));
    }
    if vm.managed_save {
        return Err(Error::managed_save());
    }
    if vm.state == VmState::PmSuspended {
        return Err(Error::new(ErrorKind::Unsupported, "the VM is suspended by its guest; wake it first"));
    }
    if let Ok(stats) = domain.job_info()
        && stats.r#type != 0
    {
        return Err(Error::new(ErrorKind::Busy, "another job runs on the VM"));
    }
    Ok(())
}

/// The snapshot must be on the one line from the first to the current one: elsewhere libvirt 9.0 looks for the
/// wrong images, and 11.3 unlinks live ones.
fn check_place(record: &SnapshotRecord, records: &[SnapshotRecord]) -> Result<()> {
    if let Some(other) = records.iter().find(|r| r.storage == Storage::Internal) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the VM also has the internal snapshot {}; external ones beside it cannot be merged safely",
                other.name
            ),
        ));
    }
    let children: Vec<_> = records.iter().filter(|r| r.parent.as_ref() == Some(&record.name)).collect();
    if children.len() > 1 {
        let names: Vec<_> = children.iter().map(|c| c.name.as_str()).collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} branches start at it ({}): delete all but one of them first",
                children.len(),
                names.join(", ")
            ),
        ));
    }
    if record.current && !children.is_empty() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the VM was reverted to it and has other snapshots after it: delete those first",
        ));
    }
    if !line_to_current(records)?.iter().any(|r| r.name == record.name) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "it is on a branch that the VM left when it was reverted; deleting such ones comes in a later version",
        ));
    }
    Ok(())
}

/// What the VM's disks are made of must be what the metadata says, from the top down to the first snapshot.
fn check_chain(vm: &Vm, record: &SnapshotRecord, records: &[SnapshotRecord]) -> Result<()> {
    let line = line_to_current(records)?;
    // Deleting the same one again is how a deletion is finished that did not end.
    let own = marked_by(record, &line);
    if let Some(r) = records.iter().find(|r| !r.delete_in_progress.is_empty() && !own.contains(&&r.name)) {
        return Err(mismatch(&format!("an earlier deletion at {} did not end", r.name)));
    }
    let targets: BTreeSet<&str> = line.iter().flat_map(|r| &r.disks).map(|d| d.target.as_str()).collect();
    for target in targets {
        let Some(disk) = vm.disks.iter().find(|d| d.target == target) else {
            return Err(mismatch(&format!("the VM has no disk {target} any more")));
        };
        let real: Vec<&str> = disk.chain.iter().map(|l| l.path.as_str()).collect();
        let links =
            chain::links(target, &real, &told(records, target)?).map_err(|m| mismatch(&m.to_string()))?;
        // libvirt 9 merges what the snapshot names, whatever is in the VM's chain.
        if let Some(link) =
            links.iter().find(|l| *l.part.snapshot == record.name && l.above != l.part.overlay)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "disk {target} of it was put on {} by a revert, and it still names {}, which a branch that the \
                     VM left lies on: delete that branch first",
                    link.above, link.part.overlay
                ),
            ));
        }
    }
    Ok(())
}

/// What libvirt marks while it deletes this one: for each disk the next older snapshot that has it, which need not
/// be the parent.
fn marked_by<'a>(record: &SnapshotRecord, line: &[&'a SnapshotRecord]) -> Vec<&'a SnapshotName> {
    let older = || line.iter().skip_while(|r| r.name != record.name).skip(1);
    let has = |r: &SnapshotRecord, target: &str| r.disks.iter().any(|d| d.target == target);
    record.disks.iter().filter_map(|d| older().find(|r| has(r, &d.target))).map(|r| &r.name).collect()
}

/// No branch that the VM left may stand on the image that the merge writes to: it would find newer data there. Where
/// snapshots cover only some of the disks, a branch can stand there without the tree saying so.
fn check_branches(connection: &Connect, record: &SnapshotRecord, records: &[SnapshotRecord]) -> Result<()> {
    let line = line_to_current(records)?;
    for other in records.iter().filter(|r| !line.iter().any(|l| l.name == r.name)) {
        for top in other.disks.iter().flat_map(|d| [&d.overlay, &d.state_image]) {
            let layer = Layer { path: top.clone(), format: "qcow2".into() };
            let chain = storage::chain(connection, layer);
            let has = |path: &str| chain.iter().any(|l| l.path == path);
            if let Some(disk) = record.disks.iter().find(|d| has(&d.state_image) && !has(&d.overlay)) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "snapshot {}, on a branch that the VM left, stands on {}, which a merge would change: \
                         delete that one first",
                        other.name, disk.state_image
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn check_users(connection: &Connect, id: VmId, record: &SnapshotRecord) -> Result<()> {
    let images: Vec<String> =
        record.disks.iter().flat_map(|d| [&d.state_image, &d.overlay]).cloned().collect();
    match images::users(connection, &images, id)?.first() {
        None => Ok(()),
        Some((image, user)) => Err(Error::new(
            ErrorKind::InUse,
            format!("{image} is also under {user}: a merge would destroy what that has"),
        )),
    }
}

fn mismatch(what: &str) -> Error {
    Error::new(ErrorKind::ChainMismatch, format!("{what}. Nothing was touched"))
}
