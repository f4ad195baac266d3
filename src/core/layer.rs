//! Layers of a VM's disks that no snapshot names: overlays that were put on top without metadata.
//!
//! `virsh snapshot-create --no-metadata` makes them, and a libvirt that was killed between the switch and the writing of
//! the metadata. Until they have a name nothing can be merged or reverted, as the disks are not what the snapshots say.
//!
//! ```text
//!   base ◀── s1's overlay ◀── ? ◀── ?          the VM; s1 is the current snapshot
//! ```
//!
//! Which of them belong together on several disks is proven where all disks that have any have as many.

use std::collections::BTreeSet;

use super::{
    chain,
    health::{self, Facts, Finding, Health},
    text::for_shell,
};

/// One of them, on all disks that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer<'a> {
    /// Each disk's target, the overlay, and the image that it was put on: what holds the disk as it was then.
    pub disks: Vec<(&'a str, &'a str, &'a str)>,
}

/// All of them, the lowest first; or why it cannot be told. Of a VM without snapshots each image but the lowest is one:
/// whether that is a base that others are to be put on, only people know.
pub fn unnamed<'a>(facts: &Facts<'a>) -> Result<Vec<Layer<'a>>, String> {
    health::lineage(facts)?;
    if let Some(internal) = facts.snapshots.iter().find(|s| s.internal) {
        return Err(format!("{} is inside the images, and the two kinds are not mixed.", internal.name));
    }
    let current = facts.snapshots.iter().find(|s| s.current);
    if current.is_none() && !facts.snapshots.is_empty() {
        return Err("No snapshot is the current one, so it is not known what they lie on.".to_owned());
    }
    let mut deep = Vec::new();
    for disk in &facts.disks {
        if disk.configured.is_some_and(|c| disk.chain.first() != Some(&c)) {
            return Err(format!("Disk {} is not on the image that the definition names.", disk.target));
        }
        let count = match current {
            None => disk.chain.len().saturating_sub(1),
            Some(current) => {
                let told = health::told(facts, current, disk.target);
                // With nothing in between: what lies there nobody can name without telling the one above.
                let fits = |at: &usize| {
                    let chain = &disk.chain[*at..];
                    chain::links(disk.target, chain, &told)
                        .is_ok_and(|links| links.iter().zip(chain).all(|(link, image)| link.above == *image))
                };
                let named = |image: &&str| {
                    let names = |s: &health::SnapshotFacts<'_>| {
                        let own = s.disks.iter().any(|(_, above, below)| above == image || below == image);
                        own || s.reverted.iter().any(|(_, above)| above == image)
                    };
                    facts.snapshots.iter().any(names)
                };
                let at = (0..disk.chain.len()).find(fits);
                at.filter(|at| !disk.chain[..*at].iter().any(named)).ok_or_else(|| {
                    format!("Disk {} lies on something else than its snapshots say.", disk.target)
                })?
            }
        };
        if count > 0 {
            deep.push((disk, count));
        }
    }
    let Some((_, most)) = deep.first() else { return Ok(Vec::new()) };
    if let Some((disk, count)) = deep.iter().find(|(_, count)| count != most) {
        return Err(format!(
            "Disk {} has {count} such layers and disk {} has {most}: which of them belong together cannot be told.",
            disk.target, deep[0].0.target
        ));
    }
    let layer = |at: usize| Layer {
        disks: deep.iter().map(|(disk, _)| (disk.target, disk.chain[at - 1], disk.chain[at])).collect(),
    };
    Ok((1..=*most).rev().map(layer).collect())
}

