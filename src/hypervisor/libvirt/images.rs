//! Looking at all images of the host: whom a change of one of them would hit.
//!
//! What is looked at is no older than the call: volumes' headers are read anew when their XML is asked for, and the
//! directories at hand are searched for new files before.

use std::collections::BTreeSet;

use jiff::Timestamp;
use virt::{
    connect::Connect, domain::Domain, enumutil::Enum, error::ErrorNumber, storage_pool::StoragePool,
    storage_vol::StorageVol,
};

use super::{Libvirt, files, same::Same, storage, strays, xml};
use crate::{
    core::{
        family::{Family, File, Holder, Named, User},
        model::VmId,
    },
    hypervisor::{Error, ErrorKind, Image, Images, Layer, Result, Save, Stray},
};

impl Images for Libvirt {
    fn images_beside(&self, path: &str) -> Result<Vec<Image>> {
        beside(&self.now()?.work, path)
    }

    fn chain(&self, top: &Layer) -> Result<Vec<Image>> {
        chain(&self.now()?.work, top)
    }

    fn users(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
        users(&self.now()?.work, images, of)
    }

    fn strays(&self) -> Result<Vec<Stray>> {
        strays::strays(&self.now()?.work)
    }

    fn load(&self, path: &str, at_most: u64) -> Result<Vec<u8>> {
        files::load(&self.now()?.work, path, at_most)
    }

    fn save(&self, path: &str, bytes: &[u8], how: Save<'_>) -> Result<()> {
        files::save(&self.now()?.work, path, bytes, how)
    }
}

fn beside(connection: &Connect, path: &str) -> Result<Vec<Image>> {
    let pool = match storage::refreshed(connection, storage::directory(path)?) {
        Err(e) if e.kind == ErrorKind::NoSuchFile => return Ok(Vec::new()),
        pool => pool?,
    };
    let mut images: Vec<Image> = Vec::new();
    for volume in pool.list_all_volumes(0)? {
        // One that went meanwhile is not there.
        images.extend(read(&volume)?.map(image));
    }
    images.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(images)
}

fn chain(connection: &Connect, top: &Layer) -> Result<Vec<Image>> {
    let mismatch = |what: String| Error::new(ErrorKind::ChainMismatch, what);
    let (mut images, mut next): (Vec<Image>, _) = (Vec::new(), Some(top.clone()));
    while let Some(layer) = next {
        if images.iter().any(|i| i.path == layer.path) {
            return Err(mismatch(format!("{} lies on itself", layer.path)));
        }
        let volume = storage::known(connection, &layer.path)
            .and_then(|volume| volume.map_or(Ok(None), |v| read(&v)))
            .map_err(|e| e.context(format_args!("image {}", layer.path)))?;
        let above =
            || images.last().map_or(String::new(), |i: &Image| format!(", on which {} lies,", i.path));
        let Some(volume) = volume else {
            return Err(mismatch(format!("image {}{} is not there", layer.path, above())));
        };
        // What looks like a header in a raw image is the guest's.
        let raw = layer.format == "raw";
        if !raw && volume.format != layer.format {
            let (path, is, says) = (&layer.path, &volume.format, &layer.format);
            return Err(mismatch(format!("image {path} is {is}, and not {says} as it is said to be")));
        }
        let found = image(volume);
        next = found.backing.clone().filter(|_| !raw);
        images.push(Image { format: layer.format, backing: next.clone(), ..found });
    }
    Ok(images)
}

/// Who but the VM `of` and its snapshots has one of these images under it.
pub(super) fn users(connection: &Connect, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
    find(connection, images, |holder: Role| match holder {
        Role { vm, .. } if vm == of => Some(true),
        _ => Some(false),
    })
}

/// Who has one of these images under it, now or once reverted to: the VM `of` as well. Its snapshots' *overlays* do
/// not count: where a revert took the VM off them, nothing needs them any more.
pub(super) fn in_use(connection: &Connect, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
    find(connection, images, |holder| (!(holder.vm == of && holder.overlays)).then_some(false))
}

/// What it is that names images.
#[derive(Clone, Copy)]
pub(super) struct Role {
    vm: VmId,
    /// What a snapshot put on top, in contrast to what it holds.
    overlays: bool,
}

/// `counts` says of each whether it is one of its own; `None` leaves it out.
fn find(
    connection: &Connect,
    images: &[String],
    counts: impl Fn(Role) -> Option<bool>,
) -> Result<Vec<(String, User)>> {
    let mut looked = BTreeSet::new();
    for path in images {
        let directory = storage::directory(path)?;
        if looked.insert(directory.to_owned()) {
            storage::refreshed(connection, directory)?;
        }
    }
    let family = family(connection, &mut looked, &counts)?;
    let images = Same::on(connection).named(images, family.files.keys());
    family.users(&images).map_err(|unknown| Error::new(ErrorKind::Unsupported, unknown.to_string()))
}

