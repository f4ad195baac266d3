//! What a revert leaves behind: a branch, which goes from its tip on, and with it all that it took.

use virtsnap::hypervisor::{
    Error, ErrorKind, Hypervisor,
    sim::{DiskSpec, Fault, Mishap, Op, VmSpec},
};

use super::{
    client::{none, options},
    rig::{Rig, id, snapshot_path, vm_path},
};

/// A VM that was reverted to the first of two snapshots; the names of the two on the branch that it left.
async fn branched() -> (Rig, String) {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        assert!(rig.sim.write(id(1), "vda", 0, value));
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    assert!(rig.sim.write(id(1), "vda", 0, 3));
    let safety = rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Revert", none()).await.unwrap();
    let records = rig.sim.snapshots(id(1)).unwrap();
    let safety_is = records.into_iter().find(|r| snapshot_path(id(1), r.name.as_str()) == safety).unwrap();
    assert_eq!(safety_is.parent.unwrap().as_str(), "s2");
    (rig, safety_is.name.as_str().to_owned())
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await
}

fn names(rig: &Rig) -> Vec<String> {
    let mut names: Vec<String> =
        rig.sim.snapshots(id(1)).unwrap().iter().map(|r| r.name.as_str().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_goes_from_its_tip_on_and_nothing_of_it_is_left() {
    let (rig, safety) = branched().await;
    let before = rig.images();
    let (error, text) = delete(&rig, "s2").await.unwrap_err();
    let way = format!("first {safety} and then this one");
    assert!(error.ends_with("Unsupported") && text.contains("s2") && text.contains(&way), "{error}: {text}");
    assert_eq!(rig.images(), before);

    delete(&rig, &safety).await.unwrap();
    assert_eq!(names(&rig), ["s1", "s2"]);
    delete(&rig, "s2").await.unwrap();
    assert_eq!(names(&rig), ["s1"]);
    assert_eq!(rig.sim.read(id(1), "vda").unwrap()[&0], 1, "the VM is where it was reverted to");
    let chain = rig.sim.vm(id(1)).unwrap().disks.remove(0).chain;
    let mut left: Vec<String> = chain.into_iter().map(|layer| layer.path).collect();
    left.sort();
    assert_eq!((left.len(), &left), (2, &rig.images()), "what is left is what it runs on");

    delete(&rig, "s1").await.unwrap();
    assert_eq!(rig.images().len(), 1);
    assert_eq!(rig.sim.read(id(1), "vda").unwrap()[&0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clone_stands_on_stays() {
    let (rig, safety) = branched().await;
    let records = rig.sim.snapshots(id(1)).unwrap();
    let tip = records.iter().find(|r| r.name.as_str() == safety).unwrap();
    let base = tip.disks[0].state_image.clone();
    let disk = DiskSpec { backing: Some(base), ..DiskSpec::new("vda", "/images/clone.qcow2") };
    rig.sim.add_vm(VmSpec { disks: vec![disk], ..VmSpec::new("clone", 2) });
    let before = rig.images();
    let (error, text) = delete(&rig, &safety).await.unwrap_err();
    assert!(error.ends_with("InUse") && text.contains("clone"), "{error}: {text}");
    assert_eq!((rig.images(), names(&rig).len()), (before, 3), "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_short_is_ended_at_the_next_connection() {
    let (rig, safety) = branched().await;
    let gone = Error::new(ErrorKind::Disconnected, "client socket is closed");
    rig.sim.inject(Fault::new(Op::Discard, Mishap::Refuse(gone)));
    let (_, text) = delete(&rig, &safety).await.unwrap_err();
    assert!(text.contains("not all removed yet"), "{text}");
    let before = rig.images().len();
    rig.reconnect().await;
    assert_eq!(names(&rig), ["s1", "s2"], "it is forgotten");
    // A connection begins with what was left.
    delete(&rig, "s2").await.unwrap();
    assert!(rig.images().len() < before - 1, "both left their images: {:?}", rig.images());
    assert!(rig.store().intents().unwrap().is_empty());

    // Refused before anything was done, it is as good as before.
    let (rig, safety) = branched().await;
    let refused = Error::new(ErrorKind::Failed, "cannot write metadata");
    rig.sim.inject(Fault::new(Op::Forget, Mishap::Refuse(refused)));
    delete(&rig, &safety).await.unwrap_err();
    assert!(rig.store().intents().unwrap().is_empty());
    delete(&rig, &safety).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_the_snapshot_reverted_to_lacks_goes_on_and_is_merged_later() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await;
    let fill = |value| assert!(["vda", "vdb"].iter().all(|target| rig.sim.write(id(1), target, 0, value)));
    fill(1);
    rig.client.create(id(1), "s1", none()).await.unwrap();
    fill(2);
    rig.client.create(id(1), "s2", options([("disks", vec!["vda"].into())])).await.unwrap();
    fill(3);
    let safety = rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Revert", none()).await.unwrap();
    let holds = |value: [u64; 2]| {
        for (target, value) in ["vda", "vdb"].into_iter().zip(value) {
            assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], value, "{target}");
        }
    };
    holds([2, 3]);
    let healthy = async || rig.client.until(&vm_path(id(1)), "VM.Health", |h: &String| h == "ok").await;
    healthy().await;
    rig.client.create(id(1), "s3", none()).await.unwrap();
    healthy().await;
    // The branch first: it stands on what the merges change.
    rig.client.job(&safety, "Snapshot.Delete", none()).await.unwrap();
    for name in ["s1", "s2", "s3"] {
        rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await.unwrap();
        if name != "s3" {
            healthy().await;
        }
        holds([2, 3]);
    }
    assert_eq!(names(&rig), [] as [String; 0]);
    // vdb went on over the revert, to a layer that none of them was taken with.
    let says = |reason: &String| reason.contains("adopt web --layers");
    rig.client.until(&vm_path(id(1)), "VM.HealthReason", says).await;
}
