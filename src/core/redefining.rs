//! A snapshot's metadata that is being changed, and what is to be made of it where nobody saw how that ended.
//!
//! A libvirt that cannot write a snapshot's file takes the snapshot off its list, and its images are layers without a name
//! then. So it is written down first what is about to be changed, and what there is around it. What was lost that way is
//! put back from the copy that was kept; what somebody deleted meanwhile is not: such a deletion takes images with it, or
//! at least gives the children and the current place to the parent, or takes the children as well, which libvirt never
//! does by itself.
//!
//! Some deletions of the metadata alone (`virsh snapshot-delete --metadata`) cannot be told from a loss: those of one
//! without children that was not current or had no parent, such as a VM's only one. Nothing around it is otherwise. It is
//! put back then: that touches no image, and whoever wants it gone deletes it once more.

use serde::{Deserialize, Serialize};

use super::{
    health::{Facts, SnapshotFacts},
    model::SnapshotName,
};

/// What there was around it before it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Redefining {
    current: bool,
    internal: bool,
    parent: Option<SnapshotName>,
    children: Vec<SnapshotName>,
    /// Its overlays that a disk of the VM had on their state images: target, overlay, state image.
    layers: Vec<(String, String, String)>,
    /// Its other state images, as of one on a branch that the VM left.
    images: Vec<String>,
    /// It is changed as this child of it is forgotten: as long as that one is there, what is around it is as before.
    #[serde(default)]
    forgets: Option<SnapshotName>,
    /// All of its overlays: target and overlay. None is known of what an older version wrote.
    #[serde(default)]
    overlays: Vec<(String, String)>,
}

/// How one is to be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutBack {
    /// It is to be the current one.
    pub current: bool,
}

impl Redefining {
    /// Of the snapshot of this name, as all is now.
    pub fn of(name: &SnapshotName, facts: &Facts<'_>) -> Self {
        let children = facts.snapshots.iter().filter(|s| s.parent == Some(name));
        let mut around = Self { children: children.map(|s| s.name.clone()).collect(), ..Self::default() };
        let Some(own) = facts.snapshots.iter().find(|s| s.name == name) else { return around };
        (around.current, around.internal) = (own.current, own.internal);
        around.parent = own.parent.cloned();
        around.overlays = own
            .disks
            .iter()
            .map(|(target, overlay, _)| ((*target).to_owned(), (*overlay).to_owned()))
            .collect();
        for (target, overlay, image) in &own.disks {
            if lies(facts, target, overlay, image) {
                around.layers.push(((*target).to_owned(), (*overlay).to_owned(), (*image).to_owned()));
            } else if !own.lost.contains(image) {
                around.images.push((*image).to_owned());
            }
        }
        around
    }

