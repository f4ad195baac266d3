//! What must be true once all is at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    harness::{quote, sources, wait_or},
    scene::{DEADLINE, DISKS, How, Lab, SNAPSHOT, Scene},
};

const IMAGES: &str = "/var/lib/libvirt/images";
const VM: &str = "org.virtsnap1.VM";

/// A snapshot: its name and state on the bus, its overlays, and the images that hold its data.
struct Seen {
    name: String,
    state: String,
    overlays: Vec<String>,
    holds: Vec<String>,
}

/// All of it, asked at one time.
struct Said {
    state: String,
    jobs: String,
    /// What each disk is written to.
    active: BTreeMap<String, String>,
    inactive: Vec<(String, String)>,
    /// By libvirt's word.
    names: BTreeSet<String>,
    snapshots: Vec<Seen>,
    files: Vec<String>,
}

/// An image that holds data: whose, and in which of the snapshots inside it, if it is one of those.
struct Image<'a> {
    of: &'a str,
    path: &'a str,
    inside: Option<&'a str>,
}

impl Scene {
    /// Looks at everything. What is there now and may be is known from then on, and what may be gone and is, is not.
    pub(crate) fn check(&mut self, lab: &Lab<'_>) {
        let journal = || lab.daemon.journal();
        let state = if self.runs { "running" } else { "shut off" };
        wait_or(
            DEADLINE,
            || (self.vm.state() == state).then_some(()),
            || panic!("it is {}, and not {state}\n{}", self.vm.state(), journal()),
        );
        let said = self.look(lab);
        assert_eq!(said.state, state);
        assert!(said.jobs.is_empty(), "jobs are left: {}\n{}", said.jobs, journal());
        for (target, path) in &said.inactive {
            assert_eq!(Some(path), said.active.get(target), "the definition names what {target} runs on");
        }
        let names: BTreeSet<String> = said.snapshots.iter().map(|s| s.name.clone()).collect();
        assert_eq!(names, said.names, "the bus knows what libvirt does\n{}", journal());
        self.settle(&names);
        for (name, state) in said.snapshots.iter().map(|s| (&s.name, s.state.as_str())) {
            let right = state == "ready"
                || state == "failed" && (self.doomed.contains(name) || self.lost.contains(name));
            assert!(right, "{name} is {state}\n{}", journal());
        }
        self.holds(lab, &said);
    }

    /// What is there and may be is known.
    fn settle(&mut self, names: &BTreeSet<String>) {
        for name in names {
            if !self.known.contains_key(name) {
                let made = self.may.iter().find(|(start, _)| name.starts_with(**start));
                let (_, value) = made.unwrap_or_else(|| panic!("where does {name} come from?"));
                self.known.insert(name.clone(), *value);
            }
        }
        for name in self.doomed.clone() {
            if !names.contains(&name) {
                self.doomed.remove(&name);
                self.known.remove(&name);
            }
        }
        let lost: Vec<_> = self.known.keys().filter(|name| !names.contains(*name)).collect();
        assert!(lost.is_empty(), "{lost:?} are gone, and nobody wanted that");
    }

