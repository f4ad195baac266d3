//! Keeping a VM's memory with a snapshot, and what is done where that cannot be.

use std::collections::BTreeSet;

use virtsnap::{
    core::{
        job::{CreateJob, Failure, Made, Operation, Outcome, Pace, RevertJob},
        marker,
        model::{Consistency, Content, SnapshotName, VmId, VmState},
        policy::{How, Memory as Wish},
        revert::Then,
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
        Outcome::Cancelled(text) => panic!("nobody cancelled it: {text}"),
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
    let with_memory = CreateSpec { memory: Some(path.clone()), ..spec("s1", &overlays) };
    // A small one may be written before anybody has looked.
    hv.create_watched(vm, &with_memory, &mut |far| assert!(far.done <= far.total, "{far:?}")).unwrap();

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

pub(crate) fn memory_resumes_where_it_was(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    let write = |rig: &mut dyn Rig, value| {
        for target in ["vda", "vdb"] {
            rig.write_marker(vm, target, value);
        }
    };
    let is = |rig: &dyn Rig, state, value| {
        assert_eq!(hv.vm(vm).unwrap().state, state);
        assert_eq!(["vda", "vdb"].map(|target| rig.marker_now(vm, target)), [value; 2]);
        for disk in hv.vm(vm).unwrap().disks {
            assert_eq!(disk.configured.as_ref(), Some(&disk.chain[0].path), "what it starts on next");
        }
    };
    write(rig, 1);
    rig.live(vm);
    rig.pause_vm(vm);
    let then = rig.lived(vm);
    ask(&daemon, vm, "s1", Wish::Require).unwrap();
    rig.resume_vm(vm);
    rig.live(vm);
    write(rig, 2);
    let from = rig.lived(vm);
    ask(&daemon, vm, "s2", Wish::Require).unwrap();
    let to = rig.lived(vm);
    rig.live(vm);
    write(rig, 3);

    // As it was then, to the moment.
    daemon.revert(vm, "s1");
    is(rig, VmState::Paused, 1);
    assert_eq!(rig.lived(vm), then);
    rig.resume_vm(vm);
    rig.live(vm);
    assert!(rig.lived(vm) > then);
    // Or as it is asked for.
    daemon.ask(vm, RevertJob { then: Then::Paused, ..usual("s2") }).unwrap();
    is(rig, VmState::Paused, 2);
    assert!((from..=to).contains(&rig.lived(vm)), "{from} to {to}: {}", rig.lived(vm));
    rig.resume_vm(vm);
    rig.live(vm);
    write(rig, 5);
    ask(&daemon, vm, "s3", Wish::Require).unwrap();
    // From off as well; the files are as they were.
    rig.stop_vm(vm);
    daemon.revert(vm, "s2");
    is(rig, VmState::Running, 2);
    assert!(rig.lived(vm) >= from);
    daemon.ask(vm, RevertJob { then: Then::ShutOff, ..usual("s3") }).unwrap();
    is(rig, VmState::ShutOff, 5);
    rig.start_vm(vm);
    is(rig, VmState::Running, 5);
    for (label, value) in [("s1", 1), ("s2", 2), ("s3", 5)] {
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), value, "{label}");
    }
    ask(&daemon, vm, "s4", Wish::Require).unwrap();
    is(rig, VmState::Running, 5);
}

pub(crate) fn memory_that_is_lost_is_refused_before_anything_is_touched(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    rig.write_marker(vm, "vda", 1);
    ask(&daemon, vm, "s1", Wish::Require).unwrap();
    rig.write_marker(vm, "vda", 2);
    let path = record(&*hv, vm, "s1").memory_file.unwrap();
    let whole = rig.bytes_of(&path);
    for damaged in [None, Some(&whole[..whole.len() / 64])] {
        rig.remove_file(&path);
        assert!(record(&*hv, vm, "s1").memory_lost);
        if let Some(bytes) = damaged {
            rig.put_bytes(&path, bytes);
        }
        let before = (hv.vm(vm).unwrap(), records(&*hv, vm).len());
        let failure = daemon.ask(vm, usual("s1")).unwrap_err();
        assert_eq!(failure.name, "Unsupported", "{}", failure.message);
        assert!(failure.message.contains(&path) && failure.message.contains("--off"), "{}", failure.message);
        assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm).len()), before);
        rig.put_bytes(&path, &whole);
        assert!(!record(&*hv, vm, "s1").memory_lost);
    }
    rig.remove_file(&path);
    daemon.ask(vm, RevertJob { then: Then::ShutOff, ..usual("s1") }).unwrap();
    assert_eq!((hv.vm(vm).unwrap().state, rig.marker_now(vm, "vda")), (VmState::ShutOff, 1));
}

pub(crate) fn memory_that_does_not_load_leaves_the_vm_as_it_was(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    rig.write_marker(vm, "vda", 1);
    ask(&daemon, vm, "s1", Wish::Require).unwrap();
    rig.set_memory(vm, 24);
    rig.write_marker(vm, "vda", 2);
    let path = record(&*hv, vm, "s1").memory_file.unwrap();
    let mut bytes = rig.bytes_of(&path);
    // Its head and its end are whole.
    let third = bytes.len() / 3;
    bytes[third..2 * third].fill(0xff);
    rig.remove_file(&path);
    rig.put_bytes(&path, &bytes);
    let failure = daemon.ask(vm, usual("s1")).unwrap_err();
    assert!(failure.message.contains("as before"), "{}", failure.message);
    let after = hv.vm(vm).unwrap();
    assert_eq!((after.state, rig.marker_now(vm, "vda"), rig.memory(vm)), (VmState::Running, 2, 24));
    let safety = records(&*hv, vm).into_iter().find(|r| r.current).unwrap();
    for disk in after.disks {
        let overlay = safety.disks.iter().find(|d| d.target == disk.target).unwrap();
        assert_eq!(
            (&disk.chain[0].path, disk.configured.as_ref()),
            (&overlay.overlay, Some(&overlay.overlay))
        );
    }
    daemon.ask(vm, RevertJob { then: Then::ShutOff, ..usual("s1") }).unwrap();
    assert_eq!(rig.marker_now(vm, "vda"), 1);
}
