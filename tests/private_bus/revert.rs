//! Reverting a VM, and what becomes of it when that goes wrong anywhere.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::SignedDuration;
use virtsnap::{
    core::model::{SnapshotName, VmState},
    hypervisor::{
        Error, ErrorKind, Hypervisor, SnapshotRecord,
        sim::{Blocks, DiskSpec, Fault, Mishap, Op, Sim, VmSpec},
    },
};
use zbus::Variant;

use super::{
    client::{none, options},
    command_line::virtsnap,
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

const DISKS: [&str; 2] = ["vda", "vdb"];
/// All that a revert asks the hypervisor to change.
const STEPS: [Op; 6] = [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Start, Op::Discard];

fn fill(sim: &Sim, value: u64) {
    for target in DISKS {
        assert!(sim.write(id(1), target, 0, value));
    }
}

/// A running VM with s1 and s2, each with its own data, and newer data on its disks.
async fn two(arrange: impl FnOnce(&Sim)) -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&DISKS));
        arrange(sim);
    })
    .await;
    for (name, value) in [("s1", 1), ("s2", 2)] {
        fill(&rig.sim, value);
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    fill(&rig.sim, 3);
    rig
}

async fn revert(
    rig: &Rig,
    name: &str,
    options: HashMap<&'static str, Variant<'static>>,
) -> Result<String, (String, String)> {
    rig.client.job(&snapshot_path(id(1), name), "Snapshot.Revert", options).await
}

/// All that there is of a VM, its safety snapshots apart.
#[derive(Debug, PartialEq)]
struct World {
    state: VmState,
    content: Vec<Blocks>,
    chains: Vec<Vec<String>>,
    configured: Vec<Option<String>>,
    records: BTreeMap<SnapshotName, SnapshotRecord>,
    images: Vec<String>,
}

fn world(rig: &Rig) -> World {
    let vm = rig.sim.vm(id(1)).unwrap();
    let records = rig.sim.snapshots(id(1)).unwrap();
    World {
        state: vm.state,
        content: DISKS.iter().map(|t| rig.sim.read(id(1), t).unwrap()).collect(),
        chains: vm.disks.iter().map(|d| d.chain.iter().map(|l| l.path.clone()).collect()).collect(),
        configured: vm.disks.iter().map(|d| d.configured.clone()).collect(),
        records: records.into_iter().map(|r| (r.name.clone(), r)).collect(),
        images: rig.images(),
    }
}

