//! libvirtd ended after QEMU had done its part, and before it noted that: the VM is on images that libvirt does not know.

use virtsnap::hypervisor::{
    Error, ErrorKind, Hypervisor as _,
    sim::{Fault, Mishap, Op, Sim, VmSpec},
};

use super::{
    client::none,
    rig::{Rig, id, snapshot_path, vm_path},
};

const DISKS: [&str; 2] = ["vda", "vdb"];

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

fn gone() -> Error {
    Error::new(ErrorKind::Disconnected, "libvirtd ended")
}

/// What libvirt takes for the image that each disk is written to.
fn tops(sim: &Sim) -> Vec<String> {
    sim.vm(id(1)).unwrap().disks.into_iter().map(|mut disk| disk.chain.remove(0).path).collect()
}

async fn running() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&DISKS));
    })
    .await;
    fill(&rig.sim, 1);
    rig
}

/// A life later; libvirt goes on with what it had noted before.
async fn next_life(rig: &mut Rig, noted: &[(&str, &String)]) {
    rig.stop().await;
    rig.sim.connect();
    for (target, path) in noted {
        rig.sim.lose_track(id(1), target, path).unwrap();
    }
    rig.boot().await;
    rig.until_running().await;
}

/// What is said of it, and that nothing is done on top.
async fn assert_told(rig: &Rig) {
    let what_to_do = "shut the VM down and start it again";
    told(rig, what_to_do, what_to_do).await;
}

async fn told(rig: &Rig, by_health: &str, by_refusal: &str) {
    let vm = vm_path(id(1));
    rig.client.until(&vm, "VM.Health", |health: &String| health == "broken").await;
    let reason = rig.client.text(&vm, "VM.HealthReason").await;
    assert!(reason.contains(by_health), "{reason}");
    assert!(!reason.contains("virsh edit"), "what else libvirt says is not so: {reason}");
    let (error, text) = rig.client.create(id(1), "later", none()).await.unwrap_err();
    assert_eq!(error, "ChainMismatch");
    assert!(text.contains(by_refusal), "{text}");
}

