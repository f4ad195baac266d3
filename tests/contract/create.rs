//! Preparing, creating, discarding.

use virtsnap::{
    core::model::{Content, Storage},
    hypervisor::{ErrorKind, Layer},
};

use super::{Rig, RigVm, chain, connected, name, overlays, records, refused, spec, take};

/// A stopped VM is enough where the guest has nothing to say.
const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };
const GUEST: RigVm = RigVm { disks: 2, running: true, agent: true };

pub(crate) fn a_snapshot_has_metadata_a_parent_and_is_the_current_one(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let base = chain(&*hv, vm, "vda");
    let first = take(rig, &*hv, vm, "s1");
    let second = take(rig, &*hv, vm, "s2");

    let [s1, s2] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
    assert_eq!((s1.name.as_str(), s2.name.as_str()), ("s1", "s2"));
    assert_eq!((&s1.parent, s2.parent.as_ref()), (&None, Some(&s1.name)));
    assert_eq!((s1.current, s2.current), (false, true));
    assert_eq!(s1.description, spec("s1", &[]).description);
    assert_eq!((s1.content, s1.storage), (Content::Disk, Storage::External));
    assert!(s1.delete_in_progress.is_empty());
    assert!(s2.created >= s1.created);
    assert_eq!((&s1.disks[0].overlay, &s1.disks[0].state_image), (&first[0].path, &base[0]));
    assert_eq!((&s2.disks[0].overlay, &s2.disks[0].state_image), (&second[0].path, &first[0].path));
    assert_eq!(chain(&*hv, vm, "vda"), [second[0].path.clone(), first[0].path.clone(), base[0].clone()]);
}

pub(crate) fn a_snapshot_of_two_disks_has_both_on_the_overlays_given(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..RUNNING });
    let given = take(rig, &*hv, vm, "s1");
    let mut disks = records(&*hv, vm).remove(0).disks;
    disks.sort_by(|a, b| a.target.cmp(&b.target));
    assert_eq!(disks.len(), 2);
    for (disk, overlay) in disks.iter().zip(&given) {
        assert_eq!((&disk.target, &disk.overlay), (&overlay.target, &overlay.path));
        assert_eq!(disk.state_image, overlay.backing.path);
        assert_eq!(chain(&*hv, vm, &overlay.target)[0], overlay.path);
        assert!(rig.file_exists(&overlay.path));
    }
}

pub(crate) fn a_disk_that_takes_no_part_is_left_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..STOPPED });
    let before = chain(&*hv, vm, "vdb");
    let mut only = overlays(rig, &*hv, vm);
    only.truncate(1);
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s1", &only)).unwrap();
    let targets: Vec<_> = records(&*hv, vm).remove(0).disks.into_iter().map(|d| d.target).collect();
    assert_eq!(targets, ["vda"]);
    assert_eq!(chain(&*hv, vm, "vda")[0], only[0].path);
    assert_eq!(chain(&*hv, vm, "vdb"), before);
}

pub(crate) fn state_images_hold_what_the_disks_were(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    for (label, value) in [("s1", 11), ("s2", 12)] {
        rig.write_marker(vm, "vda", value);
        rig.write_marker(vm, "vdb", value + 100);
        take(rig, &*hv, vm, label);
    }
    rig.write_marker(vm, "vda", 13);
    for (label, value) in [("s1", 11), ("s2", 12)] {
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), value);
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vdb"), value + 100);
    }
    assert_eq!((rig.marker_now(vm, "vda"), rig.marker_now(vm, "vdb")), (13, 112));
}

pub(crate) fn prepare_makes_all_overlays_or_none(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..STOPPED });
    let overlays = overlays(rig, &*hv, vm);
    rig.make_file(&overlays[1].path);
    refused(hv.prepare(vm, &overlays), ErrorKind::Exists);
    assert!(!rig.file_exists(&overlays[0].path));
    assert!(rig.file_exists(&overlays[1].path), "it is somebody's");
}

pub(crate) fn prepare_refuses_a_file_that_is_there(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    refused(hv.prepare(vm, &overlays), ErrorKind::Exists);
    hv.create(vm, &spec("s1", &overlays)).unwrap();
}

pub(crate) fn prepare_refuses_a_backing_image_that_is_not_the_active_layer(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = Layer { path: chain(&*hv, vm, "vda").remove(0), format: "qcow2".to_owned() };
    take(rig, &*hv, vm, "s1");
    let mut overlays = overlays(rig, &*hv, vm);
    overlays[0].backing = base;
    refused(hv.prepare(vm, &overlays), ErrorKind::ChainMismatch);
    assert!(!rig.file_exists(&overlays[0].path));
}

pub(crate) fn discard_removes_what_nobody_uses_and_passes_over_what_is_missing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    let missing = rig.overlay_path(vm, "vda");
    hv.discard(vm, &[missing, overlays[0].path.clone()]).unwrap();
    assert!(!rig.file_exists(&overlays[0].path));
    hv.discard(vm, &[overlays[0].path.clone()]).unwrap();
}

pub(crate) fn discard_refuses_what_a_chain_has(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    take(rig, &*hv, vm, "s1");
    for path in chain(&*hv, vm, "vda") {
        refused(hv.discard(vm, std::slice::from_ref(&path)), ErrorKind::Busy);
        assert!(rig.file_exists(&path));
    }
}

pub(crate) fn a_name_that_is_taken_changes_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    take(rig, &*hv, vm, "s1");
    let (records_before, chain_before) = (records(&*hv, vm), chain(&*hv, vm, "vda"));
    let again = overlays(rig, &*hv, vm);
    hv.prepare(vm, &again).unwrap();
    refused(hv.create(vm, &spec("s1", &again)), ErrorKind::Exists);
    assert_eq!(records(&*hv, vm), records_before);
    assert_eq!(chain(&*hv, vm, "vda"), chain_before);
    hv.discard(vm, &[again[0].path.clone()]).unwrap();
}

/// libvirt does not look at a prepared overlay's header: the data of the snapshot between would be lost when
/// the VM next starts.
pub(crate) fn an_overlay_that_others_overtook_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    rig.foreign_snapshot(vm, "theirs");
    let before = chain(&*hv, vm, "vda");
    refused(hv.create(vm, &spec("s1", &overlays)), ErrorKind::ChainMismatch);
    assert_eq!(chain(&*hv, vm, "vda"), before);
    assert_eq!(records(&*hv, vm).len(), 1);
}

pub(crate) fn a_foreign_snapshot_is_listed_and_current(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    take(rig, &*hv, vm, "s1");
    rig.foreign_snapshot(vm, "theirs");
    let theirs = records(&*hv, vm).into_iter().find(|r| r.name == name("theirs")).unwrap();
    assert!(theirs.current);
    assert_eq!(theirs.parent, Some(name("s1")));
    assert_eq!((theirs.storage, theirs.description.as_str()), (Storage::External, ""));
    assert_eq!(theirs.disks[0].overlay, chain(&*hv, vm, "vda")[0]);
}

/// It may run on another host by now, on these very images.
pub(crate) fn nothing_is_discarded_of_a_vm_that_is_not_there(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { running: false, ..RUNNING });
    let image = take(rig, &*hv, vm, "s1").remove(0).path;
    rig.undefine_vm(vm);
    refused(hv.discard(vm, std::slice::from_ref(&image)), ErrorKind::NoSuchVm);
    assert!(rig.file_exists(&image));
}
