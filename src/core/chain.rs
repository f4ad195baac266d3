//! Whether a disk's images are what its VM's snapshots say: asked before anything is put on top of them, merged or
//! left behind.
//!
//! A snapshot names the overlay that was put on its state image. After a revert to one with children that is no longer
//! what the VM writes to: libvirt 11 says it in `<revertDisks>`, until the next snapshot is taken; libvirt 9 says it
//! nowhere.
//!
//! ```text
//!   base ◀── s1's overlay ◀── s2's overlay          s1 and s2, before
//!        ◀── what a revert to s1 made ◀── s3's overlay          the VM, after that and s3
//! ```
//!
//! So an overlay that no snapshot names is right too, where it lies directly on the state image of the snapshot that
//! it must belong to.
//!
//! A revert leaves a disk that its snapshot does not have on what it is on: on images of the branch that the VM leaves,
//! or that nobody knows any more. Those lie between the snapshots of the line from then on, and are nobody's of it.

use std::fmt;

use super::model::SnapshotName;

/// A disk's part in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// The snapshot.
    pub snapshot: &'a SnapshotName,
    /// The overlay that it names.
    pub overlay: &'a str,
    /// What holds the disk as it was.
    pub state_image: &'a str,
    /// The overlay that a revert to it made, if it says so.
    pub reverted: Option<&'a str>,
}

/// What all snapshots of a VM say of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told<'a> {
    /// Those that have it, from the current one back to the first.
    pub line: Vec<Part<'a>>,
    /// Those that have it and are on branches that the VM left.
    pub beside: Vec<Part<'a>>,
    /// The current one is the first of the line: it has this disk.
    pub current: bool,
}

/// A disk's part in one snapshot of the line, as it really is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'a> {
    /// What the snapshot says.
    pub part: Part<'a>,
    /// The image that really lies on its state image, on the way to what the VM writes to.
    pub above: &'a str,
}

/// How they differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The disk's target.
    pub target: String,
    /// What it runs on, from the top down.
    pub chain: Vec<String>,
    /// The snapshot that says something else.
    pub snapshot: SnapshotName,
    /// What it says: the overlay, and the image under it.
    pub said: [String; 2],
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, chain, snapshot, said: [overlay, state_image] } = self;
        write!(
            f,
            "disk {target} runs on {}, but snapshot {snapshot} says {overlay} → {state_image}",
            chain.join(" → ")
        )
    }
}

/// Whether what the VM writes to belongs to the current snapshot. Where that does not have the disk, nothing is known
/// against it: a revert leaves such a disk on what it was on.
pub fn check_top(target: &str, chain: &[&str], told: &Told<'_>) -> Result<(), Mismatch> {
    match told.line.first() {
        Some(part) if told.current => link(target, chain, 0, part, told).map(drop),
        _ => Ok(()),
    }
}

/// Finds the place of each snapshot of the line in the disk's chain, which must have all of them, from the top down. What
/// lies between two of them is on the way to the newer one's state image, and no other's of the line.
pub fn links<'a>(target: &str, chain: &[&'a str], told: &Told<'a>) -> Result<Vec<Link<'a>>, Mismatch> {
    let of_line = |image: &&str| told.line.iter().any(|p| p.overlay == *image || p.reverted == Some(*image));
    let mut from = 0;
    let mut place = |(i, part): (usize, &Part<'a>)| {
        let strict = i == 0 && told.current;
        let at = (from..chain.len()).find(|at| chain.get(at + 1) == Some(&part.state_image));
        let at = at.filter(|at| !strict && !chain[from..*at].iter().any(of_line)).unwrap_or(from);
        from = at + 1;
        link(target, chain, at, part, told)
    };
    told.line.iter().enumerate().map(&mut place).collect()
}

/// A disk that has left a snapshot's overlay, while that snapshot still says that it is there: the data went into the
/// state image, and whoever did it did not come to write that down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<'a> {
    /// What the snapshot says.
    pub part: Part<'a>,
    /// The image that lies on its state image now; `None` if the VM writes to that.
    pub above: Option<&'a str>,
    /// The places of all others of the line, which are right.
    pub links: Vec<Link<'a>>,
}

/// Whether all that is wrong with a disk's chain is that this snapshot's overlay was merged: `None` if it is something
/// else as well. That the overlay's data is where it belongs, the chain alone does not prove.
pub fn without<'a>(
    target: &str,
    chain: &[&'a str],
    told: &Told<'a>,
    snapshot: &SnapshotName,
) -> Option<Merged<'a>> {
    let at = told.line.iter().position(|p| p.snapshot == snapshot)?;
    let mut rest = told.clone();
    let part = rest.line.remove(at);
    let newer = at.checked_sub(1);
    match newer.and_then(|i| rest.line.get_mut(i)) {
        Some(newer) if newer.state_image == part.overlay => newer.state_image = part.state_image,
        None if chain.first() == Some(&part.state_image) => {}
        _ => return None,
    }
    if chain.contains(&part.overlay) {
        return None;
    }
    let links = links(target, chain, &rest).ok()?;
    let above = newer.and_then(|i| links.get(i)).map(|link| link.above);
    Some(Merged { part, above, links })
}

