//! Pruning and deleting: preview is execution, and what others made is left alone.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use virtsnap::{
    clock::Clock as _,
    hypervisor::{
        Error, ErrorKind,
        sim::{DiskSpec, Fault, Mishap, Op, VmSpec},
    },
};
use zbus::OwnedObjectPath;

use super::{
    client::{Client, none, options},
    rig::{Rig, id, snapshot_path, vm_path},
};

type Reasons = Vec<(String, String, String)>;
type Verdict = (OwnedObjectPath, String, bool, Reasons, String);

/// What a prune would do: for each snapshot whether it stays, and why.
async fn preview(client: &Client, all: bool) -> Vec<(String, bool, Reasons)> {
    let given = if all { options([("all", true.into())]) } else { none() };
    let (verdicts,): (Vec<Verdict>,) =
        client.call(&vm_path(id(1)), "VM.PreviewPrune", &(given,)).await.unwrap();
    verdicts
        .into_iter()
        .map(|(path, name, keep, reasons, text)| {
            assert_eq!(path.as_str(), snapshot_path(id(1), &name));
            assert!(!reasons.is_empty() && !text.is_empty(), "{name}: {text}");
            (name, keep, reasons)
        })
        .collect()
}

fn kept(verdicts: &[(String, bool, Reasons)]) -> Vec<String> {
    verdicts.iter().filter(|(_, keep, _)| *keep).map(|(name, ..)| name.clone()).collect()
}

async fn run(rig: &Rig, times: usize) {
    for _ in 0..times {
        for job in rig.client.run("p", none()).await.unwrap() {
            rig.client.wait(&job).await.unwrap();
        }
        rig.client.until_idle().await;
    }
}

/// A VM with so many snapshots by a policy that keeps them all.
async fn with_snapshots(count: usize, disks: &[&str]) -> Rig {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\nkeep-last = 50\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(disks));
    })
    .await;
    run(&rig, count).await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), count);
    rig
}

