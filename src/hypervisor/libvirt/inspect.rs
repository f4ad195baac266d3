//! Looking: VMs, their disks with the whole backing chain, and their snapshots.

use std::{collections::BTreeMap, panic::resume_unwind, thread};

use virt::{
    domain::{Domain, DomainState},
    domain_snapshot::DomainSnapshot,
    enumutil::Enum,
    error::ErrorNumber,
};

use super::{
    Connections, domain, storage,
    xml::{self, DiskXml},
};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Result, SnapshotRecord, Tpm, Vm, WrittenOut, ffi, glimpse},
};

pub(super) fn vms(connections: &Connections) -> Result<Vec<VmId>> {
    let domains = connections.control.list_all_domains(0)?;
    Ok(domains.iter().filter_map(|d| d.uuid().ok()).map(VmId).collect())
}

pub(super) fn vm(connections: &Connections, id: VmId) -> Result<Vm> {
    let _bulk = ffi::Bulk::begin();
    vm_of(connections, id, &domain(&connections.control, id)?)
}

/// Both at a time: libvirt works at the one while the other is taken in here. No more than one of the questions under way
/// is about files, where libvirt may hang: it answers but so many of one connection.
pub(super) fn vm_and_snapshots(connections: &Connections, id: VmId) -> Result<(Vm, Vec<SnapshotRecord>)> {
    let _bulk = ffi::Bulk::begin();
    let domain = domain(&connections.control, id)?;
    let (vm, records) = at_once(|| vm_of(connections, id, &domain), || records_of(&domain));
    let vm = vm?;
    Ok((vm, sized(connections, records?)))
}

fn vm_of(connections: &Connections, id: VmId, domain: &Domain) -> Result<Vm> {
    // As it was when it was looked up, without another question.
    let active = domain.id().is_some();
    // Of a running VM the live XML, which is what its disks are now; so are its tags: one that was set for the next
    // start alone (`--config`) holds from then on.
    let text = domain.xml_desc(0)?;
    let read = xml::domain(&text)?;
    let persistent = domain.is_persistent()?;
    let differs = active && persistent;
    let inactive = differs.then(|| domain.xml_desc(virt_sys::VIR_DOMAIN_XML_INACTIVE)).transpose()?;
    let configured = inactive.as_deref().map(xml::domain).transpose()?;
    let (block_jobs, busy) = if active { occupied(domain, &read) } else { (false, false) };
    let next = configured.as_ref().unwrap_or(&read).disks.clone();
    let mut disks: Vec<_> = read.disks.into_iter().map(|d| d.disk).collect();
    for disk in disks.iter_mut().filter(|_| persistent) {
        let next = next.iter().find(|d| d.disk.target == disk.target);
        let written_out = |d: &DiskXml| {
            let images = d.disk.chain.iter().map(|layer| layer.path.clone()).collect();
            WrittenOut { images, ends: d.ends }
        };
        disk.written_out = next.filter(|d| d.ends || d.disk.chain.len() > 1).map(written_out);
        disk.configured = next.and_then(|d| d.disk.chain.first()).map(|layer| layer.path.clone());
    }
    if !active {
        // A stopped VM's definition names the top image only: the rest is read from the volumes.
        for disk in disks.iter_mut().filter(|d| d.writable && d.kind == "file") {
            if let Some(top) = disk.chain.first().cloned() {
                (disk.chain, disk.lost) = storage::chain_to_its_end(&connections.control, top);
            }
        }
    }
    let labelled = read.seclabels.iter().find(|(model, _)| model == "apparmor");
    let confined = match labelled {
        Some((_, confines)) => *confines,
        // A stopped VM gets its label when it starts.
        None => !active && connections.apparmor,
    };
    Ok(Vm {
        id,
        name: read.name,
        state: state(domain)?,
        persistent,
        managed_save: domain.has_managed_save(0)?,
        confined_by: (confined && !connections.features.confined_merge).then(|| "apparmor".to_owned()),
        tags: read.tags,
        agent: read.agent,
        disks,
        block_jobs,
        busy,
        nvram: read.nvram,
        // A session's are below a home that only its user's libvirt knows.
        tpm: read.tpm.map(|tpm| if connections.system { tpm } else { Tpm { state: None } }),
        ram: read.ram,
        xml_bytes: text.len() + inactive.map_or(0, |text| text.len()),
    })
}

/// Whether a block job runs on one of a running VM's disks, and whether anything else has the VM.
///
/// All VMs are read by one thread: it must not wait for one whose QEMU hangs. What cannot be told counts as a yes.
fn occupied(domain: &Domain, read: &xml::DomainXml) -> (bool, bool) {
    let doubt = |e: virt::error::Error| {
        // The test driver has no such things; and a VM that stopped meanwhile has none any more.
        let harmless = [ErrorNumber::NoSupport, ErrorNumber::OperationInvalid, ErrorNumber::NoDomain];
        !harmless.into_iter().any(|number| e.code() == Enum::Known(number))
    };
    let silent = ffi::answers(domain).map_or_else(doubt, |answers| !answers);
    if silent || domain.job_info().map_or_else(doubt, |job| job.r#type != 0) {
        return (read.mirrors, true);
    }
    // A copy, or a commit of the active layer, stands in the XML. Any other job needs a layer below.
    let layered = read.disks.iter().map(|d| &d.disk).filter(|d| d.writable && d.chain.len() > 1);
    let mut asked =
        layered.map(|d| ffi::block::job(domain, &d.target).map_or_else(doubt, |job| job.is_some()));
    (read.mirrors || asked.any(|runs| runs), false)
}

