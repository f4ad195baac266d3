//! What cannot be had from a real host on demand: errors in the middle, a full disk, a lost connection, a bug.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use virtsnap::hypervisor::{
    Error, ErrorKind, Hypervisor as _,
    sim::{EMPTY_IMAGE, Fault, Mishap, Op, Sim, VmSpec},
};

use super::{
    client::{MANAGER, none},
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "on request")
}

async fn web(arrange: impl FnOnce(&Sim)) -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        arrange(sim);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_leaves_nothing_and_says_which_vm_and_how_it_is() {
    let rig = web(|_| {}).await;
    let images = rig.images();
    for (op, kind, name) in [
        (Op::Prepare, ErrorKind::NoSpace, "NoSpace"),
        (Op::Prepare, ErrorKind::Denied, "Denied"),
        (Op::Create, ErrorKind::Failed, "Failed"),
        (Op::Create, ErrorKind::Busy, "Busy"),
        (Op::Create, ErrorKind::NoSpace, "NoSpace"),
    ] {
        rig.sim.fail_next(op, error(kind));
        let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
        let (got, text) = rig.client.wait(&job).await.unwrap_err();
        assert_eq!(got, name, "{op:?}: {text}");
        for part in ["s1", "VM web", "on request", "runs on as before"] {
            assert!(text.contains(part), "{op:?} {kind:?}: no {part:?} in {text:?}");
        }
        assert_eq!(rig.client.text(&job, "Job.Result").await, "failed");
        assert_eq!(rig.client.text(&job, "Job.ErrorName").await, format!("org.virtsnap1.Error.{name}"));
        assert_eq!(rig.client.text(&job, "Job.ErrorMessage").await, text);
        assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, text);
        assert_eq!(rig.images(), images, "{op:?} {kind:?}");
        assert_eq!(rig.store().intents().unwrap(), []);
        rig.assert_thawed(id(1)).await;
    }
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_that_were_made_before_preparing_failed_are_removed() {
    let rig = web(|_| {}).await;
    let images = rig.images();
    rig.sim.inject(Fault::new(Op::Prepare, Mishap::Half(error(ErrorKind::NoSpace))));
    let (name, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(name, "NoSpace", "{text}");
    assert_eq!(rig.images(), images, "an overlay was left over, and nothing remembers it");
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_was_edited_meanwhile_is_told_and_the_snapshot_stays() {
    let rig = web(|_| {}).await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    rig.sim.point_definition_at(id(1), "vda", "/images/web-vda.qcow2").unwrap();
    gate.open();
    let (name, text) = rig.client.wait(&job).await.unwrap_err();
    assert_eq!(name, "ChainMismatch", "{text}");
    for part in ["snapshot s1 of VM web", "definition", "--inactive"] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
    assert_eq!(rig.images().len(), 4, "the VM runs on its overlays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_is_nearly_full_gets_no_snapshot() {
    let rig = web(|sim| sim.set_capacity(100 * EMPTY_IMAGE)).await;
    rig.sim.put_file("/images/other.raw", 89 * EMPTY_IMAGE);
    let (name, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(name, "NoSpace", "{text}");
    assert!(text.contains("VM web") && text.contains("min-free"), "{text}");
    assert_eq!(rig.sim.changes(), []);
    rig.sim.remove_file("/images/other.raw");
    rig.client.create(id(1), "s1", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_without_metadata_is_reported_and_gets_it_later() {
    let rig = web(|_| {}).await;
    rig.sim.die_in_next_create();
    let (name, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(name, "Disconnected", "{text}");
    assert!(text.contains("VM web"), "{text}");
    // It does not: it runs on its new overlays, and nobody could know that then.
    assert!(!text.contains("runs on as before"), "nobody knows that: {text}");
    let images = rig.images();
    assert_eq!(images.len(), 4);
    assert!(!rig.client.get::<bool>(MANAGER, "Manager.HypervisorConnected").await);

    rig.sim.connect();
    rig.assert_thawed(id(1)).await;
    rig.client.until(&vm_path(id(1)), "VM.ChainDepth", |d: &u32| *d == 2).await;
    assert_eq!(rig.images(), images, "the VM runs on them");
    // All that it lacked was its metadata, which is written now.
    rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
    assert_eq!(rig.store().intents().unwrap(), []);
    assert!(rig.sim.write(id(1), "vda", 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_success_got_lost_on_the_way_is_found_and_not_called_undone() {
    let rig = web(|_| {}).await;
    rig.sim.inject(Fault::new(Op::Create, Mishap::Lose(error(ErrorKind::Failed))));
    let (name, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(name, "Failed", "{text}");
    assert!(!text.contains("runs on as before"), "it does not: {text}");
    rig.assert_thawed(id(1)).await;
    rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
    assert!(rig.client.get::<bool>(&snapshot_path(id(1), "s1"), "Snapshot.Managed").await);
    assert_eq!(rig.images().len(), 4);
    // On top of it all goes on.
    rig.client.create(id(1), "s2", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_in_the_middle_of_a_job_ends_it_and_is_cleaned_up_after() {
    let rig = web(|_| {}).await;
    let images = rig.images();
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    rig.sim.disconnect("libvirtd stopped");
    let (name, text) = rig.client.wait(&job).await.unwrap_err();
    assert_eq!(name, "Disconnected", "{text}");
    drop(gate);
    // Nobody could thaw it, so nobody may say that it is thawed.
    assert!(rig.client.get::<bool>(&vm_path(id(1)), "VM.Frozen").await);
    assert_eq!(rig.store().frozen().unwrap(), [id(1)].into());
    assert_eq!(rig.sim.frozen(id(1)).unwrap().len(), 2);

    rig.sim.connect();
    rig.assert_thawed(id(1)).await;
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    assert_eq!(rig.images(), images);
    assert_eq!(rig.store().intents().unwrap(), []);
    rig.client.create(id(1), "s1", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_vanishes_in_the_middle_does_not_stop_the_others() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        for number in 1..=3 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    let gate = rig.sim.gate_vm(Op::Create, id(2));
    let jobs = rig.client.run("p", none()).await.unwrap();
    held(&gate);
    rig.sim.stop(id(2)).unwrap();
    rig.sim.undefine(id(2)).unwrap();
    gate.open();
    let mut failures = Vec::new();
    for job in &jobs {
        if let Err(e) = rig.client.wait(job).await {
            failures.push(e);
        }
    }
    assert_eq!(jobs.len(), 3);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].0, "NoSuchVM");
    assert!(failures[0].1.contains("vm2"), "{}", failures[0].1);
    rig.client.until_there(&vm_path(id(2)), false).await;
    for vm in [id(1), id(3)] {
        assert_eq!(rig.client.snapshots(vm).await.len(), 1);
    }
    assert!(rig.store().frozen().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_in_any_step_ends_the_job_and_not_the_daemon() {
    for op in [Op::Space, Op::Prepare, Op::FreezeStatus, Op::Freeze, Op::Create, Op::Thaw, Op::Discard] {
        let mut rig = Rig::without_daemon("", |sim| {
            sim.add_vm(VmSpec::new("web", 1));
        })
        .await;
        rig.hypervisor = Hooked::panics_once(&rig.sim, op);
        rig.boot().await;
        rig.until_running().await;
        if op == Op::Discard {
            rig.sim.fail_next(Op::Create, error(ErrorKind::Failed));
        }
        let (name, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
        assert_eq!(name, "Failed", "{op:?}: {text}");
        assert!(text.contains("a bug in virtsnapd"), "{op:?}: {text}");
        rig.client.create(id(1), "s2", none()).await.unwrap_or_else(|e| panic!("after {op:?}: {e:?}"));
        rig.assert_thawed(id(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_cannot_be_snapshotted_now_says_why() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec { persistent: false, ..VmSpec::new("transient", 1) });
        let saved = sim.add_vm(VmSpec::new("saved", 2));
        sim.managed_save(saved).unwrap();
        let internal = sim.add_vm(VmSpec::new("internal", 3));
        sim.make_internal_snapshot(internal, "theirs").unwrap();
        let busy = sim.add_vm(VmSpec::new("busy", 4));
        sim.block_job(busy, true).unwrap();
        let merged = sim.add_vm(VmSpec::new("merged", 5));
        sim.make_foreign_snapshot(merged, "theirs").unwrap();
        sim.merge_chain_behind(merged, "vda").unwrap();
    })
    .await;
    for (number, error, part) in [
        (1, "Unsupported", "transient"),
        (2, "Unsupported", "managed save"),
        (3, "Unsupported", "internal snapshot theirs"),
        (4, "Busy", "block job"),
        (5, "ChainMismatch", "Nothing was touched"),
    ] {
        let images = rig.images();
        let (name, text) = rig.client.create(id(number), "s1", none()).await.unwrap_err();
        assert_eq!(name, error, "{text}");
        assert!(text.contains(part) && text.contains("VM "), "{text}");
        assert_eq!(rig.images(), images);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_found_wrong_is_shown_so_and_left_for_a_person() {
    let mut rig = web(|_| {}).await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.stop().await;
    let (sim, taken) = (Arc::clone(&rig.sim), AtomicBool::new(false));
    rig.hypervisor = Hooked::new(&rig.sim, move |op| match op {
        Op::Create => taken.store(true, Ordering::SeqCst),
        Op::Snapshots if taken.swap(false, Ordering::SeqCst) => {
            sim.point_definition_at(id(1), "vda", "/images/web-vda.qcow2").unwrap();
        }
        _ => {}
    });
    rig.boot().await;
    rig.until_running().await;
    let (kind, text) = rig.client.create(id(1), "s2", none()).await.unwrap_err();
    assert_eq!(kind, "ChainMismatch", "{text}");
    rig.hypervisor = rig.sim.clone();
    let s2 = snapshot_path(id(1), "s2");
    for life in 1..=2 {
        rig.client.until(&s2, "Snapshot.State", |s: &String| s == "failed").await;
        rig.client.until(&vm_path(id(1)), "VM.Health", |h: &String| h == "broken").await;
        if life == 1 {
            rig.stop().await;
            rig.boot().await;
            rig.until_running().await;
        }
    }
    // That person puts it right, and does not want it.
    let on = rig.sim.vm(id(1)).unwrap().disks[0].chain[0].path.clone();
    rig.sim.point_definition_at(id(1), "vda", &on).unwrap();
    rig.sim.stop(id(1)).unwrap();
    rig.client.job(&s2, "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
}
