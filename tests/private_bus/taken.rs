//! A stopped VM that is started, paused, for our work, and that somebody has in the middle of it: it is theirs, and what was
//! done is told as it is.

use virtsnap::{
    core::model::{SnapshotName, VmState},
    hypervisor::{
        Branch as _, Error, ErrorKind, Hypervisor as _, Wake as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};
use zbus::OwnedObjectPath;

use super::{
    client::{none, options},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// What its owner does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    LetsItRun,
    SuspendsItAgain,
}

use Owner::{LetsItRun, SuspendsItAgain};

impl Owner {
    fn acts(self, rig: &Rig) {
        rig.sim.resume(id(1)).unwrap();
        assert!(rig.sim.write(id(1), "vda", 5, 7));
        if self == SuspendsItAgain {
            rig.sim.pause(id(1)).unwrap();
        }
    }

    fn state(self) -> VmState {
        if self == LetsItRun { VmState::Running } else { VmState::Paused }
    }
}

fn state(rig: &Rig) -> VmState {
    rig.sim.vm(id(1)).unwrap().state
}

/// A stopped VM with s1 and s2, which hold 1 and 2; its disk holds 3.
async fn stopped() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        assert!(rig.sim.write(id(1), "vda", 0, value));
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    assert!(rig.sim.write(id(1), "vda", 0, 3));
    rig.sim.stop(id(1)).unwrap();
    rig
}

/// A stopped VM with a, which others made inside its images and which holds 1; its disk holds 3.
async fn stopped_with_one_inside() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).in_state(VmState::ShutOff));
        sim.write_behind(id(1), "vda", 0, 1).unwrap();
        sim.make_internal_snapshot(id(1), "a").unwrap();
        sim.write_behind(id(1), "vda", 0, 3).unwrap();
    })
    .await;
    rig.client.until_there(&snapshot_path(id(1), "a"), true).await;
    rig
}