    fn look(&self, lab: &Lab<'_>) -> Said {
        let name = self.vm.name();
        let end = "echo ===";
        let mut ask = format!(
            "domstate {name}; {end}; domblklist {name}; {end}; dumpxml --inactive {name}; {end}; snapshot-list {name} --name; \
             {end}"
        );
        let listed = lab.daemon.snapshots(name);
        for (snapshot, _) in &listed {
            let _ = write!(ask, "; snapshot-dumpxml {name} {snapshot}; {end}");
        }
        let mut script =
            format!("virsh -q {}; find {IMAGES} -type f -name '*{name}*'; echo ===\n", quote(&ask));
        if self.runs {
            let ask = format!("domjobinfo {name}; blockjob {name} vda; blockjob {name} vdb");
            let _ = writeln!(
                script,
                "virsh -q {} 2>&1 | grep -v 'No current block job\\|Job type: *None\\|^ *$' || true; echo ===",
                quote(&ask)
            );
        }
        let said = lab.tb.ok(&script);
        let mut parts = said.split("===").map(str::trim);
        let mut next = || parts.next().unwrap_or_else(|| panic!("{said}"));
        let pair = |line: &str| line.trim().split_once(' ').map(|(t, p)| (t.to_owned(), p.trim().to_owned()));
        let lines =
            |text: &str| text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let state = next().to_owned();
        let active = next().lines().filter_map(pair).collect();
        let inactive = parse(next(), sources);
        let names = lines(next()).into_iter().collect();
        let texts: Vec<&str> = listed.iter().map(|_| next()).collect();
        let files = lines(next());
        let jobs = if self.runs { next().to_owned() } else { String::new() };
        let seen = listed.into_iter().zip(texts).map(|((name, path), text)| {
            let memory = parse(text, |root| {
                let memory = root.children().find(|n| n.has_tag_name("memory"));
                memory.and_then(|m| m.attribute("file")).map(str::to_owned)
            });
            let paths = |name| {
                let found = parse(text, |root| root.children().find(|n| n.has_tag_name(name)).map(sources));
                found.unwrap_or_default().into_iter().map(|(_, path)| path).collect::<Vec<_>>()
            };
            let mut overlays = paths("disks");
            overlays.extend(memory);
            let state = lab.daemon.bus.get(&path, SNAPSHOT, "State");
            Seen { name, state, overlays, holds: paths("domain") }
        });
        let snapshots = seen.collect();
        Said { state, jobs, active, inactive, names, snapshots, files }
    }

    /// The data of all of it, and whose each file is.
    fn holds(&self, lab: &Lab<'_>, said: &Said) {
        let beside = self.other.as_ref().map(|other| look_beside(lab, &other.name)).unwrap_or_default();
        let mut images: Vec<Image<'_>> = Vec::new();
        let outside = |of, path| Image { of, path, inside: None };
        images.extend(DISKS.iter().map(|disk| outside("", said.active[*disk].as_str())));
        let offered = |seen: &&Seen| seen.state == "ready" && !self.lost.contains(&seen.name);
        for seen in said.snapshots.iter().filter(offered) {
            assert_eq!(seen.holds.len(), DISKS.len(), "{}", seen.name);
            let inside = (self.how == How::Inside && seen.name != "after").then_some(seen.name.as_str());
            images.extend(seen.holds.iter().map(|path| Image { of: &seen.name, path, inside }));
        }
        if let Some(other) = &self.other {
            assert!(!other.there || beside.len() == DISKS.len(), "{} is there: {beside:?}", other.name);
            images.extend(beside.iter().map(|path| outside(&other.name, path)));
        }
        let mut owned: BTreeSet<String> =
            said.snapshots.iter().flat_map(|s| s.overlays.iter().cloned()).collect();
        let mut now = BTreeSet::new();
        let is_told = self.is_told(lab);
        for (image, (byte, chain)) in images.iter().zip(read(lab, &images)) {
            let journal = || lab.daemon.journal();
            if let Some(other) = self.other.as_ref().filter(|other| other.name == image.of) {
                assert!(
                    is_told || byte == other.holds,
                    "{} has lost its data: {}\n{}",
                    other.name,
                    image.path,
                    journal()
                );
                assert!(!other.alone || chain.len() == 1, "{} lies on {chain:?}\n{}", other.name, journal());
            } else if image.of.is_empty() {
                now.insert(byte);
            } else {
                let value = self.known[image.of];
                assert_eq!(byte, value, "{} has lost its data: {}\n{}", image.of, image.path, journal());
            }
            owned.extend(chain);
        }
        let right = now.len() == 1 && now.iter().all(|value| self.now.contains(value));
        assert!(right, "the disks hold {now:?}, and not {:?}\n{}", self.now, lab.daemon.journal());
        let left: Vec<_> = said.files.iter().filter(|f| !owned.contains(f.as_str())).collect();
        if !left.is_empty() {
            let path = lab.daemon.vm(self.vm.name());
            let told: Vec<(String, u64, u64)> = lab.daemon.bus.get(&path, VM, "Orphans");
            let untold = |file: &&&String| told.iter().all(|(orphan, _, _)| orphan != **file);
            let untold: Vec<_> = left.iter().filter(untold).collect();
            assert!(untold.is_empty(), "nobody owns {untold:?}, or tells of it\n{}", lab.daemon.journal());
            println!("    told as orphans: {left:?}");
        }
    }