async fn reload(rig: &Rig, policies: &str) {
    rig.write_policies(policies);
    rig.client.call::<_, ()>("/org/virtsnap1", "Manager.Reload", &(none(),)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preview_says_exactly_what_the_prune_then_does() {
    let rig = with_snapshots(9, &["vda", "vdb"]).await;
    rig.client.create(id(1), "by-hand", none()).await.unwrap();
    run(&rig, 2).await;
    reload(&rig, "[policy.p]\nvms = [\"*\"]\nkeep-last = 4\nmax-delete = 3\n").await;

    for all in [false, true] {
        let verdicts = preview(&rig.client, all).await;
        let names: Vec<&String> = verdicts.iter().map(|(name, ..)| name).collect();
        assert_eq!(
            names,
            rig.client.snapshots(id(1)).await.iter().collect::<Vec<_>>(),
            "all of them, oldest first"
        );
        let stay = kept(&verdicts);
        assert!(stay.contains(&"by-hand".to_owned()));
        assert_eq!(rig.client.snapshots(id(1)).await.len(), verdicts.len(), "a preview changes nothing");
        let given = if all { options([("all", true.into())]) } else { none() };
        rig.client.job(&vm_path(id(1)), "VM.Prune", given).await.unwrap();
        rig.client.until(&vm_path(id(1)), "VM.ChainDepth", |d: &u32| *d as usize == stay.len() + 1).await;
        assert_eq!(rig.client.snapshots(id(1)).await, stay, "all: {all}");
    }
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 5, "four of the policy's and the one by hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_remains_after_a_prune_holds_what_it_held_before() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\nkeep-last = 3\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    })
    .await;
    let mut copies = BTreeMap::new();
    for i in 0..8 {
        for (disk, block) in [("vda", 0), ("vda", i), ("vdb", i % 3)] {
            assert!(rig.sim.write(id(1), disk, block, i + 1));
        }
        let copy = ["vda", "vdb"].map(|disk| rig.sim.read(id(1), disk).unwrap());
        for job in rig.client.run("p", none()).await.unwrap() {
            copies.insert(rig.client.wait(&job).await.unwrap(), copy.clone());
        }
        rig.client.until_idle().await;
    }
    let records = rig.hypervisor.snapshots(id(1)).unwrap();
    assert_eq!(records.len(), 3);
    for record in records {
        let copy = &copies[&snapshot_path(id(1), record.name.as_str())];
        for (disk, content) in ["vda", "vdb"].iter().zip(copy) {
            assert_eq!(rig.sim.content_of_snapshot(id(1), &record.name, disk).unwrap(), *content, "{disk}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_is_never_deleted() {
    let rig =
        Rig::start("[policy.p]\nvms = [\"*\"]\nkeep-last = 1\nmax-count = 1\nmax-size = \"1MiB\"\n", |sim| {
            let web = sim.add_vm(VmSpec::new("web", 1));
            sim.make_foreign_snapshot(web, "theirs").unwrap();
        })
        .await;
    run(&rig, 4).await;
    let left = rig.client.snapshots(id(1)).await;
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&"theirs".to_owned()));
    let theirs = snapshot_path(id(1), "theirs");
    assert!(!rig.client.get::<bool>(&theirs, "Snapshot.Managed").await);
    assert_eq!(rig.client.text(&theirs, "Snapshot.Origin").await, "foreign");
    let (error, text) = rig.client.job(&theirs, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "NotManaged");
    assert!(text.contains("theirs") && text.contains("VM web"), "{text}");
    let verdict = preview(&rig.client, true).await.into_iter().find(|(name, ..)| name == "theirs").unwrap();
    assert!(verdict.1);
    assert!(verdict.2.iter().any(|(rule, ..)| rule == "foreign"), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_others_made_under_a_name_of_ours_is_not_ours() {
    let rig = with_snapshots(1, &["vda", "vdb"]).await;
    let name = rig.client.snapshots(id(1)).await.remove(0);
    let snapshot = snapshot_path(id(1), &name);
    // Gone and made anew behind our back, and no event tells of either.
    let known = virtsnap::core::model::SnapshotName::existing(&name);
    rig.sim.forget_snapshot(id(1), &known).unwrap();
    rig.sim.make_foreign_snapshot(id(1), &name).unwrap();
    let (error, text) = rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "NotManaged", "{text}");
    assert!(rig.sim.changes().iter().all(|op| ![Op::Delete, Op::Commit, Op::Forget].contains(op)));
    rig.client.until(&snapshot, "Snapshot.Managed", |m: &bool| !m).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_stopped_half_way_counts_for_nothing_and_the_next_prune_finishes_it() {
    let rig = with_snapshots(3, &["vda"]).await;
    let names = rig.client.snapshots(id(1)).await;
    assert!(rig.sim.write(id(1), "vda", 0, 1));
    let newest = snapshot_path(id(1), &names[2]);
    rig.sim.inject(Fault::new(Op::Commit, Mishap::Half(Error::new(ErrorKind::Failed, "on request"))));
    let (error, text) = rig.client.job(&newest, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "Failed");
    assert!(text.contains(&names[2]) && text.contains("VM web"), "{text}");
    rig.client.until(&newest, "Snapshot.State", |s: &String| s == "failed").await;

    // It is the newest, and yet no good one: that is the one before it.
    reload(&rig, "[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n").await;
    let verdicts = preview(&rig.client, false).await;
    let of = |i: usize| verdicts.iter().find(|(name, ..)| *name == names[i]).unwrap();
    assert!(of(1).1, "the newest good one: {verdicts:?}");
    assert!(!of(0).1, "{verdicts:?}");
    assert!(!of(2).1, "the prune deletes it, so the preview must say so: {verdicts:?}");
    let success = rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await;
    let second = rig.client.get::<u64>(&snapshot_path(id(1), &names[1]), "Snapshot.CreatedUSec").await;
    assert_eq!(success, second);

    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until_there(&newest, false).await;
    assert_eq!(rig.client.snapshots(id(1)).await, [names[1].clone()]);
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_goes_on_after_a_run_that_does_not_go_and_tells() {
    let rig = with_snapshots(2, &["vda", "vdb"]).await;
    let first = rig.client.snapshots(id(1)).await;
    // What stays between them makes it two runs.
    rig.client.create(id(1), "by-hand", none()).await.unwrap();
    run(&rig, 3).await;
    let all = rig.client.snapshots(id(1)).await;
    let newest = all.iter().rfind(|name| *name != "by-hand").unwrap().clone();
    reload(&rig, "[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n").await;
    rig.sim.fail_next(Op::Commit, Error::new(ErrorKind::Busy, "on request"));
    let (error, text) = rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap_err();
    assert_eq!(error, "Busy");
    assert!(first.iter().all(|name| text.contains(name)) && text.contains("VM web"), "{text}");
    let stay = [&first[..], &["by-hand".to_owned(), newest.clone()]].concat();
    rig.client.until(&vm_path(id(1)), "VM.ChainDepth", |d: &u32| *d as usize == stay.len() + 1).await;
    assert_eq!(rig.client.snapshots(id(1)).await, stay);
    // It was refused before anything was touched, so they are as good as before.
    for name in &first {
        assert_eq!(rig.client.text(&snapshot_path(id(1), name), "Snapshot.State").await, "ready");
    }
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until_there(&snapshot_path(id(1), &first[0]), false).await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["by-hand".to_owned(), newest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_deleted_snapshot_is_not_good_again_because_the_next_try_was_refused() {
    let rig = with_snapshots(1, &["vda"]).await;
    let name = rig.client.snapshots(id(1)).await.remove(0);
    let snapshot = snapshot_path(id(1), &name);
    assert!(rig.sim.write(id(1), "vda", 0, 1));
    rig.sim.inject(Fault::new(Op::Commit, Mishap::Half(Error::new(ErrorKind::Failed, "on request"))));
    rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(rig.client.text(&snapshot, "Snapshot.State").await, "failed");
    rig.sim.fail_next(Op::Commit, Error::new(ErrorKind::Busy, "on request"));
    assert_eq!(rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap_err().0, "Busy");
    assert_eq!(
        rig.client.text(&snapshot, "Snapshot.State").await,
        "failed",
        "its image holds newer data by now"
    );
    assert_eq!(rig.store().intents().unwrap().len(), 1);
    rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_refused_leaves_the_snapshot_as_good_as_it_was() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec { confined_by: Some("apparmor".to_owned()), ..VmSpec::new("web", 1) });
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    let snapshot = snapshot_path(id(1), "s1");
    let success = rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await;
    *rig.access.refuses.lock().unwrap() = Some((0, Error::new(ErrorKind::Unsupported, "apparmor denies it")));
    let (error, text) = rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap_err();
    assert_eq!(error, "Unsupported", "{text}");
    assert!(text.contains("apparmor") && text.contains("VM web"), "{text}");
    assert_eq!(rig.client.text(&snapshot, "Snapshot.State").await, "ready");
    assert_eq!(rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await, success);
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_somebody_filled_does_not_stop_a_policy_for_ever() {
    // With the base and the next one, these are the sixteen layers of max-chain.
    let rig = with_snapshots(14, &["vda"]).await;
    rig.client.create(id(1), "by-hand", none()).await.unwrap();
    let (error, text) = rig.client.create(id(1), "one-more", none()).await.unwrap_err();
    assert_eq!(error, "Unsupported");
    assert!(text.contains("max-chain") && text.contains("prune"), "{text}");
    // A way back there is all the same, by a safety snapshot that is off the VM's line at once.
    rig.client.job(&snapshot_path(id(1), "by-hand"), "Snapshot.Revert", none()).await.unwrap();
    let safety = rig.client.snapshots(id(1)).await.into_iter().find(|name| name.starts_with("before-revert"));
    rig.client.job(&snapshot_path(id(1), &safety.unwrap()), "Snapshot.Delete", none()).await.unwrap();

    run(&rig, 1).await;
    let left = rig.client.snapshots(id(1)).await;
    assert_eq!(left.len(), 14, "{left:?}");
    assert!(left.contains(&"by-hand".to_owned()), "{left:?}");
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clone_is_based_on_stays_and_the_preview_knows_it() {
    let rig = with_snapshots(5, &["vda"]).await;
    let names = rig.client.snapshots(id(1)).await;
    let records = rig.hypervisor.snapshots(id(1)).unwrap();
    let second = records.iter().find(|r| r.name.as_str() == names[1]).unwrap();
    let disk = DiskSpec {
        backing: Some(second.disks[0].state_image.clone()),
        ..DiskSpec::new("vda", "/images/clone.qcow2")
    };
    rig.sim.add_vm(VmSpec { disks: vec![disk], ..VmSpec::new("clone", 2) });
    rig.client.until_there(&vm_path(id(2)), true).await;

    reload(&rig, "[policy.p]\nvms = [\"web\"]\nkeep-last = 1\n").await;
    let verdicts = preview(&rig.client, false).await;
    let needed: Vec<&str> = verdicts
        .iter()
        .filter(|(_, _, reasons)| reasons.iter().any(|(rule, ..)| rule == "needed"))
        .map(|(name, ..)| name.as_str())
        .collect();
    assert_eq!(needed, [&names[0], &names[1]]);
    let stay = kept(&verdicts);
    assert_eq!(stay, [&names[0], &names[1], &names[4]].map(Clone::clone));
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until(&vm_path(id(1)), "VM.ChainDepth", |d: &u32| *d == 4).await;
    assert_eq!(rig.client.snapshots(id(1)).await, stay, "the prune does what the preview said");

    // By hand neither: what the clone's disk is built on, and what that is built on.
    for name in &names[..2] {
        let snapshot = snapshot_path(id(1), name);
        let (error, text) = rig.client.job(&snapshot, "Snapshot.Delete", none()).await.unwrap_err();
        assert_eq!(error, "InUse", "{text}");
        assert!(
            text.contains(name) && text.contains("VM \"clone\"") && text.contains("Nothing was touched"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_implausible_clock_stops_every_prune_until_a_person_says_that_it_is_right() {
    let rig = with_snapshots(4, &["vda"]).await;
    let before = rig.store().last_plausible().unwrap().unwrap();
    reload(&rig, "[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n").await;
    rig.clock.advance(SignedDuration::from_hours(10 * 366 * 24));
    for _ in 0..2 {
        let (error, text) = rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap_err();
        assert_eq!(error, "ClockImplausible");
        for part in ["VM web", "no snapshot", "more than a year", "virtsnap prune --all web"] {
            assert!(text.contains(part), "no {part:?} in {text:?}");
        }
        // A job that did well says nothing of the clock either.
        rig.client.create(id(1), "", none()).await.unwrap();
        let verdicts = preview(&rig.client, false).await;
        assert!(verdicts.iter().all(|(_, keep, _)| *keep), "{verdicts:?}");
        assert!(verdicts[0].2.iter().any(|(rule, ..)| rule == "implausible-clock"), "{verdicts:?}");
        assert_eq!(rig.store().last_plausible().unwrap(), Some(before));
    }
    let stay = kept(&preview(&rig.client, true).await);
    assert!(stay.len() < 6, "{stay:?}");
    rig.client.job(&vm_path(id(1)), "VM.Prune", options([("all", true.into())])).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, stay);
    assert!(rig.store().last_plausible().unwrap().unwrap() > before + SignedDuration::from_hours(24));
    // From here on it is the time that has passed.
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_was_wrongly_taken_for_passed_can_be_taken_back() {
    let rig = with_snapshots(2, &["vda"]).await;
    let wrong = rig.clock.now() + SignedDuration::from_hours(10 * 366 * 24);
    rig.store().set_last_plausible(wrong).unwrap();
    let stored = rig.store().last_plausible().unwrap();
    assert_eq!(rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap_err().0, "ClockImplausible");
    assert_eq!(rig.store().last_plausible().unwrap(), stored);
    rig.client.job(&vm_path(id(1)), "VM.Prune", options([("all", true.into())])).await.unwrap();
    assert!(rig.store().last_plausible().unwrap().unwrap() < wrong);
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_snapshot_stands_on_with_one_disk_only_stays_and_the_preview_knows_it() {
    let rig = with_snapshots(0, &["vda", "vdb"]).await;
    rig.client.create(id(1), "s0", options([("disks", vec!["vda"].into())])).await.unwrap();
    run(&rig, 2).await;
    let [_, first, second] = rig.client.snapshots(id(1)).await.try_into().unwrap();
    // vdb stays where it is: x will stand on the images of these two, and is no branch of theirs.
    let revert =
        async |to: &str| rig.client.job(&snapshot_path(id(1), to), "Snapshot.Revert", none()).await.unwrap();
    let delete = async |path: &str| rig.client.job(path, "Snapshot.Delete", none()).await.unwrap();
    delete(&revert("s0").await).await;
    rig.client.create(id(1), "x", none()).await.unwrap();
    let safety = revert(&second).await;
    reload(&rig, "[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n").await;

    let prune = async || rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    let of_first =
        async || preview(&rig.client, false).await.into_iter().find(|(name, ..)| *name == first).unwrap();
    let (_, keep, reasons) = of_first().await;
    assert!(keep && reasons.iter().any(|(rule, ..)| rule == "held"), "{reasons:?}");
    prune().await;
    assert!(rig.client.snapshots(id(1)).await.contains(&first));

    delete(&safety).await;
    delete(&snapshot_path(id(1), "x")).await;
    assert!(!of_first().await.1);
    prune().await;
    assert!(!rig.client.snapshots(id(1)).await.contains(&first));
}
