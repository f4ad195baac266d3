//! Snapshots with the VM's memory.

use std::sync::Arc;

use virtsnap::{
    core::model::VmState,
    hypervisor::{
        Agent, Error, ErrorKind, Hypervisor, Tpm,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
};

use super::{
    client::{MANAGER, none, options},
    command_line::virtsnap,
    hooked::Hooked,
    rig::{Rig, held, id, policy_path, snapshot_path, vm_path},
};

/// How much the simulator's VMs have.
const RAM: u64 = 128 << 20;

pub(super) async fn web(arrange: impl FnOnce(VmSpec) -> VmSpec) -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(arrange(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]).with_agent(Agent::Connected)));
    })
    .await
}

async fn create(rig: &Rig, name: &str, memory: &'static str) -> Result<String, (String, String)> {
    rig.client.create(id(1), name, options([("memory", memory.into())])).await
}

/// Content, what was reached, what had been asked for, and why they differ.
pub(super) async fn told(rig: &Rig, name: &str) -> [String; 4] {
    let path = snapshot_path(id(1), name);
    rig.client.until_there(&path, true).await;
    let mut all = [const { String::new() }; 4];
    for (text, property) in
        all.iter_mut().zip(["Content", "Consistency", "ConsistencyRequested", "ConsistencyNote"])
    {
        *text = rig.client.text(&path, &format!("Snapshot.{property}")).await;
    }
    all
}