/// Told where the VM is still on images that were made for snapshots of ours, and none of those is there any more.
pub fn finding(vm: &str, ours: &BTreeSet<&str>) -> Option<Finding> {
    let first = ours.first()?;
    let many = match ours.len() {
        1 => format!("Layer {first} under the VM's disks was"),
        more => format!("{more} layers under the VM's disks, {first} the first of them, were"),
    };
    let text = format!(
        "{many} made for snapshots that are gone by now: a disk that one of them left out stays on what it is on. \
         `virtsnap adopt {} --layers` makes a snapshot of each layer, and deleting those merges them.",
        for_shell(vm)
    );
    Some(Finding { health: Health::Degraded, text, repair: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        health::{DiskFacts, SnapshotFacts},
        model::SnapshotName,
    };

    fn facts<'a>(chains: &[(&'a str, &[&'a str])], snapshots: Vec<SnapshotFacts<'a>>) -> Facts<'a> {
        let disk = |(target, chain): &(&'a str, &[&'a str])| DiskFacts {
            target,
            chain: chain.to_vec(),
            configured: chain.first().copied(),
            written_out: None,
            lost: None,
        };
        Facts {
            disks: chains.iter().map(disk).collect(),
            snapshots,
            keeps_revert_disks: true,
            layer_limit: 25,
            unfinished: false,
        }
    }

    fn s1(name: &SnapshotName) -> SnapshotFacts<'_> {
        SnapshotFacts {
            name,
            parent: None,
            current: true,
            internal: false,
            marked: false,
            disks: vec![("vda", "/a1", "/a0"), ("vdb", "/b1", "/b0")],
            reverted: Vec::new(),
            lost: Vec::new(),
            memory_lost: None,
            xml_bytes: 9_000,
        }
    }

    #[test]
    fn what_lies_on_top_of_what_is_named_is_told_from_below() {
        let name = SnapshotName::existing("s1");
        let of = |a: &[&'static str], b: &[&'static str]| {
            let facts = facts(&[("vda", a), ("vdb", b)], vec![s1(&name)]);
            unnamed(&facts).map(|all| all.into_iter().map(|l| l.disks).collect::<Vec<_>>())
        };
        assert_eq!(of(&["/a1", "/a0"], &["/b1", "/b0"]), Ok(vec![]));
        assert_eq!(of(&["/x", "/a1", "/a0"], &["/b1", "/b0"]), Ok(vec![vec![("vda", "/x", "/a1")]]));
        assert_eq!(
            of(&["/y", "/x", "/a1", "/a0"], &["/w", "/v", "/b1", "/b0"]),
            Ok(vec![
                vec![("vda", "/x", "/a1"), ("vdb", "/v", "/b1")],
                vec![("vda", "/y", "/x"), ("vdb", "/w", "/v")]
            ])
        );
        assert!(
            of(&["/y", "/x", "/a1", "/a0"], &["/v", "/b1", "/b0"]).unwrap_err().contains("belong together")
        );
        assert!(of(&["/a1", "/x", "/a0"], &["/b1", "/b0"]).unwrap_err().contains("Disk vda lies on"));
    }

    #[test]
    fn without_snapshots_all_but_the_base_is() {
        let all = facts(&[("vda", &["/x", "/base"]), ("vdb", &["/b"])], Vec::new());
        assert_eq!(unnamed(&all).unwrap(), [Layer { disks: vec![("vda", "/x", "/base")] }]);
        assert_eq!(unnamed(&facts(&[("vda", &["/base"])], Vec::new())).unwrap(), []);
    }

    #[test]
    fn what_is_left_of_ours_is_told_with_the_way_out() {
        assert_eq!(finding("web", &BTreeSet::new()), None);
        let found = finding("web", &["/i/a"].into()).unwrap();
        assert!(found.text.starts_with("Layer /i/a under"), "{}", found.text);
        let found = finding("web", &["/i/b", "/i/a"].into()).unwrap();
        assert!(found.text.starts_with("2 layers under the VM's disks, /i/a the first"), "{}", found.text);
        assert!(found.text.contains("`virtsnap adopt web --layers`"), "{}", found.text);
        let named = finding("web 1", &["/i/a"].into()).unwrap();
        assert!(named.text.contains("`virtsnap adopt 'web 1' --layers`"), "{}", named.text);
        assert_eq!((found.health, found.repair), (Health::Degraded, None));
    }

    #[test]
    fn where_nothing_is_proven_it_is_said() {
        let name = SnapshotName::existing("s1");
        let chains: [(&str, &[&str]); 1] = [("vda", &["/x", "/a1", "/a0"])];
        for (snapshot, words) in [
            (SnapshotFacts { current: false, ..s1(&name) }, "No snapshot is the current one"),
            (SnapshotFacts { internal: true, ..s1(&name) }, "inside the images"),
        ] {
            let why = unnamed(&facts(&chains, vec![snapshot])).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        let mut other = facts(&chains, vec![s1(&name)]);
        other.disks[0].configured = Some("/elsewhere");
        assert!(unnamed(&other).unwrap_err().contains("the definition names"));
    }
}
