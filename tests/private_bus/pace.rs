//! A merge that is limited, stopped, and finished later.

use std::num::NonZeroU64;

use jiff::SignedDuration;
use virtsnap::{
    clock::Clock as _,
    core::model::VmState,
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Op, VmSpec},
    },
};

use super::{
    client::{Options, none, options},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// A VM with the snapshots s1 and s2, which rewrote the same blocks of its disk.
async fn with_two() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for name in ["s1", "s2"] {
        assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 7)));
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 8)));
    rig
}

async fn delete(rig: &Rig, name: &str, options: Options) -> Result<String, (String, String)> {
    let (job,): (zbus::OwnedObjectPath,) =
        rig.client.call(&snapshot_path(id(1), name), "Snapshot.Delete", &(options,)).await?;
    Ok(job.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_stops_when_it_is_told_to_and_the_next_start_finishes_it() {
    let mut rig = with_two().await;
    let s1 = snapshot_path(id(1), "s1");
    let gate = rig.sim.gate(Op::Commit);
    let job = delete(&rig, "s1", none()).await.unwrap();
    held(&gate);
    assert!(rig.client.get::<bool>(&job, "Job.Cancelable").await);
    assert_eq!(rig.client.text(&job, "Job.Phase").await, "merging vda (1/1)");
    rig.client.call::<_, ()>(&job, "Job.Cancel", &(none(),)).await.unwrap();
    gate.open();
    let (name, text) = rig.client.wait(&job).await.unwrap_err();
    assert_eq!(name, "Cancelled", "{text}");
    for part in [
        "(delete of VM web)",
        "told to stop",
        "snapshot s1",
        "failed from now on",
        "the next prune finishes it",
    ] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    assert_eq!(rig.client.text(&job, "Job.ErrorMessage").await, text);
    assert_eq!(rig.client.text(&job, "Job.Result").await, "cancelled");
    assert!(!rig.client.get::<bool>(&job, "Job.Cancelable").await);
    rig.client.until(&s1, "Snapshot.State", |s: &String| s == "failed").await;
    assert_eq!(rig.client.text(&snapshot_path(id(1), "s2"), "Snapshot.State").await, "ready");
    assert_eq!(rig.store().intents().unwrap().len(), 1);

    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    rig.client.until_there(&s1, false).await;
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["s2"]);
    assert_eq!(rig.store().intents().unwrap(), []);
    assert!(rig.sim.read(id(1), "vda").unwrap().values().all(|value| *value == 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_goes_no_faster_and_no_longer_than_it_may() {
    let rig = with_two().await;
    let gate = rig.sim.gate(Op::Commit);
    let hour = rig.clock.now() + SignedDuration::from_hours(1);
    let until = u64::try_from(hour.as_microsecond()).unwrap();
    let paced = options([("bandwidth", 123_456_u64.into()), ("until", until.into())]);
    let job = delete(&rig, "s2", paced).await.unwrap();
    held(&gate);
    assert_eq!(rig.sim.merges(id(1)), [("vda".to_owned(), NonZeroU64::new(123_456))].into());
    rig.clock.advance(SignedDuration::from_hours(2));
    gate.open();
    let (name, text) = rig.client.wait(&job).await.unwrap_err();
    assert_eq!(name, "Cancelled", "{text}");
    assert!(text.contains("its time was over at ") && text.contains("snapshot s2 of VM web"), "{text}");
    let s2 = snapshot_path(id(1), "s2");
    rig.client.until(&s2, "Snapshot.State", |s: &String| s == "failed").await;
    // Asked for again, without an end, it ends.
    rig.client.job(&s2, "Snapshot.Delete", options([("until", 0_u64.into())])).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_has_passed_and_a_limit_that_is_no_number_are_refused() {
    let rig = with_two().await;
    for (method, path) in [("Snapshot.Delete", snapshot_path(id(1), "s1")), ("VM.Prune", vm_path(id(1)))] {
        for given in [
            options([("until", 1_u64.into())]),
            options([("until", u64::MAX.into())]),
            options([("bandwidth", "100MiB".into())]),
            options([("speed", 1_u64.into())]),
        ] {
            let (error, text) = rig.client.job(&path, method, given).await.unwrap_err();
            assert_eq!(error, "InvalidArgument", "{text}");
        }
    }
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_sleeps_again_after_a_merge_that_was_cancelled() {
    let rig = with_two().await;
    rig.sim.stop(id(1)).unwrap();
    let gate = rig.sim.gate(Op::Commit);
    let job = delete(&rig, "s1", none()).await.unwrap();
    held(&gate);
    rig.client.call::<_, ()>(&job, "Job.Cancel", &(none(),)).await.unwrap();
    rig.sim.fail_next(Op::LetSleep, Error::new(ErrorKind::Busy, "on request"));
    gate.open();
    assert_eq!(rig.client.wait(&job).await.unwrap_err().0, "Cancelled");
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::ShutOff);
    assert!(rig.store().awake().unwrap().is_empty());
}
