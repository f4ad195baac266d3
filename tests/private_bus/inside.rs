//! Snapshots inside images, which others made: deleted and reverted to by command.

use virtsnap::{
    core::model::{Storage, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::{none, options},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// A VM with two snapshots inside its images, and newer data.
async fn with_two(state: VmState) -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).in_state(state));
        for (name, value) in [("a", 1), ("b", 2)] {
            sim.write_behind(id(1), "vda", 0, value).unwrap();
            sim.make_internal_snapshot(id(1), name).unwrap();
        }
        sim.write_behind(id(1), "vda", 0, 3).unwrap();
    })
    .await;
    rig.client.until_there(&snapshot_path(id(1), "b"), true).await;
    rig
}

fn now(rig: &Rig) -> u64 {
    rig.sim.read(id(1), "vda").unwrap()[&0]
}

async fn revert(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", none()).await
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    let given = options([("foreign", true.into())]);
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", given).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_gives_a_safety_snapshot_of_the_same_kind_which_is_the_way_back() {
    let rig = with_two(VmState::Running).await;
    let safety = revert(&rig, "a").await.unwrap();
    assert_eq!(now(&rig), 1);
    for (property, is) in
        [("Storage", "internal"), ("Content", "full"), ("Origin", "safety"), ("Consistency", "memory")]
    {
        assert_eq!(rig.client.text(&safety, &format!("Snapshot.{property}")).await, is);
    }
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.State").await, "running");
    rig.client.job(&safety, "Snapshot.Revert", none()).await.unwrap();
    assert_eq!(now(&rig), 3);
    let keep = options([("definition", "keep".into())]);
    let (error, _) = rig.client.job(&safety, "Snapshot.Revert", keep).await.unwrap_err();
    assert_eq!((error.as_str(), now(&rig)), ("Unsupported", 3));
}

/// Only libvirt does it, and tells nobody how far it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_goes_on_cannot_be_cancelled_and_says_so() {
    let rig = with_two(VmState::Running).await;
    let gate = rig.sim.gate(Op::Delete);
    let asked = (options([("foreign", true.into())]),);
    let path = snapshot_path(id(1), "a");
    let (job,): (zbus::OwnedObjectPath,) = rig.client.call(&path, "Snapshot.Delete", &asked).await.unwrap();
    held(&gate);
    rig.client.until(&job, "Job.Cancelable", |cancelable: &bool| !cancelable).await;
    let cancelled: Result<(), _> = rig.client.call(&job, "Job.Cancel", &(none(),)).await;
    assert_eq!(cancelled.unwrap_err().0, "NotCancelable");
    gate.open();
    rig.client.wait(&job).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_revert_is_cut_short_the_vm_is_where_it_was_or_there_and_nothing_is_left_half_done() {
    for op in [Op::Vm, Op::Snapshots, Op::TakeInside, Op::RevertInside] {
        for lost in [false, true] {
            let mut rig = with_two(VmState::Running).await;
            let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(op, if lost { Mishap::Lose(gone) } else { Mishap::Refuse(gone) }));
            let (error, _) = revert(&rig, "a").await.unwrap_err();
            assert_eq!(error, "Disconnected", "{op:?} {lost}");
            rig.stop().await;
            rig.sim.heal();
            rig.sim.connect();
            rig.boot().await;
            rig.until_running().await;
            let there = op == Op::RevertInside && lost;
            assert_eq!(now(&rig), if there { 1 } else { 3 }, "{op:?} {lost}");
            assert_eq!(rig.store().intents().unwrap(), [], "{op:?} {lost}");
            let records = rig.sim.snapshots(id(1)).unwrap();
            assert!(records.iter().all(|r| r.storage == Storage::Internal));
            let taken = op == Op::RevertInside || (op == Op::TakeInside && lost);
            assert_eq!(records.len(), if taken { 3 } else { 2 }, "{op:?} {lost}: {records:?}");
            revert(&rig, "a").await.unwrap();
            assert_eq!(now(&rig), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_deletion_is_cut_short_the_vm_is_off_again_and_it_can_be_asked_for_again() {
    for op in [Op::Copy, Op::Redefine, Op::Wake, Op::Delete, Op::LetSleep] {
        for lost in [false, true] {
            let mut rig = with_two(VmState::ShutOff).await;
            let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(op, if lost { Mishap::Lose(gone) } else { Mishap::Refuse(gone) }));
            let _ = delete(&rig, "a").await;
            rig.stop().await;
            rig.sim.heal();
            rig.sim.connect();
            rig.boot().await;
            rig.until_running().await;
            assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::ShutOff, "{op:?} {lost}");
            assert!(rig.store().awake().unwrap().is_empty(), "{op:?} {lost}");
            if rig.sim.snapshots(id(1)).unwrap().iter().any(|r| r.name.as_str() == "a") {
                delete(&rig, "a").await.unwrap();
            }
            assert_eq!(rig.store().intents().unwrap(), [], "{op:?} {lost}");
            assert_eq!(rig.sim.snapshots(id(1)).unwrap().len(), 1);
            assert_eq!(now(&rig), 3);
        }
    }
}
