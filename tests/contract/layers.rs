//! Layers that no snapshot names: made snapshots by command.

use virtsnap::{
    core::{
        health,
        job::{AdoptJob, CreateJob, Made, Operation, Outcome, Pace, RevertJob},
        marker,
        model::{Origin, VmId},
    },
    hypervisor::{ErrorKind, Hypervisor, NewRecord, SnapshotRecord},
    reader,
};

use super::{
    DEADLINE, Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, records, refused,
};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

/// A hand on layers.
pub(crate) trait Layers {
    /// Another program takes an external snapshot of these disks, and writes no metadata.
    fn put_on_top(&mut self, vm: VmId, disks: &[&str]);
}

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

fn adopt(daemon: &Daemon, vm: VmId) -> Outcome {
    daemon.run(vm, Operation::Adopt(AdoptJob { layers: true, ..AdoptJob::default() }))
}

#[track_caller]
fn failed(outcome: Outcome, kind: &str, words: &str) {
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.name, kind, "{failure:?}");
    assert!(failure.message.contains(words), "{}", failure.message);
}

/// From the first to the current one.
fn line(hv: &dyn Hypervisor, vm: VmId) -> Vec<SnapshotRecord> {
    let all = records(hv, vm);
    let mut line: Vec<SnapshotRecord> = all.iter().find(|r| r.current).cloned().into_iter().collect();
    while let Some(parent) = line.last().and_then(|r| r.parent.clone()) {
        line.push(all.iter().find(|r| r.name == parent).unwrap().clone());
    }
    line.reverse();
    assert_eq!(line.len(), all.len());
    line
}

fn delete(daemon: &Daemon, vm: VmId, record: &SnapshotRecord) {
    let delete = Operation::Delete { name: record.name.clone(), pace: Pace::default(), foreign: true };
    assert_eq!(daemon.run(vm, delete), Outcome::Done(None), "{}", record.name);
}

pub(crate) fn layers_on_top_of_snapshots_become_snapshots_that_hold_what_they_should(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    for running in [true, false] {
        let vm = rig.new_vm(RigVm { running, ..TWO });
        write(rig, vm, 1);
        rig.foreign_snapshot(vm, "f1");
        for value in [2, 3] {
            write(rig, vm, value);
            rig.put_on_top(vm, &DISKS);
        }
        write(rig, vm, 4);
        let images = chain(&*hv, vm, "vda");
        assert_eq!(adopt(&daemon, vm), Outcome::Done(None));
        assert_eq!(chain(&*hv, vm, "vda"), images);
        let [f1, two, three] = &line(&*hv, vm)[..] else { panic!("{:?}", records(&*hv, vm)) };
        assert_eq!(f1.name, name("f1"));
        for (record, value) in [(two, 2), (three, 3)] {
            let marker = marker::split(&record.description, vm).1.unwrap();
            assert_eq!(marker.origin, Origin::Foreign);
            assert!(record.created >= f1.created && record.name.as_str().starts_with("adopted-"));
            for target in DISKS {
                assert_eq!(rig.marker_in_snapshot(vm, &record.name, target), value, "{target} {running}");
            }
        }
        failed(adopt(&daemon, vm), "InvalidArgument", "Each of them has one");
        // They are snapshots like all others.
        let safety = daemon.revert(vm, two.name.as_str());
        for target in DISKS {
            assert_eq!(rig.marker_now(vm, target), 2);
        }
        daemon.revert(vm, safety.as_str());
        assert_eq!(rig.marker_now(vm, "vda"), 4);
        assert_eq!(rig.marker_in_snapshot(vm, &three.name, "vda"), 3);
    }
}

pub(crate) fn they_are_merged_away_like_others_also_when_libvirt_was_away(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    write(rig, vm, 1);
    rig.foreign_snapshot(vm, "f1");
    for value in [2, 3] {
        write(rig, vm, value);
        rig.put_on_top(vm, &DISKS);
    }
    write(rig, vm, 4);
    assert_eq!(adopt(&daemon, vm), Outcome::Done(None));
    let before = records(&*hv, vm);
    rig.disconnect();
    rig.reconnect();
    super::wait_for(&events, "the connection", |e| matches!(e, virtsnap::hypervisor::Event::Connected(_)));
    assert_eq!(records(&*hv, vm), before, "libvirt reads it back");
    // A libvirtd that has just started has a look at each VM first.
    let idle = || (!hv.vm(vm).unwrap().busy).then_some(());
    crate::harness::wait_for(DEADLINE, "libvirtd has ended its own job on the VM", idle);
    let [f1, two, three] = &line(&*hv, vm)[..] else { panic!("{before:?}") };
    for (gone, left) in [(two, vec![(f1, 1), (three, 3)]), (f1, vec![(three, 3)]), (three, vec![])] {
        delete(&daemon, vm, gone);
        for target in DISKS {
            assert_eq!(rig.marker_now(vm, target), 4);
            for (record, value) in &left {
                assert_eq!(rig.marker_in_snapshot(vm, &record.name, target), *value);
            }
        }
    }
    for target in DISKS {
        assert_eq!(chain(&*hv, vm, target).len(), 1);
    }
}

