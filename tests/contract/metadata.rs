//! Metadata changed, with no image touched.

use virtsnap::hypervisor::{ErrorKind, Event, Hypervisor, Layer, Redefine, RevertDisks, User};

use super::{Rig, RigVm, chain, connected, name, records, refused, take, wait_for};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 2, running: true, agent: false };

pub(crate) fn redefining_keeps_name_time_parent_current_and_description(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    for label in ["s1", "s2", "s3"] {
        take(rig, &*hv, vm, label);
    }
    let mut before = records(&*hv, vm);
    for label in ["s1", "s2", "s3", "s2"] {
        hv.redefine(vm, &Redefine::new(name(label))).unwrap();
        assert_eq!(records(&*hv, vm), before);
    }
    let words = "another <description>,\nwith two lines & \"quotes\"";
    let change = Redefine { description: Some(words.to_owned()), ..Redefine::new(name("s2")) };
    hv.redefine(vm, &change).unwrap();
    words.clone_into(&mut before[1].description);
    assert_eq!(records(&*hv, vm), before);
    refused(hv.redefine(vm, &Redefine::new(name("s4"))), ErrorKind::NoSuchSnapshot);
}

pub(crate) fn an_image_is_replaced_in_both_definitions(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let base = hv.vm(vm).unwrap().disks[0].chain[0].clone();
    let first = take(rig, &*hv, vm, "s1");
    let second = take(rig, &*hv, vm, "s2");
    let nowhere = Layer { path: "/not/there".into(), format: "raw".into() };
    let images = vec![(first[0].path.clone(), base.clone()), ("/neither/is/this".into(), nowhere)];
    let change = Redefine { images, ..Redefine::new(name("s2")) };
    for _ in 0..2 {
        hv.redefine(vm, &change).unwrap();
        let s2 = records(&*hv, vm).remove(1);
        let of = |target: &str| s2.disks.iter().find(|d| d.target == target).unwrap();
        assert_eq!((&of("vda").state_image, &of("vda").overlay), (&base.path, &second[0].path));
        assert_eq!((&of("vdb").state_image, &of("vdb").overlay), (&first[1].path, &second[1].path));
        assert!(s2.sources.contains(&("vda".to_owned(), base.path.clone())));
        for definition in rig.definitions(vm, &name("s2")) {
            assert_eq!((&definition["vda"], &definition["vdb"]), (&base.path, &first[1].path));
        }
    }
}

/// One that is older than the images' own headers would send a later start after files that are gone.
pub(crate) fn no_backing_chain_is_left_in_metadata(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    hv.redefine(vm, &Redefine::new(name("s2"))).unwrap();
    assert_eq!(rig.written_chains(vm, &name("s2")), 0);
}

pub(crate) fn revert_disks_are_kept_set_and_dropped(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    let wanted = vec![("vda".to_owned(), rig.overlay_path(vm, "vda"))];
    let of_s1 = || records(&*hv, vm).remove(0).revert_disks;
    let revert = |revert| Redefine { revert, ..Redefine::new(name("s1")) };
    hv.redefine(vm, &revert(RevertDisks::Set(wanted.clone()))).unwrap();
    assert_eq!(of_s1(), wanted);
    hv.redefine(vm, &Redefine { description: Some("x".into()), ..revert(RevertDisks::Keep) }).unwrap();
    assert_eq!(of_s1(), wanted);
    hv.redefine(vm, &revert(RevertDisks::Drop)).unwrap();
    assert_eq!(of_s1(), []);
}

pub(crate) fn forgetting_reparents_and_keeps_files(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    for label in ["s1", "s2", "s3"] {
        take(rig, &*hv, vm, label);
    }
    let before = chain(&*hv, vm, "vda");
    let under = hv.copy_under(vm, &name("s3"), Some(&name("s1"))).unwrap();
    for _ in 0..2 {
        hv.forget(vm, &name("s2")).unwrap();
        let [s1, s3] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
        assert_eq!((&s1.parent, s3.parent.as_ref()), (&None, Some(&s1.name)));
        assert_eq!((s1.current, s3.current), (false, true));
    }
    hv.forget(vm, &name("s3")).unwrap();
    // One that was under another one is put back without that.
    hv.put_back(vm, &under, true).unwrap();
    let [s1, s3] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
    assert_eq!((&s1.parent, s3.parent.as_ref(), s3.current), (&None, Some(&s1.name), true));
    hv.forget(vm, &name("s3")).unwrap();
    let [s1] = &records(&*hv, vm)[..] else { panic!("not one snapshot") };
    assert!(s1.current);
    assert_eq!(chain(&*hv, vm, "vda"), before);
    assert!(before.iter().all(|path| rig.file_exists(path)));
}

