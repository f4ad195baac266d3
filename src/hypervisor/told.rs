//! What snapshots say of a disk, sorted into the line that the VM is on and the branches that it left.

use std::collections::BTreeMap;

use super::{Error, ErrorKind, Result, SnapshotRecord};
use crate::core::chain::{Part, Told};

/// From the current snapshot back to the first.
///
/// It is an error ([`ErrorKind::ChainMismatch`]) if none is current, or if a parent is missing.
pub fn line_to_current(records: &[SnapshotRecord]) -> Result<Vec<&SnapshotRecord>> {
    let by_name: BTreeMap<_, _> = records.iter().map(|r| (&r.name, r)).collect();
    let mut at = records.iter().find(|r| r.current);
    if at.is_none() {
        return Err(mismatch("no snapshot is the current one, and libvirt crashes on that"));
    }
    let mut line = Vec::new();
    while let Some(record) = at {
        if line.len() > records.len() {
            return Err(mismatch("the snapshots' parents form a ring"));
        }
        line.push(record);
        at = match &record.parent {
            None => None,
            Some(p) => Some(
                *by_name
                    .get(p)
                    .ok_or_else(|| mismatch(&format!("{}'s parent {p} is not there", record.name)))?,
            ),
        };
    }
    Ok(line)
}

/// What these snapshots say of a disk; nothing, if there are none.
pub fn told<'a>(records: &'a [SnapshotRecord], target: &str) -> Result<Told<'a>> {
    if records.is_empty() {
        return Ok(Told::default());
    }
    let line = line_to_current(records)?;
    let part = |r: &'a SnapshotRecord| {
        let disk = r.disks.iter().find(|d| d.target == target)?;
        let reverted = r.revert_disks.iter().find(|(t, _)| t == target).map(|(_, path)| path.as_str());
        Some(Part { snapshot: &r.name, overlay: &disk.overlay, state_image: &disk.state_image, reverted })
    };
    let beside = records.iter().filter(|r| !line.iter().any(|l| l.name == r.name)).filter_map(part).collect();
    let current = line.first().copied().and_then(part).is_some();
    Ok(Told { line: line.into_iter().filter_map(part).collect(), beside, current })
}

fn mismatch(what: &str) -> Error {
    Error::new(ErrorKind::ChainMismatch, format!("{what}. Nothing was touched"))
}
