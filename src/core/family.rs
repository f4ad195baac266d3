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
            "what {} stands on cannot be told: {} {}. Bring it back, or take it out of that VM's definition",
            self.user, self.path, self.why
        )
    }
}

/// All images and all that name them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Family {
    /// What is known of each file, by path.
    pub files: BTreeMap<String, File>,
    /// Everybody.
    pub holders: Vec<Holder>,
}

impl Family {
    /// Paths of which nothing is known, though somebody's chain leads there.
    pub fn unexplored(&self) -> BTreeSet<String> {
        let raw = self.raw();
        let named = self.holders.iter().flat_map(|h| &h.names).filter(|n| !n.raw).map(|n| n.path.as_str());
        let below =
            self.files.iter().filter(|(path, _)| !raw.contains(path.as_str())).filter_map(|(_, f)| match f {
                File::On(Some((below, false))) => Some(below.as_str()),
                _ => None,
            });
        named.chain(below).filter(|path| !self.files.contains_key(*path)).map(str::to_owned).collect()
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

    /// The image and all that it lies on; and where that ends too early, the path and why.
    fn below<'a>(
        &'a self,
        path: &'a str,
        as_raw: bool,
        raw: &BTreeSet<&str>,
    ) -> (Vec<&'a str>, Option<(&'a str, &'a str)>) {
        let (mut chain, mut at) = (vec![path], path);
        let mut stop = as_raw || raw.contains(path);
        while !stop {
            match self.files.get(at) {
                Some(File::On(None)) => break,
                // A ring has no end to be looked for.
                Some(File::On(Some((next, _)))) if chain.contains(&next.as_str()) => break,
                Some(File::On(Some((next, as_raw)))) => {
                    chain.push(next);
                    at = next;
                    stop = *as_raw;
                }
                Some(File::Missing) | None => return (chain, Some((at, MISSING))),
                Some(File::Unreadable(why)) => return (chain, Some((at, why))),
            }
        }
        (chain, None)
    }
}

const MISSING: &str = "is not there";

#[cfg(test)]
mod tests;
