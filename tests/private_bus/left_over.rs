//! What libvirt's own deletion of a stopped VM's snapshot leaves when libvirtd dies: ended where that is certain, told where
//! it is not.

use virtsnap::{
    core::model::{SnapshotName, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::none,
    rig::{Rig, id, snapshot_path, vm_path},
};

const DISKS: [&str; 2] = ["vda", "vdb"];

/// A stopped VM with these snapshots, each with its number in its disks.
async fn with(names: &[&str]) -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&DISKS));
    })
    .await;
    for (name, value) in names.iter().zip(1..) {
        for target in DISKS {
            assert!(rig.sim.write(id(1), target, 0, value));
        }
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    rig.sim.stop(id(1)).unwrap();
    rig
}

fn leave(rig: &Rig, name: &str, merged: &[&str]) {
    rig.sim.leave_deletion(id(1), &SnapshotName::existing(name), merged).unwrap();
}

fn state(rig: &Rig) -> VmState {
    rig.sim.vm(id(1)).unwrap().state
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await
}

#[track_caller]
fn holds(rig: &Rig, name: &str, value: u64) {
    for target in DISKS {
        let held = rig.sim.content_of_snapshot(id(1), &SnapshotName::existing(name), target).unwrap();
        assert_eq!(held[&0], value, "{target} in {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ended_as_soon_as_it_is_seen_and_the_deletion_can_be_done_again() {
    for (gone, merged) in [("s1", &[][..]), ("s2", &[]), ("s2", &["vda"]), ("s3", &[])] {
        let rig = with(&["s1", "s2", "s3"]).await;
        leave(&rig, gone, merged);
        rig.client.until(&vm_path(id(1)), "VM.State", |s: &String| s == "shut-off").await;
        rig.client.until_idle().await;
        assert!(!rig.sim.vm(id(1)).unwrap().block_jobs);
        delete(&rig, gone).await.unwrap();
        assert_eq!(state(&rig), VmState::ShutOff);
        for (name, value) in [("s1", 1), ("s2", 2), ("s3", 3)].into_iter().filter(|(name, _)| *name != gone) {
            holds(&rig, name, value);
        }
        rig.client.until(&vm_path(id(1)), "VM.Health", |s: &String| s == "ok").await;
        assert_eq!(rig.store().intents().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_for_first_ends_it() {
    let rig = with(&["s1", "s2"]).await;
    // Nobody has told of it yet.
    let gate = rig.sim.gate(Op::Snapshots);
    leave(&rig, "s1", &[]);
    let asked = rig.client.ask_create(id(1), "s3", none()).await.unwrap();
    gate.open();
    rig.client.wait(&asked).await.unwrap();
    assert_eq!(state(&rig), VmState::ShutOff);
    holds(&rig, "s2", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_is_tried_again_in_the_next_life() {
    for op in [Op::WaitingJobs, Op::LetSleep] {
        for lost in [false, true] {
            let mut rig = with(&["s1", "s2"]).await;
            rig.stop().await;
            leave(&rig, "s1", &[]);
            let error = Error::new(ErrorKind::Failed, "on request");
            let mishap = if lost { Mishap::Lose(error) } else { Mishap::Refuse(error) };
            rig.sim.inject(Fault::new(op, mishap).always());
            rig.boot().await;
            rig.until_running().await;
            rig.client.until_idle().await;
            rig.stop().await;
            let done = op == Op::LetSleep && lost;
            assert_eq!(state(&rig) == VmState::ShutOff, done, "{op:?} {lost}");
            rig.sim.heal();
            rig.boot().await;
            rig.until_running().await;
            rig.client.until(&vm_path(id(1)), "VM.State", |s: &String| s == "shut-off").await;
            delete(&rig, "s1").await.unwrap();
            holds(&rig, "s2", 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_somebody_s_is_told_with_the_way_out_and_left() {
    let rig = with(&["s1"]).await;
    // The only one there is: no older one has libvirt's mark.
    leave(&rig, "s1", &[]);
    let vm = vm_path(id(1));
    rig.client.until(&vm, "VM.Health", |health: &String| health == "degraded").await;
    let reason = rig.client.text(&vm, "VM.HealthReason").await;
    assert!(reason.contains("paused") && reason.contains("`virsh destroy`"), "{reason}");
    rig.client.until_idle().await;
    let (kind, text) = delete(&rig, "s1").await.unwrap_err();
    assert_eq!(kind, "Busy", "{text}");
    assert!(text.contains("`virsh destroy`"), "{text}");
    assert_eq!(state(&rig), VmState::Paused);
    // What it says.
    rig.sim.stop(id(1)).unwrap();
    delete(&rig, "s1").await.unwrap();
    assert_eq!(rig.client.text(&vm, "VM.Health").await, "ok");
    for target in DISKS {
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_runs_or_ran_is_nobody_s_to_end() {
    let rig = with(&["s1", "s2", "s3"]).await;
    let gate = rig.sim.gate(Op::Snapshots);
    leave(&rig, "s2", &[]);
    rig.sim.resume(id(1)).unwrap();
    assert!(rig.sim.write(id(1), "vda", 1, 7));
    rig.sim.pause(id(1)).unwrap();
    gate.open();
    let (kind, _) = delete(&rig, "s2").await.unwrap_err();
    assert_eq!((kind.as_str(), state(&rig)), ("Busy", VmState::Paused));
    assert!(!rig.sim.changes().contains(&Op::LetSleep));
}
