//! What is done: each operation's VM, and the call.

use super::scene::{Begun, How, Lab, Options, Other, Scene};

/// An operation: its name, and what makes a VM with this name for it.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) scene: fn(&Lab<'_>, &str) -> Scene,
}

const fn op(name: &'static str, scene: fn(&Lab<'_>, &str) -> Scene) -> Operation {
    Operation { name, scene }
}

const THREE: &[&str] = &["s1", "s2", "s3"];
const TWO: &[&str] = &["s1", "s2"];
/// What names its snapshots p-1, p-2 and so on.
const POLICY: &str = "[policy.p]\nvms = [\"b*\"]\nname = \"p-{sequence}\"\nquiesce = \"never\"\n";

fn create(lab: &Lab<'_>, vm: &str, runs: bool, options: fn() -> Options) -> Scene {
    let ask = move |lab: &Lab<'_>, scene: &Scene| {
        lab.ask(&lab.daemon.vm(scene.vm.name()), "VM", "CreateSnapshot", &("new", options()))
    };
    Scene::with(lab, vm, runs, How::Disks, &["s1"], Box::new(ask)).may_make("new")
}

/// Deletes or reverts to a snapshot.
fn of_one(lab: &Lab<'_>, scene: &Scene, snapshot: &str, method: &str, options: Options) -> Begun {
    lab.ask(&lab.snapshot(scene.vm.name(), snapshot), "Snapshot", method, &(options,))
}

fn delete(lab: &Lab<'_>, vm: &str, runs: bool, doomed: &'static str) -> Scene {
    let ask = move |lab: &Lab<'_>, scene: &Scene| of_one(lab, scene, doomed, "Delete", Options::new());
    Scene::with(lab, vm, runs, How::Disks, THREE, Box::new(ask)).dooms(&[doomed])
}

fn delete_inside(lab: &Lab<'_>, vm: &str) -> Scene {
    let foreign = || Options::from([("foreign", true.into())]);
    let ask = move |lab: &Lab<'_>, scene: &Scene| of_one(lab, scene, "s2", "Delete", foreign());
    Scene::with(lab, vm, true, How::Inside, THREE, Box::new(ask)).dooms(&["s2"])
}

/// With a policy that keeps one from now on: its prune, or its run.
fn policy(lab: &Lab<'_>, vm: &str, snapshots: &[&'static str], ask: fn(&Lab<'_>, &Scene) -> Begun) -> Scene {
    lab.policies(POLICY);
    let scene = Scene::with(lab, vm, true, How::Policy, snapshots, Box::new(ask)).dooms(snapshots);
    lab.policies(&format!("{POLICY}keep-last = 1\n"));
    scene
}

fn prune(lab: &Lab<'_>, vm: &str) -> Scene {
    let mut scene = policy(lab, vm, &["p-1", "p-2", "p-3"], |lab, scene| {
        lab.ask(&lab.daemon.vm(scene.vm.name()), "VM", "Prune", &(Options::new(),))
    });
    scene.doomed.remove("p-3");
    scene
}

fn run(lab: &Lab<'_>, vm: &str) -> Scene {
    let scene = policy(lab, vm, &["p-1", "p-2"], |lab, scene| {
        let vm = zbus::ObjectPath::try_from(lab.daemon.vm(scene.vm.name())).unwrap();
        let options = Options::from([("vm", vm.into())]);
        let jobs = lab.daemon.bus.call("/org/virtsnap1/policy/p", "org.virtsnap1.Policy", "Run", &(options,));
        let (jobs,): (Vec<zbus::OwnedObjectPath>,) = jobs.unwrap();
        Begun::Job(jobs[0].to_string())
    });
    scene.may_make("p-3")
}

/// All was merged past the metadata, and the images of one are gone.
fn forget(lab: &Lab<'_>, vm: &str) -> Scene {
    let gone = || Options::from([("metadata-only", true.into())]);
    let ask = move |lab: &Lab<'_>, scene: &Scene| of_one(lab, scene, "s2", "Delete", gone());
    let mut scene = Scene::with(lab, vm, true, How::Disks, TWO, Box::new(ask)).dooms(&["s2"]);
    lab.tb.ok(&format!(
        "set -e
         for d in vda vdb; do virsh -q blockcommit {vm} $d --active --pivot --wait >&2; done
         rm /var/lib/libvirt/images/{vm}-*.s*.qcow2"
    ));
    // Only the image that all went into is left, which the first one names.
    scene.known.insert("s1".to_owned(), scene.now[0]);
    scene.lost.insert("s2".to_owned());
    scene.goes_on = false;
    scene
}

fn revert(lab: &Lab<'_>, vm: &str, runs: bool, how: How, safety: bool) -> Scene {
    let ask = move |lab: &Lab<'_>, scene: &Scene| {
        of_one(lab, scene, "s1", "Revert", Options::from([("safety", safety.into())]))
    };
    let scene = Scene::with(lab, vm, runs, how, TWO, Box::new(ask)).may_become(1);
    if safety { scene.may_make("before-revert-s1-") } else { scene }
}

