//! What a merge would do, or what forbids it: on facts of now, before anything is touched.

use std::collections::BTreeSet;

use crate::{
    core::{
        chain::{self, Merged, Told},
        forgotten::Forgotten,
        leftover, marker,
        merge::{DiskNow, DiskPart, Ground, Obstacle, Recipe, SnapshotNow, recipe},
        model::{SnapshotName, Storage, VmId, VmState},
        room::Growth,
    },
    hypervisor::{
        Disk, Error, ErrorKind, Hypervisor, Image, Layer, Result, SnapshotRecord, Vm, line_to_current, told,
    },
};

/// Works out how these snapshots, the oldest first, are merged away.
///
/// Where libvirt's own deletion of one of them did not end, this is how to end it: the mark that it left goes with that, and
/// a disk on which it came to its end ([`chain::without`]) has nothing left to be merged.
pub fn look(hypervisor: &dyn Hypervisor, id: VmId, run: &[SnapshotName]) -> Result<Recipe> {
    let vm = hypervisor.vm(id)?;
    let records = hypervisor.snapshots(id)?;
    if let Some(name) = run.iter().find(|name| !records.iter().any(|r| r.name == **name)) {
        return Err(Error::new(ErrorKind::NoSuchSnapshot, format!("there is no snapshot {name}")));
    }
    check_vm(&vm)?;
    check_snapshots(&records)?;
    let mut line = line_to_current(&records)?;
    let marked = marked(&line, run)?;
    line.reverse();
    let (mut disks, mut merged) = (Vec::new(), Vec::new());
    for disk in vm.disks.iter().filter(|d| d.writable && d.kind == "file") {
        let (now, part) = disk_now(hypervisor, disk, &records, run)?;
        disks.push(now);
        merged.extend(part);
    }
    check_disks(&disks, &line)?;

    let off = |r: &&SnapshotRecord| !line.iter().any(|l| l.name == r.name);
    let mut branches = Vec::new();
    for record in records.iter().filter(off) {
        branches.push((record, stands_on(hypervisor, record)?));
    }
    let on_line: Vec<_> = line.iter().map(|r| snapshot_now(r, id, &[])).collect();
    let beside: Vec<_> = branches.iter().map(|(r, images)| snapshot_now(r, id, images)).collect();
    let mut recipe = recipe(&disks, &on_line, &beside, run).map_err(|e| {
        let first = match &e {
            Obstacle::OffTheLine(name) => off_from_the_end(&records, name),
            _ => String::new(),
        };
        Error::new(ErrorKind::Unsupported, format!("{e}{first}. Nothing was touched"))
    })?;
    recipe.begun = marked.is_some() || !merged.is_empty();
    recipe.disks.extend(merged);
    recipe.marked = marked.unwrap_or_default();
    if let Some((image, user)) = hypervisor.users(&recipe.touched(), id)?.first() {
        let text =
            format!("{image} is also under {user}: a merge would destroy what that has. Nothing was touched");
        return Err(Error::new(ErrorKind::InUse, text));
    }
    check_inside(hypervisor, &vm, &recipe)?;
    let growths = growths(hypervisor, &vm, &recipe)?;
    for part in &mut recipe.disks {
        part.base_bytes = growths.iter().find(|g| g.image == part.base).map(|g| g.allocation);
    }
    Ok(recipe)
}

/// What the images allow, where not all snapshots have all disks. `None` where their tree says it; and where something is
/// wrong with them, which is for the one who examines them to say.
pub fn ground(hypervisor: &dyn Hypervisor, vm: &Vm, records: &[SnapshotRecord]) -> Option<Ground> {
    let disks = || vm.disks.iter().filter(|d| d.writable && d.kind == "file");
    let has_all = |r: &SnapshotRecord| disks().all(|d| r.disks.iter().any(|of| of.target == d.target));
    if records.iter().all(has_all) || check_snapshots(records).is_err() {
        return None;
    }
    let mut line = line_to_current(records).ok()?;
    line.reverse();
    let now = |disk| disk_now(hypervisor, disk, records, &[]).map(|(now, _)| now);
    let disks = disks().map(now).collect::<Result<Vec<_>>>().ok()?;
    let off = records.iter().filter(|r| !line.iter().any(|l| l.name == r.name));
    let off = off.map(|r| Ok((r, stands_on(hypervisor, r)?))).collect::<Result<Vec<_>>>().ok()?;
    let on_line: Vec<_> = line.iter().map(|r| snapshot_now(r, vm.id, &[])).collect();
    let beside: Vec<_> = off.iter().map(|(r, images)| snapshot_now(r, vm.id, images)).collect();
    Some(Ground::new(&disks, &on_line, &beside))
}

