//! Keeping a VM's memory with a snapshot, and what is done where that cannot be.

use std::collections::BTreeSet;

use virtsnap::{
    core::{
        job::{CreateJob, Failure, Made, Operation, Outcome, Pace},
        marker,
        model::{Consistency, Content, SnapshotName, VmId, VmState},
        policy::{How, Memory as Wish},
    },
    hypervisor::{CreateSpec, ErrorKind, Hypervisor, SnapshotRecord, Taken},
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, records, refused, spec,
};

const RUNNING: RigVm = RigVm { disks: 2, running: true, agent: false };

/// A hand on guests' memory.
pub(crate) trait Memory {
    /// Makes a running VM whose memory cannot be kept.
    fn new_bound_vm(&mut self) -> VmId;
    /// How much a guest has lived, as its memory knows it: more and more while it runs, and kept while it stands still.
    fn lived(&self, vm: VmId) -> u64;
    /// Returns when the running guest has lived some more.
    fn live(&mut self, vm: VmId);
}

/// Takes one as a person would ask for it.
fn ask(daemon: &Daemon, vm: VmId, label: &str, memory: Wish) -> Result<SnapshotName, Failure> {
    ask_of(daemon, vm, label, memory, None)
}

fn ask_of(
    daemon: &Daemon,
    vm: VmId,
    label: &str,
    memory: Wish,
    disks: Option<Vec<String>>,
) -> Result<SnapshotName, Failure> {
    let usual = usual("x").safety.unwrap();
    let create = CreateJob { name: Some(name(label)), how: How { memory, ..usual.how }, disks, ..usual };
    let outcome = daemon.run(vm, Operation::Create(create));
    assert_eq!(daemon.tools.store.intents().unwrap(), [], "it ended, whichever way");
    match outcome {
        Outcome::Done(Some(Made::Snapshot(made))) => Ok(made),
        Outcome::Failed(failure) => Err(failure),
        other => panic!("nobody asked for that: {other:?}"),
    }
}

fn delete(daemon: &Daemon, vm: VmId, label: &str) -> Result<(), Failure> {
    match daemon.run(vm, Operation::Delete { name: name(label), pace: Pace::default(), foreign: false }) {
        Outcome::Done(_) => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        Outcome::Cancelled => panic!("nobody cancelled it"),
    }
}

fn record(hv: &dyn Hypervisor, vm: VmId, label: &str) -> SnapshotRecord {
    records(hv, vm).into_iter().find(|r| r.name == name(label)).unwrap()
}

/// What is known of how it was taken: reached, whether the memory was asked for, and the note.
fn quality(daemon: &Daemon, vm: VmId, label: &str) -> (Consistency, bool, String) {
    let description = record(&*daemon.tools.hypervisor, vm, label).description;
    let id = marker::split(&description, vm).1.unwrap().id;
    let quality = daemon.tools.store.qualities(vm).unwrap().remove(&id).unwrap();
    (quality.reached, quality.memory, quality.note)
}

/// All files beside the VM's first disk.
fn files(hv: &dyn Hypervisor, vm: VmId) -> BTreeSet<String> {
    let images = hv.images_beside(&chain(hv, vm, "vda")[0]).unwrap();
    images.into_iter().map(|image| image.path).collect()
}

pub(crate) fn memory_is_kept_in_a_file_that_counts(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    assert_eq!(hv.vm(vm).unwrap().ram >> 20, rig.memory(vm));
    rig.live(vm);
    let path = rig.overlay_path(vm, "memory");
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    hv.create(vm, &CreateSpec { memory: Some(path.clone()), ..spec("s1", &overlays) }).unwrap();

    let s1 = record(&*hv, vm, "s1");
    assert_eq!((s1.content, s1.taken, s1.memory_file.as_ref()), (Content::Full, Taken::Running, Some(&path)));
    assert!(s1.current && s1.lost.is_empty());
    let all = hv.images_beside(&path).unwrap();
    let bytes = |path: &str| all.iter().find(|i| i.path == path).unwrap().allocation;
    assert!(bytes(&path) > 0);
    let of = |paths: Vec<&String>| paths.into_iter().map(|p| bytes(p)).sum::<u64>();
    assert_eq!(s1.size, of(s1.disks.iter().map(|d| &d.overlay).chain([&path]).collect()));
    assert_eq!(s1.held, of(s1.disks.iter().map(|d| &d.state_image).chain([&path]).collect()));
    for overlay in &overlays {
        assert_eq!(chain(&*hv, vm, &overlay.target)[0], overlay.path);
    }
    // It goes on as if nothing had been.
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Running);
    rig.live(vm);
    refused(hv.discard(vm, std::slice::from_ref(&path)), ErrorKind::Busy);
    assert!(rig.file_exists(&path), "it is the snapshot's");
}

pub(crate) fn a_file_that_is_there_is_not_written_over(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let path = rig.overlay_path(vm, "memory");
    rig.put_bytes(&path, b"somebody's");
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    let spec = spec("s1", &overlays);
    refused(hv.create(vm, &CreateSpec { memory: Some(path.clone()), ..spec.clone() }), ErrorKind::Exists);
    assert_eq!(rig.bytes_of(&path), b"somebody's");
    assert_eq!(records(&*hv, vm), []);
    hv.create(vm, &spec).unwrap();
}