#[track_caller]
fn content(rig: &Rig, value: u64) {
    for target in DISKS {
        assert_eq!(rig.sim.read(id(1), target).unwrap()[&0], value, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_is_a_job_that_gives_the_safety_snapshot_and_its_snapshot_is_reverting_meanwhile() {
    let rig = two(|_| {}).await;
    let gate = rig.sim.gate(Op::Define);
    let s1 = snapshot_path(id(1), "s1");
    let (job,): (zbus::OwnedObjectPath,) = rig.client.call(&s1, "Snapshot.Revert", &none()).await.unwrap();
    held(&gate);
    rig.client.until(&s1, "Snapshot.State", |s: &String| s == "reverting").await;
    assert_eq!(rig.client.text(&job, "Job.Operation").await, "revert");
    rig.client.until(&job, "Job.Phase", |phase: &String| phase == "defining").await;
    gate.open();
    let safety = rig.client.wait(&job).await.unwrap();
    assert!(safety.contains("before_2drevert_2ds1_2d"), "{safety}");
    assert_eq!(rig.client.text(&safety, "Snapshot.Origin").await, "safety");
    assert_eq!(rig.client.text(&s1, "Snapshot.State").await, "ready");
    assert_eq!(rig.client.object(&vm_path(id(1)), "VM.CurrentSnapshot").await, s1);
    content(&rig, 1);
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.State").await, "running");
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_checked_and_do_what_they_say() {
    let rig = two(|_| {}).await;
    let before = world(&rig);
    for (key, value) in [
        ("state", Variant::from("asleep")),
        ("definition", Variant::from("other")),
        ("safety", Variant::from("yes")),
        ("force", Variant::from(true)),
    ] {
        let (kind, text) = revert(&rig, "s1", options([(key, value)])).await.unwrap_err();
        assert_eq!(kind, "InvalidArgument", "{text}");
        assert!(text.contains(key), "{text}");
    }
    assert_eq!(world(&rig), before);
    let none_taken =
        revert(&rig, "s2", options([("safety", false.into()), ("state", "shut-off".into())])).await;
    assert_eq!(none_taken.unwrap(), "/");
    content(&rig, 2);
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::ShutOff);
    assert_eq!(rig.sim.snapshots(id(1)).unwrap().len(), 2);
    revert(&rig, "s1", options([("state", "paused".into())])).await.unwrap();
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::Paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_safety_snapshot_that_was_asked_for_nothing_is_reverted() {
    let rig = two(|_| {}).await;
    let before = world(&rig);
    rig.sim.fail_next(Op::Create, Error::new(ErrorKind::NoSpace, "on request"));
    let (kind, text) = revert(&rig, "s1", none()).await.unwrap_err();
    assert_eq!(kind, "NoSpace", "{text}");
    assert!(text.contains("VM web was not reverted to snapshot s1") && text.contains("safety"), "{text}");
    assert_eq!(world(&rig), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reverts_asks_first_and_names_the_way_back() {
    let rig = two(|_| {}).await;
    let address = rig.address();
    let run = async |args: &[&str]| virtsnap(&[&["--bus-address", &address, "revert"], args].concat()).await;
    let (code, _, err) = run(&["web", "s1"]).await;
    assert_ne!(code, Some(0), "there is no terminal to ask on");
    assert!(err.contains("--yes"), "{err}");
    content(&rig, 3);
    let (code, out, err) = run(&["web", "s1", "--off", "--yes"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.contains("web: reverted to snapshot \"s1\"; the way back is snapshot \"before-revert-s1-"),
        "{out}"
    );
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::ShutOff);
    content(&rig, 1);
    let (code, out, _) = run(&["web", "s2", "--no-safety", "--start", "--yes"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "web: reverted to snapshot \"s2\"\n"));
    let (code, _, err) = run(&["web", "s9", "--yes"]).await;
    assert_eq!(code, Some(3), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_the_vm_as_it_was_whatever_it_was() {
    for state in [VmState::Running, VmState::Paused, VmState::ShutOff] {
        for op in [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Start] {
            for half in [false, true] {
                let rig = two(|_| {}).await;
                match state {
                    VmState::Paused => rig.sim.pause(id(1)).unwrap(),
                    VmState::ShutOff => rig.sim.stop(id(1)).unwrap(),
                    _ => {}
                }
                // A safety snapshot of its own is a change too, and none of what is looked at here.
                let before = world(&rig);
                let what = Error::new(ErrorKind::Failed, "on request");
                rig.sim.inject(Fault::new(op, if half { Mishap::Half(what) } else { Mishap::Refuse(what) }));
                let asked = options([("safety", false.into()), ("state", "running".into())]);
                let (kind, text) = revert(&rig, "s1", asked).await.unwrap_err();
                assert_eq!(kind, "Failed", "{text}");
                assert!(
                    text.contains("on request") && text.contains("VM web") && text.contains("s1"),
                    "{text}"
                );
                assert_eq!(world(&rig), before, "{state} {op:?} half: {half}: {text}");
                assert_eq!(rig.store().intents().unwrap(), []);
                // And nothing keeps it from being done after all.
                revert(&rig, "s1", none()).await.unwrap();
                content(&rig, 1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_in_the_way_is_somebody_else_s_and_stays() {
    let rig = two(|_| {}).await;
    let before = world(&rig);
    rig.sim.fail_next(Op::PrepareOn, Error::new(ErrorKind::Exists, "exists already"));
    let (kind, _) = revert(&rig, "s1", options([("safety", false.into())])).await.unwrap_err();
    assert_eq!(kind, "Exists");
    assert!(!rig.sim.changes().ends_with(&[Op::Discard]), "nothing was made, so nothing is removed");
    assert_eq!(world(&rig), before);
}

/// Either as before, or reverted: what a crash leaves is ended, whichever way, and nothing else.
fn settled(rig: &Rig, before: &World, what: &str) {
    assert_eq!(rig.store().intents().unwrap(), [], "{what}");
    let now = world(rig);
    if now.content == before.content {
        assert_eq!(now, *before, "{what}: taken back");
        return;
    }
    content(rig, 1);
    assert_eq!(now.state, before.state, "{what}");
    let current: Vec<_> = now.records.values().filter(|r| r.current).collect();
    assert!(current.len() == 1 && current[0].name == SnapshotName::existing("s1"), "{what}");
    let tops: Vec<_> = now.chains.iter().map(|c| Some(c[0].clone())).collect();
    assert_eq!(now.configured, tops, "{what}");
    for target in DISKS {
        let held =
            |name| rig.sim.content_of_snapshot(id(1), &SnapshotName::existing(name), target).unwrap()[&0];
        assert_eq!((held("s1"), held("s2")), (1, 2), "{what}");
    }
    assert_eq!(
        now.images.len(),
        before.images.len(),
        "{what}: the new overlays for the old ones, and no more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_at_any_step_is_ended_or_taken_back_at_once() {
    for op in STEPS {
        let mut rig = two(|_| {}).await;
        rig.stop().await;
        rig.hypervisor = Hooked::panics_once(&rig.sim, op);
        rig.boot().await;
        rig.until_running().await;
        let before = world(&rig);
        let (kind, _) = revert(&rig, "s1", options([("safety", false.into())])).await.unwrap_err();
        assert_eq!(kind, "Failed");
        settled(&rig, &before, &format!("{op:?}"));
        rig.client.create(id(1), "s3", none()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_connection_cut_short_is_settled_when_it_is_back() {
    for op in STEPS {
        for lost_answer in [false, true] {
            let rig = two(|_| {}).await;
            let before = world(&rig);
            let gone = Error::new(ErrorKind::Disconnected, "Connection reset by peer");
            let mishap = if lost_answer { Mishap::Lose(gone) } else { Mishap::Refuse(gone) };
            rig.sim.inject(Fault::new(op, mishap));
            let done = revert(&rig, "s1", options([("safety", false.into())])).await;
            // What is removed at the end of it is in nobody's way: all the rest is told.
            assert!(
                done.is_err() || op == Op::Discard,
                "{op:?}, answer lost: {lost_answer}: nothing was cut short"
            );
            rig.reconnect().await;
            let what = format!("{op:?}, answer lost: {lost_answer}, {done:?}");
            if op == Op::Discard && done.is_ok() {
                // It is done, but for a file that nobody needs.
                content(&rig, 1);
                continue;
            }
            settled(&rig, &before, &what);
            rig.client.create(id(1), "s3", none()).await.unwrap();
        }
    }
}

/// The daemon is killed at each step, and the next life's settling of it ends early at each step too.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_at_whatever_step_leaves_what_a_later_life_ends() {
    for first in STEPS {
        for second in STEPS {
            let mut rig = two(|_| {}).await;
            let before = world(&rig);
            let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(first, Mishap::Lose(gone)));
            let done = revert(&rig, "s1", options([("safety", false.into())])).await;
            assert!(done.is_err() || first == Op::Discard, "{first:?}: nothing was cut short");
            if done.is_ok() {
                continue;
            }
            rig.stop().await;
            rig.sim.connect();
            for hypervisor in [Hooked::panics_once(&rig.sim, second) as Arc<dyn Hypervisor>, rig.sim.clone()]
            {
                rig.hypervisor = hypervisor;
                rig.boot().await;
                rig.until_running().await;
                rig.stop().await;
            }
            settled(&rig, &before, &format!("{first:?}, then {second:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_that_would_end_badly_are_refused_before_anything_is_touched() {
    let rig = two(|sim| {
        sim.attach(id(1), DiskSpec { writable: false, ..DiskSpec::new("sda", "/images/cd") }).unwrap();
    })
    .await;
    let refused = async |name: &str, kind: &str, word: &str| {
        let before = world(&rig);
        let (got, text) = revert(&rig, name, none()).await.unwrap_err();
        assert_eq!(got, kind, "{text}");
        assert!(text.contains(word) && text.contains("web"), "{text}");
        assert_eq!(world(&rig), before);
    };
    rig.sim.block_job(id(1), true).unwrap();
    refused("s1", "Busy", "block job").await;
    rig.sim.block_job(id(1), false).unwrap();
    rig.sim.managed_save(id(1)).unwrap();
    refused("s1", "Unsupported", "managed save").await;
    rig.sim.start(id(1)).unwrap();
    // Which one it is would be proven, and put right, as soon as the VM is read.
    let full = Error::new(ErrorKind::Failed, "cannot write metadata: No space left on device");
    rig.sim.inject(Fault::new(Op::Redefine, Mishap::Refuse(full)));
    rig.sim.forget_current(id(1)).unwrap();
    refused("s1", "ChainMismatch", "current").await;
    let (error, text) = rig.client.create(id(1), "s3", none()).await.unwrap_err();
    assert_eq!(error, "ChainMismatch");
    assert!(text.contains("goes on from"), "{text}");
    // It was refused once, and is tried again when the VM is read.
    rig.clock.advance(SignedDuration::from_mins(10));
    rig.sim.set_tags(id(1), &["is-read"]).unwrap();
    rig.client
        .until(&vm_path(id(1)), "VM.CurrentSnapshot", |o: &zbus::OwnedObjectPath| o.as_str() != "/")
        .await;
    rig.client.create(id(1), "s3", none()).await.unwrap();
    let before = rig.sim.snapshots(id(1)).unwrap();
    rig.sim.merge_chain_behind(id(1), "vdb").unwrap();
    refused("s3", "ChainMismatch", "vdb").await;
    assert_eq!(rig.sim.snapshots(id(1)).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_no_snapshot_made_stays_when_a_revert_takes_the_vm_off_it() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&DISKS));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.client.create(id(1), "s2", options([("disks", vec!["vda"].into())])).await.unwrap();
    let other = "/images/other.qcow2";
    rig.sim.stop(id(1)).unwrap();
    rig.sim.make_image(other, "/images/web-vdb.qcow2").unwrap();
    rig.sim.point_definition_at(id(1), "vdb", other).unwrap();
    let tops = || world(&rig).chains.into_iter().map(|mut chain| chain.remove(0)).collect::<Vec<_>>();
    let off = || options([("safety", false.into()), ("state", "shut-off".into())]);
    let was = tops();
    assert_eq!(was[1], other);
    revert(&rig, "s1", off()).await.unwrap();
    assert!(rig.images().contains(&was[1]), "{:?}", rig.images());
    assert!(!rig.images().contains(&was[0]), "s2's own overlay is nobody's any more: {:?}", rig.images());
    // What a revert made goes with the next one, whatever this libvirt knows of it.
    let made = tops();
    revert(&rig, "s1", off()).await.unwrap();
    assert!(made.iter().all(|image| !rig.images().contains(image)), "{made:?}, {:?}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_other_vms_write_to_is_no_part_of_the_safety_snapshot() {
    let rig = Rig::start("", |sim| {
        let shared = DiskSpec { shared: true, ..DiskSpec::new("vdb", "/images/cluster") };
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda"]));
        sim.attach(id(1), shared).unwrap();
    })
    .await;
    let (error, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert!(error == "Unsupported" && text.contains("shared with others"), "{error}: {text}");
    rig.client.create(id(1), "s1", options([("disks", vec!["vda"].into())])).await.unwrap();
    revert(&rig, "s1", none()).await.unwrap();
    assert_eq!(rig.sim.snapshots(id(1)).unwrap().len(), 2, "with a way back");
    assert_eq!(world(&rig).chains[1], ["/images/cluster"]);
}