async fn begin(rig: &Rig, name: &str) -> OwnedObjectPath {
    let given = (options([("foreign", true.into())]),);
    let (job,): (OwnedObjectPath,) =
        rig.client.call(&snapshot_path(id(1), name), "Snapshot.Delete", &given).await.unwrap();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_ended_is_told_whoever_has_the_vm_by_then() {
    for owner in [LetsItRun, SuspendsItAgain] {
        let mut rig = stopped().await;
        let gate = rig.sim.gate(Op::Commit);
        let job = begin(&rig, "s1").await;
        held(&gate);
        owner.acts(&rig);
        gate.open();
        rig.client.wait(&job).await.unwrap();
        for restarted in [false, true] {
            if restarted {
                rig.stop().await;
                rig.boot().await;
                rig.until_running().await;
            }
            assert_eq!(state(&rig), owner.state(), "{restarted}");
            assert_eq!(rig.client.snapshots(id(1)).await, ["s2"]);
            assert!(rig.store().awake().unwrap().is_empty());
            assert_eq!(rig.store().intents().unwrap(), []);
        }
        let s2 = SnapshotName::existing("s2");
        assert_eq!(rig.sim.content_of_snapshot(id(1), &s2, "vda").unwrap()[&0], 2);
        let now = rig.sim.read(id(1), "vda").unwrap();
        assert_eq!((now[&0], now[&5]), (3, 7));
    }
}

/// All is merged, and its metadata does not say so yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_whose_vm_cannot_be_let_sleep_is_not_written_off() {
    let mut rig = stopped().await;
    let busy = || Error::new(ErrorKind::Busy, "cannot acquire state change lock");
    rig.sim.inject(Fault::new(Op::LetSleep, Mishap::Refuse(busy())).always());
    let job = begin(&rig, "s1").await;
    let (_, text) = rig.client.wait(&job).await.unwrap_err();
    assert!(text.contains("did not end") && text.contains("state change lock"), "{text}");
    rig.client.until(&snapshot_path(id(1), "s1"), "Snapshot.State", |s: &String| s == "failed").await;
    assert_eq!(rig.store().intents().unwrap().len(), 1);
    rig.stop().await;
    rig.sim.heal();
    rig.boot().await;
    rig.until_running().await;
    rig.client.until_there(&snapshot_path(id(1), "s1"), false).await;
    rig.client.until_idle().await;
    assert_eq!((state(&rig), rig.client.snapshots(id(1)).await), (VmState::ShutOff, vec!["s2".to_owned()]));
    assert!(rig.store().awake().unwrap().is_empty() && rig.store().intents().unwrap().is_empty());
    assert_eq!(rig.sim.read(id(1), "vda").unwrap()[&0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_inside_is_deleted_whoever_has_the_vm_by_then() {
    for owner in [LetsItRun, SuspendsItAgain] {
        let rig = stopped_with_one_inside().await;
        let gate = rig.sim.gate(Op::LetSleep);
        let job = begin(&rig, "a").await;
        held(&gate);
        let life = rig.sim.life(id(1)).unwrap().unwrap();
        assert!(!rig.store().is_awake(id(1), Some(life + 1)).unwrap(), "which life of it that is was noted");
        owner.acts(&rig);
        gate.open();
        rig.client.wait(&job).await.unwrap();
        assert_eq!((state(&rig), rig.client.snapshots(id(1)).await), (owner.state(), vec![]));
        assert!(rig.store().awake().unwrap().is_empty() && rig.store().intents().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_inside_that_is_deleted_nobody_says_that_it_is_not() {
    let mut rig = stopped_with_one_inside().await;
    let busy = Error::new(ErrorKind::Busy, "cannot acquire state change lock");
    rig.sim.inject(Fault::new(Op::LetSleep, Mishap::Refuse(busy)).always());
    let job = begin(&rig, "a").await;
    let (_, text) = rig.client.wait(&job).await.unwrap_err();
    assert!(text.contains("snapshot a of VM web is deleted") && text.contains("not off again"), "{text}");
    assert_eq!(rig.store().intents().unwrap(), []);
    rig.stop().await;
    rig.sim.heal();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!((state(&rig), rig.client.snapshots(id(1)).await), (VmState::ShutOff, vec![]));
    assert!(rig.store().awake().unwrap().is_empty());
}

/// Somebody starts it just before it would be woken, with its CPUs stopped.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_could_not_be_woken_is_not_ended() {
    for inside in [true, false] {
        let mut rig = if inside { stopped_with_one_inside().await } else { stopped().await };
        let name = if inside { "a" } else { "s1" };
        let gate = rig.sim.gate(Op::Wake);
        let job = begin(&rig, name).await;
        held(&gate);
        rig.sim.start_paused(id(1)).unwrap();
        gate.open();
        let (kind, text) = rig.client.wait(&job).await.unwrap_err();
        assert!(kind == "Busy" && text.contains("not deleted"), "{kind}: {text}");
        for restarted in [false, true] {
            if restarted {
                rig.stop().await;
                rig.boot().await;
                rig.until_running().await;
            }
            assert_eq!(state(&rig), VmState::Paused, "{name} {restarted}");
            assert!(rig.store().awake().unwrap().is_empty() && rig.store().intents().unwrap().is_empty());
        }
    }
}

/// The daemon dies, and what it had started has an owner when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_that_died_left_awake_is_its_owner_s_since_that_let_it_go_on() {
    for owner in [LetsItRun, SuspendsItAgain] {
        let mut rig = stopped().await;
        let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
        rig.sim.inject(Fault::new(Op::Commit, Mishap::Refuse(gone)));
        let job = begin(&rig, "s1").await;
        rig.client.wait(&job).await.unwrap_err();
        rig.stop().await;
        assert!(!rig.sim.is_off(id(1)) && rig.store().awake().unwrap().contains(&id(1)));
        owner.acts(&rig);
        rig.sim.connect();
        rig.boot().await;
        rig.until_running().await;
        rig.client.until_idle().await;
        assert_eq!(state(&rig), owner.state());
        assert!(rig.store().awake().unwrap().is_empty());
        assert_eq!(rig.sim.read(id(1), "vda").unwrap()[&5], 7);
        rig.client.until(&vm_path(id(1)), "VM.Health", |word: &String| word == "ok").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_somebody_let_go_on_is_written_out_all_the_same() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    assert!(rig.sim.write(id(1), "vda", 0, 1));
    rig.client.create(id(1), "s1", none()).await.unwrap();
    let branch = ("trial", options([("start", false.into())]));
    let (job,): (OwnedObjectPath,) =
        rig.client.call(&snapshot_path(id(1), "s1"), "Snapshot.Branch", &branch).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    let trial = rig.sim.named("trial").unwrap().unwrap();
    let gate = rig.sim.gate(Op::LetSleep);
    let (job,): (OwnedObjectPath,) =
        rig.client.call(&vm_path(trial), "VM.Promote", &(none(),)).await.unwrap();
    held(&gate);
    rig.sim.resume(trial).unwrap();
    gate.open();
    rig.client.wait(&job).await.unwrap();
    assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Running);
    assert!(rig.store().unsure().unwrap().is_empty() && rig.store().awake().unwrap().is_empty());
    // What its QEMU had not written would go with it.
    rig.sim.stop(trial).unwrap();
    assert_eq!(rig.sim.read(trial, "vda").unwrap()[&0], 1);
}
