//! What an earlier life left behind.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use uuid::Uuid;
use virtsnap::{
    clock::Clock as _,
    core::{
        machine::{Entry, Place},
        marker::{self, Marker},
        model::{Origin, SnapshotName, VmId},
    },
    hypervisor::{
        CreateSpec, Hypervisor as _, Overlay,
        sim::{Op, Sim, VmSpec},
    },
    store::{Begun, Intent},
};

use super::{
    client::none,
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

fn overlay(sim: &Sim, vm: VmId, path: &str) -> Overlay {
    let disk = sim.vm(vm).unwrap().disks.remove(0);
    Overlay { target: disk.target, path: path.to_owned(), backing: disk.chain[0].clone() }
}

fn intent(rig: &Rig, number: u128, vm: VmId, name: &str, paths: &[&str]) -> Intent {
    let intent = Intent {
        overlays: paths.iter().map(|p| (*p).to_owned()).collect(),
        ..Intent::new(
            Uuid::from_u128(number),
            vm,
            SnapshotName::existing(name),
            Begun::Create(Box::default()),
        )
    };
    rig.store().begin(&intent, rig.clock.now()).unwrap();
    intent
}

/// A snapshot as the daemon would have made it, up to and with the switch.
fn switched(rig: &Rig, intent: &Intent) {
    let marker = Marker {
        vm: intent.vm,
        id: intent.id,
        created: rig.clock.now(),
        origin: Origin::Manual,
        policies: BTreeSet::new(),
        nvram: false,
        tpm: false,
    };
    let overlays = vec![overlay(&rig.sim, intent.vm, &intent.overlays[0])];
    let spec = CreateSpec {
        name: intent.name.clone(),
        description: marker::compose("before", &marker),
        overlays,
        memory: None,
    };
    rig.sim.prepare(intent.vm, &spec.overlays).unwrap();
    rig.sim.create(intent.vm, &spec).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_left_frozen_is_thawed_before_anything_else_is_asked() {
    let mut rig = Rig::without_daemon("", |sim| {
        for number in 1..=3 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    rig.sim.freeze(id(2), None, Duration::from_secs(1)).unwrap();
    rig.store().freeze_begins(id(2), rig.clock.now()).unwrap();
    rig.sim.clear_calls();
    rig.boot().await;
    rig.until_running().await;
    rig.assert_thawed(id(2)).await;
    let calls = rig.sim.calls();
    assert_eq!((calls[0].op, calls[0].vm), (Op::Thaw, Some(id(2))), "{calls:?}");
    assert_eq!(rig.sim.changes(), [Op::Thaw], "the others are left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_be_thawed_yet_does_not_hold_up_the_start() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("gone", 2));
    })
    .await;
    rig.sim.freeze(id(1), None, Duration::from_secs(1)).unwrap();
    for vm in [id(1), id(9)] {
        rig.store().freeze_begins(vm, rig.clock.now()).unwrap();
    }
    rig.sim.agent_stuck(id(1), true).unwrap();
    rig.boot().await;
    rig.until_running().await;
    assert!(rig.client.get::<bool>(&vm_path(id(1)), "VM.Frozen").await);
    assert_eq!(rig.store().frozen().unwrap(), [id(1)].into(), "one that is no more has nothing frozen");
    rig.sim.agent_stuck(id(1), false).unwrap();
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_that_nothing_uses_are_removed_and_a_complete_snapshot_is_taken_over() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    // Prepared and no more; one of the two overlays was not even made.
    intent(&rig, 101, id(1), "never", &["/images/web.never.qcow2", "/images/web.never2.qcow2"]);
    rig.sim.prepare(id(1), &[overlay(&rig.sim, id(1), "/images/web.never.qcow2")]).unwrap();
    // Taken, and the result never stored.
    let taken = intent(&rig, 102, id(2), "taken", &["/images/db.taken.qcow2"]);
    switched(&rig, &taken);
    // Of a VM that is no more.
    intent(&rig, 103, id(9), "lost", &["/images/lost.qcow2"]);
    rig.sim.put_file("/images/beside.qcow2", 1);

    rig.boot().await;
    rig.until_running().await;
    let images = rig.images();
    assert!(!images.contains(&"/images/web.never.qcow2".to_owned()), "{images:?}");
    for stays in ["/images/db.taken.qcow2", "/images/beside.qcow2", "/images/web-vda.qcow2"] {
        assert!(images.contains(&stays.to_owned()), "{images:?}");
    }
    let snapshot = snapshot_path(id(2), "taken");
    assert!(rig.client.get::<bool>(&snapshot, "Snapshot.Managed").await);
    assert_eq!(rig.client.text(&snapshot, "Snapshot.State").await, "ready");
    assert_eq!(rig.client.text(&snapshot, "Snapshot.Consistency").await, "crash", "nobody knows better");
    assert!(rig.client.text(&snapshot, "Snapshot.ConsistencyNote").await.contains("interrupted"));
    assert_eq!(rig.client.text(&snapshot, "Snapshot.Description").await, "before");
    let left: Vec<String> = rig.store().intents().unwrap().iter().map(|i| i.name.to_string()).collect();
    assert!(!left.contains(&"never".to_owned()) && !left.contains(&"taken".to_owned()), "{left:?}");
    assert_eq!(left, [] as [String; 0], "an intent for a VM that is no more is settled, too");
    // A second start finds nothing to do.
    rig.stop().await;
    rig.sim.clear_calls();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.sim.changes(), []);
    rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_interrupted_is_finished_by_the_next_prune() {
    let mut rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.client.create(id(1), "s2", none()).await.unwrap();
    rig.stop().await;
    for record in rig.hypervisor.snapshots(id(1)).unwrap() {
        let uuid = virtsnap::core::marker::split(&record.description, id(1)).1.unwrap().id;
        let name = record.name;
        rig.store().begin(&Intent::new(uuid, id(1), name, Begun::Delete), rig.clock.now()).unwrap();
    }
    // One of the two was in fact deleted, and only the result was not stored.
    rig.sim.delete(id(1), &SnapshotName::existing("s1")).unwrap();

    rig.boot().await;
    rig.until_running().await;
    let snapshot = snapshot_path(id(1), "s2");
    assert_eq!(rig.client.text(&snapshot, "Snapshot.State").await, "failed");
    assert_eq!(rig.store().intents().unwrap().len(), 1);
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until_there(&snapshot, false).await;
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_missed_is_caught_up_once_and_not_again_after_a_restart() {
    let policies = r#"
        [policy.once]
        vms = ["*"]
        schedule = "0 * * * *"
        catch-up-within = "12h"
        [policy.skip]
        vms = ["*"]
        schedule = "0 * * * *"
        catch-up = "skip"
        [policy.late]
        vms = ["*"]
        schedule = "0 1 * * *"
        catch-up-within = "2h"
    "#;
    let mut rig = Rig::without_daemon(policies, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.clock.advance(SignedDuration::from_mins(30));
    let off_since = rig.clock.now() - SignedDuration::from_hours(15);
    for policy in ["once", "skip", "late"] {
        rig.store().remember(&[Entry::Place(policy.parse().unwrap(), Place::new(off_since))]).unwrap();
    }
    for start in 1..=2 {
        rig.boot().await;
        rig.until_running().await;
        if start == 1 {
            rig.client.until(&policy_path("once"), "Policy.LastResult", |r: &String| r == "done").await;
        }
        rig.client.until_idle().await;
        let snapshots = rig.client.snapshots(id(1)).await;
        assert_eq!(snapshots.len(), 1, "start {start}: {snapshots:?}");
        let snapshot = snapshot_path(id(1), &snapshots[0]);
        assert_eq!(rig.client.objects(&snapshot, "Snapshot.Policies").await, [policy_path("once")]);
        assert_eq!(rig.client.text(&snapshot, "Snapshot.Origin").await, "schedule");
        for (policy, place) in rig.store().places().unwrap() {
            assert!(place.handled > off_since, "{policy} would be looked at again: {place:?}");
        }
        rig.stop().await;
    }
}
