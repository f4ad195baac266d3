//! Looking for files that nobody has, and writing down what was found: images on VMs' images, and what was kept with
//! snapshots of ours (memory, firmware's variables) whose metadata others took away.
//!
//! | what | when |
//! |---|---|
//! | a look | with each new connection, every hour, and before a file is put in quarantine or removed |
//! | quarantine | when a person asks for it; the file stays where it is |
//! | out of it again | as soon as a look finds that somebody has it, that it was written to, or that it is gone |
//! | removal | after a week, by a job on the VM that looks once more: who cannot be read may have it |

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::{marker, model::VmId, stray},
    hypervisor::{ErrorKind, Hypervisor},
    reader::ReadError,
    store::{Found, Store},
};

/// Looks at all of the host; the VMs of which something else is known now.
pub fn look(hypervisor: &dyn Hypervisor, store: &Store) -> Result<BTreeSet<VmId>, ReadError> {
    // What is being made has no owner yet, and what is being removed none any more: both are written down. Before the
    // look and after it, as some of it may begin or end meanwhile.
    let mut skipped = store.at_work()?;
    let mut named = store.named()?;
    let found = hypervisor.strays()?;
    named.extend(store.named()?);
    skipped.extend(store.at_work()?);
    let mut found: Vec<Found> = found
        .into_iter()
        .map(|stray| Found {
            vm: stray.vm,
            path: stray.image.path,
            bytes: stray.image.allocation,
            stamp: stray.stamp,
        })
        .collect();
    for vm in hypervisor.vms()?.into_iter().filter(|vm| !skipped.contains(vm)) {
        match kept_for_nobody(hypervisor, store, vm) {
            // It went while we looked.
            Err(ReadError::Hypervisor(e)) if e.kind == ErrorKind::NoSuchVm => {}
            kept => found.extend(kept?),
        }
    }
    found.retain(|f| !named.contains(&f.path));
    let news = store.strays_found(&found, &skipped)?;
    for path in news.released {
        tracing::info!("{path} is out of quarantine: somebody has it, it was written to, or it is gone");
    }
    Ok(news.vms)
}

/// What was kept with snapshots of this VM that we took and that are not there any more.
fn kept_for_nobody(hypervisor: &dyn Hypervisor, store: &Store, id: VmId) -> Result<Vec<Found>, ReadError> {
    let mut gone = store.qualities(id)?;
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let records = hypervisor.snapshots(id)?;
    for marker in records.iter().filter_map(|r| marker::split(&r.description, id).1) {
        gone.remove(&marker.id);
    }
    let mut found: Vec<Found> = Vec::new();
    if gone.is_empty() {
        return Ok(found);
    }
    let vm = hypervisor.vm(id)?;
    let states = records.iter().flat_map(|r| &r.disks).map(|d| &d.state_image);
    let images = vm.disks.iter().filter(|d| d.writable && d.kind == "file").flat_map(|d| &d.chain);
    let directory = |path: &str| path.rsplit_once('/').map(|(directory, _)| directory.to_owned());
    let beside: BTreeMap<_, _> =
        images.map(|l| &l.path).chain(states).filter_map(|path| Some((directory(path)?, path))).collect();
    let named = |path: &String| records.iter().any(|r| r.memory_file.as_ref() == Some(path));
    for path in beside.into_values() {
        for image in hypervisor.images_beside(path)? {
            if stray::kept_with(&image.path).is_some_and(|id| gone.contains_key(&id)) && !named(&image.path) {
                let stamp = image.modified.map(|at| at.to_string()).unwrap_or_default();
                found.push(Found { vm: id, path: image.path, bytes: image.allocation, stamp });
            }
        }
    }
    Ok(found)
}
