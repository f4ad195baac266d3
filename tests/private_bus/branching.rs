//! VMs that are branched off a snapshot, what that keeps from being deleted, and what becomes of it when it goes wrong.

use std::{collections::HashMap, sync::Arc};

use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor, Nvram,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
};
use zbus::{OwnedObjectPath, Variant};

use super::{
    client::{none, options},
    command_line::virtsnap,
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

const VARIABLES: &str = "/nvram/web.fd";
/// All that a branch asks the hypervisor to change, and the reading of what is copied.
const STEPS: [Op; 5] = [Op::PrepareOn, Op::Load, Op::Save, Op::DefineNew, Op::Start];
const TWO: [&str; 2] = ["vda", "vdb"];

/// A running VM with firmware and the snapshots s1 and s2, each with its own data, and newer data on its disks.
async fn two(policies: &str) -> Rig {
    let rig = Rig::start(policies, |sim| {
        let nvram = Nvram { kind: "file".into(), path: VARIABLES.into(), format: "raw".into() };
        sim.put_bytes(VARIABLES, b"variables");
        sim.add_vm(VmSpec { nvram: Some(nvram), ..VmSpec::new("web", 1).with_disks(&TWO) });
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        fill(&rig.sim, value);
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    fill(&rig.sim, 3);
    rig
}

fn fill(sim: &Sim, value: u64) {
    for target in TWO {
        assert!(sim.write(id(1), target, 0, value));
    }
}

async fn ask(
    rig: &Rig,
    (snapshot, new_vm): (&str, &str),
    options: HashMap<&'static str, Variant<'static>>,
) -> Result<String, (String, String)> {
    let path = snapshot_path(id(1), snapshot);
    let (job,): (OwnedObjectPath,) = rig.client.call(&path, "Snapshot.Branch", &(new_vm, options)).await?;
    Ok(job.to_string())
}

/// The new VM's object.
async fn branch(rig: &Rig, snapshot: &str, new_vm: &str) -> Result<String, (String, String)> {
    rig.client.wait(&ask(rig, (snapshot, new_vm), none()).await?).await
}

fn named(rig: &Rig, name: &str) -> Option<VmId> {
    virtsnap::hypervisor::Branch::named(&*rig.sim, name).unwrap()
}

async fn delete(rig: &Rig, name: &str) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Delete", none()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_a_job_that_gives_the_new_vm_and_its_snapshot_names_it() {
    let rig = two("").await;
    let before = rig.images();
    let gate = rig.sim.gate(Op::DefineNew);
    let job = ask(&rig, ("s1", "trial"), options([("start", true.into())])).await.unwrap();
    held(&gate);
    assert_eq!(rig.client.text(&job, "Job.Operation").await, "branch");
    assert_eq!(rig.client.text(&job, "Job.Phase").await, "defining");
    gate.open();
    let made = rig.client.wait(&job).await.unwrap();
    let trial = named(&rig, "trial").unwrap();
    assert_eq!(made, vm_path(trial));
    assert_eq!(rig.client.text(&made, "VM.Name").await, "trial");
    assert_eq!(rig.client.text(&made, "VM.State").await, "running");
    assert_eq!(rig.client.get::<u32>(&made, "VM.ChainDepth").await, 2);
    let names = |path: String| {
        let client = rig.client.clone();
        async move { client.get::<Vec<String>>(&path, "Snapshot.Branches").await }
    };
    assert_eq!(names(snapshot_path(id(1), "s1")).await, ["trial"]);
    assert_eq!(names(snapshot_path(id(1), "s2")).await, [] as [&str; 0]);
    for target in TWO {
        assert_eq!(rig.sim.read(trial, target).unwrap()[&0], 1);
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], 3);
    }
    let variables = rig.sim.vm(trial).unwrap().nvram.unwrap().path;
    assert_eq!(rig.sim.bytes_of(&variables).unwrap(), b"variables");
    assert_eq!(rig.images().len(), before.len() + 3, "two overlays and the variables");
    assert_eq!(rig.store().intents().unwrap(), []);
    // A second one of the same; and of another name as soon as it has that.
    branch(&rig, "s1", "second").await.unwrap();
    assert_eq!(names(snapshot_path(id(1), "s1")).await, ["second", "trial"]);
    rig.sim.stop(trial).unwrap();
    rig.sim.rename(trial, "renamed").unwrap();
    let s1 = snapshot_path(id(1), "s1");
    rig.client.until(&s1, "Snapshot.Branches", |b: &Vec<String>| *b == ["renamed", "second"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_branch_stands_on_is_needed_and_that_is_said_everywhere() {
    let mut rig = two("[policy.p]\nvms = [\"web\"]\nschedule = \"@yearly\"\nkeep-last = 1\n").await;
    for _ in 0..3 {
        for job in rig.client.run("p", none()).await.unwrap() {
            rig.client.wait(&job).await.unwrap();
        }
        rig.client.until_idle().await;
    }
    let last = rig.client.snapshots(id(1)).await.pop().unwrap();
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1", "s2", last.as_str()]);
    branch(&rig, &last, "trial").await.unwrap();
    for job in rig.client.run("p", none()).await.unwrap() {
        rig.client.wait(&job).await.unwrap();
    }
    rig.client.until_idle().await;
    assert!(rig.client.snapshots(id(1)).await.contains(&last), "it would have gone");
    let address = rig.address();
    let (_, plan, _) = virtsnap(&["--bus-address", &address, "plan", "web"]).await;
    assert!(plan.contains("the VM \"trial\" was branched off it"), "{plan}");
    for name in ["s1", "s2", last.as_str()] {
        let (kind, text) = delete(&rig, name).await.unwrap_err();
        assert_eq!(kind, "InUse", "{text}");
        assert!(text.contains("trial") && text.contains("Nothing was touched"), "{text}");
    }
    let (_, shown, _) = virtsnap(&["--bus-address", &address, "list", "web", "--tree"]).await;
    assert!(shown.contains(&format!("\"{last}\": branched off as \"trial\"")), "{shown}");
    // Whoever lost all that was written down still sees it.
    rig.stop().await;
    rig.store().branch_ended(named(&rig, "trial").unwrap()).unwrap();
    rig.boot().await;
    rig.until_running().await;
    let (kind, text) = delete(&rig, &last).await.unwrap_err();
    assert!(kind == "InUse" && text.contains("trial"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_somebody_removed_pins_no_longer() {
    let mut rig = two("").await;
    branch(&rig, "s1", "trial").await.unwrap();
    let trial = named(&rig, "trial").unwrap();
    let left: Vec<String> =
        rig.sim.vm(trial).unwrap().disks.into_iter().map(|d| d.chain[0].path.clone()).collect();
    assert_eq!(rig.store().branched().unwrap().len(), 1);
    rig.sim.undefine(trial).unwrap();
    let s1 = snapshot_path(id(1), "s1");
    rig.client.until(&s1, "Snapshot.Branches", Vec::<String>::is_empty).await;
    // Its images are its owner's, and as long as they are there they stand on the snapshot.
    let (kind, text) = delete(&rig, "s1").await.unwrap_err();
    assert!(kind == "InUse" && text.contains(&left[0]) && text.contains("which no VM has"), "{text}");
    assert!(left.iter().all(|path| rig.images().contains(path)));
    for path in &left {
        assert!(rig.sim.remove_file(path));
    }
    delete(&rig, "s1").await.unwrap();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert!(rig.store().branched().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_branched_off_is_refused_before_anything_is_touched() {
    let rig = two("").await;
    let before = (rig.images(), rig.sim.vms().unwrap());
    let refused = async |snapshot: &str, new_vm: &str, kind: &str, word: &str| {
        let (got, text) = branch(&rig, snapshot, new_vm).await.unwrap_err();
        assert_eq!(got, kind, "{text}");
        assert!(text.contains(word), "{text}");
        assert_eq!((rig.images(), rig.sim.vms().unwrap()), before);
        assert_eq!(rig.store().intents().unwrap(), []);
    };
    refused("s1", "web", "Exists", "web").await;
    for bad in ["", "a/b", "-x", "a\nb"] {
        refused("s1", bad, "InvalidArgument", "name").await;
    }
    let (kind, text) = ask(&rig, ("s1", "x"), options([("then", true.into())])).await.unwrap_err();
    assert!(kind == "InvalidArgument" && text.contains("then"), "{text}");
    rig.sim.block_job(id(1), true).unwrap();
    refused("s1", "x", "Busy", "block job").await;
    rig.sim.block_job(id(1), false).unwrap();
    rig.sim.leave_room_for(1);
    refused("s1", "x", "NoSpace", "min-free").await;
    rig.sim.set_capacity(1 << 40);
    let lost = rig.sim.snapshots(id(1)).unwrap().remove(0).disks[0].state_image.clone();
    let content = rig.sim.files()[&lost];
    rig.sim.remove_file(&lost);
    let (kind, text) = branch(&rig, "s1", "x").await.unwrap_err();
    assert!(kind == "ChainMismatch" && text.contains(&lost), "{text}");
    rig.sim.put_file(&lost, content);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_layers_than_may_be_are_refused() {
    let rig = two("").await;
    for n in 3..=17 {
        rig.sim.make_foreign_snapshot(id(1), &format!("s{n}")).unwrap();
    }
    // Only now it is told that anything is new.
    rig.sim.set_tags(id(1), &["x"]).unwrap();
    rig.client.until_there(&snapshot_path(id(1), "s17"), true).await;
    branch(&rig, "s1", "x").await.unwrap();
    let before = rig.images();
    let (kind, text) = branch(&rig, "s17", "y").await.unwrap_err();
    assert_eq!(kind, "Unsupported", "{text}");
    assert!(text.contains("17 layers") && text.contains("16 is the most"), "{text}");
    assert_eq!(rig.images(), before);
}

/// A whole branch, or none at all.
fn settled(rig: &Rig, before: &[String], what: &str) {
    assert_eq!(rig.store().intents().unwrap(), [], "{what}");
    for target in TWO {
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], 3, "{what}");
    }
    let Some(trial) = named(rig, "trial") else {
        assert_eq!(rig.images(), before, "{what}: nothing of it is left");
        assert!(rig.store().branched().unwrap().is_empty(), "{what}");
        return;
    };
    let vm = rig.sim.vm(trial).unwrap();
    assert_eq!((vm.disks.len(), vm.state), (2, VmState::Running), "{what}");
    for target in TWO {
        assert_eq!(rig.sim.read(trial, target).unwrap()[&0], 1, "{what}");
    }
    assert_eq!(rig.sim.bytes_of(&vm.nvram.unwrap().path).unwrap(), b"variables", "{what}");
    assert_eq!(rig.images().len(), before.len() + 3, "{what}");
    assert_eq!(rig.store().branched().unwrap()[&trial].overlays.len(), 2, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_nothing_of_it() {
    for op in [Op::PrepareOn, Op::Save, Op::DefineNew, Op::Start] {
        for mishap in [Mishap::Refuse, Mishap::Half, Mishap::Lose] {
            let rig = two("").await;
            let before = rig.images();
            rig.sim.inject(Fault::new(op, mishap(Error::new(ErrorKind::Failed, "on request"))));
            let job = ask(&rig, ("s1", "trial"), options([("start", true.into())])).await.unwrap();
            let (kind, text) = rig.client.wait(&job).await.unwrap_err();
            assert_eq!(kind, "Failed", "{text}");
            for part in ["on request", "VM web was not branched off as trial", "Nothing of it is left"] {
                assert!(text.contains(part), "no {part:?} in {text:?}");
            }
            assert_eq!((rig.images(), named(&rig, "trial")), (before, None), "{op:?}");
            assert_eq!(rig.store().intents().unwrap(), []);
            branch(&rig, "s1", "trial").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_in_the_way_is_somebody_else_s_and_stays() {
    let rig = two("").await;
    rig.sim.fail_next(Op::PrepareOn, Error::new(ErrorKind::Exists, "exists already"));
    let (kind, _) = branch(&rig, "s1", "trial").await.unwrap_err();
    assert_eq!(kind, "Exists");
    assert!(!rig.sim.changes().ends_with(&[Op::Discard]), "nothing was made, so nothing is removed");
    // A name that somebody took meanwhile is another matter.
    let before = rig.images();
    rig.sim.fail_next(Op::DefineNew, Error::new(ErrorKind::Exists, "domain 'trial' already exists"));
    let (kind, _) = branch(&rig, "s1", "trial").await.unwrap_err();
    assert_eq!((kind.as_str(), rig.images()), ("Exists", before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_at_any_step_is_ended_or_taken_back_at_once() {
    for op in STEPS {
        let mut rig = two("").await;
        rig.stop().await;
        rig.hypervisor = Hooked::panics_once(&rig.sim, op);
        rig.boot().await;
        rig.until_running().await;
        let before = rig.images();
        let job = ask(&rig, ("s1", "trial"), options([("start", true.into())])).await.unwrap();
        let (kind, _) = rig.client.wait(&job).await.unwrap_err();
        assert_eq!(kind, "Failed");
        settled(&rig, &before, &format!("{op:?}"));
    }
}

/// The connection goes at each step; the daemon dies with it, and the next life's settling of it at each step as well.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_at_whatever_step_leaves_a_whole_branch_or_none() {
    for first in STEPS {
        for lost_answer in [false, true] {
            for second in [None, Some(Op::Discard), Some(Op::Start)] {
                let mut rig = two("").await;
                let before = rig.images();
                let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
                let mishap = if lost_answer { Mishap::Lose(gone) } else { Mishap::Refuse(gone) };
                // Whether they can be read is looked at before anything is touched.
                rig.sim.inject(Fault::new(first, mishap).after(u32::from(first == Op::Load)));
                let job = ask(&rig, ("s1", "trial"), options([("start", true.into())])).await.unwrap();
                let done = rig.client.wait(&job).await;
                rig.stop().await;
                rig.sim.connect();
                let bent = second.map(|op| Hooked::panics_once(&rig.sim, op) as Arc<dyn Hypervisor>);
                for hypervisor in bent.into_iter().chain([rig.sim.clone() as Arc<dyn Hypervisor>]) {
                    rig.hypervisor = hypervisor;
                    rig.boot().await;
                    rig.until_running().await;
                    rig.stop().await;
                }
                settled(
                    &rig,
                    &before,
                    &format!("{first:?}, answer lost: {lost_answer}, {second:?}, {done:?}"),
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_owner_removed_before_it_was_settled_is_not_touched() {
    let mut rig = two("").await;
    let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
    rig.sim.inject(Fault::new(Op::Start, Mishap::Refuse(gone)));
    let job = ask(&rig, ("s1", "trial"), options([("start", true.into())])).await.unwrap();
    rig.client.wait(&job).await.unwrap_err();
    rig.stop().await;
    rig.sim.connect();
    let trial = named(&rig, "trial").unwrap();
    rig.sim.undefine(trial).unwrap();
    let images = rig.images();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.images(), images, "they may hold what somebody wants to keep");
    assert_eq!(rig.store().intents().unwrap(), []);
    assert!(rig.store().branched().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_branches_and_says_what_stays() {
    let rig = two("").await;
    let address = rig.address();
    let run = async |args: &[&str]| virtsnap(&[&["--bus-address", &address, "branch"], args].concat()).await;
    let (code, out, err) = run(&["web", "s1", "trial", "--start"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(
        out,
        "web: \"trial\" branched off snapshot \"s1\", which stays as long as that is there; it runs\n"
    );
    let (code, _, err) = run(&["web", "s1", "trial"]).await;
    assert_ne!(code, Some(0));
    assert!(err.contains("trial") && err.contains("already"), "{err}");
    let (code, _, err) = run(&["web", "s9", "other"]).await;
    assert_eq!(code, Some(3), "{err}");
    let (_, out, _) = virtsnap(&["--bus-address", &address, "list", "web", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["snapshots"][0]["branches"], serde_json::json!(["trial"]));
}