pub(crate) fn without_snapshots_all_but_the_base_is_one_unless_it_is_a_clone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    failed(adopt(&daemon, vm), "InvalidArgument", "Each of them has one");
    write(rig, vm, 1);
    rig.put_on_top(vm, &["vda"]);
    write(rig, vm, 2);
    let base = chain(&*hv, vm, "vda")[1].clone();
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    failed(adopt(&daemon, vm), "InUse", "clone");
    assert_eq!(records(&*hv, vm), []);
    rig.undefine_vm(other);
    rig.remove_file(&clone);
    assert_eq!(adopt(&daemon, vm), Outcome::Done(None));
    let [only] = &line(&*hv, vm)[..] else { panic!("not one") };
    assert_eq!(only.disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>(), ["vda"]);
    assert_eq!(rig.marker_in_snapshot(vm, &only.name, "vda"), 1);
    delete(&daemon, vm, only);
    for target in DISKS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (2, 1));
    }
}

/// A disk that a revert leaves where it is, as the snapshot does not have it, stays on what a newer one put under it.
pub(crate) fn what_is_left_under_a_disk_when_all_are_gone_is_told(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    let told = || {
        let read = reader::read(&*hv, &daemon.tools.store, vm).unwrap();
        health::reason(&read.findings)
    };
    for (label, disks, value) in [("s1", &["vda"][..], 1), ("s2", &DISKS, 2)] {
        write(rig, vm, value);
        let disks = disks.iter().map(|d| (*d).to_owned()).collect();
        let safety = usual("s").safety.unwrap();
        let create = CreateJob { name: Some(name(label)), disks: Some(disks), ..safety };
        let taken = daemon.run(vm, Operation::Create(create));
        assert_eq!(taken, Outcome::Done(Some(Made::Snapshot(name(label)))));
    }
    write(rig, vm, 3);
    daemon.ask(vm, RevertJob { safety: None, ..usual("s1") }).unwrap();
    for record in records(&*hv, vm).iter().rev() {
        assert_eq!(told(), "", "{} can be deleted", record.name);
        delete(&daemon, vm, record);
    }
    let lengths = || DISKS.map(|target| chain(&*hv, vm, target).len());
    assert_eq!((records(&*hv, vm), lengths()), (vec![], [1, 2]));
    let layer = chain(&*hv, vm, "vdb").remove(0);
    assert!(told().starts_with(&format!("Layer {layer} under the VM's disks was made for")), "{}", told());
    assert_eq!(adopt(&daemon, vm), Outcome::Done(None));
    assert_eq!(told(), "");
    for record in line(&*hv, vm) {
        delete(&daemon, vm, &record);
    }
    assert_eq!((told(), lengths()), (String::new(), [1, 1]));
    assert!(daemon.tools.store.laid(vm).unwrap().is_empty());
    assert_eq!(DISKS.map(|target| rig.marker_now(vm, target)), [1, 3]);
    // What others put on top is theirs.
    rig.put_on_top(vm, &DISKS);
    assert_eq!((told(), lengths()), (String::new(), [2, 2]));
}

pub(crate) fn where_it_is_not_proven_none_becomes_one(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    rig.foreign_snapshot(vm, "f1");
    rig.put_on_top(vm, &["vda"]);
    rig.put_on_top(vm, &DISKS);
    failed(adopt(&daemon, vm), "Unsupported", "belong together");
    // In the middle: what lies on it says that it lies on something else.
    rig.foreign_snapshot(vm, "f2");
    failed(adopt(&daemon, vm), "Unsupported", "something else than its snapshots say");
    assert_eq!(records(&*hv, vm).len(), 2);
    // And the driver itself takes no name twice, and no image that is not there.
    let record = records(&*hv, vm).remove(0);
    let new = NewRecord {
        name: record.name.clone(),
        description: String::new(),
        created: record.created,
        parent: None,
        disks: record.disks.clone(),
    };
    refused(hv.name_layer(vm, &new), ErrorKind::Exists);
    let mut elsewhere = NewRecord { name: name("n"), ..new };
    let below = elsewhere.disks[0].state_image.clone();
    elsewhere.disks[0].overlay = below;
    refused(hv.name_layer(vm, &elsewhere), ErrorKind::ChainMismatch);
}