/// What a revert put the VM on is not what the children lie on, however many of them go; with the last one gone, the
/// snapshot is a leaf like any other.
pub(crate) fn forgetting_a_child_of_a_reverted_one_keeps_the_invariant(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    rig.revert(vm, &name("s1"));
    take(rig, &*hv, vm, "s3");
    rig.revert(vm, &name("s1"));
    let before = records(&*hv, vm).remove(0);
    let top = chain(&*hv, vm, "vda").remove(0);
    assert_ne!(before.disks[0].overlay, top);

    hv.forget(vm, &name("s3")).unwrap();
    assert_eq!(records(&*hv, vm)[0], before);
    hv.forget(vm, &name("s2")).unwrap();
    let [s1] = &records(&*hv, vm)[..] else { panic!("not one snapshot") };
    assert!(s1.current);
    assert_eq!((&s1.disks[0].overlay, &s1.disks[0].state_image), (&top, &base));
    assert_eq!(s1.revert_disks, []);
    // What the forgotten ones lay on is nobody's now, and would be destroyed by a merge below it.
    let left = hv.users(std::slice::from_ref(&base), vm).unwrap().into_iter().map(|(_, user)| match user {
        User::Volume(path) => path,
        other => panic!("{other}"),
    });
    hv.discard(vm, &left.collect::<Vec<_>>()).unwrap();
    take(rig, &*hv, vm, "s4");
    hv.delete(vm, &name("s1")).unwrap();
    hv.delete(vm, &name("s4")).unwrap();
    assert_eq!(chain(&*hv, vm, "vda"), [base]);
}

pub(crate) fn what_was_put_back_is_as_it_was(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    for label in ["s1", "s2"] {
        take(rig, &*hv, vm, label);
    }
    let before = records(&*hv, vm);
    let copies: Vec<_> = before.iter().map(|r| hv.copy(vm, &r.name).unwrap()).collect();
    let spoilt = Redefine { description: Some(String::new()), current: true, ..Redefine::new(name("s1")) };
    hv.redefine(vm, &spoilt).unwrap();
    hv.forget(vm, &name("s2")).unwrap();
    assert_ne!(records(&*hv, vm), before);
    // Twice, as after a crash in between.
    for _ in 0..2 {
        hv.put_back(vm, &copies[0], false).unwrap();
        hv.put_back(vm, &copies[1], true).unwrap();
        assert_eq!(records(&*hv, vm), before);
    }
    rig.disconnect();
    wait_for(&events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    rig.reconnect();
    wait_for(&events, "the connection", |e| matches!(e, Event::Connected(_)));
    assert_eq!(records(&*hv, vm), before);
    take(rig, &*hv, vm, "s3");
}

/// libvirt 11 unlinks a layer of the running VM when it deletes one while none is current.
pub(crate) fn without_a_current_one_nothing_is_changed(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    take(rig, &*hv, vm, "s1");
    let copy = hv.copy(vm, &name("s1")).unwrap();
    hv.forget(vm, &name("s1")).unwrap();
    take(rig, &*hv, vm, "s2");
    hv.put_back(vm, &copy, false).unwrap();
    hv.forget(vm, &name("s2")).unwrap();
    let (left, layers) = (records(&*hv, vm), chain(&*hv, vm, "vda"));
    assert!(left.len() == 1 && !left[0].current);
    refused(hv.delete(vm, &name("s1")), ErrorKind::ChainMismatch);
    assert_eq!(records(&*hv, vm), left);
    assert_eq!(chain(&*hv, vm, "vda"), layers);
}

pub(crate) fn strange_names_and_descriptions_survive_a_change_and_a_restart(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let long = "ü".repeat(100);
    let labels = ["a <b> & 'c' \"d\"\nä:e", long.as_str(), "last"];
    for label in labels {
        take(rig, &*hv, vm, label);
        let words = format!("of {label}\n\n<x> &amp; ]]>\n[line]");
        let change = Redefine { description: Some(words), ..Redefine::new(name(label)) };
        hv.redefine(vm, &change).unwrap();
    }
    let before = records(&*hv, vm);
    for label in labels {
        let record = before.iter().find(|r| r.name == name(label)).unwrap();
        assert_eq!(record.description, format!("of {label}\n\n<x> &amp; ]]>\n[line]"));
    }
    rig.disconnect();
    wait_for(&events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    rig.reconnect();
    wait_for(&events, "the connection", |e| matches!(e, Event::Connected(_)));
    assert_eq!(records(&*hv, vm), before);
    for label in &labels[..2] {
        hv.forget(vm, &name(label)).unwrap();
    }
    assert_eq!(records(&*hv, vm).len(), 1);
}

pub(crate) fn what_others_made_is_told_changed_and_deleted_as_one_tree(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    for label in ["k1", "k2", "k3"] {
        rig.foreign_snapshot(vm, label);
    }
    let tree = |hv: &dyn Hypervisor| -> Vec<_> {
        records(hv, vm).into_iter().map(|r| (r.name, r.parent, r.current)).collect()
    };
    let all = [
        (name("k1"), None, false),
        (name("k2"), Some(name("k1")), false),
        (name("k3"), Some(name("k2")), true),
    ];
    assert_eq!(tree(&*hv), all);
    let copy = hv.copy(vm, &name("k2")).unwrap();
    let words = Redefine { description: Some("now it has one".to_owned()), ..Redefine::new(name("k2")) };
    hv.redefine(vm, &words).unwrap();
    assert_eq!(records(&*hv, vm)[1].description, "now it has one");
    assert_eq!(tree(&*hv), all);
    hv.put_back(vm, &copy, false).unwrap();
    assert_eq!(records(&*hv, vm)[1].description, "");
    hv.delete(vm, &name("k2")).unwrap();
    assert_eq!(tree(&*hv), [all[0].clone(), (name("k3"), Some(name("k1")), true)]);
    hv.delete(vm, &name("k3")).unwrap();
    assert_eq!(tree(&*hv), [(name("k1"), None, true)]);
    refused(hv.redefine(vm, &words), ErrorKind::NoSuchSnapshot);
}
