//! Reverting, and what a VM is good for after it.

use std::collections::BTreeSet;

use uuid::Uuid;
use virtsnap::{
    core::{
        job::{Operation, Outcome, RevertJob},
        merge::{Doomed, Recipe},
        model::{SnapshotName, VmId, VmState},
        revert::{DefinitionOf, Then},
    },
    hypervisor::{Event, Hypervisor},
    store::{Begun, Intent},
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, records, spec, take, wait_for,
};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

/// Neither libvirt says for long what such a VM runs on, and yet all of it is as it should be.
pub(crate) fn after_a_revert_to_one_with_children_snapshots_are_taken_and_merged(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        write(rig, vm, value);
        take(rig, &*hv, vm, label);
    }
    write(rig, vm, 3);
    rig.stop_vm(vm);
    rig.revert(vm, &name("s1"));
    rig.start_vm(vm);
    let reverted = chain(&*hv, vm, "vda");
    for (label, value) in [("s3", 4), ("s4", 5)] {
        write(rig, vm, value);
        take(rig, &*hv, vm, label);
    }
    write(rig, vm, 6);
    for gone in ["s4", "s3"] {
        hv.delete(vm, &name(gone)).unwrap();
        for target in DISKS {
            assert_eq!(rig.marker_now(vm, target), 6);
            for (label, value) in [("s1", 1), ("s2", 2)] {
                assert_eq!(rig.marker_in_snapshot(vm, &name(label), target), value, "{label} after {gone}");
            }
        }
    }
    let [s1, s2] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
    assert_eq!((s1.current, s2.current, s2.parent.as_ref()), (true, false, Some(&s1.name)));
    assert_eq!(chain(&*hv, vm, "vda"), reverted);
    // Where there is a place for it, it says so again.
    if rig.capabilities().contains(&super::Capability::RevertDisks) {
        assert!(s1.revert_disks.contains(&("vda".to_owned(), reverted[0].clone())), "{s1:?}");
    }
    take(rig, &*hv, vm, "s5");
}

#[track_caller]
fn markers(rig: &dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), value, "{target} now");
    }
}

#[track_caller]
fn holds(rig: &dyn Rig, vm: VmId, snapshot: &SnapshotName, value: u64) {
    for target in DISKS {
        assert_eq!(rig.marker_in_snapshot(vm, snapshot, target), value, "{target} in {snapshot}");
    }
}

/// s1 and s2 with their own data, and the VM with newer.
fn two(rig: &mut dyn Rig, hv: &dyn Hypervisor, spec: RigVm) -> VmId {
    let vm = rig.new_vm(spec);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        write(rig, vm, value);
        take(rig, hv, vm, label);
    }
    write(rig, vm, 3);
    vm
}

pub(crate) fn a_revert_brings_the_data_back_wherever_the_snapshot_is(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    // A leaf; one with children; the current one itself.
    let mut kept = Vec::new();
    for (label, value, newer) in [("s2", 2, 4), ("s1", 1, 5), ("s1", 1, 6)] {
        let before = rig.marker_now(vm, "vda");
        kept.push((daemon.revert(vm, label), before));
        assert_eq!(hv.vm(vm).unwrap().state, VmState::Running);
        markers(rig, vm, value);
        let records = records(&*hv, vm);
        assert!(records.iter().find(|r| r.current).is_some_and(|r| r.name == name(label)));
        write(rig, vm, newer);
        for (safety, value) in &kept {
            holds(rig, vm, safety, *value);
        }
        for (label, value) in [("s1", 1), ("s2", 2)] {
            holds(rig, vm, &name(label), value);
        }
        for target in DISKS {
            let disk = hv.vm(vm).unwrap().disks.into_iter().find(|d| d.target == target).unwrap();
            assert_eq!(disk.configured.as_ref(), Some(&disk.chain[0].path), "what it starts on next");
        }
    }
    // Two in the same second, and three in all: each of its own name.
    assert_eq!(kept.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), 3);
    let origins = records(&*hv, vm).into_iter().filter(|r| r.description.contains("origin=safety"));
    assert_eq!(origins.count(), 3);
}

pub(crate) fn a_revert_can_be_reverted_and_that_too(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let first = daemon.revert(vm, "s1");
    markers(rig, vm, 1);
    let second = daemon.revert(vm, first.as_str());
    markers(rig, vm, 3);
    daemon.revert(vm, second.as_str());
    markers(rig, vm, 1);
    holds(rig, vm, &first, 3);
    holds(rig, vm, &name("s2"), 2);
    assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
    rig.start_vm(vm);
    markers(rig, vm, 1);
}

