//! Files that nobody has: found, put in quarantine, and removed when it is certain.

use jiff::SignedDuration;
use uuid::Uuid;
use virtsnap::{
    core::{
        job::{AdoptJob, Operation, Outcome, Pace, RevertJob},
        model::{SnapshotName, VmId},
        stray::QUARANTINE,
    },
    hypervisor::Hypervisor,
    store::{Begun, Intent},
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, spec, take,
};

const ONE: RigVm = RigVm { disks: 1, running: true, agent: false };

/// The strays of this VM: others may be left by somebody else.
fn strays(hv: &dyn Hypervisor, vm: VmId) -> Vec<String> {
    hv.strays().unwrap().into_iter().filter(|s| s.vm == vm).map(|s| s.image.path).collect()
}

fn adopt(daemon: &Daemon, vm: VmId, paths: &[&str]) -> Outcome {
    let strays = paths.iter().map(|path| (*path).to_owned()).collect();
    daemon.run(vm, Operation::Adopt(AdoptJob { strays, ..AdoptJob::default() }))
}

fn known(daemon: &Daemon, vm: VmId) -> Vec<(String, bool)> {
    let known = daemon.tools.store.strays(vm).unwrap();
    known.into_iter().map(|s| (s.path, s.quarantined.is_some())).collect()
}

/// As if it had been put in quarantine so long ago.
fn since(daemon: &Daemon, vm: VmId, path: &str, ago: SignedDuration) {
    let then = daemon.tools.clock.now() - ago;
    daemon.tools.store.quarantine(vm, &[path.to_owned()], then).unwrap();
}

/// A VM with two snapshots, that went back to the first of them, and a file on what it is on.
fn with_stray(rig: &mut dyn Rig, hv: &dyn Hypervisor, daemon: &Daemon) -> (VmId, String) {
    let vm = rig.new_vm(ONE);
    for label in ["s1", "s2"] {
        rig.write_marker(vm, "vda", 1);
        take(rig, hv, vm, label);
    }
    let stray = rig.image_on(&chain(hv, vm, "vda")[0]);
    assert_eq!(adopt(daemon, vm, &[]), Outcome::Done(None));
    assert_eq!(known(daemon, vm), [(stray.clone(), false)]);
    (vm, stray)
}

pub(crate) fn a_file_that_nobody_has_is_found_and_nothing_else(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(ONE);
    assert_eq!(strays(&*hv, vm), [""; 0]);
    for label in ["s1", "s2"] {
        take(rig, &*hv, vm, label);
    }
    let daemon = Daemon::new(&hv);
    daemon.revert(vm, "s1");
    take(rig, &*hv, vm, "s3");
    assert_eq!(strays(&*hv, vm), [""; 0], "what its branches are on is theirs");
    // On what it writes to, on what a branch that it left is on, and on one of these.
    let on = chain(&*hv, vm, "vda")[0].clone();
    let s2 = hv.snapshots(vm).unwrap().into_iter().find(|r| r.name == name("s2")).unwrap();
    let first = rig.image_on(&on);
    let mut made = vec![rig.image_on(&s2.disks[0].state_image), rig.image_on(&first), first];
    made.sort();
    let mut found = strays(&*hv, vm);
    found.sort();
    assert_eq!(found, made);
    rig.stop_vm(vm);
    assert_eq!(strays(&*hv, vm).len(), 3, "whether it runs or not");
    let size = hv.strays().unwrap().into_iter().find(|s| s.vm == vm).unwrap().image;
    assert!(size.allocation > 0 && size.format == "qcow2", "{size:?}");
}

pub(crate) fn what_lies_on_images_of_several_is_nobody_s_to_tell(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { running: false, ..ONE });
    let base = chain(&*hv, vm, "vda")[0].clone();
    let spare = rig.image_on(&base);
    assert_eq!(strays(&*hv, vm), [spare.as_str()]);
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    assert_eq!((strays(&*hv, vm), strays(&*hv, other)), (vec![], vec![]), "a base that two VMs have");
    let own = rig.image_on(&clone);
    assert_eq!(strays(&*hv, other), [own], "that one is the clone's alone");
}

