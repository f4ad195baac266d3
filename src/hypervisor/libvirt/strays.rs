//! Files that nobody has, on the images of VMs: found by looking at all volumes, all VMs and all their snapshots.

use std::collections::{BTreeMap, BTreeSet};

use virt::connect::Connect;

use super::{images, same::Same, storage, xml};
use crate::{
    core::model::VmId,
    hypervisor::{Result, Stray},
};

pub(super) fn strays(connection: &Connect) -> Result<Vec<Stray>> {
    let mut directories = BTreeSet::new();
    let mut vms = BTreeMap::new();
    // What is copied elsewhere stands in no chain yet.
    let mut copied = BTreeSet::new();
    for domain in connection.list_all_domains(0)? {
        let (Ok(uuid), Ok(text)) = (domain.uuid(), domain.xml_desc(0)) else { continue };
        let read = xml::domain(&text)?;
        let paths = read.disks.iter().filter_map(|d| d.disk.chain.first());
        directories.extend(paths.filter_map(|layer| storage::directory(&layer.path).ok().map(str::to_owned)));
        if read.mirrors {
            copied.insert(read.name.clone());
        }
        vms.insert(read.name, VmId(uuid));
    }
    // A new file is seen after a refresh. Where that fails, fewer are found.
    for directory in &directories {
        if let Err(e) = storage::refreshed(connection, directory) {
            tracing::debug!(%directory, error = %e, "cannot look for files that nobody has");
        }
    }
    let family = images::family(connection, &mut directories, &|_| Some(false))?;
    let mut found = Vec::new();
    let nobody_s: Vec<_> = family.strays().into_iter().filter(|(_, name)| !copied.contains(*name)).collect();
    let paths: Vec<String> = nobody_s.iter().map(|(path, _)| (*path).to_owned()).collect();
    // By another name somebody may have it.
    let named = Same::on(connection).also_named(&paths, family.files.keys());
    for (path, name) in nobody_s.into_iter().filter(|(path, _)| !named.contains(*path)) {
        let Some(vm) = vms.get(name) else { continue };
        let volume = storage::listed(connection, path)?.map(|volume| images::read(&volume));
        // One that went meanwhile is not there.
        let Some(read) = volume.transpose()?.flatten() else { continue };
        let stamp = read.modified.clone();
        found.push(Stray { vm: *vm, image: images::image(read), stamp });
    }
    Ok(found)
}
