//! Who stands on an image: what lies on what on a host, and who names which images.
//!
//! libvirt looks at one VM's own snapshots when it merges. A linked clone on the same base, another VM's snapshot, an
//! overlay in a pool that no VM has yet: each of them would read wrong after it, and nobody would be told.
//!
//! ```text
//!   base ◀── template.qcow2 (VM template)          users of base: VM clone, volume spare.qcow2
//!     ▲─── clone.qcow2 (VM clone)
//!     ▲─── spare.qcow2 (nobody's)
//! ```

mod strays;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::model::SnapshotName;

/// Who would lose data if an image changed or went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A VM's disk, now or from its next start on; the VM's name.
    Vm(String),
    /// A VM's snapshot.
    Snapshot {
        /// The VM's name.
        vm: String,
        /// The snapshot's.
        name: SnapshotName,
    },
    /// An image that no VM names; its path.
    Volume(String),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "VM {name}"),
            Self::Snapshot { vm, name } => write!(f, "snapshot {name} of VM {vm}"),
            Self::Volume(path) => write!(f, "{path}, which no VM has"),
        }
    }
}

/// What is known of an image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// It lies on this one (path, and whether that is raw), or on none.
    On(Option<(String, bool)>),
    /// There is no such file.
    Missing,
    /// It cannot be looked at; why.
    Unreadable(String),
}

/// One that names images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub user: User,
    /// The one on whose behalf is asked: it does not stand in its own way.
    pub own: bool,
    /// What it names.
    pub names: Vec<Named>,
}

/// An image as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its path.
    pub path: String,
    /// It is used as raw: what looks like a header in it is the guest's, and names no other image.
    pub raw: bool,
    /// Without it the VM cannot start. Where it is missing, what lies below is unknown; where a snapshot's is missing,
    /// that snapshot is lost already.
    pub vital: bool,
}

/// An image whose chain cannot be followed, so that what it stands on is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Who names it.
    pub user: User,
    /// The image at which it ends.
    pub path: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "what {} stands on cannot be told: {} {}, so it may stand on this. Put it back; or, if it is gone for good, \
             take the disk out of that VM's definition (`virsh detach-disk --config`), or undefine that VM",
            self.user, self.path, self.why
        )
    }
}

/// All images and all that name them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Family {
    /// What is known of each file, by path.
    pub files: BTreeMap<String, File>,
    /// What definitions and snapshots say that an image lies on, path and whether that is raw: all that the hypervisor
    /// still knows of one that is not there. Of one that is there its header says it. An empty set: it lies on nothing.
    pub told: BTreeMap<String, BTreeSet<(String, bool)>>,
    /// Everybody.
    pub holders: Vec<Holder>,
}

impl Family {
    /// Paths of which nothing is known, though somebody's chain leads there.
    pub fn unexplored(&self) -> BTreeSet<String> {
        let raw = self.raw();
        let named = self.holders.iter().flat_map(|h| &h.names).filter(|n| !n.raw).map(|n| n.path.as_str());
        let told = self.told.values().flatten().filter(|(_, raw)| !raw).map(|(path, _)| path.as_str());
        let below =
            self.files.iter().filter(|(path, _)| !raw.contains(path.as_str())).filter_map(|(_, f)| match f {
                File::On(Some((below, false))) => Some(below.as_str()),
                _ => None,
            });
        named
            .chain(told)
            .chain(below)
            .filter(|path| !self.files.contains_key(*path))
            .map(str::to_owned)
            .collect()
    }

    /// Who but its own VM has one of these images, or has anything that lies on one of them.
    pub fn users(&self, images: &BTreeSet<String>) -> Result<Vec<(String, User)>, Unknown> {
        let raw = self.raw();
        let mut found = BTreeSet::new();
        let mut of_somebody: BTreeSet<&str> = BTreeSet::new();
        for holder in &self.holders {
            for named in &holder.names {
                let (below, end) = self.below(&named.path, named.raw, &raw);
                of_somebody.extend(&below);
                if holder.own {
                    continue;
                }
                if let Some((path, why)) = end.filter(|(_, why)| named.vital || *why != MISSING) {
                    return Err(Unknown {
                        user: holder.user.clone(),
                        path: path.to_owned(),
                        why: why.to_owned(),
                    });
                }
                let hit = below.into_iter().filter(|path| images.contains(*path));
                found.extend(hit.map(|path| (path.to_owned(), holder.user.clone())));
            }
        }
        for path in self.files.keys() {
            if !images.contains(path) && !of_somebody.contains(path.as_str()) {
                let (below, _) = self.below(path, false, &raw);
                let hit = below.into_iter().filter(|path| images.contains(*path));
                found.extend(hit.map(|hit| (hit.to_owned(), User::Volume(path.clone()))));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// What everybody who names it uses as raw.
    fn raw(&self) -> BTreeSet<&str> {
        let names = || self.holders.iter().flat_map(|h| &h.names);
        let below = || {
            self.files.values().filter_map(|f| match f {
                File::On(Some((path, raw))) => Some((path.as_str(), *raw)),
                _ => None,
            })
        };
        let all = || names().map(|n| (n.path.as_str(), n.raw)).chain(below());
        let not: BTreeSet<&str> = all().filter(|(_, raw)| !raw).map(|(path, _)| path).collect();
        all().map(|(path, _)| path).filter(|path| !not.contains(path)).collect()
    }

    /// The image and all that it lies on, or may lie on; and where that ends too early, the path and why.
    fn below<'a>(
        &'a self,
        path: &'a str,
        as_raw: bool,
        raw: &BTreeSet<&str>,
    ) -> (Vec<&'a str>, Option<(&'a str, &'a str)>) {
        let (mut chain, mut end) = (Vec::new(), None);
        let mut next = vec![(path, as_raw)];
        while let Some((at, as_raw)) = next.pop() {
            // A ring has no end to be looked for.
            if chain.contains(&at) {
                continue;
            }
            chain.push(at);
            if as_raw || raw.contains(at) {
                continue;
            }
            match (self.files.get(at), self.told.get(at)) {
                (Some(File::On(below)), _) => {
                    next.extend(below.iter().map(|(path, raw)| (path.as_str(), *raw)));
                }
                (Some(File::Unreadable(why)), _) => end = end.or(Some((at, why.as_str()))),
                (Some(File::Missing) | None, Some(told)) => {
                    next.extend(told.iter().map(|(path, raw)| (path.as_str(), *raw)));
                }
                (Some(File::Missing) | None, None) => end = end.or(Some((at, MISSING))),
            }
        }
        (chain, end)
    }
}

const MISSING: &str = "is not there";

#[cfg(test)]
mod tests;