pub(crate) fn a_vm_that_cannot_migrate_falls_back_on_the_same_overlays(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_bound_vm();
    let before = files(&*hv, vm);
    ask(&daemon, vm, "s1", Wish::Prefer).unwrap();
    let s1 = record(&*hv, vm, "s1");
    assert_eq!((s1.content, s1.taken, s1.memory_file), (Content::Disk, Taken::DiskOnly, None));
    let (reached, asked, note) = quality(&daemon, vm, "s1");
    assert_eq!((reached, asked), (Consistency::Crash, true));
    assert!(note.contains("the memory was not kept") && note.contains("migrat"), "{note}");
    let new: Vec<String> = files(&*hv, vm).difference(&before).cloned().collect();
    assert_eq!(new, [s1.disks[0].overlay.clone()], "one overlay, and nothing else");
    assert_eq!(chain(&*hv, vm, "vda")[0], new[0]);
}

pub(crate) fn a_vm_that_cannot_migrate_is_refused_where_required(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_bound_vm();
    let before = (hv.vm(vm).unwrap(), files(&*hv, vm));
    let failure = ask(&daemon, vm, "s1", Wish::Require).unwrap_err();
    assert_eq!(failure.name, "NotMigratable");
    assert!(
        failure.message.contains("igrat") && failure.message.contains("as before"),
        "{}",
        failure.message
    );
    assert_eq!((hv.vm(vm).unwrap(), files(&*hv, vm)), before);
    assert_eq!(records(&*hv, vm), []);
    ask(&daemon, vm, "s1", Wish::Never).unwrap();
}

pub(crate) fn a_vm_that_is_off_has_no_memory_to_keep(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..RUNNING });
    let before = files(&*hv, vm);
    let failure = ask(&daemon, vm, "s1", Wish::Require).unwrap_err();
    assert_eq!(failure.name, "Unsupported");
    assert!(failure.message.contains("shut-off"), "{}", failure.message);
    assert_eq!((records(&*hv, vm), files(&*hv, vm)), (Vec::new(), before));
    ask(&daemon, vm, "s1", Wish::Prefer).unwrap();
    assert_eq!(quality(&daemon, vm, "s1"), (Consistency::Offline, true, String::new()));
    assert_eq!(record(&*hv, vm, "s1").memory_file, None);
}

pub(crate) fn all_disks_take_part_where_the_memory_is_kept(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    let one = || Some(vec!["vda".to_owned()]);
    let failure = ask_of(&daemon, vm, "s1", Wish::Require, one()).unwrap_err();
    assert!(failure.message.contains("disk vdb takes no part"), "{}", failure.message);
    assert_eq!(records(&*hv, vm), []);
    ask_of(&daemon, vm, "s1", Wish::Prefer, one()).unwrap();
    let (reached, _, note) = quality(&daemon, vm, "s1");
    assert!(note.contains("disk vdb takes no part"), "{note}");
    assert_eq!((reached, record(&*hv, vm, "s1").content), (Consistency::Crash, Content::Disk));
}

/// QEMU leaves the images of a paused VM inactive after it wrote its memory.
pub(crate) fn a_paused_vm_s_memory_is_kept_and_merges_wait_for_its_cpus(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    rig.live(vm);
    rig.pause_vm(vm);
    ask(&daemon, vm, "s1", Wish::Require).unwrap();
    assert_eq!(record(&*hv, vm, "s1").taken, Taken::Paused);
    assert_eq!(quality(&daemon, vm, "s1"), (Consistency::Memory, true, String::new()));
    assert_eq!(ask(&daemon, vm, "s2", Wish::Require).unwrap_err().name, "NotMigratable");
    ask(&daemon, vm, "s2", Wish::Prefer).unwrap();
    assert_eq!(record(&*hv, vm, "s2").content, Content::Disk);

    let before = records(&*hv, vm);
    let failure = delete(&daemon, vm, "s1").unwrap_err();
    assert!(failure.message.contains("resume"), "{}", failure.message);
    assert_eq!(records(&*hv, vm), before);
    assert_eq!(daemon.tools.store.intents().unwrap(), [], "it is as good as before");
    rig.resume_vm(vm);
    delete(&daemon, vm, "s1").unwrap();
    ask(&daemon, vm, "s3", Wish::Require).unwrap();
}

pub(crate) fn the_memory_file_goes_with_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    for label in ["s1", "s2", "s3"] {
        ask(&daemon, vm, label, Wish::Require).unwrap();
        assert_eq!(quality(&daemon, vm, label).0, Consistency::Memory);
    }
    let file = |label: &str| record(&*hv, vm, label).memory_file.unwrap();
    let [one, two, three] = ["s1", "s2", "s3"].map(file);
    delete(&daemon, vm, "s1").unwrap();
    let there = |rig: &dyn Rig| [&one, &two, &three].map(|path| rig.file_exists(path));
    assert_eq!(there(rig), [false, true, true]);
    // The end of a branch that the VM left.
    rig.stop_vm(vm);
    rig.revert(vm, &name("s2"));
    delete(&daemon, vm, "s3").unwrap();
    assert_eq!(there(rig), [false, true, false]);
    delete(&daemon, vm, "s2").unwrap();
    assert_eq!(there(rig), [false; 3]);
    assert_eq!(records(&*hv, vm), []);
    let left = chain(&*hv, vm, "vda");
    assert_eq!(left.len(), 1, "{left:?}");
}
