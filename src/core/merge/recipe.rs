//! How one merge is done: every image and every name, worked out before anything is touched, so that whoever finds it
//! half done can end it.
//!
//! ```text
//!   base ◀── a's overlay ◀── b's overlay ◀── c's overlay      a, b go; c stays
//!   └─ written to   └─ goes        └─ top, goes  └─ above
//!   base (what b's overlay read) ◀── c's overlay              c's state image is base now
//! ```
//!
//! A disk that only some of the run have is merged between those. A snapshot that stays and does not have a disk names
//! its image of then all the same, so it is told as well.
//!
//! A merge that was cut short is ended on what is there by then, which somebody else may have changed: [`DiskPart::place`]
//! says of each disk what is left to do, and that it is done only where that is proven.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::{chain::Link, model::SnapshotName};

/// A snapshot that a merge takes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doomed {
    /// Its name.
    pub name: SnapshotName,
    /// Its own identity, if we made it or took it over.
    pub id: Option<Uuid>,
}

/// One disk's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPart {
    /// The disk's target.
    pub target: String,
    /// The image that is written to: the state image of the oldest of the run that has this disk.
    pub base: String,
    /// Its format.
    pub base_format: String,
    /// The last image whose data goes into it: the overlay of the newest.
    pub top: String,
    /// What goes, from `top` down to the one above `base`.
    pub gone: Vec<String>,
    /// The image on `top`, which lies on `base` afterwards; `None` if `top` is what the VM writes to.
    #[serde(default)]
    pub above: Option<String>,
    /// What `base` took when this was worked out, in bytes, if that was looked at.
    #[serde(default)]
    pub base_bytes: Option<u64>,
}

/// What is left to do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its images are all there, to be merged.
    ToDo,
    /// They are merged.
    Done,
}

impl DiskPart {
    /// What is left to do with this disk, which has this chain now; `overlays` are those of snapshots that stay and
    /// whose state image `base` is, by now. An error says what the chain is instead.
    pub fn place(&self, chain: &[&str], overlays: &[&str]) -> Result<Place, Strayed> {
        let at = |path: &str| chain.iter().position(|image| *image == path);
        let was = || format!("{} → {}", self.gone.join(" → "), self.base);
        let strayed = || Strayed { target: self.target.clone(), chain: chain.join(" → "), was: was() };
        let base = at(&self.base).ok_or_else(strayed)?;
        if let Some(top) = at(&self.top) {
            return if chain[top..base.max(top)] == self.gone[..] { Ok(Place::ToDo) } else { Err(strayed()) };
        }
        // That its images are not there is no proof: a revert takes them away as well, and the disk is then on the base
        // as it was, or half written. What lay above them, on the base, is one.
        let done = match (&self.above, base.checked_sub(1).map(|i| chain[i])) {
            (Some(above), Some(on)) => above == on,
            (Some(_), None) => false,
            (None, None) => true,
            // Merged, and then somebody took a snapshot.
            (None, Some(on)) => overlays.contains(&on),
        };
        let some_left = self.gone.iter().any(|gone| at(gone).is_some());
        if done && !some_left { Ok(Place::Done) } else { Err(strayed()) }
    }

    /// The images that the merge of this disk, which has this chain now, writes: the base, and the one above `top`, which
    /// gets another base. Not what the VM writes to anyway; and none once it is merged.
    pub fn written(&self, chain: &[&str]) -> Vec<String> {
        let Some(top) = chain.iter().position(|image| *image == self.top) else { return Vec::new() };
        let above = top.checked_sub(1).filter(|at| *at > 0).map(|at| chain[at].to_owned());
        std::iter::once(self.base.clone()).chain(above).collect()
    }
}

/// A disk is no longer on what was to be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "disk {target} runs on {chain} now, where {was} was to be merged: somebody else changed it meanwhile"
)]
pub struct Strayed {
    /// The disk's target.
    pub target: String,
    /// Its images now.
    pub chain: String,
    /// What they were.
    pub was: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What goes, the oldest first; each is the next one's parent.
    pub run: Vec<Doomed>,
    /// The disks that any of them has.
    pub disks: Vec<DiskPart>,
    /// The snapshots that stay and are to name `base` where they name `top`, and no chain that is no more: all that are
    /// newer, the oldest first, and those on branches that start there.
    pub told: Vec<SnapshotName>,
    /// Other files that go: what was kept of the VM's memory.
    pub files: Vec<String>,
    /// The current snapshot, if it stays.
    #[serde(default)]
    pub current: Option<SnapshotName>,
    /// The snapshots that stay and that libvirt has marked because its own deletion of one of the run did not end.
    #[serde(default)]
    pub marked: Vec<SnapshotName>,
    /// Somebody else began it: what goes may hold newer data than it should from the first.
    #[serde(default)]
    pub begun: bool,
}

impl Recipe {
    /// Every file that goes.
    pub fn removed(&self) -> Vec<String> {
        self.disks.iter().flat_map(|d| &d.gone).chain(&self.files).cloned().collect()
    }

    /// Every image that is written to or goes.
    pub fn touched(&self) -> Vec<String> {
        let images = self.disks.iter().flat_map(|d| std::iter::once(&d.base).chain(&d.gone));
        images.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }
}

/// One disk, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskNow<'a> {
    /// Its target.
    pub target: &'a str,
    /// Its images' paths and formats, from the one that is written to down to the base.
    pub chain: Vec<(&'a str, &'a str)>,
    /// The place of each snapshot of the line that has it, the newest first.
    pub links: Vec<Link<'a>>,
}

