//! SIGTERM and SIGHUP in the middle of what is at work. After the first the daemon ends, nothing is lost, and the next
//! life finishes or undoes what was begun; after the second the settings are new, and the job is none the wiser.

use std::{collections::BTreeMap, sync::Arc};

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{
        Hypervisor as _, Nvram,
        sim::{Blocks, Op, VmSpec},
    },
};
use zbus::OwnedObjectPath;

use super::{
    client::{MANAGER, none, options},
    rig::{Rig, held, id, policy_path, snapshot_path, vm_path},
};

const DISKS: [&str; 2] = ["vda", "vdb"];
const VARIABLES: &str = "/nvram/web.fd";

/// What is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The merge of s1 into what is under it.
    Delete,
    /// To s1.
    Revert,
    /// Of s1.
    Branch,
    /// Of a branch of s1.
    Promote,
}

use Work::{Branch, Delete, Promote, Revert};

/// A running VM with s1 and s2 and newer data, whose branch `trial` of s1 runs, too, where that is to be promoted.
async fn world(work: Work) -> Rig {
    let rig = Rig::start("", |sim| {
        let nvram = Nvram { kind: "file".into(), path: VARIABLES.into(), format: "raw".into() };
        sim.put_bytes(VARIABLES, b"variables");
        sim.add_vm(VmSpec { nvram: Some(nvram), ..VmSpec::new("web", 1).with_disks(&DISKS) });
    })
    .await;
    for value in 1..=3 {
        for target in DISKS {
            assert!((0..4).all(|block| rig.sim.write(id(1), target, block, value)));
        }
        if value < 3 {
            rig.client.create(id(1), &format!("s{value}"), none()).await.unwrap();
        }
    }
    if work == Promote {
        let job = ask(&rig, Branch).await;
        rig.client.wait(&job).await.unwrap();
    }
    rig
}

fn trial(rig: &Rig) -> Option<VmId> {
    virtsnap::hypervisor::Branch::named(&*rig.sim, "trial").unwrap()
}

/// Asks for it; the job.
async fn ask(rig: &Rig, work: Work) -> String {
    let s1 = snapshot_path(id(1), "s1");
    let (job,): (OwnedObjectPath,) = match work {
        Delete => rig.client.call(&s1, "Snapshot.Delete", &(none(),)).await,
        Revert => rig.client.call(&s1, "Snapshot.Revert", &(none(),)).await,
        Branch => {
            rig.client.call(&s1, "Snapshot.Branch", &("trial", options([("start", true.into())]))).await
        }
        Promote => rig.client.call(&vm_path(trial(rig).unwrap()), "VM.Promote", &(none(),)).await,
    }
    .unwrap();
    job.to_string()
}

/// It is done, and all of it.
fn is_done(rig: &Rig, work: Work) -> bool {
    match work {
        Delete => rig.sim.snapshots(id(1)).unwrap().iter().all(|s| s.name.as_str() != "s1"),
        Revert => rig.sim.read(id(1), "vda").unwrap() == all(1),
        Branch => trial(rig).is_some(),
        Promote => rig.sim.vm(trial(rig).unwrap()).unwrap().disks.iter().all(|d| d.chain.len() == 1),
    }
}

fn all(value: u64) -> Blocks {
    (0..4).map(|block| (block, value)).collect()
}

/// Whatever came of it, it is whole: each VM runs on what it ran on or on what it was to, and what each snapshot that is
/// there held it holds.
fn check(rig: &Rig, work: Work, case: &str) {
    assert_eq!(rig.store().intents().unwrap(), [], "{case}");
    assert!(rig.store().frozen().unwrap().is_empty(), "{case}");
    let value = if work == Revert && is_done(rig, work) { 1 } else { 3 };
    for target in DISKS {
        assert_eq!(rig.sim.read(id(1), target).unwrap(), all(value), "{case}");
    }
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::Running, "{case}");
    assert!(rig.sim.frozen(id(1)).unwrap().is_empty(), "{case}");
    let wanted: BTreeMap<&str, u64> = [("s1", 1), ("s2", 2)].into();
    let there: Vec<SnapshotName> = rig.sim.snapshots(id(1)).unwrap().into_iter().map(|s| s.name).collect();
    assert!(there.iter().any(|name| name.as_str() == "s2"), "{case}: {there:?}");
    assert!(work == Delete || there.iter().any(|name| name.as_str() == "s1"), "{case}: {there:?}");
    for name in there {
        for target in DISKS {
            let held = rig.sim.content_of_snapshot(id(1), &name, target).unwrap();
            // The safety snapshot of a revert holds what was there before.
            assert_eq!(held, all(wanted.get(name.as_str()).copied().unwrap_or(3)), "{case}: {name}");
        }
    }
    if let Some(trial) = trial(rig) {
        for target in DISKS {
            assert_eq!(rig.sim.read(trial, target).unwrap(), all(1), "{case}");
        }
        assert_eq!(rig.sim.vm(trial).unwrap().state, VmState::Running, "{case}");
    }
}

/// The daemon is told to stop while each of these is asked of libvirt.
async fn terminated(work: Work, steps: &[Op]) {
    for step in steps {
        let case = format!("{work:?} at {step:?}");
        let mut rig = world(work).await;
        let sim = Arc::clone(&rig.sim);
        let gate = sim.gate(*step);
        ask(&rig, work).await;
        held(&gate);
        rig.tell_to_stop();
        rig.client.until(MANAGER, "Manager.State", |s: &String| s == "stopping").await;
        gate.open();
        rig.ended().await;

        rig.boot().await;
        rig.until_running().await;
        rig.client.until_idle().await;
        check(&rig, work, &case);
        if !is_done(&rig, work) {
            let job = ask(&rig, work).await;
            rig.client.wait(&job).await.unwrap();
            assert!(is_done(&rig, work), "{case}");
            check(&rig, work, &format!("{case}, and once more"));
        }
        assert_eq!(rig.client.text(&vm_path(id(1)), "VM.Health").await, "ok", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_the_daemon_s_end_cuts_short_is_finished_or_undone_by_the_next_life() {
    terminated(Delete, &[Op::Commit, Op::Redefine, Op::Discard]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_in_which_the_daemon_is_told_to_stop_is_done_or_undone_as_a_whole() {
    terminated(Revert, &[Op::Create, Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_which_the_daemon_is_told_to_stop_is_there_or_not_as_a_whole() {
    terminated(Branch, &[Op::PrepareOn, Op::Load, Op::Save, Op::DefineNew, Op::Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_in_which_the_daemon_is_told_to_stop_loses_nothing() {
    terminated(Promote, &[Op::Pull, Op::Suspend, Op::GoOn]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_new_after_a_hangup_and_what_is_at_work_is_none_the_wiser() {
    for (work, step) in
        [(Delete, Op::Commit), (Revert, Op::Define), (Branch, Op::DefineNew), (Promote, Op::Pull)]
    {
        let case = format!("{work:?}");
        let rig = world(work).await;
        let gate = rig.sim.gate(step);
        let job = ask(&rig, work).await;
        held(&gate);
        rig.write_policies("[policy.new]\nvms = [\"*\"]\nkeep-last = 3\n");
        rig.hang_up();
        rig.client.until_there(&policy_path("new"), true).await;
        assert_eq!(rig.client.text(&job, "Job.State").await, "running", "{case}");
        gate.open();
        rig.client.wait(&job).await.unwrap();
        assert!(is_done(&rig, work), "{case}");
        check(&rig, work, &case);
    }
}
