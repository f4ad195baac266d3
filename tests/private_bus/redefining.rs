//! Snapshots that libvirt takes off its list while their metadata is changed, and those that somebody deletes meanwhile.

use virtsnap::{
    core::model::SnapshotName,
    hypervisor::{
        Error, ErrorKind, Hypervisor as _, Metadata as _, SnapshotRecord,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
};

use super::{
    client::{none, options},
    rig::{Rig, id, snapshot_path},
};

const NAMES: [&str; 3] = ["s1", "s2", "s3"];

async fn with(names: &[&str]) -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for name in names {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    rig
}

async fn describe(rig: &Rig, name: &str, text: &'static str) -> Result<(), (String, String)> {
    let given = options([("description", text.into())]);
    rig.client.call(&snapshot_path(id(1), name), "Snapshot.Update", &(given,)).await
}

fn records(rig: &Rig) -> Vec<SnapshotRecord> {
    rig.sim.snapshots(id(1)).unwrap()
}

fn name(name: &str) -> SnapshotName {
    SnapshotName::existing(name)
}

fn gone() -> Error {
    Error::new(ErrorKind::Disconnected, "libvirtd was killed")
}

fn full() -> Error {
    Error::new(ErrorKind::Failed, "cannot write: No space left on device")
}

/// What is to be seen when it is over, and that all goes on.
async fn settled(rig: &Rig, before: &[SnapshotRecord], what: &str) {
    assert_eq!(records(rig), before, "{what}");
    let store = rig.store();
    assert!(store.redefined().unwrap().is_empty() && store.copies(id(1)).unwrap().is_empty(), "{what}");
    rig.client.create(id(1), "afterwards", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_libvirt_loses_is_put_back_by_whoever_comes_next() {
    for lost in NAMES {
        for (next, mishap) in [("the job", full()), ("the connection", gone()), ("the next life", gone())] {
            let mut rig = with(&NAMES).await;
            let before = records(&rig);
            rig.sim.inject(Fault::new(Op::Redefine, Mishap::Half(mishap)));
            describe(&rig, lost, "new").await.unwrap_err();
            let what = format!("{lost}, by {next}");
            if next == "the next life" {
                rig.stop().await;
                rig.sim.connect();
                assert!(records(&rig).iter().all(|r| r.name != name(lost)), "{what}: it is lost");
                rig.boot().await;
                rig.until_running().await;
            } else if next == "the connection" {
                rig.reconnect().await;
            }
            settled(&rig, &before, &what).await;
            describe(&rig, lost, "new").await.unwrap();
            rig.client
                .until(&snapshot_path(id(1), lost), "Snapshot.Description", |d: &String| d == "new")
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_long_as_it_cannot_be_put_back_nothing_else_is_done_and_then_it_is() {
    let rig = with(&NAMES).await;
    let before = records(&rig);
    rig.sim.inject(Fault::new(Op::Redefine, Mishap::Half(full())));
    rig.sim.inject(Fault::new(Op::PutBack, Mishap::Refuse(full())).always());
    let (_, text) = describe(&rig, "s2", "new").await.unwrap_err();
    assert!(text.contains("putting it back failed too"), "{text}");
    assert_eq!(records(&rig).len(), 2);
    rig.sim.clear_calls();
    let (error, text) = rig.client.create(id(1), "s4", none()).await.unwrap_err();
    assert_eq!(error, "Busy", "{text}");
    assert!(text.contains("snapshot s2 of VM web") && text.contains("nothing was touched"), "{text}");
    assert!(rig.sim.changes().iter().all(|op| *op == Op::PutBack), "{:?}", rig.sim.changes());
    rig.sim.heal();
    rig.client.create(id(1), "s4", none()).await.unwrap();
    assert_eq!(records(&rig).len(), 4);
    assert_eq!(records(&rig)[..2], before[..2]);
}

/// Whatever a person does to it between the daemon's end and its next life.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deleted_meanwhile_stays_deleted() {
    type Deletes = fn(&Sim, &SnapshotName);
    let with_images: Deletes = |sim, name| sim.delete(id(1), name).unwrap();
    let metadata_alone: Deletes = |sim, name| sim.forget_snapshot(id(1), name).unwrap();
    let and_its_child: Deletes = |sim, doomed| {
        sim.forget_snapshot(id(1), doomed).unwrap();
        sim.forget_snapshot(id(1), &name("s2")).unwrap();
    };
    let cases: [(&[&str], &str, Deletes); 7] = [
        (&["s1"], "s1", with_images),
        (&NAMES, "s1", with_images),
        (&NAMES, "s3", with_images),
        (&NAMES, "s1", metadata_alone),
        (&NAMES, "s2", metadata_alone),
        (&NAMES, "s3", metadata_alone),
        (&NAMES, "s1", and_its_child),
    ];
    for (names, doomed, deletes) in cases {
        for mishap in [Mishap::Refuse(gone()), Mishap::Lose(gone())] {
            let mut rig = with(names).await;
            rig.sim.inject(Fault::new(Op::Redefine, mishap));
            describe(&rig, doomed, "new").await.unwrap_err();
            rig.stop().await;
            rig.sim.connect();
            assert_eq!(rig.store().redefined().unwrap(), [id(1)].into());
            deletes(&rig.sim, &name(doomed));
            let left = records(&rig);
            assert!(left.len() < names.len());
            rig.boot().await;
            rig.until_running().await;
            assert_eq!(records(&rig), left, "{doomed}");
            assert!(rig.store().redefined().unwrap().is_empty(), "{doomed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_libvirt_loses_beside_one_that_goes_is_put_back() {
    for (doomed, mishap) in [("s2", full()), ("s3", full()), ("s2", gone()), ("s3", gone())] {
        let rig = with(&NAMES).await;
        let lost = mishap.kind == ErrorKind::Disconnected;
        let what = format!("{doomed}, {mishap}");
        rig.sim.inject(Fault::new(Op::Forget, Mishap::Half(mishap)));
        let path = snapshot_path(id(1), doomed);
        rig.client.job(&path, "Snapshot.Delete", none()).await.unwrap_err();
        if lost {
            rig.reconnect().await;
        }
        rig.client.create(id(1), "afterwards", none()).await.unwrap();
        let now: Vec<_> = records(&rig).into_iter().map(|r| (r.name, r.parent)).collect();
        let [one, other] = if doomed == "s2" { ["s1", "s3"] } else { ["s1", "s2"] }.map(name);
        let left = [(name("afterwards"), Some(other.clone())), (one.clone(), None), (other, Some(one))];
        assert_eq!(now, left, "{what}");
        assert!(rig.store().redefined().unwrap().is_empty(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_version_wrote_down_is_told_and_settled_by_whoever_knows() {
    let mut rig = with(&NAMES).await;
    let before = records(&rig);
    let copy = rig.sim.copy(id(1), &name("s2")).unwrap();
    rig.sim.inject(Fault::new(Op::Redefine, Mishap::Half(gone())));
    describe(&rig, "s2", "new").await.unwrap_err();
    rig.stop().await;
    rig.sim.connect();
    rig.in_store("UPDATE copy SET redefining = '[\"newer\"]'");
    rig.boot().await;
    rig.until_running().await;
    let (error, text) = rig.client.create(id(1), "s4", none()).await.unwrap_err();
    assert_eq!(error, "Busy", "{text}");
    for part in
        ["snapshot s2 of VM web", "another version", "snapshot-create --redefine", "nothing was touched"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(rig.store().redefined().unwrap(), [id(1)].into());
    rig.sim.put_back(id(1), &copy, false).unwrap();
    rig.client.create(id(1), "s4", none()).await.unwrap();
    assert_eq!(records(&rig)[..2], before[..2]);
    assert!(rig.store().redefined().unwrap().is_empty());
}

/// Nor what was deleted long after a change that was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_refused_leaves_nothing_to_put_back() {
    let mut rig = with(&NAMES).await;
    rig.sim.inject(Fault::new(Op::Redefine, Mishap::Refuse(full())));
    describe(&rig, "s3", "new").await.unwrap_err();
    assert_eq!(rig.store().copies(id(1)).unwrap(), []);
    rig.stop().await;
    rig.sim.forget_snapshot(id(1), &name("s3")).unwrap();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(records(&rig).len(), 2);
}

async fn revert(rig: &Rig, to: &str) {
    let given = options([("safety", false.into())]);
    rig.client.job(&snapshot_path(id(1), to), "Snapshot.Revert", given).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_reverted_to_keeps_its_own_overlays_where_libvirt_goes_while_a_child_is_forgotten() {
    for next_life in [false, true] {
        let mut rig = with(&["s1", "s2"]).await;
        revert(&rig, "s1").await;
        rig.client.create(id(1), "s3", none()).await.unwrap();
        revert(&rig, "s1").await;
        let before: Vec<_> = records(&rig).into_iter().filter(|r| r.name != name("s3")).collect();
        assert!(before.iter().any(|r| !r.revert_disks.is_empty()), "{before:?}");
        rig.sim.inject(Fault::new(Op::Forget, Mishap::Half(gone())));
        let deleted = rig.client.job(&snapshot_path(id(1), "s3"), "Snapshot.Delete", none()).await;
        let (_, text) = deleted.unwrap_err();
        assert!(text.contains("whether snapshot s3 of VM web is deleted is not known"), "{text}");
        if next_life {
            rig.stop().await;
            rig.sim.connect();
            assert_ne!(records(&rig), before, "it is left wrong");
            rig.boot().await;
            rig.until_running().await;
        } else {
            rig.reconnect().await;
        }
        assert_eq!(rig.store().intents().unwrap(), []);
        settled(&rig, &before, "the one that was reverted to").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_not_said_to_be_there_where_only_what_is_beside_it_is_lost() {
    let rig = with(&["s1", "s2"]).await;
    revert(&rig, "s1").await;
    let images = rig.images();
    rig.sim.inject(Fault::new(Op::Forget, Mishap::Half(full())));
    rig.sim.inject(Fault::new(Op::PutBack, Mishap::Refuse(full())).always());
    let (_, text) = rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap_err();
    assert!(text.contains("snapshot s2 of VM web is deleted") && text.contains("No space left"), "{text}");
    assert_eq!(records(&rig), [], "one is deleted, and the other one lost");
    assert_eq!(rig.images(), images, "what is lost may lie on them");
    rig.sim.heal();
    rig.client.create(id(1), "afterwards", none()).await.unwrap();
    let names: Vec<_> = records(&rig).into_iter().map(|r| r.name).collect();
    assert_eq!(names, ["afterwards", "s1"].map(name));
    assert_eq!((rig.images().len(), rig.store().intents().unwrap()), (images.len(), vec![]));
    assert!(rig.store().redefined().unwrap().is_empty());
}