pub(crate) fn what_was_in_quarantine_for_a_week_is_removed(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, stray) = with_stray(rig, &*hv, &daemon);
    let above = rig.image_on(&stray);
    // It is under another one, which is to be named with it; and what somebody has is not taken.
    let in_use = chain(&*hv, vm, "vda")[0].clone();
    for (paths, kind) in [(&[stray.as_str()][..], "InUse"), (&[&stray, &above, &in_use], "InvalidArgument")] {
        let Outcome::Failed(failure) = adopt(&daemon, vm, paths) else { panic!("{paths:?}") };
        assert_eq!(failure.name, kind, "{failure:?}");
        assert!(known(&daemon, vm).iter().all(|(_, quarantined)| !quarantined));
    }
    assert_eq!(adopt(&daemon, vm, &[&stray, &above]), Outcome::Done(None));
    assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
    assert!(rig.file_exists(&stray) && rig.file_exists(&above), "not before its time");
    daemon.tools.store.strays_removed(&[stray.clone(), above.clone()]).unwrap();
    assert_eq!(adopt(&daemon, vm, &[]), Outcome::Done(None));
    for path in [&stray, &above] {
        since(&daemon, vm, path, QUARANTINE);
    }
    assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
    assert!(!rig.file_exists(&stray) && !rig.file_exists(&above));
    assert_eq!(known(&daemon, vm), []);
    assert_eq!(rig.marker_now(vm, "vda"), 1);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s2"), "vda"), 1);
}

pub(crate) fn what_somebody_has_again_is_out_of_quarantine(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, stray) = with_stray(rig, &*hv, &daemon);
    let replaced = rig.image_on(&chain(&*hv, vm, "vda")[0]);
    assert_eq!(adopt(&daemon, vm, &[]), Outcome::Done(None));
    for path in [&stray, &replaced] {
        since(&daemon, vm, path, QUARANTINE);
    }
    let other = rig.vm_on(&stray);
    rig.put_bytes(&replaced, b"something else");
    assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
    assert!(rig.file_exists(&stray) && rig.file_exists(&replaced));
    assert_eq!(known(&daemon, vm), []);
    // Should it be nobody's again, its time begins anew.
    rig.undefine_vm(other);
    assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
    assert_eq!(known(&daemon, vm), [(stray.clone(), false)]);
    assert!(rig.file_exists(&stray));
}

pub(crate) fn what_is_being_made_is_left_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, stray) = with_stray(rig, &*hv, &daemon);
    let made = rig.image_on(&chain(&*hv, vm, "vda")[0]);
    let intent = Intent {
        overlays: vec![made.clone()],
        ..Intent::new(Uuid::from_u128(1), vm, name("new"), Begun::Create(Box::default()))
    };
    daemon.tools.store.begin(&intent, daemon.tools.clock.now()).unwrap();
    since(&daemon, vm, &stray, SignedDuration::ZERO);
    assert_eq!(adopt(&daemon, vm, &[]), Outcome::Done(None));
    assert_eq!(known(&daemon, vm), [(stray.clone(), true)], "what is known stays, and nothing is added");
    let Outcome::Failed(failure) = adopt(&daemon, vm, &[&made]) else { panic!("it is in the making") };
    assert_eq!(failure.name, "Busy", "{failure:?}");
    daemon.tools.store.abandoned(intent.id).unwrap();
}

/// A VM that is on s2, after a revert to s1 and one from there. Of disk vdb the first one's overlay is left: s3, which was
/// taken of vda alone, names it.
fn with_named(rig: &mut dyn Rig, hv: &dyn Hypervisor, daemon: &Daemon) -> (VmId, String) {
    let vm = rig.new_vm(RigVm { disks: 2, running: false, ..ONE });
    let revert = |label: &str| {
        let without_safety = RevertJob { safety: None, ..usual(label) };
        assert_eq!(daemon.run(vm, Operation::Revert(Box::new(without_safety))), Outcome::Done(None));
    };
    for (label, value) in [("s1", 1), ("s2", 2)] {
        rig.write_marker(vm, "vdb", value);
        take(rig, hv, vm, label);
    }
    revert("s1");
    let left = chain(hv, vm, "vdb").remove(0);
    let mut only = overlays(rig, hv, vm);
    only.retain(|o| o.target == "vda");
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s3", &only)).unwrap();
    revert("s2");
    assert_eq!(rig.marker_now(vm, "vdb"), 2);
    (vm, left)
}