    /// Of those that libvirt, or we, write anew when the snapshot of this name is forgotten, as all is then: its parent, and
    /// the one that is current.
    pub fn beside(name: &SnapshotName, facts: &Facts<'_>) -> Vec<(SnapshotName, Self)> {
        let Some(gone) = facts.snapshots.iter().find(|s| s.name == name) else { return Vec::new() };
        let mut after = facts.clone();
        after.snapshots.retain(|s| s.name != name);
        for other in &mut after.snapshots {
            if other.parent == Some(name) {
                other.parent = gone.parent;
            }
            other.current |= gone.current && gone.parent == Some(other.name);
        }
        let written = after.snapshots.iter().filter(|s| s.current || gone.parent == Some(s.name));
        let around = |s: &SnapshotFacts<'_>| {
            let forgets = (gone.parent == Some(s.name)).then(|| name.clone());
            (s.name.clone(), Self { forgets, ..Self::of(s.name, &after) })
        };
        written.map(around).collect()
    }

    /// Its parent.
    pub fn parent(&self) -> Option<&SnapshotName> {
        self.parent.as_ref()
    }

    /// Whether the snapshot of this name, which is on the list, was left with overlays that are not its own. A libvirt that
    /// forgets a child of one that was reverted to takes the revert's overlays for those that the other children lie on,
    /// and whoever was about to put that right did not come to it.
    pub fn is_left_wrong(&self, name: &SnapshotName, facts: &Facts<'_>) -> bool {
        let now = |name: &SnapshotName| facts.snapshots.iter().find(|s| s.name == name);
        let forgotten = self.forgets.as_ref().is_some_and(|child| now(child).is_none());
        let other = |(target, overlay, _): &(&str, &str, &str)| {
            self.overlays.iter().any(|(of, was)| of == target && was != overlay)
        };
        forgotten
            && facts.snapshots.iter().any(|s| s.parent == Some(name))
            && now(name).is_some_and(|own| own.disks.iter().any(other))
    }

    /// The files that must be there, or somebody deleted it.
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// It is inside its disks' images.
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// What is to be made of it, now that it is not on the list: an error says by what it is seen that somebody deleted it,
    /// or why it would be wrong now.
    pub fn lost(&self, facts: &Facts<'_>) -> Result<PutBack, String> {
        let now = |name: &SnapshotName| facts.snapshots.iter().find(|s| s.name == name);
        if let Some(parent) = self.parent.as_ref().filter(|parent| now(parent).is_none()) {
            return Err(format!("its parent {parent} is not there any more either"));
        }
        if let Some(child) = self.children.iter().find(|child| now(child).is_none()) {
            return Err(format!("its child {child} is not there any more either"));
        }
        let adopted = |s: &&SnapshotName| now(s).is_some_and(|s| s.parent == self.parent.as_ref());
        if let Some(child) = self.children.iter().chain(&self.forgets).find(adopted) {
            return Err(format!("its child {child} has another parent by now"));
        }
        let current = facts.snapshots.iter().find(|s| s.current);
        if self.current && current.is_some_and(|s| Some(s.name) == self.parent.as_ref()) {
            return Err("its parent is the current one by now".to_owned());
        }
        match self.layers.iter().find(|(target, overlay, image)| !lies(facts, target, overlay, image)) {
            Some((target, overlay, image)) => {
                Err(format!("disk {target} of the VM has not got {overlay} on {image} any more"))
            }
            None => Ok(PutBack { current: self.current && current.is_none() }),
        }
    }
}

