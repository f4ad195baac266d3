//! Merging on a VM that AppArmor confines: the right to write its images is got before each disk, or nothing is begun.
//! The simulator's libvirt writes the profile anew at the end of each disk's merge, as the real one does.

use virtsnap::{
    apparmor::LeftOut,
    core::model::{SnapshotName, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Op, VmSpec},
    },
};

use super::{
    client::none,
    rig::{Rig, id, snapshot_path, vm_path},
};

/// A confined VM of two disks with three snapshots, each with data of its own.
async fn with_snapshots(state: VmState) -> Rig {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n", |sim| {
        let spec = VmSpec::new("web", 1).with_disks(&["vda", "vdb"]);
        sim.add_vm(VmSpec { confined_by: Some("apparmor".to_owned()), ..spec });
    })
    .await;
    for n in 1..=3 {
        rig.sim.write(id(1), "vda", n, n);
        rig.sim.write(id(1), "vdb", n, n);
        rig.client.create(id(1), &format!("s{n}"), none()).await.unwrap();
    }
    if state == VmState::ShutOff {
        rig.sim.stop(id(1)).unwrap();
        rig.client.until(&vm_path(id(1)), "VM.State", |s: &String| s == VmState::ShutOff.as_str()).await;
    }
    rig.sim.clear_calls();
    rig
}

fn no(after: usize, text: &str) -> (usize, Error) {
    (after, Error::new(ErrorKind::Unsupported, text))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_let_write_before_each_disk_s_merge() {
    for state in [VmState::Running, VmState::ShutOff] {
        let rig = with_snapshots(state).await;
        let before = [rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()];
        rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap();
        assert_eq!(*rig.access.granted.lock().unwrap(), [id(1), id(1)], "once for each disk");
        assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);
        assert_eq!([rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()], before);
        assert_eq!(rig.store().intents().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_libvirt_still_writes_the_profile_a_merge_waits() {
    let locked = || {
        let text =
            "Timed out during operation: cannot acquire state change lock (held by monitor=qemu-event)";
        Error::new(ErrorKind::Busy, text)
    };
    let rig = with_snapshots(VmState::Running).await;
    for _ in 0..3 {
        rig.sim.fail_next(Op::BlockJobs, locked());
    }
    rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);

    // Not for ever; nothing was begun then.
    for _ in 0..10 {
        rig.sim.fail_next(Op::BlockJobs, locked());
    }
    let (error, text) =
        rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "Busy", "{text}");
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_let_nothing_is_begun() {
    for state in [VmState::Running, VmState::ShutOff] {
        let rig = with_snapshots(state).await;
        *rig.access.refuses.lock().unwrap() = Some(no(0, "the unit is masked; unmask it"));
        let (error, text) =
            rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap_err();
        assert_eq!(error, "Unsupported", "{text}");
        assert!(text.contains("VM web") && text.contains("unmask it"), "{text}");
        assert_eq!(rig.sim.changes(), [] as [Op; 0], "a stopped one is not even woken");
        assert_eq!(rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.State").await, "ready");
        assert_eq!(rig.store().intents().unwrap(), []);
        *rig.access.refuses.lock().unwrap() = None;
        rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_no_profile_can_allow_refuses_what_writes_it_and_nothing_else() {
    for state in [VmState::Running, VmState::ShutOff] {
        let rig = with_snapshots(state).await;
        let before = [rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()];
        // The second disk's first image: of the three only the oldest one's deletion writes it.
        let base = rig.sim.vm(id(1)).unwrap().disks[1].chain.last().unwrap().path.clone();
        let (why, way_out) = ("its path holds '['".to_owned(), "Run it without AppArmor".to_owned());
        *rig.access.left_out.lock().unwrap() = vec![LeftOut { path: base.clone(), why, way_out }];
        let (error, text) =
            rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap_err();
        assert_eq!(error, "Unsupported", "{text}");
        for said in [
            "VM web",
            "AppArmor",
            &base,
            "its path holds '['. Run it without AppArmor",
            "Nothing was touched",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert!(!rig.sim.changes().contains(&Op::Commit), "not even on the first disk");
        assert_eq!(rig.sim.vm(id(1)).unwrap().state, state);
        assert_eq!(rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.State").await, "ready");
        assert_eq!(rig.store().intents().unwrap(), []);

        rig.client.job(&snapshot_path(id(1), "s2"), "Snapshot.Delete", none()).await.unwrap();
        assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);
        assert_eq!([rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()], before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_not_given_at_the_first_disk_leaves_all_as_it_was() {
    let rig = with_snapshots(VmState::Running).await;
    // Possible by the looks of it, and then not.
    *rig.access.fails.lock().unwrap() = Some(Error::new(ErrorKind::Denied, "polkit says no"));
    let (error, text) =
        rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "Denied", "{text}");
    assert!(text.contains("polkit says no"), "{text}");
    assert!(!rig.sim.changes().contains(&Op::Commit));
    assert_eq!(rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.State").await, "ready");
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_not_given_at_the_second_disk_is_a_merge_to_be_ended_later() {
    let rig = with_snapshots(VmState::Running).await;
    let before = [rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()];
    *rig.access.refuses.lock().unwrap() = Some(no(1, "masked meanwhile"));
    let (_, text) = rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap_err();
    assert!(text.contains("masked meanwhile"), "{text}");
    assert_eq!(rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.State").await, "failed");
    *rig.access.refuses.lock().unwrap() = None;
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    assert!(!rig.client.snapshots(id(1)).await.contains(&"s1".to_owned()));
    assert_eq!([rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()], before);
    assert_eq!(rig.store().intents().unwrap(), []);
}

/// libvirt's own deletion would crash it; and in ending what that left, only the disk that is still to be merged is.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_others_that_broke_off_is_ended_on_a_confined_vm_too() {
    for (merged, grants) in [(&[][..], 2), (&["vda"], 1), (&["vda", "vdb"], 0)] {
        let rig = with_snapshots(VmState::Running).await;
        let before = [rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()];
        rig.sim.break_deletion(id(1), &SnapshotName::existing("s2"), merged).unwrap();
        *rig.access.refuses.lock().unwrap() = Some(no(0, "the unit is masked; unmask it"));
        let s2 = snapshot_path(id(1), "s2");
        let (error, text) = rig.client.job(&s2, "Snapshot.Delete", none()).await.unwrap_err();
        assert_eq!(error, "Unsupported", "{text}");
        *rig.access.refuses.lock().unwrap() = None;

        rig.client.job(&s2, "Snapshot.Delete", none()).await.unwrap();
        assert_eq!(rig.access.granted.lock().unwrap().len(), grants);
        assert!(!rig.sim.changes().contains(&Op::Delete), "not by libvirt's own");
        assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s3"]);
        assert_eq!([rig.sim.read(id(1), "vda").unwrap(), rig.sim.read(id(1), "vdb").unwrap()], before);
        for name in ["s1", "s3"] {
            assert_eq!(rig.client.text(&snapshot_path(id(1), name), "Snapshot.State").await, "ready");
        }
        assert_eq!(rig.client.text(&vm_path(id(1)), "VM.Health").await, "ok");
        assert_eq!(rig.store().intents().unwrap(), []);
    }
}
