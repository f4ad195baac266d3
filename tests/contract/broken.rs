//! What libvirt's own deletions leave when they break off: ended by our own merge, wherever they were.

use virtsnap::{
    core::{
        health,
        job::{Operation, Outcome, Pace},
        model::{SnapshotName, VmId, VmState},
    },
    hypervisor::{Commit, ErrorKind, Hypervisor, OpenedDisk, Steer, Vm},
    merging, reader,
};

use super::{DEADLINE, Rig, RigVm, chain, connected, daemon::Daemon, name, records, refused, take};
use crate::harness::wait_for;

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];
const ALL: [(&str, u64); 3] = [("s1", 1), ("s2", 2), ("s3", 3)];

/// A hand on deletions.
pub(crate) trait Broken {
    /// libvirt's own deletion of this snapshot of a running VM breaks off: these disks have left their overlays, which are
    /// removed; of the others the next older snapshot, if there is one, has the mark.
    fn break_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: &[&str]);
    /// libvirt's own deletion of this snapshot is on its first disk, or, with that `merged`, on its second one, when libvirtd
    /// dies; it is back then. Where the VM is on libvirtd dies before it hears of what is `merged`.
    fn leave_deletion(&mut self, vm: VmId, name: &SnapshotName, merged: bool);
}

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

/// s1 to s3 of two disks, with the markers 1 to 3 in them and 4 now.
fn with_three(rig: &mut dyn Rig, hv: &dyn Hypervisor) -> VmId {
    let vm = rig.new_vm(TWO);
    for (label, value) in ALL {
        write(rig, vm, value);
        take(rig, hv, vm, label);
    }
    write(rig, vm, 4);
    vm
}

/// What is told of the VM.
fn found(daemon: &Daemon, vm: VmId) -> String {
    let read = reader::read(daemon.tools.hypervisor.as_ref(), &daemon.tools.store, vm).unwrap();
    health::reason(&read.findings)
}

fn delete(daemon: &Daemon, vm: VmId, label: &str) -> Outcome {
    daemon.run(vm, Operation::Delete { name: name(label), pace: Pace::default(), foreign: true })
}

/// The others hold what they held, libvirt knows the tree, and goes on to work with it.
fn check(rig: &mut dyn Rig, hv: &dyn Hypervisor, vm: VmId, gone: &str) {
    let left: Vec<(&str, u64)> = ALL.into_iter().filter(|(label, _)| *label != gone).collect();
    let all = records(hv, vm);
    for (i, (record, (label, value))) in all.iter().zip(&left).enumerate() {
        assert_eq!(record.name, name(label));
        assert_eq!(record.parent, i.checked_sub(1).map(|i| name(left[i].0)));
        assert_eq!((record.current, record.delete_in_progress.len()), (i == 1, 0), "{record:?}");
        assert!(record.lost.is_empty(), "{record:?}");
        for target in DISKS {
            assert_eq!(rig.marker_in_snapshot(vm, &record.name, target), *value, "{target} of {label}");
        }
    }
    assert_eq!(all.len(), 2);
    for target in DISKS {
        assert_eq!((rig.marker_now(vm, target), chain(hv, vm, target).len()), (4, 3), "{target}");
    }
    for (label, _) in &left {
        hv.delete(vm, &name(label)).unwrap();
    }
    for target in DISKS {
        assert_eq!((rig.marker_now(vm, target), chain(hv, vm, target).len()), (4, 1), "{target}");
    }
    assert_eq!(records(hv, vm), []);
}

/// By libvirt itself, whose merge of the second disk fails.
pub(crate) fn a_mark_that_libvirt_left_goes_with_our_own_merge(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = with_three(rig, &*hv);
    rig.merge_fails(vm, &name("s2"), true);
    hv.delete(vm, &name("s2")).unwrap_err();
    rig.merge_fails(vm, &name("s2"), false);
    assert!(!records(&*hv, vm)[0].delete_in_progress.is_empty());
    let told = found(&daemon, vm);
    assert!(told.contains("A deletion of s1 or of its child was begun and did not end"), "{told}");
    for other in ["s1", "s3"] {
        let error = merging::look(&*hv, vm, &[name(other)]).unwrap_err();
        assert!(error.message.contains("deletion of snapshot s2 by other means"), "{error}");
        refused::<()>(Err(error), ErrorKind::ChainMismatch);
    }
    assert_eq!(delete(&daemon, vm, "s2"), Outcome::Done(None));
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
    check(rig, &*hv, vm, "s2");
}

