//! VMs of their own on another one's snapshots.

use std::num::NonZeroU64;

use virtsnap::{
    core::{
        branch::BranchJob,
        job::{CreateJob, Failure, Made, Operation, Outcome, Pace},
        model::{VmId, VmState},
    },
    hypervisor::{Committed, Copied, ErrorKind, Hypervisor, Steer, User},
    merging,
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, records, refused, spec, take,
};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

/// A hand on VMs that the driver made.
pub(crate) trait Branches {
    /// From now on this VM is the rig's, as if it had made it: to be written to, and to go at the end.
    fn adopt_vm(&mut self, vm: VmId);
    /// Makes a stopped VM with one disk, and with firmware that keeps its variables in a file.
    fn new_firmware_vm(&mut self) -> VmId;
}

fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

#[track_caller]
fn markers(rig: &dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), value, "{target}");
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

fn job(hv: &dyn Hypervisor, vm: VmId, label: &str) -> BranchJob {
    let new_vm = format!("{}-trial", hv.vm(vm).unwrap().name);
    BranchJob { name: name(label), new_vm, start: false, leave_out: false }
}

fn ask(rig: &mut dyn Rig, daemon: &Daemon, vm: VmId, job: BranchJob) -> Result<VmId, Failure> {
    let outcome = daemon.run(vm, Operation::Branch(job));
    assert_eq!(daemon.tools.store.intents().unwrap(), [], "it ended, whichever way");
    match outcome {
        Outcome::Done(Some(Made::Vm(branch))) => {
            rig.adopt_vm(branch);
            Ok(branch)
        }
        Outcome::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_branch_holds_the_snapshot_s_data_and_pins_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let before = (hv.vm(vm).unwrap(), records(&*hv, vm));
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s2")).unwrap();
    assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm)), before, "the one is as it was");
    markers(rig, branch, 2);
    let made = hv.vm(branch).unwrap();
    assert_eq!((made.state, made.id), (VmState::ShutOff, branch));
    assert_eq!(records(&*hv, branch), []);
    for target in DISKS {
        let (its, state) = (chain(&*hv, branch, target), chain(&*hv, vm, target));
        assert_eq!(its[1..], state[1..], "its own overlay, on what the snapshot lies on");
        assert!(!state.contains(&its[0]));
        let user = (state[1].clone(), User::Vm(made.name.clone()));
        assert!(hv.users(&state[1..2], vm).unwrap().contains(&user));
    }
    // Neither the snapshot nor what is under it goes, whoever asks and however.
    for label in ["s1", "s2"] {
        refused(hv.delete(vm, &name(label)), ErrorKind::InUse);
        refused(merging::look(&*hv, vm, &[name(label)]), ErrorKind::InUse);
    }
    assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm)), before);
    // What is on top of it does.
    take(rig, &*hv, vm, "s3");
    hv.delete(vm, &name("s3")).unwrap();
    rig.start_vm(branch);
    markers(rig, branch, 2);
    markers(rig, vm, 3);
}

pub(crate) fn writes_in_either_are_not_seen_in_the_other(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let branch = ask(rig, &daemon, vm, BranchJob { start: true, ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(hv.vm(branch).unwrap().state, VmState::Running);
    markers(rig, branch, 1);
    write(rig, branch, 7);
    write(rig, vm, 4);
    markers(rig, branch, 7);
    markers(rig, vm, 4);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), value, "{label}");
    }
    // It is a VM like any other: it has snapshots of its own, and so has a branch of that.
    take(rig, &*hv, branch, "b1");
    write(rig, branch, 8);
    let second = ask(rig, &daemon, branch, job(&*hv, branch, "b1")).unwrap();
    markers(rig, second, 7);
    refused(hv.delete(branch, &name("b1")), ErrorKind::InUse);
    daemon.revert(vm, "s2");
    for (vm, value) in [(vm, 2), (branch, 8), (second, 7)] {
        markers(rig, vm, value);
    }
    for vm in [vm, branch] {
        rig.stop_vm(vm);
        rig.start_vm(vm);
    }
    markers(rig, branch, 8);
}

