//! What is settled late: the VM has gone on since, and nothing of that is lost.

use std::collections::HashMap;

use virtsnap::{
    clock::Clock as _,
    core::model::{SnapshotName, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _, Wake as _,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
    store::{Begun, Intent},
};
use zbus::Variant;

use super::{
    client::{none, options},
    rig::{Rig, held, id, snapshot_path},
};

const DISKS: [&str; 2] = ["vda", "vdb"];
/// The store has no room for the entry of what is left to remove.
const FULL: &str = "CREATE TRIGGER full BEFORE INSERT ON intent WHEN NEW.kind = 'drop'
    BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END";

fn fill(sim: &Sim, value: u64) {
    for target in DISKS {
        assert!(sim.write(id(1), target, 0, value));
    }
}

#[track_caller]
fn content(rig: &Rig, value: u64) {
    for target in DISKS {
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], value, "{target}");
    }
}

/// A running VM with s1 and s2, which hold 1 and 2; its disks hold 3.
async fn two() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&DISKS));
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        fill(&rig.sim, value);
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    fill(&rig.sim, 3);
    rig
}

async fn revert(rig: &Rig, state: &'static str) -> Result<String, (String, String)> {
    let asked: HashMap<_, Variant<'static>> = options([("safety", false.into()), ("state", state.into())]);
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Revert", asked).await
}

fn gone() -> Error {
    Error::new(ErrorKind::Disconnected, "the daemon was killed")
}

fn refused() -> Mishap {
    Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"))
}

fn state(rig: &Rig) -> VmState {
    rig.sim.vm(id(1)).unwrap().state
}

fn snapshots(rig: &Rig) -> Vec<String> {
    rig.sim.snapshots(id(1)).unwrap().iter().map(|r| r.name.to_string()).collect()
}

fn current(rig: &Rig) -> Option<String> {
    let records = rig.sim.snapshots(id(1)).unwrap();
    records.into_iter().find(|r| r.current).map(|r| r.name.to_string())
}