pub(crate) fn a_deletion_that_broke_off_between_two_disks_is_ended_wherever_it_was(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for (gone, merged) in [("s1", "vda"), ("s2", "vdb"), ("s3", "vda")] {
        let vm = with_three(rig, &*hv);
        rig.break_deletion(vm, &name(gone), &[merged]);
        let lengths: Vec<_> = DISKS.iter().map(|target| chain(&*hv, vm, target).len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 4 + 3, "{lengths:?}");
        // libvirt marks none for the oldest one; but no disk is what the snapshots say.
        let told = found(&daemon, vm);
        let marked = "or of its child was begun and did not end";
        assert_eq!(told.contains(marked), gone != "s1", "{told}");
        assert!(told.contains("s3 is the current snapshot, but disk"), "{told}");
        // Nobody else goes, and it is said why.
        let (other, _) = ALL.into_iter().find(|(label, _)| *label != gone).unwrap();
        let Outcome::Failed(failure) = delete(&daemon, vm, other) else { panic!("{other} is not to go") };
        assert_eq!(failure.name, "ChainMismatch", "{failure:?}");
        assert!(failure.message.contains(gone) && failure.message.contains("elete that"), "{failure:?}");

        assert_eq!(delete(&daemon, vm, gone), Outcome::Done(None), "{gone}");
        assert_eq!(daemon.tools.store.intents().unwrap(), []);
        check(rig, &*hv, vm, gone);
    }
}

pub(crate) fn where_all_disks_have_left_it_the_metadata_follows(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for gone in ["s2", "s3"] {
        let vm = with_three(rig, &*hv);
        rig.break_deletion(vm, &name(gone), &DISKS);
        let told = found(&daemon, vm);
        assert!(told.contains("s3 is the current snapshot, but disk"), "{told}");
        assert_eq!(delete(&daemon, vm, gone), Outcome::Done(None), "{gone}");
        check(rig, &*hv, vm, gone);
    }
}

pub(crate) fn of_a_vm_that_was_stopped_since_it_is_ended_as_well(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for (gone, merged) in [("s2", "vda"), ("s3", "vdb")] {
        let vm = with_three(rig, &*hv);
        rig.break_deletion(vm, &name(gone), &[merged]);
        rig.stop_vm(vm);
        assert_eq!(delete(&daemon, vm, gone), Outcome::Done(None), "{gone}");
        assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
        assert!(daemon.tools.store.awake().unwrap().is_empty());
        rig.start_vm(vm);
        check(rig, &*hv, vm, gone);
    }
}

/// Somebody may have put the disk on its base, and the overlay's data may be nowhere else.
pub(crate) fn an_overlay_that_is_still_there_proves_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = with_three(rig, &*hv);
    let images = chain(&*hv, vm, "vda");
    let commit = Commit { target: "vda".to_owned(), base: images[2].clone(), top: images[1].clone() };
    hv.commit(vm, &commit, &mut |_| Steer::On { limit: None }).unwrap();
    assert!(rig.file_exists(&images[1]));
    let before = records(&*hv, vm);
    let Outcome::Failed(failure) = delete(&daemon, vm, "s2") else { panic!("it is not proven") };
    assert_eq!(failure.name, "ChainMismatch", "{failure:?}");
    assert!(failure.message.contains("Nothing was touched"), "{failure:?}");
    assert_eq!(records(&*hv, vm), before);
    assert!(rig.file_exists(&images[1]));
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
}

/// The VM as it is when libvirtd is back and has found out what became of its QEMU meanwhile.
fn back(hv: &dyn Hypervisor, vm: VmId) -> Vm {
    wait_for(DEADLINE, "libvirtd has the VM in hand", || match hv.vm(vm) {
        Err(e) if e.kind == ErrorKind::Disconnected => None,
        Ok(vm) if vm.busy => None,
        vm => Some(vm.unwrap()),
    })
}

/// Its QEMU stays, paused, and nobody ends its jobs.
#[track_caller]
fn left(found: &Vm) {
    assert_eq!((found.state, found.block_jobs, found.busy), (VmState::Paused, true, false), "{found:?}");
}

pub(crate) fn what_libvirt_left_of_a_stopped_vm_is_ended_first(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for (gone, merged) in [("s1", false), ("s2", false), ("s2", true), ("s3", false)] {
        let vm = with_three(rig, &*hv);
        rig.stop_vm(vm);
        rig.leave_deletion(vm, &name(gone), merged);
        left(&back(&*hv, vm));
        assert_eq!(merging::is_left_over(&*hv, vm), Ok(true), "{gone} {merged}");
        let told = found(&daemon, vm);
        assert!(told.contains("The VM is paused, and there is a block job on one of its disks"), "{told}");
        assert_eq!(delete(&daemon, vm, gone), Outcome::Done(None), "{gone} {merged}");
        assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
        assert_eq!(daemon.tools.store.intents().unwrap(), []);
        rig.start_vm(vm);
        check(rig, &*hv, vm, gone);
    }
}

