//! An image that a revert left and that a snapshot names which left the disk out: it stays as long as that does, in
//! nobody's way, and goes with the last that names it, whoever takes that away.

use virtsnap::{
    core::model::SnapshotName,
    hypervisor::{
        Error, ErrorKind, Hypervisor as _, Images as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::{none, options},
    command_line::virtsnap,
    rig::{Rig, id, snapshot_path, vm_path},
};

type Orphans = Vec<(String, u64, u64)>;

async fn revert(rig: &Rig, name: &str) {
    let asked = options([("safety", false.into())]);
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", asked).await.unwrap();
}

/// A VM that is on s2, after a revert to s1 and one from there. Of disk vdb the first one's overlay is left: s3 names it,
/// which was taken of vda alone.
async fn with_named() -> (Rig, String) {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await;
    for name in ["s1", "s2"] {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    revert(&rig, "s1").await;
    let left = on(&rig, "vdb");
    let of_one = options([("disks", vec!["vda".to_owned()].into())]);
    rig.client.create(id(1), "s3", of_one).await.unwrap();
    revert(&rig, "s2").await;
    assert!(there(&rig, &left), "s3 names it");
    (rig, left)
}

/// The image that this disk is written to.
fn on(rig: &Rig, target: &str) -> String {
    let disks = rig.sim.vm(id(1)).unwrap().disks;
    disks.into_iter().find(|d| d.target == target).unwrap().chain.remove(0).path
}

fn there(rig: &Rig, image: &str) -> bool {
    rig.images().contains(&image.to_owned())
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await
}

/// Nothing is left of it, and what is there is somebody's.
#[track_caller]
fn gone(rig: &Rig, image: &str) {
    assert!(!there(rig, image), "{image} is nobody's");
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.sim.strays().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_in_nobody_s_way_and_not_told_while_others_are_found() {
    let (mut rig, left) = with_named().await;
    let vm = vm_path(id(1));
    for again in [false, true] {
        if again {
            rig.stop().await;
            rig.boot().await;
            rig.until_running().await;
        }
        assert_eq!(rig.client.text(&vm, "VM.Health").await, "ok");
        assert!(!rig.store().unfinished(id(1)).unwrap());
        assert!(there(&rig, &left));
    }
    // Whatever else is done is done as if it were not there.
    rig.client.create(id(1), "s4", none()).await.unwrap();
    delete(&rig, "s4").await.unwrap();
    let active = on(&rig, "vda");
    rig.sim.make_image("/images/theirs.qcow2", &active).unwrap();
    rig.sim.disconnect("to look anew");
    rig.reconnect().await;
    let found = |all: &Orphans| all.iter().any(|(path, ..)| path == "/images/theirs.qcow2");
    rig.client.until(&vm, "VM.Orphans", found).await;
    assert_eq!(rig.client.get::<Orphans>(&vm, "VM.Orphans").await.len(), 1, "{left} is not told");
    let address = rig.address();
    let (_, out, _) = virtsnap(&["--bus-address", &address, "list", "web"]).await;
    assert!(!out.contains(&left), "{out}");
    assert!(there(&rig, &left));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_with_the_snapshot_and_what_lay_under_it_can_go_then() {
    let (rig, left) = with_named().await;
    delete(&rig, "s3").await.unwrap();
    gone(&rig, &left);
    for name in ["s2", "s1"] {
        delete(&rig, name).await.unwrap();
    }
    assert_eq!(rig.images().len(), 2, "each disk is one image again: {:?}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_with_a_prune() {
    let policy =
        "[policy.p]\nvms = [\"web\"]\nquiesce = \"never\"\nkeep-last = 1\n[vm.web]\ndisks = [\"vda\"]\n";
    let rig = Rig::start(policy, |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await;
    let run = async || {
        for job in rig.client.run("p", none()).await.unwrap() {
            rig.client.wait(&job).await.unwrap();
        }
        rig.client.until_idle().await;
    };
    for name in ["s1", "s2"] {
        let both = options([("disks", vec!["vda".to_owned(), "vdb".to_owned()].into())]);
        rig.client.create(id(1), name, both).await.unwrap();
    }
    revert(&rig, "s1").await;
    let left = on(&rig, "vdb");
    run().await;
    revert(&rig, "s2").await;
    assert!(there(&rig, &left), "the policy's snapshot names it");
    run().await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 3, "one of the policy's is left");
    gone(&rig, &left);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_may_take_that_one_away() {
    let (rig, left) = with_named().await;
    rig.sim.forget_snapshot(id(1), &SnapshotName::existing("s3")).unwrap();
    // The next connection settles it, and so does any job, or time.
    rig.sim.disconnect("a restart");
    rig.reconnect().await;
    assert!(!there(&rig, &left), "that is ours to end");
    assert_eq!(rig.store().intents().unwrap(), []);
    let strays = rig.sim.strays().unwrap();
    assert_eq!(strays.len(), 1, "what it held is theirs: {strays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_vm_that_went_nothing_is_awaited() {
    let (mut rig, left) = with_named().await;
    rig.stop().await;
    rig.sim.stop(id(1)).unwrap();
    rig.sim.undefine(id(1)).unwrap();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.store().intents().unwrap(), []);
    assert!(there(&rig, &left), "its images are not ours to remove any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_deletion_is_cut_short_it_goes_in_the_next_life() {
    for op in [Op::Snapshots, Op::Forget, Op::Discard] {
        for lost in [false, true] {
            let (mut rig, left) = with_named().await;
            let killed = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(op, if lost { Mishap::Lose(killed) } else { Mishap::Refuse(killed) }));
            let _ = delete(&rig, "s3").await;
            rig.stop().await;
            rig.sim.connect();
            rig.boot().await;
            rig.until_running().await;
            if rig.client.snapshots(id(1)).await.contains(&"s3".to_owned()) {
                assert!(there(&rig, &left), "{op:?} {lost}");
                delete(&rig, "s3").await.unwrap();
            }
            gone(&rig, &left);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_yet_is_tried_again_and_the_deletion_is_none_the_worse() {
    let mut waited = false;
    for removed in 0..3 {
        let (rig, left) = with_named().await;
        let refused = Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"));
        rig.sim.inject(Fault::new(Op::Discard, refused).after(removed).always());
        let deleted = delete(&rig, "s3").await;
        assert!(!rig.client.snapshots(id(1)).await.contains(&"s3".to_owned()));
        waited |= deleted.is_ok() && there(&rig, &left);
        rig.sim.heal();
        rig.client.create(id(1), "s4", none()).await.unwrap();
        gone(&rig, &left);
    }
    assert!(waited, "its own images were removed, and that one was not");
}
