//! What others made: taken over, deleted on request, and forgotten where nothing of it is left.

use virtsnap::{
    core::{
        job::{AdoptJob, Operation, Outcome, Pace},
        marker::{self, Marker},
        model::{Origin, VmId},
    },
    hypervisor::Hypervisor,
};

use super::{Rig, RigVm, chain, connected, daemon::Daemon, name, records};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

/// f1 and f2 by somebody else, and newer data.
fn two_of_others(rig: &mut dyn Rig) -> VmId {
    let vm = rig.new_vm(TWO);
    // So that a block job on it takes its time.
    rig.fill(vm, "vda");
    for (label, value) in [("f1", 1), ("f2", 2)] {
        write(rig, vm, value);
        rig.foreign_snapshot(vm, label);
    }
    write(rig, vm, 3);
    vm
}

fn adopt(labels: &[&str]) -> Operation {
    let snapshots = labels.iter().map(|label| name(label)).collect();
    Operation::Adopt(AdoptJob {
        snapshots,
        policies: ["nightly".parse().unwrap()].into(),
        ..AdoptJob::default()
    })
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

fn markers(hv: &dyn Hypervisor, vm: VmId) -> Vec<Option<Marker>> {
    records(hv, vm).iter().map(|r| marker::split(&r.description, vm).1).collect()
}

pub(crate) fn a_snapshot_of_others_is_taken_over_and_nothing_else_changes(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_of_others(rig);
    let (before, images) = (records(&*hv, vm), chain(&*hv, vm, "vda"));
    for _ in 0..2 {
        assert_eq!(daemon.run(vm, adopt(&["f1"])), Outcome::Done(None));
        let [Some(marker), None] = &markers(&*hv, vm)[..] else { panic!("{:?}", markers(&*hv, vm)) };
        assert_eq!((marker.origin, marker.created), (Origin::Foreign, before[0].created));
        assert_eq!(marker.policies, ["nightly".parse().unwrap()].into());
    }
    let mut after = records(&*hv, vm);
    after[0].description.clone_from(&before[0].description);
    assert_eq!(after, before);
    assert_eq!(chain(&*hv, vm, "vda"), images);
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), 3);
        assert_eq!(rig.marker_in_snapshot(vm, &name("f1"), target), 1);
        assert_eq!(rig.marker_in_snapshot(vm, &name("f2"), target), 2);
    }
}

pub(crate) fn what_others_made_is_deleted_when_it_is_ours_or_asked_for(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_of_others(rig);
    for label in ["f1", "f2"] {
        failed(daemon.run(vm, delete(label, false)), "NotManaged", label);
    }
    assert_eq!(daemon.run(vm, adopt(&["f1"])), Outcome::Done(None));
    assert_eq!(daemon.run(vm, delete("f1", false)), Outcome::Done(None));
    for target in DISKS {
        assert_eq!(rig.marker_in_snapshot(vm, &name("f2"), target), 2);
    }
    // Refused for another reason, it stays theirs.
    rig.begin_block_job(vm, "vda");
    failed(daemon.run(vm, delete("f2", true)), "Busy", "f2");
    rig.end_block_job(vm, "vda");
    assert_eq!(markers(&*hv, vm), [None]);
    assert_eq!(daemon.run(vm, delete("f2", true)), Outcome::Done(None));
    assert_eq!(records(&*hv, vm), []);
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), 3);
        assert_eq!(chain(&*hv, vm, target).len(), 1);
    }
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
}

pub(crate) fn what_cannot_be_taken_over_is_refused_with_all_that_is_asked_with_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_of_others(rig);
    failed(daemon.run(vm, adopt(&["f1", "f3"])), "NoSuchSnapshot", "f3");
    assert_eq!(markers(&*hv, vm), [None, None]);
    rig.merge_chain_behind(vm);
    failed(daemon.run(vm, adopt(&["f1", "f2"])), "Unsupported", "disk vda runs on");
    let gone = records(&*hv, vm)[1].disks[0].state_image.clone();
    rig.remove_file(&gone);
    failed(daemon.run(vm, adopt(&["f2"])), "Unsupported", &format!("{gone} is not there"));
    assert_eq!(markers(&*hv, vm), [None, None]);
}

pub(crate) fn metadata_without_images_is_forgotten_on_request_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_of_others(rig);
    rig.merge_chain_behind(vm);
    let forget = |label| Operation::Forget(name(label));
    for label in ["f1", "f2"] {
        failed(daemon.run(vm, forget(label)), "Unsupported", "its images are there");
    }
    let gone = records(&*hv, vm)[1].disks[0].state_image.clone();
    rig.remove_file(&gone);
    failed(daemon.run(vm, forget("f1")), "Unsupported", "its images are there");
    assert_eq!(daemon.run(vm, forget("f2")), Outcome::Done(None));
    let left = records(&*hv, vm);
    assert_eq!(left.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["f1"]);
    failed(daemon.run(vm, forget("f2")), "NoSuchSnapshot", "f2");
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), 3);
    }
}

pub(crate) fn what_others_need_is_not_forgotten(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two_of_others(rig);
    let image = records(&*hv, vm)[1].disks[0].state_image.clone();
    rig.remove_file(&image);
    failed(daemon.run(vm, Operation::Forget(name("f2"))), "InUse", "disk vda of the VM lies on it");
    assert_eq!(records(&*hv, vm).len(), 2);
}
