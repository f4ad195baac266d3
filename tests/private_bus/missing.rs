//! A VM that is off and whose image is not there: told of itself, and in the way of others only where it may lie on them.

use virtsnap::{
    core::model::VmState,
    hypervisor::{Hypervisor as _, sim::VmSpec},
};

use super::{
    client::none,
    rig::{Rig, id, snapshot_path, vm_path},
};

/// The VM `web` with two snapshots, and `other`, which is off.
async fn two() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("other", 2).in_state(VmState::ShutOff));
    })
    .await;
    for name in ["s1", "s2"] {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    rig
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await
}

/// It is told of that VM, and of none else.
async fn told(rig: &Rig, image: &str) {
    rig.sim.remove_file(image);
    rig.sim.disconnect("all is read anew");
    rig.sim.connect();
    let says = |reason: &String| reason.contains(image) && reason.contains("detach-disk");
    rig.client.until(&vm_path(id(2)), "VM.HealthReason", says).await;
    assert_eq!(rig.client.text(&vm_path(id(2)), "VM.Health").await, "broken");
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.Health").await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_says_what_it_lay_on_others_are_refused_and_told_whose_it_is() {
    let rig = two().await;
    let image = rig.sim.vm(id(2)).unwrap().disks[0].chain[0].path.clone();
    told(&rig, &image).await;
    let (kind, text) = delete(&rig, "s1").await.unwrap_err();
    assert_eq!(kind, "Unsupported", "{text}");
    for words in ["VM other", &image, "detach-disk"] {
        assert!(text.contains(words), "{text}");
    }
    rig.sim.undefine(id(2)).unwrap();
    delete(&rig, "s1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_its_snapshots_say_what_it_lay_on_all_others_go_on() {
    let rig = two().await;
    rig.client.create(id(2), "theirs", none()).await.unwrap();
    let image = rig.sim.vm(id(2)).unwrap().disks[0].chain[0].path.clone();
    told(&rig, &image).await;
    delete(&rig, "s1").await.unwrap();
    rig.client.create(id(1), "s3", none()).await.unwrap();
}