pub(crate) fn after_a_revert_the_vm_is_what_was_asked_for(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let asked = [
        (Then::ShutOff, VmState::ShutOff),
        (Then::AsBefore, VmState::ShutOff),
        (Then::Paused, VmState::Paused),
        (Then::AsBefore, VmState::Paused),
        (Then::Running, VmState::Running),
    ];
    for (then, state) in asked {
        daemon.ask(vm, RevertJob { then, ..usual("s2") }).unwrap();
        assert_eq!(hv.vm(vm).unwrap().state, state, "{then}");
    }
    markers(rig, vm, 2);
    // What a libvirtd that was killed in the middle of a start left paused goes on.
    daemon.ask(vm, RevertJob { then: Then::Paused, ..usual("s2") }).unwrap();
    for (paused, state) in [(true, VmState::Paused), (false, VmState::Running), (true, VmState::Running)] {
        hv.start(vm, paused).unwrap();
        assert_eq!(hv.vm(vm).unwrap().state, state);
    }
    let life = hv.life(vm).unwrap();
    assert!(life.is_some());
    hv.start(vm, false).unwrap();
    assert_eq!(hv.life(vm).unwrap(), life, "it was on already");
    hv.stop(vm).unwrap();
    assert_eq!(hv.life(vm).unwrap(), None);
    hv.start(vm, true).unwrap();
    assert!(hv.life(vm).unwrap().is_some_and(|now| Some(now) != life));
}

pub(crate) fn disks_that_take_no_part_and_cdroms_are_left_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    rig.attach(vm, "hdc", true);
    write(rig, vm, 1);
    let mut only = overlays(rig, &*hv, vm);
    only.retain(|o| o.target == "vda");
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s1", &only)).unwrap();
    rig.attach(vm, "vdc", false);
    rig.start_vm(vm);
    write(rig, vm, 2);
    let medium = chain(&*hv, vm, "hdc");
    let safety = daemon.revert(vm, "s1");

    assert_eq!((rig.marker_now(vm, "vda"), rig.marker_now(vm, "vdb")), (1, 2));
    assert_eq!(chain(&*hv, vm, "hdc"), medium);
    // It came later, and is there; it took part in the safety snapshot alone.
    let safe = records(&*hv, vm).into_iter().find(|r| r.name == safety).unwrap();
    let covered: BTreeSet<_> = safe.disks.iter().map(|d| d.target.as_str()).collect();
    assert_eq!(covered, ["vda", "vdb", "vdc"].into());
    let later = safe.disks.iter().find(|d| d.target == "vdc").unwrap();
    assert_eq!(chain(&*hv, vm, "vdc"), [later.overlay.clone(), later.state_image.clone()]);
    write(rig, vm, 3);
    assert_eq!(hv.vm(vm).unwrap().disks.len(), 4);
}

pub(crate) fn the_definition_is_that_of_then_or_that_of_now_as_asked(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    rig.set_memory(vm, 24);
    take(rig, &*hv, vm, "s1");
    rig.set_memory(vm, 32);
    daemon.ask(vm, RevertJob { definition: DefinitionOf::Keep, ..usual("s1") }).unwrap();
    assert_eq!(rig.memory(vm), 32);
    daemon.revert(vm, "s1");
    assert_eq!(rig.memory(vm), 24);
    // Of one that was taken while the VM ran, what it would have started with.
    rig.start_vm(vm);
    rig.set_memory(vm, 40);
    take(rig, &*hv, vm, "s2");
    rig.set_memory(vm, 48);
    daemon.revert(vm, "s2");
    assert_eq!(rig.memory(vm), 40);
}

pub(crate) fn after_reverts_all_else_works_also_when_libvirt_was_away(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let safety = daemon.revert(vm, "s1");
    write(rig, vm, 4);
    rig.disconnect();
    wait_for(&events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    rig.reconnect();
    wait_for(&events, "the connection", |e| matches!(e, Event::Connected(_)));
    take(rig, &*hv, vm, "s3");
    write(rig, vm, 5);
    let parents: Vec<_> = records(&*hv, vm).into_iter().map(|r| (r.name, r.parent)).collect();
    let under = |parent: &str| Some(name(parent));
    assert!(parents.contains(&(name("s3"), under("s1"))) && parents.contains(&(safety.clone(), under("s2"))));
    rig.stop_vm(vm);
    rig.start_vm(vm);
    markers(rig, vm, 5);
    hv.delete(vm, &name("s3")).unwrap();
    markers(rig, vm, 5);
    daemon.revert(vm, "s2");
    markers(rig, vm, 2);
    for (snapshot, value) in [(name("s1"), 1), (name("s2"), 2), (safety, 3)] {
        holds(rig, vm, &snapshot, value);
    }
}

pub(crate) fn without_a_safety_snapshot_what_was_on_top_is_gone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    for label in ["s2", "s1", "s1"] {
        let tops = DISKS.map(|target| chain(&*hv, vm, target).remove(0));
        let safety = daemon.ask(vm, RevertJob { safety: None, ..usual(label) }).unwrap();
        assert_eq!(safety, None);
        for top in tops {
            assert!(!rig.file_exists(&top), "{top} is nobody's after the revert to {label}");
        }
        write(rig, vm, 9);
    }
    assert_eq!(records(&*hv, vm).len(), 2);
    holds(rig, vm, &name("s1"), 1);
    holds(rig, vm, &name("s2"), 2);
}