    /// Whether the other VM is what it was to become.
    pub(crate) fn is_whole(&self, lab: &Lab<'_>) -> bool {
        let Some(other) = &self.other else { return true };
        let images = look_beside(lab, &other.name);
        let images: Vec<_> =
            images.iter().map(|path| Image { of: &other.name, path, inside: None }).collect();
        let alone = |(_, chain): &(u8, Vec<String>)| chain.len() == 1;
        images.len() == DISKS.len()
            && !self.is_told(lab)
            && (self.dies != other.name || read(lab, &images).iter().all(alone))
    }

    /// Whether it is said that the other VM's disks may not hold all that was copied, and how that is put right.
    fn is_told(&self, lab: &Lab<'_>) -> bool {
        self.other.as_ref().filter(|other| other.there).is_some_and(|other| {
            let path = lab.daemon.vm(&other.name);
            lab.daemon.bus.get::<String>(&path, VM, "HealthReason").contains("copies it once more")
        })
    }

    /// Whether no file is there that nobody owns.
    pub(crate) fn check_files(&self, lab: &Lab<'_>) -> bool {
        let name = self.vm.name();
        lab.tb.ok(&format!("find {IMAGES} -name '{name}-one*' -o -name '{name}-two*'")).is_empty()
    }

    /// Waits until nothing is said to be wrong with it.
    pub(crate) fn is_well(&self, lab: &Lab<'_>) {
        let path = lab.daemon.vm(self.vm.name());
        let get = |property| lab.daemon.bus.get::<String>(&path, VM, property);
        wait_or(
            DEADLINE,
            || (get("Health") == "ok").then_some(()),
            || panic!("it is {}: {}\n{}", get("Health"), get("HealthReason"), lab.daemon.journal()),
        );
    }
}

/// The images that the disks of another VM are on: none if there is no such VM, which is off if there is one.
fn look_beside(lab: &Lab<'_>, name: &str) -> Vec<String> {
    if !lab.tb.sh(&format!("virsh -q dominfo {name}")).success() {
        return Vec::new();
    }
    let state = || lab.tb.ok(&format!("virsh -q domstate {name}")).trim().to_owned();
    wait_or(
        DEADLINE,
        || (state() == "shut off").then_some(()),
        || panic!("{name} is {}\n{}", state(), lab.daemon.journal()),
    );
    let inactive = lab.tb.ok(&format!("virsh -q dumpxml --inactive {name}"));
    parse(&inactive, sources).into_iter().map(|(_, path)| path).collect()
}

/// The first byte that each holds, and the images that it is made of, unless one before it is made of it. All are sound.
fn read(lab: &Lab<'_>, images: &[Image<'_>]) -> Vec<(u8, Vec<String>)> {
    // A QEMU that has not flushed yet leaves clusters unused (3). What a chain is made of is asked for once.
    let mut script = "set -e; seen=/var/tmp/seen; : >$seen\n".to_owned();
    for image in images {
        let path = quote(image.path);
        let look = match image.inside {
            None => {
                format!("qemu-io -r -U -f qcow2 -c 'read -v 0 1' {path} | sed -n 's/^.*:  \\(..\\) .*/\\1/p'")
            }
            Some(name) => format!(
                "qemu-img convert -U -l snapshot.name={} -f qcow2 -O raw {path} /var/tmp/inside.raw
                 od -An -tx1 -N1 /var/tmp/inside.raw",
                quote(name)
            ),
        };
        let _ = writeln!(
            script,
            "qemu-img check -q -U {path} >&2 || [ $? = 3 ]; {look}
             grep -qxF {path} $seen || qemu-img info -U --backing-chain {path} | sed -n 's/^image: //p' | tee -a $seen
             echo ==="
        );
    }
    let said = lab.tb.sh(&script);
    assert!(said.success(), "{said}\n{}", lab.daemon.journal());
    let one = |text: &str| {
        let mut lines = text.trim().lines().map(str::trim);
        let byte = lines.next().and_then(|byte| u8::from_str_radix(byte, 16).ok());
        (byte.unwrap_or_else(|| panic!("{said}")), lines.map(str::to_owned).collect())
    };
    said.stdout.split("===").take(images.len()).map(one).collect()
}

fn parse<T>(text: &str, read: impl FnOnce(roxmltree::Node<'_, '_>) -> T) -> T {
    let doc = roxmltree::Document::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    read(doc.root_element())
}