fn link<'a>(
    target: &str,
    chain: &[&'a str],
    at: usize,
    part: &Part<'a>,
    told: &Told<'a>,
) -> Result<Link<'a>, Mismatch> {
    let (above, below) = (chain.get(at).copied(), chain.get(at + 1).copied());
    match above {
        Some(above) if below == Some(part.state_image) && belongs(above, at, part, told) => {
            Ok(Link { part: *part, above })
        }
        _ => Err(Mismatch {
            target: target.to_owned(),
            chain: chain.iter().map(|image| (*image).to_owned()).collect(),
            snapshot: part.snapshot.clone(),
            said: [part.overlay.to_owned(), part.state_image.to_owned()],
        }),
    }
}

/// Whether this image is the one that the snapshot has on its state image, or one that a revert put there.
fn belongs(image: &str, at: usize, part: &Part<'_>, told: &Told<'_>) -> bool {
    if image == part.overlay || part.reverted == Some(image) {
        return true;
    }
    let mut others = told.line.iter().chain(&told.beside);
    let is_another_s = others.clone().any(|p| p.overlay == image || p.reverted == Some(image));
    // What the VM writes to holds no snapshot's state.
    let holds_a_state = at == 0 && others.any(|p| p.state_image == image);
    !is_another_s && !holds_a_state
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World(Vec<SnapshotName>);

    impl World {
        fn new() -> Self {
            Self(["s1", "s2", "s3", "s4"].map(SnapshotName::existing).into())
        }

        fn part<'a>(&'a self, n: usize, overlay: &'a str, state_image: &'a str) -> Part<'a> {
            Part { snapshot: &self.0[n - 1], overlay, state_image, reverted: None }
        }
    }

    #[track_caller]
    fn above(chain: &[&'static str], told: &Told<'static>) -> Vec<&'static str> {
        check_top("vda", chain, told).unwrap();
        links("vda", chain, told).unwrap().iter().map(|l| l.above).collect()
    }

    fn told(line: Vec<Part<'static>>, beside: Vec<Part<'static>>) -> Told<'static> {
        Told { line, beside, current: true }
    }

    fn leaked() -> &'static World {
        Box::leak(Box::new(World::new()))
    }

    #[test]
    fn a_straight_line_is_right_and_a_gap_is_not() {
        let w = leaked();
        let straight = told(vec![w.part(2, "/2", "/1"), w.part(1, "/1", "/0")], vec![]);
        assert_eq!(above(&["/2", "/1", "/0"], &straight), ["/2", "/1"]);
        assert_eq!(above(&["/2", "/1", "/0", "/below"], &straight), ["/2", "/1"]);
        for wrong in [&["/1", "/0"][..], &["/2", "/x", "/1", "/0"], &["/0"], &["/2", "/1"], &[]] {
            assert!(links("vda", wrong, &straight).is_err(), "{wrong:?}");
        }
        let error = links("vda", &["/x", "/0"], &straight).unwrap_err();
        assert_eq!(error.to_string(), "disk vda runs on /x → /0, but snapshot s2 says /2 → /1");
    }

    #[test]
    fn after_a_revert_to_one_with_children_its_overlay_has_no_name_or_a_place_of_its_own() {
        let w = leaked();
        let s1 = w.part(1, "/1", "/0");
        let beside = vec![w.part(2, "/2", "/1")];
        // libvirt 9, and libvirt 11.
        assert_eq!(above(&["/r", "/0"], &told(vec![s1], beside.clone())), ["/r"]);
        let named = Part { reverted: Some("/r"), ..s1 };
        assert_eq!(above(&["/r", "/0"], &told(vec![named], beside.clone())), ["/r"]);
        // And with another one taken on top of that.
        let line = vec![w.part(3, "/3", "/r"), s1];
        assert_eq!(above(&["/3", "/r", "/0"], &told(line, beside)), ["/3", "/r"]);
    }

    #[test]
    fn an_overlay_that_was_merged_is_found_wherever_it_was_and_only_if_all_else_is_right() {
        let w = leaked();
        let line = vec![w.part(3, "/3", "/2"), w.part(2, "/2", "/1"), w.part(1, "/1", "/0")];
        let told = told(line, vec![]);
        let found = |n: usize, chain: &[&'static str]| {
            let merged = without("vda", chain, &told, &w.0[n - 1])?;
            let links: Vec<_> = merged.links.iter().map(|l| (l.above, l.part.state_image)).collect();
            Some((merged.part.overlay, merged.above, links))
        };
        let right = ["/3", "/2", "/1", "/0", "/below"];
        assert!(links("vda", &right, &told).is_ok());
        assert_eq!(found(1, &["/3", "/2", "/0"]), Some(("/1", Some("/2"), vec![("/3", "/2"), ("/2", "/0")])));
        assert_eq!(found(2, &["/3", "/1", "/0"]), Some(("/2", Some("/3"), vec![("/3", "/1"), ("/1", "/0")])));
        assert_eq!(found(3, &["/2", "/1", "/0"]), Some(("/3", None, vec![("/2", "/1"), ("/1", "/0")])));
        for n in 1..=3 {
            // Nothing is gone, another one is, or two are, or something lies between.
            for wrong in [&right[..], &["/3", "/0"], &["/1", "/0"], &["/3", "/x", "/1", "/0"], &["/x"], &[]] {
                assert_eq!(found(n, wrong), None, "{n} {wrong:?}");
            }
        }
        assert_eq!(found(1, &["/3", "/1", "/0"]), None);
        assert_eq!(found(4, &["/2", "/1", "/0"]), None, "it does not have the disk");
        // The only one.
        let one = Told { line: vec![w.part(1, "/1", "/0")], beside: vec![], current: true };
        assert_eq!(without("vda", &["/0"], &one, &w.0[0]).map(|m| (m.above, m.links)), Some((None, vec![])));
        assert_eq!(without("vda", &["/x", "/0"], &one, &w.0[0]), None);
    }

    #[test]
    fn what_another_snapshot_has_is_not_taken_for_a_revert_s() {
        let w = leaked();
        let s1 = w.part(1, "/1", "/0");
        // On another branch's overlay.
        let beside = vec![w.part(2, "/2", "/1"), w.part(3, "/3", "/0")];
        assert!(check_top("vda", &["/3", "/0"], &told(vec![s1], beside.clone())).is_err());
        // On what a snapshot's state is in.
        let on_r = vec![w.part(2, "/2", "/1"), w.part(4, "/4", "/r")];
        assert!(check_top("vda", &["/r", "/0"], &told(vec![s1], on_r.clone())).is_err());
        // That is right further down, where another branch starts there too.
        let line = vec![w.part(3, "/3", "/r"), s1];
        assert_eq!(above(&["/3", "/r", "/0"], &told(line, on_r)), ["/3", "/r"]);
        // On the base itself, or on something that lies elsewhere.
        for wrong in [&["/0"][..], &["/x", "/y", "/0"]] {
            assert!(check_top("vda", wrong, &told(vec![s1], beside.clone())).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_disk_that_the_current_one_does_not_have_may_be_on_anything() {
        let w = leaked();
        let older = Told { current: false, ..told(vec![w.part(1, "/1", "/0")], vec![]) };
        assert!(check_top("vda", &["/elsewhere"], &older).is_ok());
        assert!(links("vda", &["/elsewhere"], &older).is_err());
        assert!(check_top("vda", &["/any"], &Told::default()).is_ok());
    }

    #[test]
    fn a_revert_to_one_without_the_disk_leaves_images_of_the_branch_between() {
        let w = leaked();
        // s1 has it, s2 does not, s3 was the safety snapshot on s2, which the VM left for s2 again.
        let s1 = w.part(1, "/1", "/0");
        let left = told(vec![s1], vec![w.part(3, "/3", "/1")]);
        let left = Told { current: false, ..left };
        assert_eq!(above(&["/3", "/1", "/0"], &left), ["/1"]);
        // And when that one is deleted, and when s4 is taken on top.
        let forgotten = Told { beside: vec![], ..left };
        assert_eq!(above(&["/3", "/1", "/0"], &forgotten), ["/1"]);
        let newer = told(vec![w.part(4, "/4", "/3"), s1], vec![]);
        assert_eq!(above(&["/4", "/3", "/1", "/0"], &newer), ["/4", "/1"]);
        // On top is what the current one has, and what lies on the state image must be its own.
        for wrong in [
            &["/4", "/x", "/3", "/1", "/0"][..],
            &["/4", "/3", "/1", "/x", "/0"],
            &["/4", "/3", "/1"],
            &["/3", "/1", "/0"],
        ] {
            assert!(links("vda", wrong, &newer).is_err(), "{wrong:?}");
        }
        let other = told(newer.line.clone(), vec![w.part(2, "/2", "/0")]);
        assert!(links("vda", &["/4", "/3", "/2", "/0"], &other).is_err());
    }
}
