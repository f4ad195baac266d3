//! Deleting: the data of what stays.

use virtsnap::{core::model::VmState, hypervisor::ErrorKind};

use super::{Rig, RigVm, chain, connected, name, records, refused, take, targets};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };
const TWO_DISKS: RigVm = RigVm { disks: 2, running: true, agent: false };
const GUEST: RigVm = RigVm { disks: 2, running: true, agent: true };

pub(crate) fn the_oldest_goes_and_the_others_keep_their_data(rig: &mut dyn Rig) {
    one_of_three_goes(rig, 0);
}

pub(crate) fn the_middle_one_goes_and_the_others_keep_their_data(rig: &mut dyn Rig) {
    one_of_three_goes(rig, 1);
}

pub(crate) fn the_newest_goes_and_the_others_keep_their_data(rig: &mut dyn Rig) {
    one_of_three_goes(rig, 2);
}

fn one_of_three_goes(rig: &mut dyn Rig, which: usize) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO_DISKS);
    let mut left = vec![("s1", 21), ("s2", 22), ("s3", 23)];
    let mut taken = Vec::new();
    for (label, value) in &left {
        for target in ["vda", "vdb"] {
            rig.write_marker(vm, target, *value);
        }
        taken.push(take(rig, &*hv, vm, label));
    }
    for target in ["vda", "vdb"] {
        rig.write_marker(vm, target, 24);
    }

    let (gone, _) = left.remove(which);
    hv.delete(vm, &name(gone)).unwrap();

    let [older, newer] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
    assert_eq!((older.name.as_str(), newer.name.as_str()), (left[0].0, left[1].0));
    assert_eq!((&older.parent, newer.parent.as_ref()), (&None, Some(&older.name)));
    assert_eq!((older.current, newer.current), (false, true));
    assert!(older.delete_in_progress.is_empty() && newer.delete_in_progress.is_empty());
    for target in ["vda", "vdb"] {
        for (label, value) in &left {
            assert_eq!(rig.marker_in_snapshot(vm, &name(label), target), *value, "{target} of {label}");
        }
        assert_eq!(rig.marker_now(vm, target), 24, "{target} now");
        assert_eq!(chain(&*hv, vm, target).len(), 3);
    }
    for overlay in &taken[which] {
        assert!(!rig.file_exists(&overlay.path), "{} is merged and gone", overlay.path);
    }
    rig.write_marker(vm, "vda", 25);
    assert_eq!(rig.marker_now(vm, "vda"), 25);
}

pub(crate) fn when_all_are_gone_the_disk_is_one_image_again(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let base = chain(&*hv, vm, "vda");
    for label in ["s1", "s2", "s3"] {
        take(rig, &*hv, vm, label);
    }
    for label in ["s1", "s2", "s3"] {
        hv.delete(vm, &name(label)).unwrap();
    }
    assert_eq!(records(&*hv, vm), []);
    assert_eq!(chain(&*hv, vm, "vda"), base);
    take(rig, &*hv, vm, "s1");
    assert_eq!(records(&*hv, vm)[0].parent, None);
}

pub(crate) fn a_snapshot_that_is_not_there_is_not_found(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    refused(hv.delete(vm, &name("s1")), ErrorKind::NoSuchSnapshot);
}

pub(crate) fn a_chain_that_is_not_what_the_metadata_says_is_left_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    for label in ["s1", "s2", "s3"] {
        take(rig, &*hv, vm, label);
    }
    rig.merge_chain_behind(vm);
    let (records_before, chain_before) = (records(&*hv, vm), chain(&*hv, vm, "vda"));
    assert_eq!(chain_before.len(), 1);
    for label in ["s1", "s2", "s3"] {
        refused(hv.delete(vm, &name(label)), ErrorKind::ChainMismatch);
    }
    assert_eq!(records(&*hv, vm), records_before);
    assert_eq!(chain(&*hv, vm, "vda"), chain_before);
}

pub(crate) fn where_branches_meet_nothing_is_merged(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    rig.revert(vm, &name("s1"));
    refused(hv.delete(vm, &name("s1")), ErrorKind::Unsupported);
    refused(hv.delete(vm, &name("s2")), ErrorKind::Unsupported);
    take(rig, &*hv, vm, "s3");
    assert_eq!(records(&*hv, vm).iter().filter(|r| r.parent == Some(name("s1"))).count(), 2);
    refused(hv.delete(vm, &name("s1")), ErrorKind::Unsupported);
    assert_eq!(records(&*hv, vm).len(), 3);
}

pub(crate) fn a_stopped_vm_is_snapshotted_and_merged_and_stays_stopped(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    let disks = targets(&*hv, vm);
    for target in &disks {
        rig.write_marker(vm, target, 31);
    }
    rig.stop_vm(vm);
    take(rig, &*hv, vm, "s1");
    rig.start_vm(vm);
    for target in &disks {
        rig.write_marker(vm, target, 32);
    }
    rig.stop_vm(vm);
    take(rig, &*hv, vm, "s2");

    hv.delete(vm, &name("s1")).unwrap();
    assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
    for target in &disks {
        assert_eq!(rig.marker_in_snapshot(vm, &name("s2"), target), 32);
        assert_eq!(chain(&*hv, vm, target).len(), 2);
    }
    hv.delete(vm, &name("s2")).unwrap();
    rig.start_vm(vm);
    for target in &disks {
        assert_eq!(rig.marker_now(vm, target), 32);
        assert_eq!(chain(&*hv, vm, target).len(), 1);
    }
}

/// libvirt copies each disk's data down before any disk leaves its overlay, and marks the next older snapshot: what
/// fails in between leaves the VM and the others right, and this one's state image newer than it. The only way on is
/// the same deletion once more.
pub(crate) fn a_deletion_that_failed_midway_is_marked_and_done_again(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO_DISKS);
    for (label, value) in [("s1", 51), ("s2", 52), ("s3", 53)] {
        for target in ["vda", "vdb"] {
            rig.write_marker(vm, target, value);
        }
        take(rig, &*hv, vm, label);
    }
    let before = chain(&*hv, vm, "vda");
    rig.merge_fails(vm, &name("s2"), true);
    let error = hv.delete(vm, &name("s2")).unwrap_err();
    assert!(!error.kind.untouched(), "{error:?}");
    rig.merge_fails(vm, &name("s2"), false);
    assert_eq!(chain(&*hv, vm, "vda"), before);

    let marks =
        || records(&*hv, vm).into_iter().map(|r| !r.delete_in_progress.is_empty()).collect::<Vec<_>>();
    assert_eq!(marks(), [true, false, false]);
    for other in ["s1", "s3"] {
        refused(hv.delete(vm, &name(other)), ErrorKind::ChainMismatch);
    }
    hv.delete(vm, &name("s2")).unwrap();
    assert_eq!(marks(), [false, false]);
    for target in ["vda", "vdb"] {
        assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), target), 51);
        assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), target), 53);
        assert_eq!(rig.marker_now(vm, target), 53);
    }
    hv.delete(vm, &name("s1")).unwrap();
    assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), "vda"), 53);
}