pub(crate) fn a_branch_of_a_stopped_vm(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    rig.set_memory(vm, 24);
    take(rig, &*hv, vm, "s3");
    rig.set_memory(vm, 32);
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s3")).unwrap();
    assert_eq!(
        (hv.vm(vm).unwrap().state, hv.vm(branch).unwrap().state),
        (VmState::ShutOff, VmState::ShutOff)
    );
    assert_eq!(rig.memory(branch), 24, "the definition is that of then");
    // Of one that the VM has left since.
    daemon.revert(vm, "s1");
    let other = BranchJob { new_vm: "another".to_owned(), ..job(&*hv, vm, "s2") };
    let other = ask(rig, &daemon, vm, other).unwrap();
    markers(rig, other, 2);
    for vm in [branch, other, vm] {
        rig.start_vm(vm);
    }
    markers(rig, branch, 3);
    markers(rig, vm, 1);
}

pub(crate) fn a_taken_name_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let own = hv.vm(vm).unwrap().name;
    assert_eq!(hv.named(&own), Ok(Some(vm)));
    let beside = hv.images_beside(&chain(&*hv, vm, "vda")[0]).unwrap();
    let mut no = |new_vm: &str, kind: &str| {
        let failure = ask(rig, &daemon, vm, BranchJob { new_vm: new_vm.into(), ..job(&*hv, vm, "s1") });
        let failure = failure.unwrap_err();
        assert_eq!(failure.name, kind, "{}", failure.message);
        assert_eq!(hv.images_beside(&chain(&*hv, vm, "vda")[0]).unwrap(), beside);
    };
    no(&own, "Exists");
    for bad in ["", "a/b", ".x", "a\nb"] {
        no(bad, "InvalidArgument");
    }
    // Taken at the last moment, too, and by a name's or a UUID's owner.
    let free = "never there";
    assert_eq!(hv.named(free), Ok(None));
    let branch = ask(rig, &daemon, vm, BranchJob { new_vm: free.into(), ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(hv.named(free), Ok(Some(branch)));
    for (label, id) in [("other", branch), (free, VmId(uuid::Uuid::from_u128(99)))] {
        let new = virtsnap::hypervisor::NewVm {
            id,
            name: label.to_owned(),
            images: hv
                .vm(branch)
                .unwrap()
                .disks
                .into_iter()
                .map(|d| (d.target, d.chain[0].clone()))
                .collect(),
            nvram: None,
            leave_out: false,
        };
        let drawn = hv.draw(vm, &name("s1"), &new).unwrap();
        refused(hv.define_new(id, &drawn.definition), ErrorKind::Exists);
    }
    assert_eq!(hv.vm(branch).unwrap().name, free);
}

pub(crate) fn what_a_branch_cannot_have_is_refused_or_left_out(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    rig.attach(vm, "hdc", true);
    write(rig, vm, 1);
    let mut only = overlays(rig, &*hv, vm);
    only.retain(|o| o.target == "vda");
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s1", &only)).unwrap();
    let failure = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap_err();
    assert_eq!(failure.name, "Unsupported");
    assert!(
        failure.message.contains("vdb") && failure.message.contains("nothing touched"),
        "{}",
        failure.message
    );
    let branch = ask(rig, &daemon, vm, BranchJob { leave_out: true, ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(chain(&*hv, branch, "hdc"), chain(&*hv, vm, "hdc"), "a CD-ROM may be in both");
    let targets: Vec<_> = hv.vm(branch).unwrap().disks.into_iter().map(|d| d.target).collect();
    assert_eq!(targets, ["vda", "hdc"]);
    rig.start_vm(vm);
    rig.start_vm(branch);
    assert_eq!(rig.marker_now(branch, "vda"), 1);
}

pub(crate) fn firmware_variables_are_its_own(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_firmware_vm();
    let own = hv.vm(vm).unwrap().nvram.unwrap().path;
    rig.put_bytes(&own, b"those of then");
    rig.write_marker(vm, "vda", 1);
    let safety = usual("s1").safety.unwrap();
    let create = Operation::Create(CreateJob { name: Some(name("s1")), ..safety });
    assert!(matches!(daemon.run(vm, create), Outcome::Done(Some(_))));
    rig.put_bytes(&own, b"newer ones");
    take(rig, &*hv, vm, "without");
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    let copy = hv.vm(branch).unwrap().nvram.unwrap().path;
    assert_ne!(copy, own);
    assert_eq!(
        (rig.bytes_of(&copy), rig.bytes_of(&own)),
        (b"those of then".to_vec(), b"newer ones".to_vec())
    );
    assert_eq!(rig.marker_now(branch, "vda"), 1);
    let failure = ask(rig, &daemon, vm, BranchJob { new_vm: "x".into(), ..job(&*hv, vm, "without") });
    let failure = failure.unwrap_err();
    assert!(failure.name == "Unsupported" && failure.message.contains("variables"), "{}", failure.message);
}

pub(crate) fn a_branch_that_went_unpins(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    let made: Vec<String> = DISKS.map(|target| chain(&*hv, branch, target).remove(0)).into();
    refused(hv.undefine_new(vm), ErrorKind::Busy);
    // By its owner: its images stay, and as long as they do they stand on the snapshot.
    rig.undefine_vm(branch);
    assert_eq!(hv.undefine_new(branch), Ok(()), "it is gone already");
    assert!(made.iter().all(|path| rig.file_exists(path)));
    let error = hv.delete(vm, &name("s1")).unwrap_err();
    assert!(error.kind == ErrorKind::InUse && error.message.contains(&made[0]), "{error}");
    hv.discard(vm, &made).unwrap();
    hv.delete(vm, &name("s1")).unwrap();
    markers(rig, vm, 3);
}

fn promote(daemon: &Daemon, vm: VmId) -> Result<(), Failure> {
    let outcome = daemon.run(vm, Operation::Promote { pace: Pace::default() });
    assert!(daemon.tools.store.awake().unwrap().is_empty());
    match outcome {
        Outcome::Done(None) => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_promoted_branch_no_longer_pins_and_keeps_its_data(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let branch = ask(rig, &daemon, vm, BranchJob { start: true, ..job(&*hv, vm, "s2") }).unwrap();
    rig.write_clusters(branch, "vda", &[7], 9);
    assert_eq!(daemon.tools.store.branched().unwrap().len(), 1);
    promote(&daemon, branch).unwrap();
    assert!(daemon.tools.store.branched().unwrap().is_empty());
    markers(rig, branch, 2);
    for target in DISKS {
        assert_eq!(chain(&*hv, branch, target).len(), 1);
    }
    // Doing it again is no harm.
    promote(&daemon, branch).unwrap();
    let images: Vec<String> = DISKS.iter().flat_map(|target| chain(&*hv, vm, target)).collect();
    assert_eq!(hv.users(&images, vm), Ok(Vec::new()));
    for label in ["s2", "s1"] {
        hv.delete(vm, &name(label)).unwrap();
    }
    markers(rig, vm, 3);
    markers(rig, branch, 2);
    // Also from its next start on, and with the other one gone.
    rig.stop_vm(vm);
    rig.undefine_vm(vm);
    for image in images {
        if rig.file_exists(&image) {
            rig.remove_file(&image);
        }
    }
    rig.stop_vm(branch);
    rig.start_vm(branch);
    markers(rig, branch, 2);
    assert!(DISKS.iter().all(|target| chain(&*hv, branch, target).len() == 1));
}

pub(crate) fn a_stopped_branch_is_woken_to_be_promoted_and_sleeps_again(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    refused(hv.pull(branch, "vda", &mut |_| Steer::On { limit: None }), ErrorKind::Unsupported);
    promote(&daemon, branch).unwrap();
    assert_eq!(hv.vm(branch).unwrap().state, VmState::ShutOff);
    for target in DISKS {
        let images =
            hv.chain(&hv.vm(branch).unwrap().disks.iter().find(|d| d.target == target).unwrap().chain[0]);
        assert_eq!(images.unwrap().len(), 1);
    }
    markers(rig, branch, 1);
    hv.delete(vm, &name("s1")).unwrap();
    rig.start_vm(vm);
    rig.start_vm(branch);
    markers(rig, branch, 1);
    markers(rig, vm, 3);
}

pub(crate) fn a_cancelled_promotion_loses_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(TWO);
    write(rig, vm, 1);
    rig.write_clusters(vm, "vda", &[3, 9, 40], 1);
    take(rig, &*hv, vm, "s1");
    let branch = ask(rig, &daemon, vm, BranchJob { start: true, ..job(&*hv, vm, "s1") }).unwrap();
    let before = chain(&*hv, branch, "vda");
    let mut told: Vec<Copied> = Vec::new();
    let mut stop = |copied: Copied| {
        told.push(copied);
        if copied.done == 0 { Steer::On { limit: NonZeroU64::new(1) } } else { Steer::Stop }
    };
    refused(hv.pull(branch, "vda", &mut stop), ErrorKind::Cancelled);
    assert!(told.iter().all(|c| c.done <= c.total) && told[0].total == 0, "{told:?}");
    assert_eq!((chain(&*hv, branch, "vda"), hv.block_jobs(branch)), (before.clone(), Ok(Vec::new())));
    refused(hv.pull(branch, "vda", &mut |_| Steer::Stop), ErrorKind::Cancelled);
    markers(rig, branch, 1);
    rig.write_marker(branch, "vda", 5);
    // As it was pinned before, so it is still.
    refused(hv.delete(vm, &name("s1")), ErrorKind::InUse);
    assert_eq!(daemon.tools.store.branched().unwrap().len(), 1);
    assert_eq!(hv.pull(branch, "vda", &mut |_| Steer::On { limit: None }), Ok(Committed::Now));
    assert_eq!(hv.pull(branch, "vda", &mut |_| Steer::On { limit: None }), Ok(Committed::Before));
    let is = |state| assert_eq!(hv.vm(branch).unwrap().state, state);
    // What it copied is on its disk with that.
    for (ran, then) in [(Ok(true), VmState::Paused), (Ok(false), VmState::Paused)] {
        assert_eq!(hv.suspend(branch), ran);
        is(then);
    }
    for _ in 0..2 {
        hv.go_on(branch).unwrap();
        is(VmState::Running);
    }
    rig.stop_vm(branch);
    assert_eq!((hv.suspend(branch), hv.go_on(branch)), (Ok(false), Ok(())));
    is(VmState::ShutOff);
    rig.start_vm(branch);
    assert_eq!((chain(&*hv, branch, "vda").len(), rig.marker_now(branch, "vda")), (1, 5));
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
    promote(&daemon, branch).unwrap();
    assert_eq!((rig.marker_now(branch, "vda"), rig.marker_now(branch, "vdb")), (5, 1));
}

pub(crate) fn a_branch_with_snapshots_is_not_promoted(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    take(rig, &*hv, branch, "b1");
    let before = (hv.vm(branch).unwrap(), records(&*hv, branch));
    let failure = promote(&daemon, branch).unwrap_err();
    assert!(failure.name == "Unsupported" && failure.message.contains("b1"), "{}", failure.message);
    assert_eq!((hv.vm(branch).unwrap(), records(&*hv, branch)), before);
    hv.delete(branch, &name("b1")).unwrap();
    promote(&daemon, branch).unwrap();
    markers(rig, branch, 1);
}
