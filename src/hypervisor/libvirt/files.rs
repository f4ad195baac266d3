//! Small files as storage volumes: read whole, written whole, and read back.

use virt::{connect::Connect, storage_vol::StorageVol, stream::Stream};

use super::{storage, xml};
use crate::hypervisor::{Error, ErrorKind, Result, Save};

const CHUNK: usize = 64 * 1024;

pub(super) fn load(connection: &Connect, path: &str, at_most: u64) -> Result<Vec<u8>> {
    let volume = existing(connection, path)?;
    let read = storage::exclusively(|| download(connection, &volume, at_most));
    let_go(connection, path);
    read.map_err(|e| e.context(format_args!("reading {path}")))
}

/// Up to so many bytes of a file, from there on: fewer where it ends.
pub(super) fn part(connection: &Connect, path: &str, offset: u64, length: u64) -> Result<Vec<u8>> {
    let volume = existing(connection, path)?;
    storage::exclusively(|| {
        let stream = Stream::new(connection, 0)?;
        volume.download(&stream, offset, length, 0)?;
        receive(stream, length)
    })
    .map_err(|e| e.context(format_args!("reading {path}")))
}

pub(super) fn save(connection: &Connect, path: &str, bytes: &[u8], how: Save<'_>) -> Result<()> {
    let saved = match how {
        Save::New(like) => {
            let like = like.map(|like| access(&existing(connection, like)?)).transpose()?.flatten();
            create(connection, path, bytes, like.as_ref())
        }
        Save::Over => {
            let volume = existing(connection, path)?;
            // An upload makes no file shorter or longer.
            if volume.info()?.capacity == bytes.len() as u64 {
                storage::exclusively(|| upload(connection, &volume, bytes))
            } else {
                let like = access(&volume)?;
                storage::exclusively(|| Ok(volume.delete(0)?))?;
                create(connection, path, bytes, like.as_ref())
            }
        }
    };
    let_go(connection, path);
    saved.map_err(|e| e.context(format_args!("writing {path}")))
}

/// The state of each TPM is in a directory of its own: a pool over each would stand in everybody's list.
fn let_go(connection: &Connect, path: &str) {
    if path.ends_with(".permall")
        && let Ok((directory, _)) = storage::split(path)
    {
        storage::let_go(connection, directory);
    }
}

fn create(connection: &Connect, path: &str, bytes: &[u8], like: Option<&xml::Access>) -> Result<()> {
    let (directory, name) = storage::split(path)?;
    let pool = storage::refreshed(connection, directory)?;
    let description = xml::file_volume(name, bytes.len() as u64, like);
    let volume = storage::exclusively(|| Ok(StorageVol::create_xml(&pool, &description, 0)?))?;
    storage::exclusively(|| upload(connection, &volume, bytes)).map_err(|e| {
        let undone = storage::exclusively(|| Ok(volume.delete(0)?));
        e.and_rollback(&undone, "removing it")
    })
}

fn existing(connection: &Connect, path: &str) -> Result<StorageVol> {
    storage::known(connection, path)?
        .ok_or_else(|| Error::new(ErrorKind::Failed, format!("{path} is not there")))
}

fn access(volume: &StorageVol) -> Result<Option<xml::Access>> {
    Ok(xml::volume(&volume.xml_desc(0)?)?.access)
}

fn upload(connection: &Connect, volume: &StorageVol, bytes: &[u8]) -> Result<()> {
    let stream = Stream::new(connection, 0)?;
    volume.upload(&stream, 0, bytes.len() as u64, 0)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = stream.send(&rest[..rest.len().min(CHUNK)]).map(usize::try_from);
        match sent {
            Ok(Ok(sent)) if sent > 0 => rest = &rest[sent..],
            Ok(_) => {
                let _ = stream.abort();
                return Err(Error::new(ErrorKind::Failed, "libvirt took no more of it"));
            }
            Err(e) => {
                let _ = stream.abort();
                return Err(e.into());
            }
        }
    }
    stream.finish()?;
    // What is kept so must be right when it is needed, and then it is too late to look.
    if download(connection, volume, bytes.len() as u64)? == bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, "what was written does not read back"))
}

fn download(connection: &Connect, volume: &StorageVol, at_most: u64) -> Result<Vec<u8>> {
    let stream = Stream::new(connection, 0)?;
    volume.download(&stream, 0, 0, 0)?;
    receive(stream, at_most)
}

fn receive(stream: Stream, at_most: u64) -> Result<Vec<u8>> {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        let got = match stream.recv(&mut chunk).map(usize::try_from) {
            Ok(Ok(got)) => got,
            Ok(Err(_)) => 0,
            Err(e) => {
                let _ = stream.abort();
                return Err(e.into());
            }
        };
        if got == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..got]);
        if bytes.len() as u64 > at_most {
            let _ = stream.abort();
            return Err(Error::new(ErrorKind::Unsupported, format!("it has more than {at_most} bytes")));
        }
    }
    stream.finish()?;
    Ok(bytes)
}