fn branch(lab: &Lab<'_>, vm: &str) -> Scene {
    let ask = |lab: &Lab<'_>, scene: &Scene| {
        let new = format!("{}branch", scene.vm.name());
        lab.ask(&lab.snapshot(scene.vm.name(), "s1"), "Snapshot", "Branch", &(new, Options::new()))
    };
    let other = Other { name: format!("{vm}branch"), holds: 1, there: false, alone: false };
    Scene::with(lab, vm, true, How::Disks, TWO, Box::new(ask)).beside(other)
}

fn promote(lab: &Lab<'_>, vm: &str) -> Scene {
    let mut scene = branch(lab, vm);
    lab.daemon.ok(&format!("branch {vm} s1 {vm}branch"));
    scene.ask = Box::new(|lab, scene| {
        let branch = lab.daemon.vm(&format!("{}branch", scene.vm.name()));
        lab.ask(&branch, "VM", "Promote", &(Options::new(),))
    });
    scene.other.as_mut().unwrap().there = true;
    scene.dies = format!("{vm}branch");
    scene
}

fn modify(lab: &Lab<'_>, vm: &str) -> Scene {
    let ask = |lab: &Lab<'_>, scene: &Scene| {
        lab.client(&format!("modify {} s1 --description 'before the move'", scene.vm.name()))
    };
    Scene::with(lab, vm, true, How::Disks, TWO, Box::new(ask))
}

fn adopt(lab: &Lab<'_>, vm: &str) -> Scene {
    let ask = |lab: &Lab<'_>, scene: &Scene| lab.client(&format!("adopt {} s1 s2", scene.vm.name()));
    Scene::with(lab, vm, true, How::Virsh, TWO, Box::new(ask))
}

fn adopt_layers(lab: &Lab<'_>, vm: &str) -> Scene {
    let ask = |lab: &Lab<'_>, scene: &Scene| lab.client(&format!("adopt {} --layers --yes", scene.vm.name()));
    let scene = Scene::with(lab, vm, true, How::Disks, &[], Box::new(ask)).may_make("adopted-");
    lab.tb.ok(&format!(
        "set -e; virsh -q snapshot-create-as {vm} none --disk-only --atomic --no-metadata
         {}",
        scene.writes(7)
    ));
    Scene { now: vec![7], ..scene }
}

/// What has lain in quarantine for longer than it had to is removed when the daemon looks, as it does at its start.
fn sweep(lab: &Lab<'_>, vm: &str) -> Scene {
    let ask = |lab: &Lab<'_>, _: &Scene| {
        lab.daemon.start();
        Begun::Look
    };
    let scene = Scene::with(lab, vm, true, How::Disks, &["s1"], Box::new(ask));
    let base = format!("/var/lib/libvirt/images/{vm}-vda.qcow2");
    for stray in ["one", "two"] {
        lab.tb.ok(&format!(
            "qemu-img create -q -f qcow2 -b {base} -F qcow2 /var/lib/libvirt/images/{vm}-{stray}.qcow2"
        ));
    }
    lab.daemon.ok(&format!("adopt {vm} --orphans --yes"));
    lab.daemon.stop();
    let aged = "import sqlite3; db = sqlite3.connect('/var/lib/virtsnap/state.db')
db.execute('UPDATE quarantine SET since_usec = since_usec - 8 * 86400 * 1000000'); db.commit()";
    lab.tb.push_file("/var/tmp/age.py", aged, 0o600);
    lab.tb.ok("python3 /var/tmp/age.py");
    scene
}

pub(crate) const CREATES: &[Operation] = &[
    op("create-running", |lab, vm| create(lab, vm, true, Options::new)),
    op("create-stopped", |lab, vm| create(lab, vm, false, Options::new)),
    op("create-memory", |lab, vm| create(lab, vm, true, || Options::from([("memory", "require".into())]))),
    op("modify", modify),
    op("adopt", adopt),
    op("adopt-layers", adopt_layers),
];

pub(crate) const DELETES: &[Operation] = &[
    op("delete-oldest", |lab, vm| delete(lab, vm, true, "s1")),
    op("delete-middle", |lab, vm| delete(lab, vm, true, "s2")),
    op("delete-newest", |lab, vm| delete(lab, vm, true, "s3")),
    op("delete-stopped", |lab, vm| delete(lab, vm, false, "s2")),
    op("delete-inside", delete_inside),
];

pub(crate) const PRUNES: &[Operation] =
    &[op("prune", prune), op("run", run), op("forget", forget), op("sweep", sweep)];

pub(crate) const REVERTS: &[Operation] = &[
    op("revert-running", |lab, vm| revert(lab, vm, true, How::Disks, true)),
    op("revert-without-safety", |lab, vm| revert(lab, vm, true, How::Disks, false)),
    op("revert-stopped", |lab, vm| revert(lab, vm, false, How::Disks, true)),
    op("revert-memory", |lab, vm| revert(lab, vm, true, How::Memory, false)),
    op("revert-inside", |lab, vm| revert(lab, vm, true, How::Inside, true)),
];

pub(crate) const BRANCHES: &[Operation] = &[op("branch", branch), op("promote", promote)];