fn lies(facts: &Facts<'_>, target: &str, overlay: &str, image: &str) -> bool {
    let mut disks = facts.disks.iter().filter(|d| d.target == target);
    disks.any(|d| d.chain.windows(2).any(|w| w[0] == overlay && w[1] == image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::DiskFacts;

    fn facts<'a>(chain: &[&'a str], snapshots: &[(&'a SnapshotName, Option<&'a SnapshotName>)]) -> Facts<'a> {
        let disk = DiskFacts {
            target: "vda",
            chain: chain.to_vec(),
            configured: None,
            written_out: None,
            lost: None,
        };
        let snapshot = |(n, (name, parent)): (usize, &(&'a SnapshotName, Option<&'a SnapshotName>))| {
            let [image, overlay] = [["/0", "/1"], ["/1", "/2"], ["/2", "/3"]][n];
            SnapshotFacts {
                name,
                parent: *parent,
                current: n + 1 == snapshots.len(),
                internal: false,
                marked: false,
                disks: vec![("vda", overlay, image), ("vdb", "/left", "/branch")],
                reverted: Vec::new(),
                lost: Vec::new(),
                memory_lost: None,
                xml_bytes: 0,
            }
        };
        Facts {
            disks: vec![disk],
            snapshots: snapshots.iter().enumerate().map(snapshot).collect(),
            keeps_revert_disks: true,
            layer_limit: 25,
            unfinished: false,
        }
    }

    #[test]
    fn overlays_of_a_revert_in_the_place_of_its_own_are_seen_when_the_child_is_forgotten() {
        let [a, b, c] = ["a", "b", "c"].map(SnapshotName::existing);
        let before = facts(&["/3", "/2", "/1", "/0"], &[(&a, None), (&b, Some(&a)), (&c, Some(&a))]);
        let around = Redefining::beside(&b, &before).remove(0).1;
        let right = without(&before, &b);
        assert!(!around.is_left_wrong(&a, &right));
        let mut wrong = right.clone();
        wrong.snapshots[0].disks[0].1 = "/reverted";
        assert!(around.is_left_wrong(&a, &wrong));
        assert!(!Redefining { forgets: None, ..around.clone() }.is_left_wrong(&a, &wrong));
        let leaf = without(&wrong, &c);
        assert!(!around.is_left_wrong(&a, &leaf), "nobody lies on its own any more");
        let mut there = before;
        there.snapshots[0].disks[0].1 = "/reverted";
        assert!(!around.is_left_wrong(&a, &there), "the child is not forgotten yet");
    }

    fn without<'a>(facts: &Facts<'a>, name: &SnapshotName) -> Facts<'a> {
        let mut facts = facts.clone();
        facts.snapshots.retain(|s| s.name != name);
        facts
    }

    #[test]
    fn what_libvirt_lost_is_told_from_what_somebody_deleted() {
        let [a, b, c] = ["a", "b", "c"].map(SnapshotName::existing);
        let chain = ["/3", "/2", "/1", "/0"];
        let before = facts(&chain, &[(&a, None), (&b, Some(&a)), (&c, Some(&b))]);
        let put_back = |current| Ok(PutBack { current });

        let of_b = Redefining::of(&b, &before);
        assert_eq!(of_b.images(), ["/branch"]);
        let lost = without(&before, &b);
        assert_eq!(of_b.lost(&lost), put_back(false));
        let mut deleted = lost.clone();
        deleted.snapshots[1].parent = Some(&a);
        assert!(of_b.lost(&deleted).unwrap_err().contains("child c"));
        let merged = facts(&["/3", "/1", "/0"], &[]);
        let merged = Facts { snapshots: lost.snapshots.clone(), ..merged };
        assert!(of_b.lost(&merged).unwrap_err().contains("/2 on /1"));
        let orphan = without(&lost, &a);
        assert!(of_b.lost(&orphan).unwrap_err().contains("parent a"));

        // One after the other, from the root up or down.
        let of_a = Redefining::of(&a, &before);
        let mut both = without(&without(&before, &a), &b);
        both.snapshots[0].parent = None;
        assert!(of_a.lost(&both).unwrap_err().contains("child b"));

        let of_c = Redefining::of(&c, &before);
        let mut lost = without(&before, &c);
        assert_eq!(of_c.lost(&lost), put_back(true));
        lost.snapshots[0].current = true;
        assert_eq!(of_c.lost(&lost), put_back(false), "somebody made another one current");
        lost.snapshots[0].current = false;
        lost.snapshots[1].current = true;
        assert!(of_c.lost(&lost).unwrap_err().contains("current"));
    }

    #[test]
    fn what_another_one_s_end_changes_is_known_as_it_is_then() {
        let [a, b, c] = ["a", "b", "c"].map(SnapshotName::existing);
        let chain = ["/3", "/2", "/1", "/0"];
        let before = facts(&chain, &[(&a, None), (&b, Some(&a)), (&c, Some(&b))]);
        let beside = |name: &SnapshotName| Redefining::beside(name, &before);
        let names = |name| beside(name).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&a), std::slice::from_ref(&c), "the current one");
        assert_eq!(names(&b), [a.clone(), c.clone()]);
        assert_eq!(names(&c), std::slice::from_ref(&b), "it is the current one then");

        let (_, of_a) = beside(&b).remove(0);
        let mut lost = without(&without(&before, &b), &a);
        lost.snapshots[0].parent = Some(&a);
        assert_eq!(of_a.lost(&lost), Ok(PutBack { current: false }));
        // Somebody deleted it before the other one was forgotten.
        let mut deleted = without(&before, &a);
        deleted.snapshots[0].parent = None;
        assert!(of_a.lost(&deleted).unwrap_err().contains("child b"));
        let (_, of_b) = beside(&c).remove(0);
        let mut lost = without(&without(&before, &c), &b);
        lost.snapshots[0].current = false;
        assert_eq!(of_b.lost(&lost), Ok(PutBack { current: true }));
    }
}