/// What has to be deleted before one on a branch that the VM left.
fn off_from_the_end(records: &[SnapshotRecord], name: &SnapshotName) -> String {
    let mut above: Vec<&SnapshotName> = Vec::new();
    let mut at = 0;
    let mut of = Some(name);
    while let Some(parent) = of {
        above.extend(records.iter().filter(|r| r.parent.as_ref() == Some(parent)).map(|r| &r.name));
        (of, at) = (above.get(at).copied(), at + 1);
        // Parents may form a ring, in metadata that somebody edited.
        if at > records.len() {
            break;
        }
    }
    if above.is_empty() {
        return ": each is deleted by itself".to_owned();
    }
    let above: Vec<&str> = above.iter().rev().map(|name| name.as_str()).collect();
    format!(": they are deleted from the branch's end on, first {} and then this one", above.join(", "))
}

/// What goes must not take a snapshot with it that is inside it, and that libvirt does not know of.
fn check_inside(hypervisor: &dyn Hypervisor, vm: &Vm, recipe: &Recipe) -> Result<()> {
    let layers = || vm.disks.iter().flat_map(|d| &d.chain);
    let can = |image: &&String| layers().any(|l| l.path == **image && l.format == "qcow2");
    for image in recipe.disks.iter().flat_map(|part| &part.gone).filter(can) {
        let Some(inner) = hypervisor.snapshots_inside(image)?.into_iter().next() else { continue };
        let forgotten = Forgotten { image: image.clone(), inner };
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{image} holds the snapshot {} inside it, of which libvirt does not know: a merge would destroy that. If \
                 nobody wants it: {}. Nothing was touched",
                forgotten.inner.name,
                forgotten.way_out()
            ),
        ));
    }
    Ok(())
}

/// What forbids any merge of this VM's images, but for what confines it: that is for who merges to say.
fn check_vm(vm: &Vm) -> Result<()> {
    let refuse = |kind, text: String| Err(Error::new(kind, text));
    if vm.managed_save {
        return Err(Error::managed_save());
    }
    match vm.state {
        VmState::PmSuspended => {
            refuse(ErrorKind::Unsupported, "the VM is suspended by its guest; wake it first".to_owned())
        }
        VmState::Other => refuse(ErrorKind::Busy, "the VM is changing its state".to_owned()),
        _ if vm.busy => refuse(ErrorKind::Busy, "another job runs on the VM".to_owned()),
        _ if vm.block_jobs => {
            let mut text = "a block job runs on one of the VM's disks; let it end first".to_owned();
            if vm.state == VmState::Paused {
                text += leftover::DOUBT;
            }
            refuse(ErrorKind::Busy, text)
        }
        _ => Ok(()),
    }
}

fn check_snapshots(records: &[SnapshotRecord]) -> Result<()> {
    if let Some(other) = records.iter().find(|r| r.storage == Storage::Internal) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the VM also has the internal snapshot {}; external ones beside it cannot be merged safely",
                other.name
            ),
        ));
    }
    Ok(())
}

/// Of the line, from the current one back: those that stay and that libvirt has marked, because its own deletion of some of
/// the run did not end. `None` if there is no such deletion.
///
/// libvirt marks not the one that it deletes but, for each disk, the next older one that has it. A mark that no newer one
/// explains is that of one that was forgotten since, and in nobody's way.
fn marked(line: &[&SnapshotRecord], run: &[SnapshotName]) -> Result<Option<Vec<SnapshotName>>> {
    let has = |r: &SnapshotRecord, target: &str| r.disks.iter().any(|d| d.target == target);
    let (mut any, mut marked) = (false, BTreeSet::new());
    for (i, record) in line.iter().enumerate() {
        for target in record.disks.iter().map(|d| &d.target) {
            let older = line[i + 1..].iter().find(|r| has(r, target));
            let Some(older) = older.filter(|r| r.delete_in_progress.contains(target)) else { continue };
            if !run.contains(&record.name) {
                return Err(mismatch(&format!(
                    "a deletion of snapshot {} by other means did not end, and has to be ended first: delete that one",
                    record.name
                )));
            }
            any = true;
            marked.extend(Some(&older.name).filter(|name| !run.contains(name)).cloned());
        }
    }
    Ok(any.then(|| marked.into_iter().collect()))
}

/// A disk, and its part in the merge if libvirt's own deletion of the run came to an end on it.
fn disk_now<'a>(
    hypervisor: &dyn Hypervisor,
    disk: &'a Disk,
    records: &'a [SnapshotRecord],
    run: &[SnapshotName],
) -> Result<(DiskNow<'a>, Option<DiskPart>)> {
    let paths: Vec<&str> = disk.chain.iter().map(|l| l.path.as_str()).collect();
    let told = told(records, &disk.target)?;
    let (links, part) = match chain::links(&disk.target, &paths, &told) {
        Ok(links) => (links, None),
        Err(m) => match merged(hypervisor, disk, &paths, &told)? {
            Some(merged) if run == std::slice::from_ref(merged.part.snapshot) => {
                let part = done(disk, &merged);
                (merged.links, Some(part))
            }
            Some(merged) => {
                let name = merged.part.snapshot;
                let what = "is what a deletion by other means leaves that did not end. Delete that one first, by itself";
                return Err(mismatch(&format!(
                    "{m}. That {name} is merged on this disk and still there {what}"
                )));
            }
            None => return Err(mismatch(&m.to_string())),
        },
    };
    if let Some(configured) = disk.configured.as_deref().filter(|c| paths.first() != Some(c)) {
        return Err(mismatch(&format!(
            "disk {} runs on {}, but the definition names {configured}",
            disk.target,
            paths.join(" → ")
        )));
    }
    let chain = disk.chain.iter().map(|l| (l.path.as_str(), l.format.as_str())).collect();
    Ok((DiskNow { target: &disk.target, chain, links }, part))
}