/// All images and all that name them. `looked`: the directories whose new files are known already.
pub(super) fn family(
    connection: &Connect,
    looked: &mut BTreeSet<String>,
    counts: &impl Fn(Role) -> Option<bool>,
) -> Result<Family> {
    let mut family = Family::default();
    for pool in connection.list_all_storage_pools(virt_sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)? {
        add_volumes(&mut family, &pool)?;
    }
    for domain in connection.list_all_domains(0)? {
        match add_domain(connection, &mut family, &domain, counts) {
            // It went while we looked.
            Err(e) if e.kind == ErrorKind::NoSuchVm => {}
            other => other.map_err(|e| {
                let name = domain.name().unwrap_or_default();
                e.context(format_args!("which images VM {name} has cannot be told"))
            })?,
        }
    }
    loop {
        let unexplored = family.unexplored();
        if unexplored.is_empty() {
            break;
        }
        for path in unexplored {
            let file = explore(connection, &path, looked)?;
            family.files.insert(path, file);
        }
    }
    Ok(family)
}

fn add_volumes(family: &mut Family, pool: &StoragePool) -> Result<()> {
    let volumes = match pool.list_all_volumes(0) {
        Ok(volumes) => volumes,
        // Stopped since it was listed.
        Err(_) if !pool.is_active()? => return Ok(()),
        Err(e) => {
            let name = pool.name().unwrap_or_default();
            return Err(Error::from(e).context(format_args!("what storage pool {name} has cannot be told")));
        }
    };
    for volume in volumes {
        let path = match volume.path() {
            Ok(path) => path,
            // Removed since it was listed.
            Err(e) if e.code() == Enum::Known(ErrorNumber::NoStorageVolume) => continue,
            Err(e) => return Err(e.into()),
        };
        let file = match read(&volume) {
            Ok(None) => File::Missing,
            Ok(Some(read)) => File::On(read.backing.map(lies_on)),
            Err(e) => File::Unreadable(format!("cannot be read ({})", e.message)),
        };
        family.files.insert(path, file);
    }
    Ok(())
}

fn add_domain(
    connection: &Connect,
    family: &mut Family,
    domain: &Domain,
    counts: &impl Fn(Role) -> Option<bool>,
) -> Result<()> {
    let (vm, name) = (VmId(domain.uuid()?), domain.name()?);
    let active = domain.is_active()?;
    let mut texts = vec![(active, domain.xml_desc(0)?)];
    if active && domain.is_persistent()? {
        texts.push((false, domain.xml_desc(virt_sys::VIR_DOMAIN_XML_INACTIVE)?));
    }
    for (live, text) in texts {
        let mut names = Vec::new();
        for disk in xml::domain(&text)?.disks {
            let ends = disk.ends;
            let layers = resolved(connection, disk)?;
            if live {
                // As QEMU has opened them: nothing else is to be looked up.
                for pair in layers.windows(2) {
                    let below = File::On(Some(lies_on(pair[1].clone())));
                    family.files.insert(pair[0].path.clone(), below);
                }
                family.files.extend(layers.last().map(|base| (base.path.clone(), File::On(None))));
            }
            if !live {
                say(family, &layers, ends);
            }
            names.extend(layers.into_iter().map(|layer| named(layer, !live)));
        }
        let own = counts(Role { vm, overlays: false });
        family.holders.extend(own.map(|own| Holder { user: User::Vm(name.clone()), own, names }));
    }
    for snapshot in domain.list_all_snapshots(0)? {
        let text = match snapshot.xml_desc(0) {
            Ok(text) => text,
            // Forgotten since it was listed; the others still stand on what they name.
            Err(e) if e.code() == Enum::Known(ErrorNumber::NoDomainSnapshot) => continue,
            Err(e) => return Err(e.into()),
        };
        let (before, above, memory) = xml::snapshot_images(&text)?;
        let user = User::Snapshot {
            vm: name.clone(),
            name: crate::core::model::SnapshotName::existing(snapshot.name()?),
        };
        let mut states = Vec::new();
        for disk in before {
            let (ends, target) = (disk.ends, disk.disk.target.clone());
            let layers = resolved(connection, disk)?;
            say(family, &layers, ends);
            let Some(state) = layers.into_iter().next() else { continue };
            for (_, overlay) in above.iter().filter(|(of, _)| *of == target) {
                let below = family.told.entry(overlay.clone()).or_default();
                below.insert(lies_on(state.clone()));
            }
            states.push(named(state, false));
        }
        let memory = memory.map(|path| named(Layer { path, format: "raw".to_owned() }, false));
        states.extend(memory);
        let overlay = |(_, path)| named(Layer { path, format: "qcow2".to_owned() }, false);
        let above = above.into_iter().map(overlay).collect();
        for (overlays, names) in [(false, states), (true, above)] {
            let own = counts(Role { vm, overlays });
            family.holders.extend(own.map(|own| Holder { user: user.clone(), own, names }));
        }
    }
    Ok(())
}