/// Whether of one of its disks QEMU says something else than libvirt.
fn adrift(hv: &dyn Hypervisor, vm: VmId) -> bool {
    let opened = hv.opened(vm).unwrap().expect("it is on");
    let paths = |disk: &OpenedDisk| disk.chain.iter().map(|l| l.path.clone()).collect::<Vec<_>>();
    opened.iter().any(|disk| paths(disk) != chain(hv, vm, &disk.target))
}

/// The deletion that was left is ended, after the VM was off where libvirt does not know what it is on; whether that was so.
fn ended(rig: &mut dyn Rig, daemon: &Daemon, vm: VmId, gone: &str) -> bool {
    let hv = &daemon.tools.hypervisor;
    let unheard = adrift(&**hv, vm);
    if unheard {
        let Outcome::Failed(failure) = delete(daemon, vm, gone) else { panic!("{gone} cannot go yet") };
        assert_eq!(failure.name, "ChainMismatch", "{failure:?}");
        assert!(failure.message.contains("shut the VM down and start it again"), "{failure:?}");
        assert!(found(daemon, vm).contains("writes to images that libvirt does not know of"));
        rig.stop_vm(vm);
        rig.start_vm(vm);
    }
    assert_eq!(delete(daemon, vm, gone), Outcome::Done(None), "{gone}");
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
    unheard
}

/// libvirtd is back, and has ended its jobs.
fn idle(hv: &dyn Hypervisor, vm: VmId) {
    back(hv, vm);
    wait_for(DEADLINE, "libvirt has ended its jobs", || {
        hv.vm(vm).is_ok_and(|vm| !vm.block_jobs && !vm.busy).then_some(())
    });
}

pub(crate) fn of_a_running_vm_it_is_ended_too(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for (gone, merged) in
        [("s1", false), ("s1", true), ("s2", false), ("s2", true), ("s3", false), ("s3", true)]
    {
        let vm = with_three(rig, &*hv);
        rig.leave_deletion(vm, &name(gone), merged);
        idle(&*hv, vm);
        // Of the oldest there is nobody whom libvirt could mark.
        let told = found(&daemon, vm);
        assert_eq!(told.contains("or of its child was begun and did not end"), gone != "s1", "{told}");
        let unheard = ended(rig, &daemon, vm, gone);
        assert!(unheard || (gone, merged) != ("s3", true), "libvirtd died before it heard of the pivot");
        check(rig, &*hv, vm, gone);
    }
}

/// Nothing is marked then, and libvirt has the chain as it was: only QEMU knows.
pub(crate) fn of_a_running_vm_s_only_snapshot_as_well(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    take(rig, &*hv, vm, "s1");
    write(rig, vm, 2);
    rig.leave_deletion(vm, &name("s1"), true);
    idle(&*hv, vm);
    assert_eq!(found(&daemon, vm), "");
    assert!(ended(rig, &daemon, vm, "s1"), "libvirtd died before it heard of the pivot");
    for target in DISKS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (2, 1), "{target}");
    }
    assert_eq!(records(&*hv, vm), []);
}

/// A job that anybody may have begun, and a VM that anybody may have started.
pub(crate) fn what_others_may_want_is_left_to_them_and_the_way_out_is_told(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    rig.fill(vm, "vda");
    take(rig, &*hv, vm, "s1");
    write(rig, vm, 2);
    let refused = || {
        assert_eq!(merging::is_left_over(&*hv, vm), Ok(false));
        let Outcome::Failed(failure) = delete(&daemon, vm, "s1") else { panic!("it is theirs") };
        assert_eq!(failure.name, "Busy", "{failure:?}");
        assert!(failure.message.contains("virsh destroy"), "{failure:?}");
        left(&hv.vm(vm).unwrap());
    };
    // One with a guest that somebody has suspended.
    rig.begin_block_job(vm, "vda");
    rig.pause_vm(vm);
    refused();
    rig.end_block_job(vm, "vda");
    // The only one there is: no older one has the mark, and the job is like that of anybody.
    rig.stop_vm(vm);
    rig.leave_deletion(vm, &name("s1"), false);
    left(&back(&*hv, vm));
    assert!(hv.waiting_jobs(vm).unwrap().is_some_and(|jobs| jobs.iter().all(|job| !job.of_deletion)));
    refused();
    hv.stop(vm).unwrap();
    assert_eq!(delete(&daemon, vm, "s1"), Outcome::Done(None));
    rig.start_vm(vm);
    for target in DISKS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (2, 1), "{target}");
    }
}
