//! VMs that are made independent of others' images.

use std::num::NonZeroU64;

use virtsnap::{
    core::{
        branch::BranchJob,
        copied::CopiedDisk,
        health::Health,
        job::{Failure, Operation, Outcome, Pace},
        model::{VmId, VmState},
    },
    hypervisor::{Committed, Copied, ErrorKind, Slept, Steer},
    reader,
};

use super::{
    Rig, RigVm,
    branch::{DISKS, TWO, ask, job, markers, two, write},
    chain, connected,
    daemon::Daemon,
    name, records, refused, take,
};

fn promote(daemon: &Daemon, vm: VmId) -> Result<(), Failure> {
    let outcome = daemon.run(vm, Operation::Promote { pace: Pace::default() });
    assert!(daemon.tools.store.awake().unwrap().is_empty());
    match outcome {
        Outcome::Done(None) => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

fn delete(daemon: &Daemon, vm: VmId) -> Outcome {
    daemon.run(vm, Operation::Delete { name: name("s2"), pace: Pace::default(), foreign: true })
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

/// QEMU lets a disk stand alone before it has written what it copied.
pub(crate) fn a_disk_whose_qemu_was_killed_before_it_wrote_all_is_copied_again(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let store = &daemon.tools.store;
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s2")).unwrap();
    let top = |disk: usize| hv.vm(branch).unwrap().disks[disk].chain[0].clone();
    // As the daemon does it, until then.
    hv.wake(branch).unwrap();
    let life = hv.life(branch).unwrap();
    let mut bases = Vec::new();
    for (number, target) in DISKS.iter().enumerate() {
        let chain = hv.chain(&top(number)).unwrap();
        bases.push(chain[1].path.clone());
        let images = chain.into_iter().map(|image| (image.path, image.format)).collect();
        let target = (*target).to_owned();
        store.copying(&CopiedDisk { vm: branch, target: target.clone(), images, life }).unwrap();
        hv.pull(branch, &target, &mut |_| Steer::On { limit: None }).unwrap();
    }
    rig.kill_qemu(branch);
    assert_eq!(hv.let_sleep(branch), Ok(Slept::WasOff), "nobody knows how it ended");
    assert!((0..DISKS.len()).all(|disk| hv.chain(&top(disk)).unwrap().len() == 1));

    let read = reader::read(&*hv, store, branch).unwrap();
    let found = read.findings.iter().find(|f| f.text.contains("copies it once more")).unwrap();
    assert_eq!(found.health, Health::Broken);
    let before = hv.snapshots(vm).unwrap();
    let Outcome::Failed(refusal) = delete(&daemon, vm) else { panic!("its base was given away") };
    assert!(
        refusal.name == "InUse" && bases.iter().any(|base| refusal.message.contains(base)),
        "{}",
        refusal.message
    );
    assert_eq!(hv.snapshots(vm).unwrap(), before);

    promote(&daemon, branch).unwrap();
    assert_eq!(store.unsure().unwrap(), []);
    assert!((0..DISKS.len()).all(|disk| hv.chain(&top(disk)).unwrap().len() == 1));
    markers(rig, branch, 2);
    assert_eq!(reader::read(&*hv, store, branch).unwrap().findings, []);
    rig.start_vm(branch);
    assert!(DISKS.iter().all(|target| chain(&*hv, branch, target).len() == 1));
    markers(rig, branch, 2);
    assert_eq!(delete(&daemon, vm), Outcome::Done(None));
    markers(rig, vm, 3);
    markers(rig, branch, 2);
}
