//! What lies under snapshots that do not all have the same disks: whether a run of them can be merged is not in their
//! tree alone.
//!
//! ```text
//!   s0 (vda) ◀── s1 (both) ◀── s2 (both)     the VM was on s2, went back to s0, which left vdb where it was, and x was
//!       ▲─── x (both)                        taken: x's vdb lies on s2's images, though x is no branch of s1 or s2
//! ```
//!
//! So the [recipe](super::recipe()) is asked of what a plan has found: the one function that the merge itself asks.

use std::collections::BTreeMap;

use super::{DiskNow, Held, Hold, Obstacle, Plan, SnapshotNow, Step, recipe};
use crate::core::{
    chain::{Link, Part},
    model::SnapshotName,
};

/// The images of a VM's disks, and what its snapshots say of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    disks: Vec<Disk>,
    /// From the first snapshot to the current one.
    line: Vec<Known>,
    beside: Vec<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    target: String,
    /// Paths and formats, from the top down.
    chain: Vec<(String, String)>,
    links: Vec<Place>,
}

/// A [`Link`] of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    snapshot: SnapshotName,
    overlay: String,
    state_image: String,
    above: String,
}

/// A [`SnapshotNow`] of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: SnapshotName,
    sources: Vec<String>,
    beside: Vec<String>,
}

impl Ground {
    /// What a [recipe](super::recipe()) is made of, as it is now.
    pub fn new(disks: &[DiskNow<'_>], line: &[SnapshotNow<'_>], beside: &[SnapshotNow<'_>]) -> Self {
        let own = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let known = |s: &SnapshotNow<'_>| Known {
            name: s.name.clone(),
            sources: own(&s.sources),
            beside: own(&s.beside),
        };
        let place = |link: &Link<'_>| Place {
            snapshot: link.part.snapshot.clone(),
            overlay: link.part.overlay.to_owned(),
            state_image: link.part.state_image.to_owned(),
            above: link.above.to_owned(),
        };
        let disk = |disk: &DiskNow<'_>| Disk {
            target: disk.target.to_owned(),
            chain: disk
                .chain
                .iter()
                .map(|(path, format)| ((*path).to_owned(), (*format).to_owned()))
                .collect(),
            links: disk.links.iter().map(place).collect(),
        };
        Self {
            disks: disks.iter().map(disk).collect(),
            line: line.iter().map(known).collect(),
            beside: beside.iter().map(known).collect(),
        }
    }

    /// The plan without what the images forbid. A run is cut where one of it is in the way; `sizes` are the snapshots'.
    pub fn allow(&self, plan: Plan, sizes: &BTreeMap<&SnapshotName, u64>) -> Plan {
        let mut allowed = Plan { steps: Vec::new(), held: plan.held };
        for step in plan.steps {
            match step {
                Step::Merge { run, survivor, copies, frees } => match self.obstacle(&run) {
                    None => allowed.steps.push(Step::Merge { run, survivor, copies, frees }),
                    Some(_) => self.cut(&run, survivor.as_ref(), sizes, &mut allowed),
                },
                step => allowed.steps.push(step),
            }
        }
        allowed
    }

    fn cut(
        &self,
        run: &[SnapshotName],
        survivor: Option<&SnapshotName>,
        sizes: &BTreeMap<&SnapshotName, u64>,
        allowed: &mut Plan,
    ) {
        let mut from = 0;
        while from < run.len() {
            // As many as go together; each step is looked at again when it is taken.
            let mut to = from;
            while to < run.len() && self.obstacle(&run[from..=to]).is_none() {
                to += 1;
            }
            if to == from {
                let because = self.obstacle(&run[from..=from]).map(Hold::Images);
                allowed.held.extend(because.map(|because| Held { name: run[from].clone(), because }));
                from += 1;
                continue;
            }
            let part = &run[from..to];
            let bytes = part.iter().filter_map(|name| sizes.get(name)).sum();
            allowed.steps.push(Step::Merge {
                run: part.to_vec(),
                survivor: run.get(to).or(survivor).cloned(),
                copies: bytes,
                frees: bytes,
            });
            from = to;
        }
    }

    /// What forbids the merge of this run.
    fn obstacle(&self, run: &[SnapshotName]) -> Option<Obstacle> {
        let disks: Vec<DiskNow<'_>> = self.disks.iter().map(Disk::now).collect();
        let line: Vec<_> = self.line.iter().map(Known::now).collect();
        let beside: Vec<_> = self.beside.iter().map(Known::now).collect();
        recipe(&disks, &line, &beside, run).err()
    }
}

