//! libvirt answers what is asked of others, and never what is asked of some VMs: as where their QEMU hangs.

use std::time::Duration;

use uuid::Uuid;
use virtsnap::{
    clock::Clock as _,
    core::model::SnapshotName,
    hypervisor::{
        Hypervisor as _,
        sim::{Gate, Op, VmSpec},
    },
    store::{Begun, Intent},
};

use super::{
    client::{MANAGER, none, options},
    command_line::virtsnap,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// As many as run at once here.
const HUNG: u128 = 4;

/// All of that many hang in the middle of a creation: their jobs.
async fn hung(rig: &Rig) -> (Vec<Gate<'_>>, Vec<String>) {
    let (mut gates, mut jobs) = (Vec::new(), Vec::new());
    for number in 1..=HUNG {
        let gate = rig.sim.gate_vm(Op::Create, id(number));
        // More than may be frozen at once.
        let unfrozen = options([("quiesce", "never".into())]);
        let job = rig.client.ask_create(id(number), "s1", unfrozen).await.unwrap();
        held(&gate);
        heard(rig, &job).await;
        jobs.push(job);
        gates.push(gate);
    }
    (gates, jobs)
}

/// Its creation has begun to take it, and this is heard of: what is heard later counts from after the time that passes.
async fn heard(rig: &Rig, job: &str) {
    rig.client.until(job, "Job.Phase", |phase: &String| phase == "taking the snapshot").await;
}

/// Lets more time pass than any call takes, and has the daemon look at the clock.
fn pass(rig: &Rig) {
    rig.clock.pass(Duration::from_mins(11));
    rig.sim.set_tags(id(HUNG + 1), &["a"]).unwrap();
}

async fn rig() -> Rig {
    Rig::start("", |sim| {
        for number in 1..=HUNG + 1 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_never_answers_is_told_and_stops_no_other_and_its_job_ends_when_it_does() {
    let rig = rig().await;
    let (gates, jobs) = hung(&rig).await;
    let other = rig.client.ask_create(id(HUNG + 1), "s1", none()).await.unwrap();
    assert!(rig.client.text(&other, "Job.Phase").await.contains("max-jobs"));
    let next = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    pass(&rig);
    rig.client.wait(&other).await.unwrap();

    for (number, job) in (1..).zip(&jobs) {
        let phase = rig.client.text(job, "Job.Phase").await;
        assert_eq!(phase, "stuck: no answer from libvirt for 10 min: taking the snapshot");
        assert_eq!(rig.client.text(job, "Job.State").await, "running");
        let vm = vm_path(id(number));
        let told = rig.client.text(&vm, "VM.LastError").await;
        for part in ["VM vm", "virsh domcontrol vm", "pgrep -af", "virsh destroy vm", "restart of libvirtd"] {
            assert!(told.contains(part), "no {part:?} in {told:?}");
        }
        assert_eq!(rig.client.text(&vm, "VM.Health").await, "degraded");
        assert_eq!(rig.client.text(&vm, "VM.HealthReason").await, told);
    }
    let phase = rig.client.text(&next, "Job.Phase").await;
    assert!(phase.starts_with("waiting for job ") && phase.ends_with("which is stuck"), "{phase}");

    drop(gates);
    for (number, job) in (1..).zip(&jobs) {
        rig.client.wait(job).await.unwrap();
        let vm = vm_path(id(number));
        rig.client.until(&vm, "VM.LastError", String::is_empty).await;
        assert_eq!(rig.client.text(&vm, "VM.Health").await, "ok");
    }
    rig.client.wait(&next).await.unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_stop_does_not_wait_for_what_is_stuck() {
    let mut rig = rig().await;
    let sim = std::sync::Arc::clone(&rig.sim);
    let gate = sim.gate_vm(Op::Create, id(1));
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    heard(&rig, &job).await;
    pass(&rig);
    rig.client.until(&job, "Job.Phase", |phase: &String| phase.starts_with("stuck")).await;
    rig.stop().await;
    assert_eq!(rig.store().intents().unwrap().len(), 1, "the next life finds what it was at");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_it_leaves_waiting_is_not_told_that_the_job_failed() {
    let mut rig = rig().await;
    let sim = std::sync::Arc::clone(&rig.sim);
    let gate = sim.gate_vm(Op::Create, id(1));
    let address = rig.address();
    let create = ["--bus-address", &address, "create", "vm1", "--name", "s1", "--quiesce", "never"];
    let told = async { virtsnap(&create).await };
    let stopped = async {
        held(&gate);
        let jobs = rig.client.managed().await;
        let job = jobs.keys().find(|path| path.contains("/job/")).unwrap();
        heard(&rig, job).await;
        pass(&rig);
        rig.client.until(job, "Job.Phase", |phase: &String| phase.starts_with("stuck")).await;
        rig.stop().await;
    };
    let ((code, _, err), ()) = tokio::join!(told, stopped);
    assert_eq!(code, Some(5), "{err}");
    assert!(
        err.contains("the daemon stopped before the job had ended") && !err.contains("again in a moment"),
        "{err}"
    );
    assert_eq!(rig.store().intents().unwrap().len(), 1, "the next life goes on with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_never_read_keeps_no_job_of_another_from_its_end() {
    let rig = rig().await;
    let gate = rig.sim.gate_vm(Op::Snapshots, id(1));
    rig.sim.set_tags(id(1), &["is read"]).unwrap();
    held(&gate);
    let other = rig.client.ask_create(id(2), "s1", none()).await.unwrap();
    pass(&rig);
    rig.client.wait(&other).await.unwrap();
    // And all else goes on.
    rig.sim.pause(id(3)).unwrap();
    rig.client.until(&vm_path(id(3)), "VM.State", |state: &String| state == "paused").await;
    rig.sim.pause(id(1)).unwrap();
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.State").await, "running", "it waits for the answer");
    drop(gate);
    rig.client.until(&vm_path(id(1)), "VM.State", |state: &String| state == "paused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_not_read_at_the_start_keeps_no_policy_of_another_from_running() {
    let arrange = |sim: &virtsnap::hypervisor::sim::Sim| {
        for number in [1, 2] {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    };
    let mut rig = Rig::without_daemon("[policy.p]\nvms = [\"vm2\"]\n", arrange).await;
    let sim = std::sync::Arc::clone(&rig.sim);
    let gate = sim.gate_vm(Op::Snapshots, id(1));
    rig.boot().await;
    held(&gate);
    rig.clock.pass(Duration::from_secs(61));
    sim.set_tags(id(2), &["a"]).unwrap();
    rig.client.until(MANAGER, "Manager.State", |state: &String| state == "running").await;
    let job = rig.client.run("p", none()).await.unwrap().remove(0);
    rig.client.wait(&job).await.unwrap();
    drop(gate);
    rig.client.until_there(&vm_path(id(1)), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_not_settled_at_the_start_keeps_no_other_from_being() {
    for op in [Op::Thaw, Op::Discard] {
        let mut rig = Rig::without_daemon("", |sim| {
            for number in [1, 2] {
                sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
            }
        })
        .await;
        let sim = std::sync::Arc::clone(&rig.sim);
        let left = |number| format!("/images/left{number}.qcow2");
        for number in [1, 2] {
            sim.make_image(&left(number), &format!("/images/vm{number}-vda.qcow2")).unwrap();
            sim.freeze(id(number), None, Duration::from_secs(1)).unwrap();
            let (store, now) = (rig.store(), rig.clock.now());
            let intent =
                Intent::new(Uuid::from_u128(number), id(number), SnapshotName::existing("s"), Begun::Drop);
            store.begin(&Intent { overlays: vec![left(number)], ..intent }, now).unwrap();
            store.freeze_begins(id(number), now).unwrap();
        }
        let gate = sim.gate_vm(op, id(1));
        rig.boot().await;
        held(&gate);
        rig.clock.pass(Duration::from_secs(61));
        rig.until_running().await;
        assert!(sim.frozen(id(2)).unwrap().is_empty(), "{op:?}");
        assert!(!sim.files().contains_key(&left(2)), "{op:?}");
        rig.client.create(id(2), "s1", none()).await.unwrap();
        let waits = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
        assert_eq!(rig.client.text(&waits, "Job.State").await, "running", "{op:?}");
        assert_eq!(sim.snapshots(id(1)).unwrap(), [], "{op:?}");
        drop(gate);
        rig.client.wait(&waits).await.unwrap();
        rig.assert_thawed(id(1)).await;
        assert!(!sim.files().contains_key(&left(1)), "{op:?}");
        assert_eq!(rig.store().intents().unwrap(), [], "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_snapshot_hangs_is_thawed_and_another_one_may_be_frozen() {
    let arrange = |sim: &virtsnap::hypervisor::sim::Sim| {
        for number in [1, 2] {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    };
    let mut rig = Rig::without_daemon("", arrange).await;
    rig.write_main("max-frozen = 1\n");
    rig.boot().await;
    rig.until_running().await;
    let sim = std::sync::Arc::clone(&rig.sim);
    let gate = sim.gate_vm(Op::Create, id(1));
    let quiesced = || options([("quiesce", "require".into())]);
    let hangs = rig.client.ask_create(id(1), "s1", quiesced()).await.unwrap();
    held(&gate);
    assert!(!sim.frozen(id(1)).unwrap().is_empty());
    let other = rig.client.ask_create(id(2), "s1", quiesced()).await.unwrap();
    // Longer than any guest is frozen.
    rig.clock.pass(Duration::from_secs(31));
    rig.client.wait(&other).await.unwrap();
    assert!(sim.frozen(id(1)).unwrap().is_empty(), "it was frozen for nobody");
    assert_eq!(rig.client.text(&snapshot_path(id(2), "s1"), "Snapshot.Consistency").await, "filesystem");
    drop(gate);
    // That it did not hold is said by whoever gets the answer.
    let _ = rig.client.wait(&hangs).await;
    rig.assert_thawed(id(1)).await;
}