/// One snapshot, as its metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNow<'a> {
    /// Its name.
    pub name: &'a SnapshotName,
    /// Its own identity, if it has one of ours.
    pub id: Option<Uuid>,
    /// The file with the VM's memory.
    pub memory: Option<&'a str>,
    /// What the VM's disks wrote to when it was taken.
    pub sources: Vec<&'a str>,
    /// Of one off the line: every image under what it names.
    pub beside: Vec<&'a str>,
}

/// Why it cannot be done; nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It is not where the VM is.
    #[error(
        "snapshot {0} is on a branch that the VM left when it was reverted; such ones cannot be merged away"
    )]
    OffTheLine(SnapshotName),
    /// Not a run: something lies between.
    #[error("snapshots {0} and {1} are not consecutive")]
    NotConsecutive(SnapshotName, SnapshotName),
    /// One that stays needs an image that would go or be changed.
    #[error("snapshot {snapshot} stands on {image}, which a merge would change: delete that one first")]
    Stands {
        /// Who.
        snapshot: SnapshotName,
        /// On what.
        image: String,
    },
    /// Another disk of the same VM has it.
    #[error("disk {disk} of the VM stands on {image}, too, which a merge would change")]
    Shared {
        /// The other disk.
        disk: String,
        /// On what.
        image: String,
    },
}

/// Works it out. `line`: from the first snapshot to the current one; `beside`: all others. `run`: what goes, the oldest
/// first.
pub fn recipe(
    disks: &[DiskNow<'_>],
    line: &[SnapshotNow<'_>],
    beside: &[SnapshotNow<'_>],
    run: &[SnapshotName],
) -> Result<Recipe, Obstacle> {
    let place = |name: &SnapshotName| {
        let at = line.iter().position(|s| s.name == name);
        at.ok_or_else(|| Obstacle::OffTheLine(name.clone()))
    };
    let places = run.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    for (pair, names) in places.windows(2).zip(run.windows(2)) {
        if pair[1] != pair[0] + 1 {
            return Err(Obstacle::NotConsecutive(names[0].clone(), names[1].clone()));
        }
    }
    let (first, after) = match (places.first(), places.last()) {
        (Some(first), Some(last)) => (*first, last + 1),
        _ => (0, 0),
    };
    let (going, newer) = (&line[first..after], &line[after..]);
    let parts: Vec<DiskPart> = disks.iter().filter_map(|disk| part(disk, going)).collect();
    // What of other branches has to be told of it.
    let mut rewritten: BTreeSet<&str> = BTreeSet::new();
    for (disk, part) in disks.iter().filter_map(|d| Some((d, parts.iter().find(|p| p.target == d.target)?))) {
        let above = disk.chain.iter().map(|l| l.0).take_while(|path| *path != part.top).last();
        rewritten.extend(above.into_iter().chain([part.top.as_str()]));
        let stands = |image: &&str| part.base == **image || part.gone.iter().any(|gone| gone == *image);
        for other in disks.iter().filter(|other| other.target != disk.target) {
            if let Some((image, _)) = other.chain.iter().find(|(path, _)| stands(path)) {
                let (disk, image) = (other.target.to_owned(), (*image).to_owned());
                return Err(Obstacle::Shared { disk, image });
            }
        }
        // Only the image above the top one is rewritten: who reaches these images on another way does not find them.
        for s in beside.iter().filter(|s| above.is_none_or(|above| !s.beside.contains(&above))) {
            if let Some(image) = s.beside.iter().find(|i| stands(i)) {
                return Err(Obstacle::Stands { snapshot: s.name.clone(), image: (*image).to_owned() });
            }
        }
        // Older ones that do not have this disk may name the base: it was what the VM wrote to, and no state of theirs.
        for s in line[..first].iter().chain(newer).chain(beside) {
            let inner = |path: &&&str| **path != part.top && part.gone.iter().any(|gone| gone == **path);
            if let Some(image) = s.sources.iter().find(inner) {
                return Err(Obstacle::Stands { snapshot: s.name.clone(), image: (*image).to_owned() });
            }
        }
    }
    let stood_on =
        |s: &&SnapshotNow<'_>| s.beside.iter().chain(&s.sources).any(|image| rewritten.contains(image));
    let told = newer.iter().chain(beside.iter().filter(stood_on)).map(|s| s.name.clone()).collect();
    let files = going.iter().filter_map(|s| s.memory).map(str::to_owned).collect();
    let run = going.iter().map(|s| Doomed { name: s.name.clone(), id: s.id }).collect();
    let current = newer.last().map(|s| s.name.clone());
    Ok(Recipe { run, disks: parts, told, files, current, marked: Vec::new(), begun: false })
}

/// A disk's part; `None` if no snapshot that goes has it.
fn part(disk: &DiskNow<'_>, going: &[SnapshotNow<'_>]) -> Option<DiskPart> {
    let goes = |link: &&Link<'_>| going.iter().any(|s| s.name == link.part.snapshot);
    let mut links = disk.links.iter().filter(goes);
    let newest = links.clone().next()?;
    let oldest = links.next_back()?;
    let from = disk.chain.iter().position(|(path, _)| *path == newest.above)?;
    let to = disk.chain.iter().position(|(path, _)| *path == oldest.part.state_image)?;
    let (base, base_format) = disk.chain[to];
    let above = from.checked_sub(1).and_then(|i| disk.chain.get(i));
    Some(DiskPart {
        target: disk.target.to_owned(),
        above: above.map(|(path, _)| (*path).to_owned()),
        base_bytes: None,
        base: base.to_owned(),
        base_format: base_format.to_owned(),
        top: newest.above.to_owned(),
        gone: disk.chain.get(from..to)?.iter().map(|(path, _)| (*path).to_owned()).collect(),
    })
}

#[cfg(test)]
mod tests;
