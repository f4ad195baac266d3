//! Commands in messages name what they are about so that a shell takes it for one word.

use virtsnap::hypervisor::{
    Hypervisor as _,
    sim::{Sim, VmSpec},
};

use super::{
    client::{none, options},
    command_line::virtsnap,
    rig::{Rig, id, snapshot_path, vm_path},
};

async fn web_1(arrange: impl FnOnce(&Sim)) -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web 1", 1));
        arrange(sim);
    })
    .await
}

async fn says(rig: &Rig, verb: &[&str]) -> String {
    let (_, out, err) = virtsnap(&[&["--bus-address", &rig.address()], verb].concat()).await;
    out + &err
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_are() {
    let rig = web_1(|sim| {
        sim.add_vm(VmSpec::new("db 2", 2));
        let base = sim.vm(id(2)).unwrap().disks[0].chain[0].path.clone();
        sim.make_image("/images/left-over.qcow2", &base).unwrap();
    })
    .await;
    let found = |o: &Vec<(String, u64, u64)>| o.len() == 1;
    rig.client.until(&vm_path(id(2)), "VM.Orphans", found).await;
    let listed = says(&rig, &["list", "db 2"]).await;
    assert!(listed.contains("`virtsnap adopt 'db 2' --orphans`"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_s_are() {
    let rig = web_1(|sim| sim.make_internal_snapshot(id(1), "by hand").unwrap()).await;
    let theirs = snapshot_path(id(1), "by hand");
    let (error, text) =
        rig.client.call::<_, ()>(&theirs, "Snapshot.Pin", &("it is good", 0_u64, none())).await.unwrap_err();
    assert_eq!(error, "NotManaged");
    assert!(text.ends_with("`virtsnap adopt 'web 1' 'by hand'`"), "{text}");

    let them = options([("snapshots", vec!["by hand".to_owned()].into())]);
    rig.client.call::<_, ()>(&vm_path(id(1)), "VM.Adopt", &(them,)).await.unwrap();
    rig.client.until(&theirs, "Snapshot.Managed", |managed: &bool| *managed).await;
    rig.client.call::<_, ()>(&theirs, "Snapshot.Pin", &("it is good", 0_u64, none())).await.unwrap();
    let given = options([("foreign", true.into())]);
    let (error, text) = rig.client.job(&theirs, "Snapshot.Delete", given).await.unwrap_err();
    assert_eq!(error, "Pinned");
    assert!(text.contains("`virtsnap unpin 'web 1' 'by hand'`"), "{text}");
}