impl Disk {
    fn now(&self) -> DiskNow<'_> {
        fn link(at: &Place) -> Link<'_> {
            let Place { snapshot, overlay, state_image, above } = at;
            Link { part: Part { snapshot, overlay, state_image, reverted: None }, above }
        }
        DiskNow {
            target: &self.target,
            chain: self.chain.iter().map(|(path, format)| (path.as_str(), format.as_str())).collect(),
            links: self.links.iter().map(link).collect(),
        }
    }
}

impl Known {
    fn now(&self) -> SnapshotNow<'_> {
        SnapshotNow {
            name: &self.name,
            id: None,
            memory: None,
            sources: self.sources.iter().map(String::as_str).collect(),
            beside: self.beside.iter().map(String::as_str).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> SnapshotName {
        SnapshotName::existing(name)
    }

    /// The picture above, after a revert to s2, with one more snapshot: all on the one disk.
    fn ground() -> Ground {
        let names = ["s1", "s2", "s3"].map(name);
        let part = |i: usize, overlay, state_image| Part {
            snapshot: &names[i],
            overlay,
            state_image,
            reverted: None,
        };
        let links = vec![
            Link { part: part(2, "/s3", "/r"), above: "/s3" },
            Link { part: part(1, "/s2", "/s1"), above: "/r" },
            Link { part: part(0, "/s1", "/base"), above: "/s1" },
        ];
        let disk = DiskNow {
            target: "vdb",
            chain: ["/s3", "/r", "/s1", "/base"].map(|path| (path, "qcow2")).to_vec(),
            links,
        };
        let now = |name, beside: &[&'static str]| SnapshotNow {
            name,
            id: None,
            memory: None,
            sources: Vec::new(),
            beside: beside.to_vec(),
        };
        let line: Vec<_> = names.iter().map(|name| now(name, &[])).collect();
        Ground::new(&[disk], &line, &[now(&name("x"), &["/s2", "/s1", "/base"])])
    }

    fn merge(run: &[&str], survivor: Option<&str>, bytes: u64) -> Step {
        let run = run.iter().map(|n| name(n)).collect();
        Step::Merge { run, survivor: survivor.map(name), copies: bytes, frees: bytes }
    }

    #[test]
    fn a_run_is_cut_where_another_snapshot_stands_on_its_images() {
        let names = ["s1", "s2", "s3"].map(name);
        let sizes: BTreeMap<&SnapshotName, u64> = names.iter().zip([1, 2, 4]).collect();
        let plan = Plan { steps: vec![merge(&["s1", "s2", "s3"], None, 7)], held: Vec::new() };
        let allowed = ground().allow(plan, &sizes);
        assert_eq!(allowed.steps, [merge(&["s3"], None, 4)]);
        let stands =
            |image: &str| Hold::Images(Obstacle::Stands { snapshot: name("x"), image: image.to_owned() });
        let held: Vec<_> = allowed.held.iter().map(|h| (h.name.as_str(), h.because.clone())).collect();
        assert_eq!(held, [("s1", stands("/s1")), ("s2", stands("/s1"))]);
        assert!(allowed.held[0].text().contains("snapshot x stands on /s1"), "{}", allowed.held[0].text());
    }

    #[test]
    fn what_nothing_stands_on_is_planned_as_it_was() {
        let plan = Plan { steps: vec![merge(&["s3"], None, 9)], held: Vec::new() };
        assert_eq!(ground().allow(plan.clone(), &BTreeMap::new()), plan);
    }
}
