//! Image files as storage volumes: made, measured, read and removed through libvirt, so that this process needs
//! no right to any of them.
//!
//! A volume lives in a pool. The pool that an administrator has over the directory is used; where there is none,
//! a transient one is made, which libvirtd forgets when it restarts and which changes nothing on disk.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use virt::{
    connect::Connect, domain::Domain, enumutil::Enum, error::ErrorNumber, storage_pool::StoragePool,
    storage_vol::StorageVol,
};

use super::{super::ffi, Connections, images, xml};
use crate::{
    core::model::VmId,
    hypervisor::{Error, ErrorKind, Layer, Overlay, Result, Space},
};

/// No chain that libvirt can start is longer; a loop in the backing files must not hang us.
const MAX_CHAIN: usize = 256;

/// A pool does one thing at a time and refuses, not queues, what comes meanwhile ("has asynchronous jobs running").
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Others may be at it as well: so often, and so long in between, it is tried again.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn exclusively<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tries = 1;
    loop {
        match work() {
            Err(e) if e.kind == ErrorKind::Busy && tries < TRIES => {
                tries += 1;
                crate::clock::pause(PAUSE);
            }
            result => return result,
        }
    }
}

pub(super) fn refreshed(connection: &Connect, directory: &str) -> Result<StoragePool> {
    exclusively(|| {
        let pool = pool_over(connection, directory)?;
        pool.refresh(0).map_err(|e| unreadable(directory, e.into()))?;
        Ok(pool)
    })
}

/// One file with less than an image's header in it makes libvirt give up the whole directory, stop its pool, and say
/// that "the cause is unknown" (seen with 9.0 and 11.3).
fn unreadable(directory: &str, e: Error) -> Error {
    if !e.message.contains("cause is unknown") {
        return e.context(format_args!("the storage pool over {directory}"));
    }
    Error::new(
        e.kind,
        format!(
            "libvirt cannot read {directory} as a storage pool, and does not say why. One image there that was cut \
             short, by a copy that broke off for instance, is enough: `find {directory} -maxdepth 1 -type f -size 1` \
             shows the likeliest; moved elsewhere, it is no obstacle any more"
        ),
    )
}

/// The room in the file system under this path's directory.
pub(super) fn space(connection: &Connect, path: &str) -> Result<Space> {
    // A pool's numbers are as old as its last refresh.
    let pool = refreshed(connection, directory(path)?)?;
    let info = pool.info()?;
    Ok(Space { capacity: info.capacity, available: info.available })
}

/// Makes all overlays or none, and checks what was made: libvirt's reuse of them looks at neither size nor header.
pub(super) fn prepare(connection: &Connect, domain: &Domain, overlays: &[Overlay]) -> Result<()> {
    super::change::check_backing(&xml::domain(&domain.xml_desc(0)?)?, overlays)?;
    make_all(connection, overlays, |overlay| Ok(ffi::capacity(domain, &overlay.target)?))
}

/// The same on any images, each with its image's size.
pub(super) fn prepare_on(connection: &Connect, overlays: &[Overlay]) -> Result<()> {
    make_all(connection, overlays, |overlay| {
        let path = &overlay.backing.path;
        let Some(volume) = volume_at(connection, path) else {
            return Err(Error::new(ErrorKind::ChainMismatch, format!("libvirt finds no image at {path}")));
        };
        let read = xml::volume(&volume.xml_desc(0)?)?;
        if read.format != overlay.backing.format {
            let what = format!("{path} is {}, not {}", read.format, overlay.backing.format);
            return Err(Error::new(ErrorKind::ChainMismatch, what));
        }
        Ok(read.capacity)
    })
}