/// What lies on what, as a definition or a snapshot says. `ends`: the last one lies on nothing.
fn say(family: &mut Family, layers: &[Layer], ends: bool) {
    for pair in layers.windows(2) {
        family.told.entry(pair[0].path.clone()).or_default().insert(lies_on(pair[1].clone()));
    }
    if let Some(last) = layers.last().filter(|_| ends) {
        family.told.entry(last.path.clone()).or_default();
    }
}

/// A disk's images, with its first one's path where the definition names a pool and a volume.
fn resolved(connection: &Connect, disk: xml::DiskXml) -> Result<Vec<Layer>> {
    let mut layers = disk.disk.chain;
    if let (Some(pool), Some(top)) = (disk.pool, layers.first_mut()) {
        let pool = connection.lookup_storage_pool_by_name(&pool)?;
        top.path = pool.lookup_storage_vol_by_name(&top.path)?.path()?;
    }
    Ok(layers)
}

fn named(layer: Layer, vital: bool) -> Named {
    let (path, raw) = lies_on(layer);
    Named { path, raw, vital }
}

fn lies_on(layer: Layer) -> (String, bool) {
    let raw = layer.format == "raw";
    (layer.path, raw)
}

/// What can be learned of a file that no pool had when the search began.
fn explore(connection: &Connect, path: &str, looked: &mut BTreeSet<String>) -> Result<File> {
    let unreadable = |e: &Error| File::Unreadable(format!("cannot be looked at ({})", e.message));
    let Ok(directory) = storage::directory(path) else {
        return Ok(File::Unreadable("is not a file of this host".to_owned()));
    };
    if directory == "/dev" || directory.starts_with("/dev/") {
        return Ok(File::Unreadable("is a device of no storage pool".to_owned()));
    }
    if looked.insert(directory.to_owned())
        && let Err(e) = storage::refreshed(connection, directory)
    {
        return match e.kind {
            ErrorKind::Disconnected => Err(e),
            ErrorKind::NoSuchFile => Ok(File::Missing),
            _ => Ok(unreadable(&e)),
        };
    }
    match storage::listed(connection, path)?.map(|volume| read(&volume)) {
        None | Some(Ok(None)) => Ok(File::Missing),
        Some(Ok(Some(read))) => Ok(File::On(read.backing.map(lies_on))),
        Some(Err(e)) if e.kind == ErrorKind::Disconnected => Err(e),
        Some(Err(e)) => Ok(unreadable(&e)),
    }
}

/// A volume as its header is now; `None` if the file is gone.
pub(super) fn read(volume: &StorageVol) -> Result<Option<xml::VolumeXml>> {
    match volume.xml_desc(0) {
        Ok(text) => xml::volume(&text).map(Some),
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoStorageVolume) => Ok(None),
        Err(e) => match Error::from(e) {
            e if e.kind == ErrorKind::NoSuchFile => Ok(None),
            e => Err(e),
        },
    }
}

pub(super) fn image(volume: xml::VolumeXml) -> Image {
    let modified = time(&volume.modified);
    let xml::VolumeXml { path, format, capacity, allocation, backing, .. } = volume;
    Image { path, format, capacity, allocation, backing, modified }
}

/// libvirt writes seconds, a dot and nine digits; no dot where these are zero. All of it counts: two images may be
/// written to within the same second, and it matters which came last.
fn time(text: &str) -> Option<Timestamp> {
    let (seconds, nanoseconds) = text.split_once('.').unwrap_or((text, "0"));
    Timestamp::new(seconds.parse().ok()?, format!("{nanoseconds:0<9}").parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        let nanoseconds = |text: &str| time(text).map(Timestamp::as_nanosecond);
        assert_eq!(nanoseconds("1700000000.000000007"), Some(1_700_000_000_000_000_007));
        assert_eq!(nanoseconds("1700000000"), Some(1_700_000_000_000_000_000));
        assert_eq!(nanoseconds("1700000000.5"), Some(1_700_000_000_500_000_000));
        assert_eq!((nanoseconds(""), nanoseconds("1.x"), nanoseconds("yesterday")), (None, None, None));
    }
}