pub(crate) fn a_revert_that_cannot_be_safe_is_refused_and_touches_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let refused = |label: &str, kind: &str| {
        let before = (hv.vm(vm).unwrap(), records(&*hv, vm));
        let failure = daemon.run(vm, Operation::Revert(Box::new(usual(label))));
        let Outcome::Failed(failure) = failure else { panic!("{failure:?}") };
        assert_eq!(failure.name, kind, "{}", failure.message);
        assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm)), before);
    };
    refused("s3", "NoSuchSnapshot");
    // A deletion of it that did not end may have put newer data under it.
    let half = Intent::new(
        Uuid::from_u128(7),
        vm,
        name("s1"),
        Begun::Merge(Recipe {
            run: vec![Doomed { name: name("s1"), id: None }],
            disks: Vec::new(),
            told: Vec::new(),
            files: Vec::new(),
            current: None,
            marked: Vec::new(),
            begun: false,
        }),
    );
    daemon.tools.store.begin(&half, daemon.tools.clock.now()).unwrap();
    refused("s1", "Unsupported");
    daemon.tools.store.abandoned(half.id).unwrap();
    rig.managed_save(vm);
    refused("s1", "Unsupported");
    rig.start_vm(vm);
    let copy = hv.copy(vm, &name("s2")).unwrap();
    hv.forget(vm, &name("s2")).unwrap();
    refused("s1", "ChainMismatch");
    hv.put_back(vm, &copy, true).unwrap();
    daemon.revert(vm, "s1");
    markers(rig, vm, 1);
}

/// More than any host can give.
const TOO_MUCH: u64 = 1 << 28;

pub(crate) fn a_revert_whose_start_fails_leaves_the_vm_as_it_was(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    write(rig, vm, 1);
    rig.set_memory(vm, TOO_MUCH);
    take(rig, &*hv, vm, "s1");
    rig.set_memory(vm, 16);
    rig.start_vm(vm);
    write(rig, vm, 2);
    take(rig, &*hv, vm, "s2");
    write(rig, vm, 3);
    for label in ["s1", "s1"] {
        let before = records(&*hv, vm);
        let failure = daemon.ask(vm, usual(label)).unwrap_err();
        assert!(
            failure.message.contains("as before") && failure.message.contains("emory"),
            "{}",
            failure.message
        );
        let after = hv.vm(vm).unwrap();
        assert_eq!((after.state, rig.memory(vm)), (VmState::Running, 16));
        markers(rig, vm, 3);
        // Nothing but the safety snapshot came of it, which the VM is on.
        let mut records = records(&*hv, vm);
        let safety =
            records.remove(records.iter().position(|r| !before.iter().any(|b| b.name == r.name)).unwrap());
        assert!(safety.current);
        for (old, new) in before.iter().zip(&records) {
            assert_eq!((&old.name, &old.parent, &old.disks), (&new.name, &new.parent, &new.disks));
            assert_eq!((&old.sources, &old.revert_disks), (&new.sources, &new.revert_disks));
        }
        for disk in after.disks {
            let overlay = safety.disks.iter().find(|d| d.target == disk.target).unwrap();
            assert_eq!(disk.chain[0].path, overlay.overlay);
            assert_eq!(disk.configured.as_ref(), Some(&overlay.overlay));
        }
    }
    daemon.ask(vm, RevertJob { definition: DefinitionOf::Keep, ..usual("s1") }).unwrap();
    markers(rig, vm, 1);
    holds(rig, vm, &name("s2"), 2);
}

/// What libvirt 11.3's own revert, creation, deletion and revert lost a layer with.
pub(crate) fn a_tree_of_reverts_and_deletions_keeps_all_data(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    take(rig, &*hv, vm, "s3");
    write(rig, vm, 4);
    let safety = daemon.revert(vm, "s1");
    write(rig, vm, 5);
    take(rig, &*hv, vm, "n4");
    hv.delete(vm, &name("n4")).unwrap();
    markers(rig, vm, 5);
    daemon.revert(vm, "s3");
    markers(rig, vm, 3);
    for (snapshot, value) in [(name("s1"), 1), (name("s2"), 2), (name("s3"), 3), (safety.clone(), 4)] {
        holds(rig, vm, &snapshot, value);
    }
    rig.start_vm(vm);
    markers(rig, vm, 3);
    daemon.revert(vm, safety.as_str());
    markers(rig, vm, 4);
}
