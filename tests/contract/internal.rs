//! Snapshots inside images, which others made: deleted and reverted to on request, by the hypervisor's own means.

use virtsnap::{
    core::{
        job::{Operation, Outcome, Pace, RevertJob},
        model::{Content, SnapshotName, Storage, VmId, VmState},
        revert::Then,
    },
    forgotten,
    hypervisor::{ErrorKind, Event, Hypervisor},
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, records, refused, take,
};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

/// A hand on snapshots inside images.
pub(crate) trait Inside {
    /// Another program takes one of all disks, with the memory of a running VM.
    fn internal_snapshot(&mut self, vm: VmId, name: &str);
    /// Those that the image holds which the disk is on, whatever libvirt knows of them.
    fn inside(&self, vm: VmId, target: &str) -> Vec<String>;
}

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

#[track_caller]
fn now(rig: &dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), value, "{target}");
    }
}

/// a at 1, b at 2, and 3 on the disks.
fn two_inside(rig: &mut dyn Rig, running: bool) -> VmId {
    let vm = rig.new_vm(RigVm { running, ..TWO });
    for (label, value) in [("a", 1), ("b", 2)] {
        write(rig, vm, value);
        rig.internal_snapshot(vm, label);
    }
    write(rig, vm, 3);
    vm
}

fn delete(label: &str, foreign: bool) -> Operation {
    Operation::Delete { name: name(label), pace: Pace::default(), foreign }
}

#[track_caller]
fn failed(outcome: Outcome, kind: &str, words: &str) {
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.name, kind, "{failure:?}");
    assert!(failure.message.contains(words), "{}", failure.message);
}

fn names(hv: &dyn Hypervisor, vm: VmId) -> Vec<String> {
    records(hv, vm).into_iter().map(|r| r.name.as_str().to_owned()).collect()
}

pub(crate) fn one_inside_is_deleted_on_request_from_all_disks(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for running in [true, false] {
        let vm = two_inside(rig, running);
        let before = hv.vm(vm).unwrap();
        failed(daemon.run(vm, delete("a", false)), "NotManaged", "snapshot a");
        for (label, left) in [("a", &["b"][..]), ("b", &[])] {
            assert_eq!(daemon.run(vm, delete(label, true)), Outcome::Done(None), "{label} {running}");
            assert_eq!(names(&*hv, vm), left);
            for target in DISKS {
                assert_eq!(rig.inside(vm, target), left, "{target} {running}");
            }
            now(rig, vm, 3);
        }
        let after = hv.vm(vm).unwrap();
        assert_eq!((after.state, after.disks), (before.state, before.disks));
        assert_eq!(daemon.tools.store.intents().unwrap(), []);
        assert!(daemon.tools.store.awake().unwrap().is_empty());
    }
}

