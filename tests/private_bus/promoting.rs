//! Making a branch independent, and what becomes of that when it goes wrong anywhere.

use std::sync::Arc;

use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor, Wake as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};
use zbus::OwnedObjectPath;

use super::{
    client::{none, options},
    command_line::virtsnap,
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

const TWO: [&str; 2] = ["vda", "vdb"];
/// All that it asks the hypervisor to change.
const STEPS: [Op; 5] = [Op::Wake, Op::Pull, Op::Suspend, Op::GoOn, Op::LetSleep];

/// Those that it has with a VM that runs, or does not.
fn steps(running: bool) -> impl Iterator<Item = Op> {
    let of_running = |op: &Op| matches!(op, Op::Suspend | Op::GoOn);
    STEPS.into_iter().filter(move |op| *op == Op::Pull || of_running(op) == running)
}

/// A VM with snapshot s1 and newer data, and the branch `trial` of s1, which runs or not.
async fn branched(running: bool) -> (Rig, VmId) {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&TWO));
    })
    .await;
    let write = |value: u64| {
        for target in TWO {
            assert!((0..4).all(|block| rig.sim.write(id(1), target, block, value)));
        }
    };
    write(1);
    rig.client.create(id(1), "s1", none()).await.unwrap();
    write(2);
    let path = snapshot_path(id(1), "s1");
    let asked = ("trial", options([("start", running.into())]));
    let (job,): (OwnedObjectPath,) = rig.client.call(&path, "Snapshot.Branch", &asked).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    let trial = virtsnap::hypervisor::Branch::named(&*rig.sim, "trial").unwrap().unwrap();
    (rig, trial)
}

async fn promote(rig: &Rig, vm: VmId) -> Result<String, (String, String)> {
    rig.client.job(&vm_path(vm), "VM.Promote", none()).await
}

async fn delete(rig: &Rig) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await
}

fn depths(rig: &Rig, vm: VmId) -> Vec<usize> {
    rig.sim.vm(vm).unwrap().disks.iter().map(|d| d.chain.len()).collect()
}