pub(super) fn state(domain: &Domain) -> Result<VmState> {
    Ok(match domain.state()?.0 {
        Enum::Known(DomainState::Running | DomainState::Blocked) => VmState::Running,
        Enum::Known(DomainState::Paused) => VmState::Paused,
        Enum::Known(DomainState::Shutoff) => VmState::ShutOff,
        Enum::Known(DomainState::Crashed) => VmState::Crashed,
        Enum::Known(DomainState::PMSuspended) => VmState::PmSuspended,
        _ => VmState::Other,
    })
}

pub(super) fn glance(connections: &Connections) -> Result<BTreeMap<VmId, u64>> {
    let _bulk = ffi::Bulk::begin();
    let with_some = virt_sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT;
    let mut seen = BTreeMap::new();
    for domain in connections.control.list_all_domains(with_some)? {
        let Ok(uuid) = domain.uuid() else { continue };
        let names = || -> Result<Vec<String>> {
            let mut names = Vec::new();
            for snapshot in domain.list_all_snapshots(0)? {
                names.push(snapshot.name()?);
            }
            Ok(names)
        };
        // One that went meanwhile has an event of its own.
        if let (Ok(names), Ok(current)) = (names(), current(&domain)) {
            seen.insert(VmId(uuid), glimpse(names.iter().map(String::as_str), current.as_deref()));
        }
    }
    Ok(seen)
}

fn current(domain: &Domain) -> Result<Option<String>> {
    match domain.current_snapshot(0) {
        Ok(s) => Ok(Some(s.name()?)),
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomainSnapshot) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn snapshots(connections: &Connections, id: VmId) -> Result<Vec<SnapshotRecord>> {
    let _bulk = ffi::Bulk::begin();
    Ok(sized(connections, without_files(connections, id)?))
}

/// What their files take, and which of these are gone.
fn sized(connections: &Connections, mut records: Vec<SnapshotRecord>) -> Vec<SnapshotRecord> {
    // The overlay of one is the state image of the next: each is asked for once.
    let mut allocations = BTreeMap::new();
    let mut allocation = |path: &str| -> Option<u64> {
        if let Some(known) = allocations.get(path) {
            return *known;
        }
        let bytes = storage::allocation(&connections.control, path);
        allocations.insert(path.to_owned(), bytes);
        bytes
    };
    for s in &mut records {
        let memory = s.memory_file.as_deref().map(&mut allocation);
        s.memory_lost = memory == Some(None);
        let memory = memory.flatten().unwrap_or(0);
        s.size = s.disks.iter().filter_map(|d| allocation(&d.overlay)).sum::<u64>() + memory;
        s.held = s.disks.iter().filter_map(|d| allocation(&d.state_image)).sum::<u64>() + memory;
        let states = s.disks.iter().map(|d| &d.state_image);
        s.lost = states.filter(|image| allocation(image).is_none()).cloned().collect();
    }
    records
}

/// The same by their metadata alone, which is quick: sizes are 0 and nothing is lost.
pub(super) fn without_files(connections: &Connections, id: VmId) -> Result<Vec<SnapshotRecord>> {
    records_of(&domain(&connections.control, id)?)
}

fn records_of(domain: &Domain) -> Result<Vec<SnapshotRecord>> {
    let current = current(domain)?;
    let handles = domain.list_all_snapshots(0)?;
    let mut records = read_all(&handles)?;
    for record in &mut records {
        record.current = current.as_deref() == Some(record.name.as_str());
    }
    Ok(records)
}

/// So many are read one after the other.
const FEW: usize = 8;

/// Of many snapshots three are asked for at a time, for the same reason.
fn read_all(handles: &[DomainSnapshot]) -> Result<Vec<SnapshotRecord>> {
    if handles.len() <= FEW {
        return read_each(handles);
    }
    let (first, others) = handles.split_at(handles.len() / 3);
    let (second, third) = others.split_at(others.len() / 2);
    let (first, (second, third)) =
        at_once(|| read_each(first), || at_once(|| read_each(second), || read_each(third)));
    Ok([first?, second?, third?].into_iter().flatten().collect())
}

/// Does both, the other on a thread of its own if there is one to be had.
fn at_once<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("inventory-2".into()).spawn_scoped(scope, &other);
        let one = one();
        let other = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => other(),
        };
        (one, other)
    })
}

fn read_each(handles: &[DomainSnapshot]) -> Result<Vec<SnapshotRecord>> {
    let mut records = Vec::with_capacity(handles.len());
    for handle in handles {
        let text = match handle.xml_desc(0) {
            Ok(text) => text,
            // Deleted by somebody between the list and now.
            Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomainSnapshot) => continue,
            Err(e) => return Err(e.into()),
        };
        let s = xml::snapshot(&text)?;
        records.push(SnapshotRecord {
            current: false,
            name: s.name,
            description: s.description,
            created: s.created,
            parent: s.parent,
            content: s.content,
            storage: s.storage,
            disks: s.disks,
            delete_in_progress: s.delete_in_progress,
            revert_disks: s.revert_disks,
            memory_file: s.memory_file,
            taken: s.taken,
            sources: s.sources,
            size: 0,
            held: 0,
            lost: Vec::new(),
            memory_lost: false,
            xml_bytes: text.len(),
        });
    }
    Ok(records)
}