fn make_all(
    connection: &Connect,
    overlays: &[Overlay],
    capacity: impl Fn(&Overlay) -> Result<u64>,
) -> Result<()> {
    let mut made: Vec<StorageVol> = Vec::new();
    for overlay in overlays {
        match capacity(overlay).and_then(|bytes| make(connection, overlay, bytes)) {
            Ok(volume) => made.push(volume),
            Err(e) => {
                let mut error =
                    e.context(format_args!("overlay for disk {} at {}", overlay.target, overlay.path));
                for volume in &made {
                    let undone = volume.delete(0).map_err(Error::from);
                    error = error.and_rollback(&undone, "removing an overlay made before it");
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn make(connection: &Connect, overlay: &Overlay, capacity: u64) -> Result<StorageVol> {
    let (directory, name) = split(&overlay.path)?;
    // The refresh makes a file known that somebody else left there, so that it is refused and not overwritten.
    let pool = refreshed(connection, directory)?;
    // Where root may not do everything (a session's libvirt, NFS), QEMU gets at what is its own already.
    let like = match known(connection, &overlay.backing.path)? {
        Some(below) => xml::volume(&below.xml_desc(0)?)?.access,
        None => None,
    };
    let description = xml::overlay_volume(name, overlay, capacity, like.as_ref());
    let volume = exclusively(|| Ok(StorageVol::create_xml(&pool, &description, 0)?))?;
    let read = xml::volume(&volume.xml_desc(0)?)?;
    if read.capacity == capacity && read.format == "qcow2" && read.backing.as_ref() == Some(&overlay.backing)
    {
        return Ok(volume);
    }
    let error = Error::new(ErrorKind::Failed, format!("libvirt made it differently than asked: {read:?}"));
    Err(error.and_rollback(&volume.delete(0).map_err(Error::from), "removing it"))
}

/// Removes overlays that nothing uses.
pub(super) fn discard(connections: &Connections, vm: VmId, paths: &[String]) -> Result<()> {
    // Of a VM that is not here nobody can say what uses its images: it may run on another host.
    let domain = super::domain(&connections.work, vm)?;
    // A create that outlived whoever asked for it may be about to use them: libvirtd carries it out all the same.
    if domain.job_info().is_ok_and(|job| job.r#type != 0) {
        return Err(Error::new(
            ErrorKind::Busy,
            "a job runs on the VM, which may need the overlays; they stay",
        ));
    }
    if let Some((path, user)) = images::in_use(&connections.work, paths, vm)?.first() {
        return Err(Error::new(ErrorKind::Busy, format!("{path} is in use by {user}; it stays")));
    }
    // One that its pool does not know would stay.
    let directories = paths.iter().map(|path| directory(path)).collect::<Result<BTreeSet<_>>>()?;
    for directory in directories {
        refreshed(&connections.work, directory)?;
    }
    for path in paths {
        if let Some(volume) = listed(&connections.work, path)? {
            exclusively(|| Ok(volume.delete(0)?)).map_err(|e| e.context(format_args!("removing {path}")))?;
        }
    }
    Ok(())
}

/// The images from this one down, as the volumes' headers name them, as far as they are known: to be shown, not to
/// be relied on.
pub(super) fn chain(connection: &Connect, top: Layer) -> Vec<Layer> {
    chain_to_its_end(connection, top).0
}

/// The same; and the last of them, if there is no such file.
pub(super) fn chain_to_its_end(connection: &Connect, top: Layer) -> (Vec<Layer>, Option<String>) {
    let mut layers = vec![top];
    while let Some(last) = layers.last().filter(|_| layers.len() < MAX_CHAIN) {
        let read = match known(connection, &last.path) {
            Ok(Some(volume)) => images::read(&volume),
            Ok(None) => Ok(None),
            Err(e) if e.kind == ErrorKind::NoSuchFile => Ok(None),
            Err(e) => Err(e),
        };
        let next = match read {
            Ok(None) => {
                let lost = last.path.clone();
                return (layers, Some(lost));
            }
            // What looks like a header in a raw image is the guest's.
            Ok(Some(volume)) => volume.backing.filter(|_| last.format != "raw"),
            Err(_) => None,
        };
        let Some(next) = next else { break };
        if layers.iter().any(|l| l.path == next.path) {
            break;
        }
        layers.push(next);
    }
    (layers, None)
}

/// What this image takes on disk, in bytes. `None`: no volume was found of it.
pub(super) fn allocation(connection: &Connect, path: &str) -> Option<u64> {
    let size = |v: &StorageVol| v.info().map(|i| i.allocation);
    let volume = volume_at(connection, path)?;
    size(&volume).ok().or_else(|| {
        // A pool goes on naming a file that is gone until it is refreshed.
        refreshed(connection, directory(path).ok()?).ok()?;
        let again = connection.lookup_storage_vol_by_path(path).ok()?;
        Some(size(&again).unwrap_or(0))
    })
}

/// Makes pools see what changed beside them. What fails is only late, not wrong.
pub(super) fn refresh_pools(connection: &Connect, paths: impl Iterator<Item = String>) {
    let mut directories: Vec<String> = paths.filter_map(|p| directory(&p).ok().map(str::to_owned)).collect();
    directories.sort_unstable();
    directories.dedup();
    for directory in directories {
        if let Err(e) = refreshed(connection, &directory) {
            tracing::debug!(%directory, error = %e, "cannot refresh the storage pool");
        }
    }
}

fn volume_at(connection: &Connect, path: &str) -> Option<StorageVol> {
    known(connection, path).ok().flatten()
}

/// The volume of this file, if there is one. One that its pool does not know yet is looked for once more after a
/// refresh.
pub(super) fn known(connection: &Connect, path: &str) -> Result<Option<StorageVol>> {
    if let Some(volume) = listed(connection, path)? {
        return Ok(Some(volume));
    }
    refreshed(connection, directory(path)?)?;
    listed(connection, path)
}

/// The volume of this file, if its pool knows it.
pub(super) fn listed(connection: &Connect, path: &str) -> Result<Option<StorageVol>> {
    match connection.lookup_storage_vol_by_path(path) {
        Ok(volume) => Ok(Some(volume)),
        Err(e) if e.code() == Enum::Known(ErrorNumber::NoStorageVolume) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn pool_over(connection: &Connect, directory: &str) -> Result<StoragePool> {
    if let Some(pool) = existing_pool(connection, directory)? {
        return Ok(pool);
    }
    let name = pool_name(directory);
    match connection.create_storage_pool_xml(&xml::directory_pool(&name, directory), 0) {
        Ok(pool) => Ok(pool),
        Err(e) => {
            // Before libvirt is asked again: it knows its last error alone.
            let e = Error::from(e);
            // Another of our threads was quicker.
            existing_pool(connection, directory)?.ok_or_else(|| unreadable(directory, e))
        }
    }
}

/// Takes away the pool over this directory, if it is one of ours. What fails only leaves it in the list.
pub(super) fn let_go(connection: &Connect, directory: &str) {
    let Ok(pool) = connection.lookup_storage_pool_by_name(&pool_name(directory)) else { return };
    if pool.is_persistent().is_ok_and(|persistent| !persistent)
        && let Err(error) = exclusively(|| Ok(pool.destroy()?))
    {
        tracing::debug!(%directory, %error, "cannot take away the storage pool");
    }
}

/// What an administrator reads in `virsh pool-list`: the directory in letters that need no quoting, and a number
/// (FNV-1a of its path) that keeps apart what these letters do not. It never changes: the same directory has the same
/// name in each version.
fn pool_name(directory: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let text: String = directory.trim_matches('/').chars().take(100).map(plain).collect();
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("virtsnap-{text}-{:08x}", directory.bytes().fold(0x811c_9dc5, fnv))
}

fn existing_pool(connection: &Connect, directory: &str) -> Result<Option<StoragePool>> {
    for pool in connection.list_all_storage_pools(0)? {
        let Ok(text) = pool.xml_desc(0) else { continue };
        if xml::pool_directory(&text).as_deref().map(|d| d.trim_end_matches('/')) != Some(directory) {
            continue;
        }
        if !pool.is_active()? {
            // libvirt allows no second pool over the same directory, so the administrator's has to run.
            tracing::info!(pool = %pool.name()?, "starting the storage pool over {directory}");
            pool.create(0).map_err(|e| unreadable(directory, e.into()))?;
        }
        return Ok(Some(pool));
    }
    Ok(None)
}

pub(super) fn split(path: &str) -> Result<(&str, &str)> {
    match path.rsplit_once('/') {
        Some((directory, name)) if path.starts_with('/') && !name.is_empty() && !directory.is_empty() => {
            Ok((directory, name))
        }
        _ => Err(Error::new(ErrorKind::Unsupported, format!("{path:?} is not an absolute path of a file"))),
    }
}

pub(super) fn directory(path: &str) -> Result<&str> {
    split(path).map(|(directory, _)| directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_s_name_is_stable_readable_and_its_own() {
        assert_eq!(pool_name("/var/lib/libvirt/images"), "virtsnap-var-lib-libvirt-images-7634857f");
        assert_eq!(pool_name("/a b/ü"), "virtsnap-a-b---6e36033f");
        assert_ne!(pool_name("/a/b"), pool_name("/a-b"));
        assert!(pool_name(&"/é".repeat(4000)).len() < 200);
    }
}