/// To delete one of a stopped VM its QEMU is started, and a start is the use of a managed save.
pub(crate) fn a_managed_save_outlives_what_would_start_the_vm(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_inside(rig, true);
    rig.managed_save(vm);
    let before = hv.vm(vm).unwrap();
    assert!(before.managed_save);
    failed(daemon.run(vm, delete("a", true)), "Unsupported", "managed save");
    refused(hv.wake(vm), ErrorKind::Unsupported);
    refused(hv.wake_on(vm, &[]), ErrorKind::Unsupported);
    assert_eq!((hv.vm(vm).unwrap(), names(&*hv, vm)), (before, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
    assert!(daemon.tools.store.awake().unwrap().is_empty());
    rig.start_vm(vm);
    assert!(!hv.vm(vm).unwrap().managed_save);
    assert_eq!(daemon.run(vm, delete("a", true)), Outcome::Done(None));
    now(rig, vm, 3);
}

fn revert(daemon: &Daemon, vm: VmId, label: &str, then: Then) -> SnapshotName {
    daemon.ask(vm, RevertJob { then, ..usual(label) }).unwrap().unwrap()
}

pub(crate) fn one_inside_is_reverted_to_and_that_can_be_reverted(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for running in [true, false] {
        let vm = two_inside(rig, running);
        let was = hv.vm(vm).unwrap().state;
        let images = chain(&*hv, vm, "vda");
        let safety = revert(&daemon, vm, "a", Then::AsBefore);
        now(rig, vm, 1);
        let vm_now = hv.vm(vm).unwrap();
        assert_eq!((vm_now.state, chain(&*hv, vm, "vda")), (was, images));
        let all = records(&*hv, vm);
        let record = all.iter().find(|r| r.name == safety).unwrap();
        assert_eq!(record.storage, Storage::Internal);
        assert_eq!(record.content, if running { Content::Full } else { Content::Disk });
        assert!(all.iter().any(|r| r.current && r.name == name("a")));
        revert(&daemon, vm, safety.as_str(), Then::AsBefore);
        now(rig, vm, 3);
        revert(&daemon, vm, "b", Then::ShutOff);
        now(rig, vm, 2);
        assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
        revert(&daemon, vm, "a", Then::Paused);
        now(rig, vm, 1);
        assert_eq!(hv.vm(vm).unwrap().state, VmState::Paused);
        assert_eq!(names(&*hv, vm).len(), 6);
    }
}

/// libvirt 11 crashes where an external one is deleted or reverted to then; of those inside it needs none.
pub(crate) fn without_a_current_one_those_inside_are_deleted_and_reverted_to(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for running in [true, false] {
        let vm = two_inside(rig, running);
        let safety = revert(&daemon, vm, "a", Then::AsBefore);
        // It had no parent that could be the current one now.
        hv.forget(vm, &name("a")).unwrap();
        let none = || assert!(!records(&*hv, vm).iter().any(|r| r.current));
        none();
        assert_eq!(daemon.run(vm, delete("b", true)), Outcome::Done(None), "{running}");
        assert_eq!(names(&*hv, vm), [safety.as_str()]);
        none();
        now(rig, vm, 1);
        revert(&daemon, vm, safety.as_str(), Then::AsBefore);
        now(rig, vm, 3);
    }
    let crashed = events.try_iter().find(|e| matches!(e, Event::Disconnected(_)));
    assert_eq!(crashed.map(|e| format!("{e:?}")), None);
}

pub(crate) fn inside_and_outside_are_never_mixed(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_inside(rig, false);
    rig.foreign_snapshot(vm, "e");
    write(rig, vm, 4);
    rig.start_vm(vm);
    let (images, before) = (chain(&*hv, vm, "vda"), records(&*hv, vm));
    let failure = daemon.ask(vm, usual("a")).unwrap_err();
    assert_eq!(failure.name, "Unsupported");
    assert!(failure.message.contains("external snapshot e"), "{failure:?}");
    failed(daemon.run(vm, delete("e", true)), "Unsupported", "internal");
    failed(daemon.run(vm, delete("a", true)), "Unsupported", "shut the VM down first");
    assert_eq!((chain(&*hv, vm, "vda"), records(&*hv, vm)), (images.clone(), before));
    // The way out: they are deleted while it is off, and the images stay what they are.
    rig.stop_vm(vm);
    for label in ["a", "b"] {
        assert_eq!(daemon.run(vm, delete(label, true)), Outcome::Done(None), "{label}");
    }
    assert_eq!((names(&*hv, vm), chain(&*hv, vm, "vda")), (vec!["e".to_owned()], images));
    now(rig, vm, 4);
    assert_eq!(daemon.run(vm, delete("e", true)), Outcome::Done(None));
    now(rig, vm, 4);
    for target in DISKS {
        assert_eq!(rig.inside(vm, target), [""; 0]);
    }
    take(rig, &*hv, vm, "s1");
}

pub(crate) fn what_libvirt_forgot_inside_images_is_found_and_not_destroyed(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let store = &daemon.tools.store;
    let vm = two_inside(rig, true);
    let look = || forgotten::look(hv.as_ref(), store).unwrap();
    let told =
        || store.forgotten(vm).unwrap().into_iter().map(|f| (f.image, f.inner.name)).collect::<Vec<_>>();
    look();
    assert_eq!(told(), [], "libvirt knows them");
    hv.forget(vm, &name("a")).unwrap();
    assert_eq!(look(), [vm].into());
    let mut images = DISKS.map(|target| chain(&*hv, vm, target).remove(0)).to_vec();
    images.sort();
    let wanted: Vec<_> = images.iter().map(|image| (image.clone(), "a".to_owned())).collect();
    assert_eq!(told(), wanted);
    let all = store.forgotten(vm).unwrap();
    assert!(all.iter().any(|f| f.inner.memory_bytes > 0), "one disk has the memory: {all:?}");
    hv.forget(vm, &name("b")).unwrap();
    look();
    assert_eq!(told().len(), 4);
    // Under what is put on top of it it is safe, and told.
    take(rig, &*hv, vm, "s1");
    rig.write_marker(vm, "vda", 5);
    look();
    assert_eq!(told().len(), 4);
    assert_eq!(daemon.run(vm, delete("s1", true)), Outcome::Done(None));
    assert_eq!(rig.marker_now(vm, "vda"), 5);
    // In an image that is to go it is not.
    rig.stop_vm(vm);
    take(rig, &*hv, vm, "s2");
    rig.internal_snapshot(vm, "c");
    hv.forget(vm, &name("c")).unwrap();
    let before = chain(&*hv, vm, "vda");
    failed(daemon.run(vm, delete("s2", true)), "Unsupported", "snapshot c inside it");
    assert_eq!(chain(&*hv, vm, "vda"), before);
    look();
    assert_eq!(told().len(), 6);
}