fn power_cycle(rig: &Rig) {
    rig.sim.stop(id(1)).unwrap();
    rig.sim.start(id(1)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_that_qemu_writes_to_are_kept_and_become_the_snapshot() {
    let mut rig = running().await;
    let before = tops(&rig.sim);
    rig.sim.inject(Fault::new(Op::Create, Mishap::Half(gone())));
    rig.client.create(id(1), "s1", none()).await.unwrap_err();
    next_life(&mut rig, &[("vda", &before[0]), ("vdb", &before[1])]).await;
    fill(&rig.sim, 2);
    assert_told(&rig).await;
    content(&rig, 2);
    // Its owner restarts it; a life later that is found as well.
    power_cycle(&rig);
    content(&rig, 2);
    rig.client.create(id(1), "s2", none()).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s2"]);
    rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
    assert_eq!(rig.store().intents().unwrap(), []);
    let asked = super::client::options([("safety", false.into())]);
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Revert", asked).await.unwrap();
    content(&rig, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lacks_its_metadata_alone_gets_that() {
    let mut rig = running().await;
    rig.sim.inject(Fault::new(Op::Create, Mishap::Half(gone())));
    rig.client.create(id(1), "s1", none()).await.unwrap_err();
    next_life(&mut rig, &[]).await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
    rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
    assert!(rig.client.get::<bool>(&snapshot_path(id(1), "s1"), "Snapshot.Managed").await);
    fill(&rig.sim, 2);
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    content(&rig, 2);
    assert_eq!(rig.images().len(), 2, "{:?}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_libvirt_missed_is_not_done_once_more_over_newer_data() {
    for (merged, stays) in [("s2", "s1"), ("s1", "s2")] {
        let mut rig = running().await;
        rig.client.create(id(1), "s1", none()).await.unwrap();
        fill(&rig.sim, 2);
        rig.client.create(id(1), "s2", none()).await.unwrap();
        fill(&rig.sim, 3);
        let before = tops(&rig.sim);
        rig.sim.inject(Fault::new(Op::Commit, Mishap::Lose(gone())));
        rig.client.job(&snapshot_path(id(1), merged), "Snapshot.Delete", none()).await.unwrap_err();
        let noted = [("vda", &before[0])];
        // Of one below nothing is lost: the simulator has no view of a chain apart from its files.
        next_life(&mut rig, if merged == "s2" { &noted } else { &[] }).await;
        fill(&rig.sim, 4);
        if merged == "s2" {
            assert_told(&rig).await;
            content(&rig, 4);
            power_cycle(&rig);
            rig.client.job(&snapshot_path(id(1), merged), "Snapshot.Delete", none()).await.unwrap();
        } else {
            rig.client.until_there(&snapshot_path(id(1), merged), false).await;
        }
        content(&rig, 4);
        assert_eq!(rig.client.snapshots(id(1)).await, [stays]);
        rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
        assert_eq!(rig.store().intents().unwrap(), []);
        let asked = super::client::options([("safety", false.into())]);
        rig.client.job(&snapshot_path(id(1), stays), "Snapshot.Revert", asked).await.unwrap();
        content(&rig, if stays == "s1" { 1 } else { 2 });
    }
}

/// Two snapshots, and the end of the merge of the upper one of `vda` missed: what that left, and what it is on.
async fn cut_short() -> (Rig, String, String) {
    let rig = running().await;
    for (number, name) in (2..).zip(["s1", "s2"]) {
        rig.client.create(id(1), name, none()).await.unwrap();
        fill(&rig.sim, number);
    }
    let chain = rig.sim.vm(id(1)).unwrap().disks.remove(0).chain;
    rig.sim.inject(Fault::new(Op::Commit, Mishap::Lose(gone())));
    rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap_err();
    (rig, chain[0].path.clone(), chain[1].path.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_libvirt_forgot_is_neither_changed_nor_called_well_while_its_images_say_otherwise() {
    let (mut rig, left, on) = cut_short().await;
    rig.stop().await;
    rig.sim.connect();
    rig.sim.lose_sight(id(1), "vda", &left).unwrap();
    rig.boot().await;
    rig.until_running().await;
    told(&rig, "its QEMU may run on", "let the definition name").await;
    let merged = rig.sim.blocks_merged();
    // What the guest has written there since is newer than the image that libvirt would start it on.
    for target in DISKS {
        rig.sim.write_behind(id(1), target, 0, 4).unwrap();
    }
    let (error, _) =
        rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "ChainMismatch");
    assert_eq!(rig.sim.blocks_merged(), merged, "nothing is written over it");
    // Its owner does as told.
    rig.sim.point_definition_at(id(1), "vda", &on).unwrap();
    rig.sim.start(id(1)).unwrap();
    rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap();
    content(&rig, 4);
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
    rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_shut_down_after_its_merge_was_cut_short_is_not_called_forgotten() {
    let (mut rig, ..) = cut_short().await;
    // What is left of it is not done at once.
    rig.sim.inject(Fault::new(Op::Commit, Mishap::Refuse(Error::new(ErrorKind::Busy, "not now"))));
    next_life(&mut rig, &[]).await;
    rig.client.until_idle().await;
    assert!(rig.client.snapshots(id(1)).await.contains(&"s2".to_owned()));
    fill(&rig.sim, 4);
    rig.sim.stop(id(1)).unwrap();
    rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap();
    content(&rig, 4);
    rig.client.until(&vm_path(id(1)), "VM.Health", |health: &String| health == "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_has_when_qemu_is_asked_is_waited_for_and_not_for_ever() {
    let locked = || {
        let text = "Timed out during operation: cannot acquire state change lock (held by monitor=\
                    remoteDispatchDomainBlockJobAbort)";
        Error::new(ErrorKind::Busy, text)
    };
    for (times, ends) in [(9, true), (10, false)] {
        let rig = running().await;
        rig.client.create(id(1), "s1", none()).await.unwrap();
        rig.sim.inject(Fault::new(Op::Commit, Mishap::Half(Error::new(ErrorKind::Failed, "on request"))));
        let s1 = snapshot_path(id(1), "s1");
        rig.client.job(&s1, "Snapshot.Delete", none()).await.unwrap_err();
        rig.sim.clear_calls();
        rig.sim.inject(Fault::new(Op::Opened, Mishap::Refuse(locked())).times(times));
        let ended = rig.client.job(&s1, "Snapshot.Delete", none()).await;
        if ends {
            ended.unwrap();
            assert_eq!(rig.client.snapshots(id(1)).await, [""; 0]);
            assert_eq!(rig.store().intents().unwrap(), []);
        } else {
            let (kind, text) = ended.unwrap_err();
            assert_eq!(kind, "Busy", "{text}");
            assert!(text.contains("state change lock"), "{text}");
            assert_eq!(rig.client.text(&s1, "Snapshot.State").await, "failed");
        }
        content(&rig, 1);
    }
}