pub(crate) fn what_only_a_snapshot_names_goes_with_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    for by_us in [true, false] {
        let daemon = Daemon::new(&hv);
        let (vm, left) = with_named(rig, &*hv, &daemon);
        // Whoever looks for what belongs to nobody finds other files, and not this one.
        let stray = rig.image_on(&chain(&*hv, vm, "vdb")[0]);
        assert_eq!(adopt(&daemon, vm, &[]), Outcome::Done(None));
        assert_eq!(known(&daemon, vm), [(stray, false)]);
        assert!(rig.file_exists(&left), "s3 names it");
        assert!(!daemon.tools.store.unfinished(vm).unwrap());
        if by_us {
            let delete = Operation::Delete { name: name("s3"), pace: Pace::default(), foreign: true };
            assert_eq!(daemon.run(vm, delete), Outcome::Done(None));
        } else {
            hv.forget(vm, &name("s3")).unwrap();
            assert!(rig.file_exists(&left), "nobody has noticed");
            assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
        }
        assert!(!rig.file_exists(&left), "by us: {by_us}");
        assert_eq!(daemon.tools.store.intents().unwrap(), []);
        assert_eq!(rig.marker_now(vm, "vdb"), 2);
        for (label, value) in [("s1", 1), ("s2", 2)] {
            assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vdb"), value, "{label}");
        }
    }
}

/// A VM that was reverted twice to a snapshot of its disk vdb alone: vda, which holds 3, went on over both reverts, on an image
/// that the first one's safety snapshot was taken with. That snapshot, the image, and the second one's safety snapshot.
fn over_two_reverts(
    rig: &mut dyn Rig,
    hv: &dyn Hypervisor,
    daemon: &Daemon,
) -> (VmId, SnapshotName, String, SnapshotName) {
    let vm = rig.new_vm(RigVm { disks: 2, running: false, ..ONE });
    let mut only = overlays(rig, hv, vm);
    only.retain(|o| o.target == "vdb");
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s1", &only)).unwrap();
    rig.write_marker(vm, "vda", 1);
    let first = daemon.revert(vm, "s1");
    rig.write_marker(vm, "vda", 2);
    let under = chain(hv, vm, "vda").remove(0);
    let second = daemon.revert(vm, "s1");
    rig.write_marker(vm, "vda", 3);
    (vm, first, under, second)
}

fn delete(daemon: &Daemon, vm: VmId, name: SnapshotName) {
    let delete = Operation::Delete { name, pace: Pace::default(), foreign: false };
    assert_eq!(daemon.run(vm, delete), Outcome::Done(None));
}

/// Of that image nothing is left, in the list of what is to go neither, and all else is as it was.
#[track_caller]
fn nothing_left(
    rig: &dyn Rig,
    hv: &dyn Hypervisor,
    daemon: &Daemon,
    vm: VmId,
    first: &SnapshotName,
    image: &str,
) {
    assert!(!rig.file_exists(image));
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
    assert_eq!(strays(hv, vm), [""; 0]);
    assert_eq!((rig.marker_now(vm, "vda"), rig.marker_in_snapshot(vm, first, "vda")), (1, 1));
}

/// A disk that is left out goes on writing to what another branch has: an image that only other snapshots lie on then.
pub(crate) fn what_only_a_snapshot_lies_on_goes_with_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, first, under, second) = over_two_reverts(rig, &*hv, &daemon);
    let third = daemon.revert(vm, first.as_str());
    delete(&daemon, vm, second);
    assert!(rig.file_exists(&under));
    assert_eq!(rig.marker_in_snapshot(vm, &third, "vda"), 3, "it lies on that");
    delete(&daemon, vm, third);
    nothing_left(rig, &*hv, &daemon, vm, &first, &under);
}

/// And one that the VM itself lies on when its snapshot is deleted.
pub(crate) fn what_the_vm_lies_on_goes_when_it_leaves_that(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, first, under, second) = over_two_reverts(rig, &*hv, &daemon);
    delete(&daemon, vm, second);
    assert!(rig.file_exists(&under) && rig.marker_now(vm, "vda") == 3, "it lies on that");
    assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
    assert!(rig.file_exists(&under) && known(&daemon, vm).is_empty(), "and that is not nobody's");
    let third = daemon.revert(vm, first.as_str());
    assert_eq!(rig.marker_in_snapshot(vm, &third, "vda"), 3, "now that one lies on it");
    delete(&daemon, vm, third);
    nothing_left(rig, &*hv, &daemon, vm, &first, &under);
}

pub(crate) fn what_others_put_the_vm_on_again_stays(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, left) = with_named(rig, &*hv, &daemon);
    rig.edit_definition(vm, "vdb", &left);
    hv.forget(vm, &name("s3")).unwrap();
    for _ in 0..2 {
        assert_eq!(daemon.run(vm, Operation::Sweep), Outcome::Done(None));
        assert!(rig.file_exists(&left));
        assert_eq!(daemon.tools.store.intents().unwrap(), []);
        assert_eq!(rig.marker_now(vm, "vdb"), 1);
    }
}