/// The snapshot of the line whose overlay libvirt's own deletion has merged on this disk and removed. As long as the
/// overlay is there nothing proves that its data is anywhere else.
fn merged<'a>(
    hypervisor: &dyn Hypervisor,
    disk: &Disk,
    paths: &[&'a str],
    told: &Told<'a>,
) -> Result<Option<Merged<'a>>> {
    let mut fits = told.line.iter().filter_map(|p| chain::without(&disk.target, paths, told, p.snapshot));
    let Some(merged) = fits.next() else { return Ok(None) };
    let overlay = merged.part.overlay;
    let there = hypervisor.images_beside(overlay)?.iter().any(|image| image.path == overlay);
    Ok(Some(merged).filter(|_| !there))
}

/// What is left to be told of it.
fn done(disk: &Disk, merged: &Merged<'_>) -> DiskPart {
    let base = merged.part.state_image;
    let format = disk.chain.iter().find(|l| l.path == base).map(|l| l.format.clone());
    DiskPart {
        target: disk.target.clone(),
        base: base.to_owned(),
        base_format: format.unwrap_or_default(),
        top: merged.part.overlay.to_owned(),
        gone: Vec::new(),
        above: merged.above.map(str::to_owned),
        base_bytes: None,
    }
}

/// Every disk of every snapshot of the line is still one of the VM's.
fn check_disks(disks: &[DiskNow<'_>], line: &[&SnapshotRecord]) -> Result<()> {
    let has = |target: &str| disks.iter().any(|d| d.target == target);
    match line.iter().flat_map(|r| &r.disks).find(|d| !has(&d.target)) {
        Some(lost) => Err(mismatch(&format!("the VM has no disk {} any more", lost.target))),
        None => Ok(()),
    }
}

/// Every image under what this snapshot holds.
fn stands_on(hypervisor: &dyn Hypervisor, record: &SnapshotRecord) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for disk in &record.disks {
        // A raw one is found where a revert's safety snapshot, which has all disks, is the first to have this one.
        let format = if disk.format.is_empty() { "qcow2" } else { &disk.format };
        let top = Layer { path: disk.state_image.clone(), format: format.to_owned() };
        let chain = hypervisor.chain(&top).map_err(|e| {
            e.context(format_args!(
                "what snapshot {} on another branch stands on cannot be told",
                record.name
            ))
        })?;
        images.extend(chain.into_iter().map(|image| image.path));
    }
    Ok(images)
}

fn snapshot_now<'a>(record: &'a SnapshotRecord, vm: VmId, images: &'a [String]) -> SnapshotNow<'a> {
    SnapshotNow {
        name: &record.name,
        id: marker::split(&record.description, vm).1.map(|m| m.id),
        memory: record.memory_file.as_deref(),
        sources: record.sources.iter().map(|(_, path)| path.as_str()).collect(),
        beside: images.iter().map(String::as_str).collect(),
    }
}

/// What grows by what is still to be merged: nothing is given back before the last disk is.
pub fn growths(hypervisor: &dyn Hypervisor, vm: &Vm, recipe: &Recipe) -> Result<Vec<Growth>> {
    let mut growths = Vec::new();
    for part in &recipe.disks {
        let top = vm.disks.iter().find(|d| d.target == part.target).and_then(|d| d.chain.first());
        let Some(top) = top else { continue };
        growths.push(growth(part, &hypervisor.chain(top)?));
    }
    Ok(growths)
}

fn growth(part: &DiskPart, images: &[Image]) -> Growth {
    let gone: BTreeSet<&String> = part.gone.iter().collect();
    let taking = images.iter().filter(|i| gone.contains(&i.path) || i.path == part.base);
    let allocation = images.iter().find(|i| i.path == part.base).map_or(0, |i| i.allocation);
    let above = taking.clone().filter(|i| i.path != part.base);
    let all = above.fold(0_u64, |sum, i| sum.saturating_add(i.allocation));
    // Of one that was cut short a part has come already.
    let came = part.base_bytes.map_or(0, |then| allocation.saturating_sub(then));
    Growth {
        image: part.base.clone(),
        format: part.base_format.clone(),
        capacity: taking.map(|i| i.capacity).max().unwrap_or(0),
        allocation,
        comes: all.saturating_sub(came),
    }
}

fn mismatch(what: &str) -> Error {
    Error::new(ErrorKind::ChainMismatch, format!("{what}. Nothing was touched"))
}