/// Killed at this call, which was carried out; what others do then; and the next life.
async fn next_life(rig: &mut Rig, op: Op, to: &'static str, meanwhile: impl FnOnce(&Sim)) {
    rig.sim.inject(Fault::new(op, Mishap::Lose(gone())));
    revert(rig, to).await.unwrap_err();
    rig.stop().await;
    rig.sim.connect();
    meanwhile(&rig.sim);
    rig.sim.clear_calls();
    rig.boot().await;
    rig.until_running().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_somebody_started_after_a_crash_is_not_stopped_to_end_a_revert() {
    for op in [Op::Define, Op::Redefine] {
        let mut rig = two().await;
        next_life(&mut rig, op, "shut-off", |sim| {
            sim.start(id(1)).unwrap();
            fill(sim, 7);
        })
        .await;
        assert_eq!(state(&rig), VmState::Running, "{op:?}");
        assert!(!rig.sim.changes().contains(&Op::Stop), "{op:?}");
        content(&rig, 7);
        assert_eq!((current(&rig).as_deref(), rig.store().intents().unwrap()), (Some("s1"), vec![]));
        rig.client.create(id(1), "s3", none()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_is_not_taken_back_because_somebody_resumed_the_vm() {
    let mut rig = two().await;
    next_life(&mut rig, Op::Start, "paused", |sim| {
        sim.resume(id(1)).unwrap();
        fill(sim, 7);
    })
    .await;
    assert_eq!(state(&rig), VmState::Running);
    content(&rig, 7);
    assert_eq!((current(&rig).as_deref(), rig.store().intents().unwrap()), (Some("s1"), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_is_over_and_cannot_be_written_down_is_never_done_again() {
    let mut rig = two().await;
    let before = rig.images();
    rig.in_store(FULL);
    let (_, text) = revert(&rig, "running").await.unwrap_err();
    assert!(text.contains("is reverted to snapshot s1") && text.contains("disk is full"), "{text}");
    let now = rig.images();
    assert!(before.iter().all(|image| now.contains(image)), "what it was on is there as long: {now:?}");
    // It works, and is off when the daemon comes again.
    fill(&rig.sim, 7);
    rig.sim.stop(id(1)).unwrap();
    rig.sim.clear_calls();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(state(&rig), VmState::ShutOff, "it is not started again");
    content(&rig, 7);
    rig.in_store("DROP TRIGGER full");
    rig.client.create(id(1), "s3", none()).await.unwrap();
    assert_eq!(rig.store().intents().unwrap(), [], "the next job on it ended that first");
    assert!(!rig.sim.changes().iter().any(|op| matches!(op, Op::Start | Op::Stop | Op::Define)));
    content(&rig, 7);
    assert_eq!(rig.images().len(), before.len() + 2, "and what it was on is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_was_taken_back_is_over_even_if_its_overlays_are_still_there() {
    let mut rig = two().await;
    let before = rig.images();
    rig.sim.inject(Fault::new(Op::Start, refused()));
    rig.sim.inject(Fault::new(Op::Discard, refused()).times(2));
    let (_, text) = revert(&rig, "running").await.unwrap_err();
    assert!(text.contains("It is running on its disks as before"), "{text}");
    let left = rig.store().intents().unwrap();
    assert!(matches!(left[..], [Intent { what: Begun::Drop, .. }]), "{left:?}");
    content(&rig, 3);
    // What is deleted now does not come back, and what is off is not started.
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    rig.sim.stop(id(1)).unwrap();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!((snapshots(&rig), state(&rig)), (vec!["s2".to_owned()], VmState::ShutOff));
    content(&rig, 3);
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.images().len(), before.len() - 2, "the overlays are gone, and s1's images");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_on_top_of_a_revert_that_is_neither_ended_nor_taken_back() {
    let rig = two().await;
    rig.sim.inject(Fault::new(Op::Start, refused()));
    rig.sim.inject(Fault::new(Op::PutBack, refused()).always());
    revert(&rig, "running").await.unwrap_err();
    let was = (snapshots(&rig), rig.images());
    let s1 = snapshot_path(id(1), "s1");
    let (kind, text) = rig.client.job(&s1, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(kind, "Busy", "{text}");
    assert!(text.contains("revert") && text.contains("on request") && text.contains("s1"), "{text}");
    assert_eq!((snapshots(&rig), rig.images()), was);
    rig.sim.heal();
    rig.client.job(&s1, "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(snapshots(&rig), ["s2"], "that was first");
    content(&rig, 3);
    assert_eq!((state(&rig), rig.store().intents().unwrap()), (VmState::Running, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_disks_others_changed_before_it_was_stopped_runs_on() {
    for crash in [false, true] {
        let mut rig = two().await;
        let gate = rig.sim.gate(Op::Stop);
        let asked: HashMap<_, Variant<'static>> = options([("safety", false.into())]);
        let (job,): (zbus::OwnedObjectPath,) =
            rig.client.call(&snapshot_path(id(1), "s1"), "Snapshot.Revert", &(asked,)).await.unwrap();
        held(&gate);
        rig.sim.make_foreign_snapshot(id(1), "theirs").unwrap();
        let images = rig.images();
        if crash {
            rig.sim.inject(Fault::new(Op::Vm, Mishap::Refuse(gone())));
        }
        gate.open();
        rig.client.wait(&job).await.unwrap_err();
        if crash {
            rig.stop().await;
            rig.sim.connect();
            rig.boot().await;
            rig.until_running().await;
        }
        assert_eq!(state(&rig), VmState::Running, "crash: {crash}");
        content(&rig, 3);
        assert_eq!(rig.store().intents().unwrap(), [], "crash: {crash}");
        assert_eq!(rig.images().len(), images.len() - 2, "the new overlays are gone: {:?}", rig.images());
        assert_eq!(current(&rig).as_deref(), Some("theirs"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_others_took_on_from_a_revert_that_was_cut_short_is_left_to_them() {
    let mut rig = two().await;
    next_life(&mut rig, Op::Define, "running", |sim| {
        sim.start(id(1)).unwrap();
        fill(sim, 7);
        sim.make_foreign_snapshot(id(1), "theirs").unwrap();
        fill(sim, 8);
    })
    .await;
    assert_eq!((state(&rig), rig.store().intents().unwrap()), (VmState::Running, vec![]));
    content(&rig, 8);
    for target in DISKS {
        let theirs = rig.sim.content_of_snapshot(id(1), &SnapshotName::existing("theirs"), target).unwrap();
        assert_eq!(theirs[&0], 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_somebody_started_and_suspended_is_not_taken_for_one_that_was_woken() {
    for theirs in [false, true] {
        let mut rig = two().await;
        rig.stop().await;
        rig.sim.stop(id(1)).unwrap();
        rig.store().wakes(id(1), rig.clock.now()).unwrap();
        rig.sim.wake(id(1)).unwrap();
        rig.store().woken(id(1), rig.sim.life(id(1)).unwrap().unwrap()).unwrap();
        if theirs {
            // It ended with the daemon's connection.
            rig.sim.stop(id(1)).unwrap();
            rig.sim.start(id(1)).unwrap();
            rig.sim.pause(id(1)).unwrap();
        }
        rig.boot().await;
        rig.until_running().await;
        assert_eq!(state(&rig), if theirs { VmState::Paused } else { VmState::ShutOff });
        assert!(rig.store().awake().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn which_life_of_a_stopped_vm_a_merge_began_is_written_down() {
    let rig = two().await;
    rig.sim.stop(id(1)).unwrap();
    let gate = rig.sim.gate(Op::Commit);
    let s1 = snapshot_path(id(1), "s1");
    let (job,): (zbus::OwnedObjectPath,) = rig.client.call(&s1, "Snapshot.Delete", &(none(),)).await.unwrap();
    held(&gate);
    let life = rig.sim.life(id(1)).unwrap().unwrap();
    assert!(rig.store().is_awake(id(1), Some(life)).unwrap());
    assert!(!rig.store().is_awake(id(1), Some(life + 1)).unwrap());
    gate.open();
    rig.client.wait(&job).await.unwrap();
    assert!(rig.store().awake().unwrap().is_empty());
}

/// Whoever goes back to an older version in the middle of something.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_version_began_is_told_and_nothing_is_done_on_top_of_it() {
    let rig = two().await;
    rig.in_store(&format!(
        "INSERT INTO intent (id, vm, name, kind, at_usec, overlays) VALUES ('{}', '{}', 's1', 'teleport', 1, '')",
        uuid::Uuid::from_u128(5),
        id(1)
    ));
    rig.sim.clear_calls();
    let (kind, text) = rig.client.create(id(1), "more", none()).await.unwrap_err();
    assert_eq!(kind, "Busy", "{text}");
    assert!(text.contains("teleport") && text.contains("another version"), "{text}");
    assert_eq!(rig.sim.changes(), []);
    rig.in_store("DELETE FROM intent");
    rig.client.create(id(1), "more", none()).await.unwrap();
}
