//! What belongs to a snapshot and is in none of its disks: the variables of the VM's firmware.

use virtsnap::hypervisor::{
    Error, ErrorKind, Hypervisor, Nvram,
    sim::{Fault, Mishap, Op, VmSpec},
};

use super::{
    client::none,
    rig::{Rig, held, id, snapshot_path},
};

const VARIABLES: &str = "/nvram/web.fd";

async fn web() -> Rig {
    Rig::start("", |sim| {
        let nvram = Nvram { kind: "file".into(), path: VARIABLES.into(), format: "raw".into() };
        sim.put_bytes(VARIABLES, b"one");
        sim.add_vm(VmSpec { nvram: Some(nvram), ..VmSpec::new("web", 1) });
    })
    .await
}

fn kept(rig: &Rig) -> Vec<String> {
    rig.images().into_iter().filter(|path| path.contains("/virtsnap-")).collect()
}

async fn revert(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_kept_with_a_snapshot_and_go_with_it() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    let files = kept(&rig);
    assert_eq!(files.len(), 1);
    assert!(files[0].starts_with("/images/"), "beside its images: {files:?}");
    rig.sim.put_bytes(VARIABLES, b"two");
    rig.client.create(id(1), "s2", none()).await.unwrap();
    assert_eq!(rig.sim.bytes_of(&files[0]).unwrap(), b"one");
    assert_eq!(kept(&rig).len(), 2);
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(kept(&rig).len(), 1);
    assert!(!kept(&rig).contains(&files[0]));
    assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_them_no_snapshot_is_taken_and_a_failed_one_leaves_none() {
    let rig = web().await;
    let images = rig.images();
    for op in [Op::Load, Op::Save, Op::Prepare, Op::Create] {
        rig.sim.fail_next(op, Error::new(ErrorKind::Denied, "on request"));
        let (_, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
        assert!(text.contains("VM web") && text.contains("on request"), "{op:?}: {text}");
        assert_eq!(rig.images(), images, "{op:?}");
        assert_eq!(rig.sim.snapshots(id(1)).unwrap(), [], "{op:?}");
        assert_eq!(rig.store().intents().unwrap(), [], "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_go_back_with_a_revert_which_can_be_reverted() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.sim.put_bytes(VARIABLES, b"two, and longer");
    let safety = revert(&rig, "s1").await.unwrap();
    assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"one");
    assert_eq!(kept(&rig).len(), 2, "those of the two snapshots: {:?}", kept(&rig));
    rig.sim.put_bytes(VARIABLES, b"three");
    rig.client.job(&safety, "Snapshot.Revert", none()).await.unwrap();
    assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"two, and longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_fails_leaves_those_that_the_vm_had() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.sim.put_bytes(VARIABLES, b"two");
    for op in [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Start] {
        rig.sim.inject(Fault::new(op, Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"))));
        let (_, text) = revert(&rig, "s1").await.unwrap_err();
        assert!(text.contains("on request"), "{op:?}: {text}");
        assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"two", "{op:?}: {text}");
        let snapshots = rig.sim.snapshots(id(1)).unwrap().len();
        assert_eq!(kept(&rig).len(), snapshots, "{op:?}: nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_were_lost_while_they_were_replaced_are_made_again() {
    let mut rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.sim.put_bytes(VARIABLES, b"two");
    let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
    rig.sim.inject(Fault::new(Op::Define, Mishap::Refuse(gone)));
    revert(&rig, "s1").await.unwrap_err();
    rig.stop().await;
    rig.sim.connect();
    rig.sim.remove_file(VARIABLES);
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"two");
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, virtsnap::core::model::VmState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_them_is_not_reverted_to() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.sim.make_foreign_snapshot(id(1), "theirs").unwrap();
    rig.client.create(id(1), "s2", none()).await.unwrap();
    rig.sim.remove_file(&kept(&rig)[0]);
    rig.sim.remove_file(&kept(&rig)[0]);
    let before = (rig.images(), rig.sim.snapshots(id(1)).unwrap());
    rig.client.until_there(&snapshot_path(id(1), "theirs"), true).await;
    for name in ["s1", "theirs", "s2"] {
        let (error, text) = revert(&rig, name).await.unwrap_err();
        assert_eq!(error, "Unsupported", "{text}");
        assert!(text.contains("firmware's variables") && text.contains(name), "{text}");
        assert_eq!((rig.images(), rig.sim.snapshots(id(1)).unwrap()), before);
    }
}

/// A watchdog, or a person, starts it in the moment in which it has the snapshot's.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_copy_of_what_a_vm_had_stays_where_that_is_not_put_back() {
    for killed in [false, true] {
        let mut rig = web().await;
        rig.client.create(id(1), "s1", none()).await.unwrap();
        rig.sim.put_bytes(VARIABLES, b"two");
        let before = kept(&rig);
        if killed {
            let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(Op::Define, Mishap::Refuse(gone)));
            revert(&rig, "s1").await.unwrap_err();
            rig.stop().await;
            rig.sim.connect();
            rig.sim.start(id(1)).unwrap();
            rig.boot().await;
            rig.until_running().await;
        } else {
            let gate = rig.sim.gate(Op::Define);
            let path = snapshot_path(id(1), "s1");
            let (job,): (zbus::OwnedObjectPath,) =
                rig.client.call(&path, "Snapshot.Revert", &(none(),)).await.unwrap();
            held(&gate);
            rig.sim.start(id(1)).unwrap();
            gate.open();
            let (_, text) = rig.client.wait(&job).await.unwrap_err();
            assert!(text.contains("the firmware's variables may be the snapshot's"), "{text}");
        }
        assert_eq!(rig.sim.bytes_of(VARIABLES).unwrap(), b"one", "nothing is changed under a guest");
        let copy = || kept(&rig).into_iter().find(|path| rig.sim.bytes_of(path).unwrap() == b"two");
        // The safety snapshot has it, too, and may go.
        let safety = rig.client.snapshots(id(1)).await.into_iter().find(|name| name != "s1").unwrap();
        rig.client.job(&snapshot_path(id(1), &safety), "Snapshot.Delete", none()).await.unwrap();
        let copy = copy().expect("what it had is gone");
        assert!(!before.contains(&copy), "{copy}");
        assert_eq!(rig.store().intents().unwrap(), []);
    }
}
