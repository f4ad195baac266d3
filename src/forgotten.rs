//! Looking for snapshots inside images that libvirt does not know of, and writing down what was found.
//!
//! Looked for as often as files that nobody has ([`strays`](crate::strays)).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::{
        forgotten::Forgotten,
        model::{SnapshotName, Storage, VmId},
    },
    hypervisor::{ErrorKind, Hypervisor},
    reader::ReadError,
    store::Store,
};

/// An image under a VM's disks.
struct Place {
    /// Under how many others it is, and whose disk it is: a snapshot in an image that several VMs have is told of the one
    /// that is nearest to it.
    nearest: (usize, VmId),
    /// What is known to be in it.
    known: BTreeSet<SnapshotName>,
}

/// Looks at the images of all VMs; the VMs of which something else is known now.
pub fn look(hypervisor: &dyn Hypervisor, store: &Store) -> Result<BTreeSet<VmId>, ReadError> {
    let mut skipped = store.at_work()?;
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for id in hypervisor.vms()? {
        let read = hypervisor.vm(id).and_then(|vm| Ok((vm, hypervisor.snapshots(id)?)));
        let (vm, records) = match read {
            Err(e) if e.kind == ErrorKind::NoSuchVm => continue,
            read => read?,
        };
        let inside = records.iter().filter(|r| r.storage == Storage::Internal).map(|r| r.name.clone());
        let known: BTreeSet<SnapshotName> = inside.collect();
        for disk in vm.disks.iter().filter(|d| d.kind == "file") {
            for (depth, layer) in disk.chain.iter().enumerate().filter(|(_, l)| l.format == "qcow2") {
                let nearest = (depth, id);
                let place = places
                    .entry(layer.path.clone())
                    .or_insert_with(|| Place { nearest, known: BTreeSet::new() });
                place.nearest = place.nearest.min(nearest);
                place.known.extend(known.iter().cloned());
            }
        }
    }
    let mut found: BTreeMap<VmId, Vec<Forgotten>> = BTreeMap::new();
    for (image, place) in places {
        let inner = match hypervisor.snapshots_inside(&image) {
            Ok(inner) => inner,
            Err(e) => {
                tracing::debug!(%image, error = %e, "cannot look for snapshots inside it");
                // What was known of it stays.
                skipped.insert(place.nearest.1);
                continue;
            }
        };
        let unknown = inner.into_iter().filter(|i| !place.known.contains(&SnapshotName::existing(&i.name)));
        let unknown = unknown.map(|inner| Forgotten { image: image.clone(), inner });
        found.entry(place.nearest.1).or_default().extend(unknown);
    }
    skipped.extend(store.at_work()?);
    Ok(store.forgotten_found(&found, &skipped)?)
}
