//! Which images a VM may be let write: those that libvirt says are its own, and nobody else's.
//!
//! Two ways of being somebody else's are looked at. What lies on what, by name, is libvirt's answer
//! ([`Images::users`](crate::hypervisor::Images::users)). That two names are one file it does not know: so each is looked
//! at here, and where a file of this VM is also somebody else's, is a symbolic link, or has a second name on the disk, it
//! is left out.

use std::{collections::BTreeSet, io};

use super::{LeftOut, VmId, image};
use crate::hypervisor::{Error, ErrorKind, Hypervisor, Result};

/// A VM's images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Own {
    /// Those that it may write, by the path that AppArmor sees.
    pub(super) images: Vec<String>,
    /// The same by the paths that libvirt has for them.
    pub(super) named: BTreeSet<String>,
    pub(super) left_out: Vec<LeftOut>,
}

const THEIRS: &str = "What else has it has to go first";
/// A file on which others lie cannot just be renamed.
const UNCONFINED: &str = "With `<seclabel type='none' model='apparmor'/>` in its definition (`virsh edit`), and started \
                          anew, the VM runs without AppArmor, and its snapshots can be merged";

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its path without any symbolic link in the directories.
    pub(super) real: String,
    /// Its device and inode, of what a symbolic link leads to if it is one.
    pub(super) file: (u64, u64),
    /// It is a regular file itself, and has no other name.
    pub(super) plain: bool,
}

/// Looks at files.
pub(super) trait Look {
    /// `None`: there is no such file.
    fn look(&self, path: &str) -> io::Result<Option<Found>>;
}

/// What one VM names.
#[derive(Debug, Default)]
struct Claims {
    /// What it writes to, or has written to, as files.
    writes: BTreeSet<String>,
    /// All else.
    reads: BTreeSet<String>,
}

/// The VM's own images. Whatever cannot be told is an error.
pub(super) fn own(hypervisor: &dyn Hypervisor, files: &dyn Look, vm: VmId) -> Result<Own> {
    let mine = claims(hypervisor, vm)?;
    let mut others = BTreeSet::new();
    for other in hypervisor.vms()?.into_iter().filter(|other| *other != vm) {
        match claims(hypervisor, other) {
            Ok(theirs) => others.extend(theirs.writes.into_iter().chain(theirs.reads)),
            // It went while we looked.
            Err(e) if e.kind == ErrorKind::NoSuchVm => {}
            Err(e) => return Err(e.context(format_args!("which images VM {other} has cannot be told"))),
        }
    }
    let look = |path: &str| {
        let found = files.look(path);
        found.map_err(|e| Error::new(ErrorKind::Failed, format!("{path} cannot be looked at: {e}")))
    };
    // What it only reads, such as a CD that is also a disk's base, counts as somebody else's.
    let mut taken = BTreeSet::new();
    for path in others.iter().chain(&mine.reads).filter(|path| path.starts_with('/')) {
        taken.extend(look(path)?.map(|found| found.file));
    }
    let mut own = Own::default();
    let mut plain = Vec::new();
    for path in mine.writes {
        let mut leave_out = |why: String, way_out: &str| {
            own.left_out.push(LeftOut { path: path.clone(), why, way_out: way_out.to_owned() });
        };
        // A snapshot's image that is gone needs no right.
        let Some(found) = look(&path)? else { continue };
        if taken.contains(&found.file) {
            leave_out("something else has it as well".to_owned(), THEIRS);
        } else if !found.plain {
            let way_out = "Remove its other names (hard links); where it is a symbolic link, shut the VM down and put \
                           the file itself in the link's place";
            leave_out("it is not a plain file with one name".to_owned(), way_out);
        } else if let Err(refused) = image::quoted(&found.real) {
            leave_out(refused.to_string(), UNCONFINED);
        } else {
            plain.push((path, found.real));
        }
    }
    let asked: Vec<String> = plain.iter().map(|(path, _)| path.clone()).collect();
    let users = hypervisor.users(&asked, vm)?;
    for (path, real) in plain {
        if let Some((_, user)) = users.iter().find(|(used, _)| *used == path) {
            let (why, way_out) = (format!("it is under {user}"), THEIRS.to_owned());
            own.left_out.push(LeftOut { path, why, way_out });
        } else {
            own.images.push(real);
            own.named.insert(path);
        }
    }
    own.images.sort_unstable();
    own.images.dedup();
    Ok(own)
}

fn claims(hypervisor: &dyn Hypervisor, id: VmId) -> Result<Claims> {
    let vm = hypervisor.vm(id)?;
    let records = hypervisor.snapshots(id)?;
    let mut claims = Claims::default();
    let written: BTreeSet<String> =
        vm.disks.iter().filter(|d| d.writable && d.kind == "file").map(|d| d.target.clone()).collect();
    let mut claim = |target: &str, path: String| {
        if written.contains(target) {
            claims.writes.insert(path)
        } else {
            claims.reads.insert(path)
        };
    };
    for disk in vm.disks {
        for path in disk.chain.into_iter().map(|layer| layer.path).chain(disk.configured) {
            claim(&disk.target, path);
        }
    }
    let mut files: Vec<String> = vm.nvram.into_iter().map(|nvram| nvram.path).collect();
    for record in records {
        for disk in record.disks {
            claim(&disk.target, disk.overlay);
            claim(&disk.target, disk.state_image);
        }
        for (target, path) in record.revert_disks.into_iter().chain(record.sources) {
            claim(&target, path);
        }
        files.extend(record.memory_file);
    }
    claims.reads.extend(files);
    claims.writes.retain(|path| !claims.reads.contains(path) && !path.is_empty());
    Ok(claims)
}

#[cfg(test)]
mod tests;