pub(super) fn kept(sim: &Sim) -> Vec<String> {
    sim.files().into_keys().filter(|path| path.ends_with(".memory")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_without_a_freeze_and_counts_and_goes_with_its_snapshot() {
    let rig = web(|vm| vm).await;
    rig.sim.clear_calls();
    create(&rig, "s1", "prefer").await.unwrap();
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Create], "nothing is frozen");
    assert_eq!(told(&rig, "s1").await, ["full", "memory", "memory", ""]);
    let path = snapshot_path(id(1), "s1");
    for property in ["SizeBytes", "HeldBytes"] {
        let bytes = rig.client.get::<u64>(&path, &format!("Snapshot.{property}")).await;
        assert!((RAM..2 * RAM).contains(&bytes), "{property}: {bytes}");
    }
    assert_eq!(kept(&rig.sim).len(), 1);
    assert!(kept(&rig.sim)[0].starts_with("/images/virtsnap-"), "beside its images: {:?}", kept(&rig.sim));

    create(&rig, "s2", "never").await.unwrap();
    assert_eq!(told(&rig, "s2").await, ["disk", "filesystem", "filesystem", ""]);
    rig.client.job(&path, "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(kept(&rig.sim), [] as [String; 0]);
    let (error, text) = create(&rig, "s3", "perhaps").await.unwrap_err();
    assert!(error == "InvalidArgument" && text.contains("memory") && text.contains("prefer"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_kept_prefer_takes_the_disks_and_require_nothing() {
    let rig = web(|vm| VmSpec { migratable: false, ..vm }).await;
    let images = rig.images();
    let (error, text) = create(&rig, "s1", "require").await.unwrap_err();
    assert_eq!(error, "NotMigratable", "{text}");
    for part in ["snapshot s1 of VM web", "cannot migrate domain", "runs on as before"] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    assert_eq!(rig.images(), images);
    assert_eq!(rig.store().intents().unwrap(), []);

    rig.sim.clear_calls();
    create(&rig, "s1", "prefer").await.unwrap();
    // On the overlays that are there, and frozen as always.
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Create, Op::Freeze, Op::Create, Op::Thaw]);
    let [content, reached, requested, note] = told(&rig, "s1").await;
    assert_eq!([content, reached, requested], ["disk", "filesystem", "memory"]);
    assert!(
        note.starts_with("the memory was not kept: ") && note.contains("cannot migrate domain"),
        "{note}"
    );
    assert_eq!(rig.images().len(), images.len() + 2);
    assert_eq!(rig.store().intents().unwrap(), []);
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_for_it_is_looked_for_before_anything_is_touched() {
    let rig = web(|vm| vm).await;
    rig.sim.set_capacity(RAM);
    let (error, text) = create(&rig, "s1", "require").await.unwrap_err();
    assert_eq!(error, "NoSpace", "{text}");
    assert!(text.contains("VM web") && text.contains("128 MiB") && text.contains("min-free"), "{text}");
    assert_eq!(rig.sim.changes(), []);
    create(&rig, "s1", "prefer").await.unwrap();
    let [content, reached, _, note] = told(&rig, "s1").await;
    assert_eq!([content, reached], ["disk", "filesystem"]);
    assert!(note.contains("min-free"), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_asks_for_it_too() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
        sim.add_vm(VmSpec::new("off", 3).in_state(VmState::ShutOff));
        sim.add_vm(VmSpec { migratable: false, ..VmSpec::new("fixed", 4) });
    })
    .await;
    rig.write_policies("[policy.p]\nvms = [\"*\"]\nmemory = \"require\"\n");
    rig.boot().await;
    rig.until_running().await;
    let mut results = Vec::new();
    for job in rig.client.run("p", none()).await.unwrap() {
        let vm = rig.client.objects(&job, "Job.Objects").await.remove(0);
        results.push((vm, rig.client.wait(&job).await.map(drop).map_err(|e| e.0)));
    }
    results.sort();
    let failed = |vm, error: &str| (vm_path(id(vm)), Err(error.to_owned()));
    let done = |vm| (vm_path(id(vm)), Ok(()));
    assert_eq!(results, [done(1), done(2), failed(3, "Unsupported"), failed(4, "NotMigratable")]);
    rig.client.until(&policy_path("p"), "Policy.LastResult", |r: &String| r == "failed").await;
    assert_eq!(kept(&rig.sim).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_fails_or_is_killed_at_any_step_leaves_no_file_that_nobody_owns() {
    for op in [Op::Prepare, Op::Create] {
        for lost_answer in [false, true] {
            let rig = web(|vm| vm).await;
            let images = rig.images();
            let gone = Error::new(ErrorKind::Disconnected, "Connection reset by peer");
            let mishap = if lost_answer { Mishap::Lose(gone) } else { Mishap::Refuse(gone) };
            rig.sim.inject(Fault::new(op, mishap));
            create(&rig, "s1", "require").await.unwrap_err();
            rig.sim.connect();
            rig.until_running().await;
            rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
            let what = format!("{op:?}, answer lost: {lost_answer}");
            assert_eq!(rig.store().intents().unwrap(), [], "{what}");
            if op == Op::Create && lost_answer {
                assert_eq!(told(&rig, "s1").await, ["full", "memory", "memory", ""]);
                assert_eq!(kept(&rig.sim).len(), 1, "{what}");
            } else {
                assert_eq!(rig.images(), images, "{what}");
            }
            create(&rig, "s2", "require").await.unwrap();
        }
    }
    for op in [Op::Space, Op::Prepare, Op::Create] {
        let mut rig = web(|vm| vm).await;
        rig.stop().await;
        rig.hypervisor = Hooked::panics_once(&rig.sim, op);
        rig.boot().await;
        rig.until_running().await;
        let done = create(&rig, "s1", "require").await;
        rig.stop().await;
        rig.hypervisor = rig.sim.clone() as Arc<dyn Hypervisor>;
        rig.boot().await;
        rig.until_running().await;
        assert_eq!(rig.store().intents().unwrap(), [], "{op:?}");
        let owned: Vec<_> =
            rig.sim.snapshots(id(1)).unwrap().into_iter().filter_map(|s| s.memory_file).collect();
        assert_eq!(kept(&rig.sim), owned, "{op:?}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_libvirtd_wrote_of_it_is_removed() {
    let rig = web(|vm| vm).await;
    let images = rig.images();
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", options([("memory", "require".into())])).await.unwrap();
    held(&gate);
    let intent = rig.store().intents().unwrap().remove(0);
    let file = intent.overlays.iter().find(|path| path.ends_with(".memory")).unwrap();
    rig.sim.disconnect("libvirtd was killed");
    assert_eq!(rig.client.wait(&job).await.unwrap_err().0, "Disconnected");
    drop(gate);
    rig.sim.put_file(file, 1 << 20);
    rig.sim.connect();
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| *c).await;
    rig.until_running().await;
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.images(), images);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_says_what_became_of_it() {
    let rig = web(|vm| VmSpec { migratable: false, ..vm }).await;
    let address = rig.address();
    let run = async |args: &[&str]| {
        virtsnap(&[&["--bus-address", &address, "create", "web", "--memory"], args].concat()).await
    };
    let (code, out, err) = run(&["prefer", "--name", "s1"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("asked for memory, got filesystem: the memory was not kept: "), "{out}");
    let (code, _, err) = run(&["require", "--name", "s2"]).await;
    assert_ne!(code, Some(0));
    assert!(
        err.contains("cannot migrate domain") && err.contains("memory \"prefer\" keeps the disks"),
        "{err}"
    );
}

/// A running VM with s1, taken in the middle of what it did, and newer on its disks and in its memory.
async fn lived() -> Rig {
    let rig = web(|vm| vm).await;
    for value in [1, 2] {
        assert!(rig.sim.write(id(1), "vda", 0, value) && rig.sim.work(id(1)));
        if value == 1 {
            create(&rig, "s1", "require").await.unwrap();
        }
    }
    rig
}

/// Its state, what its disk holds, and what its memory knows.
fn now(rig: &Rig) -> (VmState, u64, u64) {
    let disk = rig.sim.read(id(1), "vda").unwrap()[&0];
    (rig.sim.vm(id(1)).unwrap().state, disk, rig.sim.ram(id(1)).unwrap())
}

async fn revert(rig: &Rig, state: &'static str) -> Result<String, (String, String)> {
    let options = options([("state", state.into()), ("safety", false.into())]);
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Revert", options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_goes_on_from_it_as_asked() {
    for (state, after) in [
        ("as-before", (VmState::Running, 1, 1)),
        ("running", (VmState::Running, 1, 1)),
        ("paused", (VmState::Paused, 1, 1)),
        ("shut-off", (VmState::ShutOff, 1, 0)),
    ] {
        for before in [VmState::Running, VmState::ShutOff] {
            let rig = lived().await;
            if before == VmState::ShutOff {
                rig.sim.stop(id(1)).unwrap();
            }
            revert(&rig, state).await.unwrap();
            assert_eq!(now(&rig), after, "{state} from {before}");
            assert_eq!(kept(&rig.sim).len(), 1, "it can be gone back to again");
        }
    }
}

const STEPS: [Op; 6] = [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Resume, Op::Discard];

/// Either as before, but for what the plug cost, or reverted: and nothing left to do, and no file of nobody.
fn settled(rig: &Rig, images: usize, what: &str) {
    assert_eq!(rig.store().intents().unwrap(), [], "{what}");
    let now = now(rig);
    assert!(matches!(now, (VmState::Running, 2, 0 | 2) | (VmState::Running, 1, 1)), "{what}: it is {now:?}");
    assert_eq!(rig.images().len(), images, "{what}: {:?}", rig.images());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_going_on_from_it_that_fails_is_taken_back() {
    for op in [Op::PrepareOn, Op::Stop, Op::Define, Op::Redefine, Op::Resume] {
        let rig = lived().await;
        let images = rig.images().len();
        rig.sim.fail_next(op, Error::new(ErrorKind::Failed, "on request"));
        let (_, text) = revert(&rig, "as-before").await.unwrap_err();
        assert!(text.contains("on request") && text.contains("as before"), "{op:?}: {text}");
        assert_eq!(now(&rig).1, 2, "{op:?}");
        settled(&rig, images, &format!("{op:?}"));
        revert(&rig, "as-before").await.unwrap();
        assert_eq!(now(&rig), (VmState::Running, 1, 1));
    }
}

/// The daemon is killed at each step, and the next life's settling of it ends early at each step too.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_while_it_goes_on_from_it_leaves_what_a_later_life_ends() {
    for first in STEPS {
        for second in STEPS {
            let mut rig = lived().await;
            let images = rig.images().len();
            let gone = Error::new(ErrorKind::Disconnected, "the daemon was killed");
            rig.sim.inject(Fault::new(first, Mishap::Lose(gone)));
            let done = revert(&rig, "as-before").await;
            if first == Op::Discard && done.is_ok() {
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
            let what = format!("{first:?}, then {second:?}");
            if now(&rig) == (VmState::ShutOff, 1, 0) {
                // It may have gone on and written since: memory that went on once more would not fit its disks.
                assert_eq!(second, Op::Resume, "{what}");
                rig.sim.start(id(1)).unwrap();
                assert_eq!(
                    (rig.store().intents().unwrap(), rig.images().len()),
                    (Vec::new(), images),
                    "{what}"
                );
                continue;
            }
            settled(&rig, images, &what);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_emulated_tpm_is_kept_with_it_alone() {
    let rig = web(|vm| VmSpec { tpm: Some(Tpm { state: None }), ..vm }).await;
    create(&rig, "s1", "never").await.unwrap();
    let [_, reached, requested, note] = told(&rig, "s1").await;
    assert_eq!([reached, requested], ["filesystem", "filesystem"]);
    assert!(note.contains("TPM was not kept"), "{note}");
    create(&rig, "s2", "require").await.unwrap();
    assert_eq!(told(&rig, "s2").await, ["full", "memory", "memory", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_of_it_is_written_is_told_while_it_is() {
    let rig = web(|vm| vm).await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", options([("memory", "require".into())])).await.unwrap();
    held(&gate);
    rig.client.until(&job, "Job.BytesDone", |bytes: &u64| *bytes == RAM / 4).await;
    assert_eq!(rig.client.get::<u64>(&job, "Job.BytesTotal").await, RAM);
    assert_eq!(rig.client.text(&job, "Job.Phase").await, "saving the memory");
    assert!((rig.client.get::<f64>(&job, "Job.Progress").await - 0.25).abs() < 0.01);
    gate.open();
    rig.client.wait(&job).await.unwrap();
    assert_eq!(told(&rig, "s1").await[0], "full");
}