#[track_caller]
fn reads_the_same(rig: &Rig, trial: VmId, what: &str) {
    for target in TWO {
        assert_eq!(rig.sim.read(trial, target).unwrap(), (0..4).map(|block| (block, 1)).collect(), "{what}");
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], 2, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_a_job_that_tells_how_far_it_is_and_then_nothing_is_pinned() {
    for running in [true, false] {
        let (rig, trial) = branched(running).await;
        delete(&rig).await.unwrap_err();
        let gate = rig.sim.gate(Op::Pull);
        let (job,): (OwnedObjectPath,) =
            rig.client.call(&vm_path(trial), "VM.Promote", &(none(),)).await.unwrap();
        held(&gate);
        assert_eq!(rig.client.text(&job, "Job.Operation").await, "promote");
        rig.client.until(&job, "Job.Phase", |p: &String| p == "copying vda (1/2)").await;
        assert!(rig.client.get::<bool>(&job, "Job.ProgressValid").await);
        assert!(rig.client.get::<bool>(&job, "Job.Cancelable").await);
        gate.open();
        assert_eq!(rig.client.wait(&job).await.unwrap(), "/");
        assert_eq!(depths(&rig, trial), [1, 1]);
        reads_the_same(&rig, trial, "after it");
        let state = if running { VmState::Running } else { VmState::ShutOff };
        assert_eq!(rig.sim.vm(trial).unwrap().state, state);
        let s1 = snapshot_path(id(1), "s1");
        assert_eq!(rig.client.get::<Vec<String>>(&s1, "Snapshot.Branches").await, [] as [&str; 0]);
        assert!(rig.store().branched().unwrap().is_empty() && rig.store().awake().unwrap().is_empty());
        delete(&rig).await.unwrap();
        reads_the_same(&rig, trial, "after the snapshot went");
        promote(&rig, trial).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cancelled_loses_nothing_and_goes_on_another_time() {
    for running in [true, false] {
        let (rig, trial) = branched(running).await;
        let gate = rig.sim.gate(Op::Pull);
        let (job,): (OwnedObjectPath,) =
            rig.client.call(&vm_path(trial), "VM.Promote", &(none(),)).await.unwrap();
        held(&gate);
        let () = rig.client.call(&job, "Job.Cancel", &(none(),)).await.unwrap();
        gate.open();
        let (kind, text) = rig.client.wait(&job).await.unwrap_err();
        assert_eq!(kind, "Cancelled");
        assert!(text.contains("VM trial read as before"), "{text}");
        assert_eq!(depths(&rig, trial), [2, 2]);
        reads_the_same(&rig, trial, "cancelled");
        let state = if running { VmState::Running } else { VmState::ShutOff };
        assert_eq!(rig.sim.vm(trial).unwrap().state, state);
        assert_eq!(delete(&rig).await.unwrap_err().0, "InUse");
        promote(&rig, trial).await.unwrap();
        assert_eq!(depths(&rig, trial), [1, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_promoted_is_refused_before_anything_is_touched() {
    let (rig, trial) = branched(true).await;
    let refused = async |kind: &str, word: &str| {
        let before = (rig.images(), rig.sim.vm(trial).unwrap());
        let (got, text) = promote(&rig, trial).await.unwrap_err();
        assert_eq!(got, kind, "{text}");
        assert!(text.contains(word) && text.contains("trial"), "{text}");
        assert_eq!((rig.images(), rig.sim.vm(trial).unwrap()), before);
    };
    rig.sim.block_job(trial, true).unwrap();
    refused("Busy", "block job").await;
    rig.sim.block_job(trial, false).unwrap();
    rig.sim.managed_save(trial).unwrap();
    refused("Unsupported", "managed save").await;
    rig.sim.start(trial).unwrap();
    rig.sim.leave_room_for(7);
    refused("NoSpace", "min-free").await;
    rig.sim.set_capacity(1 << 40);
    rig.client.create(trial, "own", none()).await.unwrap();
    refused("Unsupported", "own").await;
    let (kind, text) =
        rig.client.job(&vm_path(trial), "VM.Promote", options([("x", 1_u32.into())])).await.unwrap_err();
    assert!(kind == "InvalidArgument" && text.contains('x'), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_a_branch_that_reads_the_same_and_is_promoted_later() {
    for running in [true, false] {
        for op in steps(running) {
            // One that could not be woken was not started.
            let mishaps = if op == Op::Wake { 1 } else { 3 };
            for mishap in [Mishap::Refuse, Mishap::Half, Mishap::Lose].into_iter().take(mishaps) {
                let (rig, trial) = branched(running).await;
                let what = format!("{op:?}, running: {running}");
                // It is tried to let it go on twice.
                let times = if op == Op::GoOn { 2 } else { 1 };
                let error = Error::new(ErrorKind::Failed, "on request");
                rig.sim.inject(Fault::new(op, mishap(error)).times(times));
                let (kind, text) = promote(&rig, trial).await.unwrap_err();
                assert_eq!(kind, "Failed", "{text}");
                assert!(text.contains("on request"), "{what}: {text}");
                reads_the_same(&rig, trial, &what);
                let state = if running { VmState::Running } else { VmState::ShutOff };
                assert_eq!(rig.sim.vm(trial).unwrap().state, state, "{what}");
                assert!(rig.store().awake().unwrap().is_empty(), "{what}");
                assert!(rig.store().stilled().unwrap().is_empty(), "{what}");
                promote(&rig, trial).await.unwrap();
                assert_eq!(depths(&rig, trial), [1, 1], "{what}");
                reads_the_same(&rig, trial, &what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_at_whatever_step_leaves_what_is_promoted_later() {
    for running in [true, false] {
        for first in steps(running) {
            for lost_answer in [false, true] {
                for second in [None, Some(Op::LetSleep), Some(Op::BlockJobs)] {
                    let (mut rig, trial) = branched(running).await;
                    let what =
                        format!("{first:?}, answer lost: {lost_answer}, {second:?}, running: {running}");
                    let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
                    let mishap = if lost_answer { Mishap::Lose(gone) } else { Mishap::Refuse(gone) };
                    rig.sim.inject(Fault::new(first, mishap));
                    promote(&rig, trial).await.unwrap_err();
                    rig.stop().await;
                    rig.sim.connect();
                    let bent = second.map(|op| Hooked::panics_once(&rig.sim, op) as Arc<dyn Hypervisor>);
                    for hypervisor in bent.into_iter().chain([rig.sim.clone() as Arc<dyn Hypervisor>]) {
                        rig.hypervisor = hypervisor;
                        rig.boot().await;
                        rig.until_running().await;
                        rig.stop().await;
                    }
                    reads_the_same(&rig, trial, &what);
                    let state = if running { VmState::Running } else { VmState::ShutOff };
                    assert_eq!(rig.sim.vm(trial).unwrap().state, state, "{what}");
                    assert!(rig.store().awake().unwrap().is_empty(), "{what}");
                    rig.boot().await;
                    rig.until_running().await;
                    promote(&rig, trial).await.unwrap();
                    assert_eq!(depths(&rig, trial), [1, 1], "{what}");
                    delete(&rig).await.unwrap();
                    reads_the_same(&rig, trial, &what);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn which_life_of_a_vm_it_began_or_stopped_for_a_moment_is_written_down() {
    let (rig, trial) = branched(false).await;
    let gate = rig.sim.gate(Op::Pull);
    let promote = ("VM.Promote", (none(),));
    let (job,): (OwnedObjectPath,) = rig.client.call(&vm_path(trial), promote.0, &promote.1).await.unwrap();
    held(&gate);
    let life = rig.sim.life(trial).unwrap().unwrap();
    assert!(rig.store().is_awake(trial, Some(life)).unwrap());
    assert!(!rig.store().is_awake(trial, Some(life + 1)).unwrap());
    gate.open();
    rig.client.wait(&job).await.unwrap();

    let (rig, trial) = branched(true).await;
    let life = rig.sim.life(trial).unwrap().unwrap();
    let gate = rig.sim.gate(Op::GoOn);
    let (job,): (OwnedObjectPath,) = rig.client.call(&vm_path(trial), promote.0, &promote.1).await.unwrap();
    held(&gate);
    assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Paused);
    assert_eq!(rig.store().stilled().unwrap(), [(trial, life)].into());
    gate.open();
    rig.client.wait(&job).await.unwrap();
    assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Running);
    assert!(rig.store().stilled().unwrap().is_empty());
}

/// Killed while its CPUs stand still, and then its owner starts it anew and suspends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_suspended_in_another_life_is_left_so() {
    let (mut rig, trial) = branched(true).await;
    let gone = || Error::new(ErrorKind::Disconnected, "the daemon was killed");
    rig.sim.inject(Fault::new(Op::GoOn, Mishap::Refuse(gone())));
    promote(&rig, trial).await.unwrap_err();
    rig.stop().await;
    assert_eq!(rig.store().stilled().unwrap().len(), 1);
    rig.sim.stop(trial).unwrap();
    rig.sim.start(trial).unwrap();
    rig.sim.pause(trial).unwrap();
    rig.sim.connect();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Paused);
    assert!(rig.store().stilled().unwrap().is_empty());
}

/// QEMU lets a disk stand alone before it has written what it copied; one that dies in between takes that along.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_qemu_that_dies_takes_along_is_told_and_is_copied_again() {
    for running in [true, false] {
        let (mut rig, trial) = branched(running).await;
        // All of the first disk is copied, and it stands alone.
        let gate = rig.sim.gate(if running { Op::Suspend } else { Op::LetSleep });
        let (job,): (OwnedObjectPath,) =
            rig.client.call(&vm_path(trial), "VM.Promote", &(none(),)).await.unwrap();
        held(&gate);
        rig.sim.stop(trial).unwrap();
        gate.open();
        let (kind, text) = rig.client.wait(&job).await.unwrap_err();
        assert_eq!(kind, "Failed", "{text}");
        assert!(
            text.starts_with("Disk vda of VM trial") && text.contains("`virtsnap promote trial`"),
            "{text}"
        );
        let lost = rig.sim.read(trial, "vda").unwrap();
        assert!(lost.values().all(|value| *value == 0), "the simulator's QEMU loses nothing: {lost:?}");

        // That is known from then on, also to the next daemon.
        rig.stop().await;
        rig.boot().await;
        rig.until_running().await;
        let health = |word: &String| word.contains("copies it once more");
        rig.client.until(&vm_path(trial), "VM.HealthReason", health).await;
        assert_eq!(rig.client.text(&vm_path(trial), "VM.Health").await, "broken");
        let (kind, text) = rig.client.create(trial, "on it", none()).await.unwrap_err();
        assert!(kind == "ChainMismatch" && text.contains("Disk vda of VM trial"), "{kind}: {text}");
        let (kind, text) = delete(&rig).await.unwrap_err();
        assert!(kind == "InUse" && text.contains("trial"), "{kind}: {text}");
        // Not while it runs on what it lost.
        rig.sim.start(trial).unwrap();
        let (kind, text) = promote(&rig, trial).await.unwrap_err();
        assert!(kind == "ChainMismatch" && text.contains("shut the VM down"), "{kind}: {text}");
        rig.sim.stop(trial).unwrap();

        promote(&rig, trial).await.unwrap();
        reads_the_same(&rig, trial, "copied again");
        assert_eq!(depths(&rig, trial), [1, 1]);
        assert!(rig.store().unsure().unwrap().is_empty());
        rig.client.until(&vm_path(trial), "VM.Health", |word: &String| word == "ok").await;
        delete(&rig).await.unwrap();
        reads_the_same(&rig, trial, "the snapshot went");
    }
}

/// What tells lives apart begins anew with each boot of the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_of_the_same_number_after_another_boot_is_another_one() {
    let (mut rig, trial) = branched(true).await;
    let gone = || Error::new(ErrorKind::Disconnected, "the host lost power");
    rig.sim.inject(Fault::new(Op::Suspend, Mishap::Refuse(gone())));
    promote(&rig, trial).await.unwrap_err();
    rig.stop().await;
    let life = rig.store().unsure_of(trial).unwrap().first().expect("it is not written yet").life;
    rig.sim.connect();
    rig.sim.stop(trial).unwrap();
    rig.sim.start(trial).unwrap();
    let now = rig.sim.life(trial).unwrap().unwrap();
    assert_ne!(life, Some(now));
    // libvirt counts from the beginning: its number is the one from before.
    rig.in_store(&format!(
        "UPDATE copied SET life = {now}; UPDATE fact SET value = 'before' WHERE key = 'boot';"
    ));
    rig.boot().await;
    rig.until_running().await;
    let health = |word: &String| word.contains("copies it once more");
    rig.client.until(&vm_path(trial), "VM.HealthReason", health).await;
    assert_eq!(rig.store().unsure_of(trial).unwrap().len(), 1);
    let (kind, text) = delete(&rig).await.unwrap_err();
    assert!(kind == "InUse" && text.contains("trial"), "{kind}: {text}");
    rig.sim.stop(trial).unwrap();
    promote(&rig, trial).await.unwrap();
    reads_the_same(&rig, trial, "copied again");
}

/// Its owner suspends it before it has written all: that is done as soon as it runs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_suspended_in_between_writes_it_when_it_runs_again() {
    let (rig, trial) = branched(true).await;
    rig.sim.pause(trial).unwrap();
    let (kind, text) = promote(&rig, trial).await.unwrap_err();
    assert!(kind == "Unsupported" && text.contains("resume it or shut it down"), "{kind}: {text}");
    rig.sim.resume(trial).unwrap();
    let gate = rig.sim.gate(Op::Suspend);
    let (job,): (OwnedObjectPath,) =
        rig.client.call(&vm_path(trial), "VM.Promote", &(none(),)).await.unwrap();
    held(&gate);
    rig.sim.pause(trial).unwrap();
    gate.open();
    let (kind, text) = rig.client.wait(&job).await.unwrap_err();
    assert!(kind == "Busy" && text.contains("does not run"), "{kind}: {text}");
    assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Paused);
    rig.sim.resume(trial).unwrap();
    promote(&rig, trial).await.unwrap();
    assert!(rig.store().unsure().unwrap().is_empty());
    reads_the_same(&rig, trial, "after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_promotes() {
    let (rig, _) = branched(true).await;
    let address = rig.address();
    let run = async |args: &[&str]| virtsnap(&[&["--bus-address", &address, "promote"], args].concat()).await;
    let (code, out, err) = run(&["trial", "--bandwidth", "100MiB"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(out, "trial: its disks lie on no other VM's images\n");
    let (code, _, err) = run(&["nobody"]).await;
    assert_eq!(code, Some(3), "{err}");
}
