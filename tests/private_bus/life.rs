//! The daemon's and its jobs' own lives: stopping, being the only one, forgetting.

use std::sync::Arc;

use futures_util::StreamExt as _;
use jiff::SignedDuration;
use virtsnap::{
    clock::Clock,
    daemon,
    freeze::helper::Nobody,
    hypervisor::{
        Hypervisor,
        sim::{Op, Sim, VmSpec},
    },
};
use zbus::OwnedObjectPath;

use super::{
    client::{MANAGER, none, soon},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_is_at_work_and_the_next_start_does_what_waits() {
    let mut rig = Rig::start("[policy.p]\nvms = [\"*\"]\nkeep-last = 1\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    let waits = |job: &String| {
        let (client, job) = (rig.client.clone(), job.clone());
        tokio::spawn(async move { client.wait(&job).await })
    };
    let (for_running, for_waiting) = (waits(&running), waits(&waiting));
    let asked: u64 = rig.client.get(&waiting, "Job.StartUSec").await;
    rig.tell_to_stop();
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "stopping").await;
    assert_eq!(rig.client.ask_create(id(1), "s3", none()).await.unwrap_err().0, "Stopping");
    assert_eq!(rig.client.run("p", none()).await.unwrap_err().0, "Stopping");
    assert_eq!(rig.sim.frozen(id(1)).unwrap().len(), 1, "it is in the middle of it");
    gate.open();
    rig.ended().await;
    assert!(rig.sim.frozen(id(1)).unwrap().is_empty());
    assert!(rig.store().frozen().unwrap().is_empty());
    assert_eq!(rig.store().intents().unwrap(), []);
    let names: Vec<String> = rig.sim.snapshots(id(1)).unwrap().iter().map(|r| r.name.to_string()).collect();
    assert_eq!(names, ["s1"]);
    let told = soon("the answer to Wait", for_running).await.unwrap();
    assert!(told.is_ok(), "whoever waits is told before the daemon goes: {told:?}");
    let (name, text) = soon("the answer to Wait", for_waiting).await.unwrap().unwrap_err();
    assert_eq!(name, "Deferred");
    assert!(text.contains("VM web") && text.contains("the daemon stops"), "{text}");
    rig.boot().await;
    assert_eq!(rig.client.get::<u64>(&waiting, "Job.StartUSec").await, asked, "the same job");
    assert_eq!(rig.client.wait(&waiting).await.unwrap().as_str(), snapshot_path(id(1), "s2"));
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.sim.snapshots(id(1)).unwrap().len(), 2, "done once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_it_ends_what_runs_and_then_itself_as_failed() {
    let mut rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let sim = Arc::clone(&rig.sim);
    let gate = sim.gate(Op::Create);
    rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let (said, ()) = tokio::join!(rig.bus_goes(), async { gate.open() });
    assert!(said.contains("the connection to D-Bus was lost"), "{said}");
    assert!(sim.frozen(id(1)).unwrap().is_empty());
    assert_eq!(sim.snapshots(id(1)).unwrap().len(), 1, "what ran came to its end");
}

/// As in a process, nothing of the daemon goes on when it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_last_job_is_told_before_the_process_ends() {
    let rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let (hypervisor, clock) = (Arc::clone(&rig.hypervisor), Arc::clone(&rig.clock) as Arc<dyn Clock>);
    let access = Arc::clone(&rig.access) as Arc<dyn virtsnap::access::Access>;
    let (ready, control) =
        daemon::prepare(rig.options(), hypervisor, access, Arc::new(Nobody), clock).unwrap();
    let process = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(ready.run()));
    rig.client.until_name_is(true).await;
    rig.until_running().await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waits = (0..20).map(|_| {
        let (client, job) = (rig.client.clone(), job.clone());
        tokio::spawn(async move { client.wait(&job).await })
    });
    let waits: Vec<_> = waits.collect();
    control.stop();
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "stopping").await;
    gate.open();
    let made = snapshot_path(id(1), "s1");
    for wait in waits {
        assert_eq!(soon("the answer to Wait", wait).await.unwrap(), Ok(made.clone()));
    }
    let end = tokio::task::spawn_blocking(|| process.join().unwrap());
    soon("the daemon's end", end).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_nothing_to_do_is_at_once_and_a_start_goes_on_from_there() {
    let mut rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    let snapshot = snapshot_path(id(1), "s1");
    assert_eq!(rig.client.text(&snapshot, "Snapshot.Consistency").await, "filesystem");
    assert!(rig.client.get::<u64>(&snapshot, "Snapshot.FrozenUSec").await > 0);
    assert_eq!(rig.client.create(id(1), "s1", none()).await.unwrap_err().0, "Exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_state_or_bus_fails_and_touches_nothing() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    // It would share the first one's state, in which a guest is frozen and a snapshot is being made.
    let other = Arc::new(Sim::new());
    other.add_vm(VmSpec::new("web", 1));
    other.freeze(id(1), None, std::time::Duration::from_secs(1)).unwrap();
    other.clear_calls();
    let clock = Arc::clone(&rig.clock) as Arc<dyn Clock>;
    let hypervisor = Arc::clone(&other) as Arc<dyn Hypervisor>;
    let access = Arc::clone(&rig.access) as Arc<dyn virtsnap::access::Access>;
    let mut options = rig.options();
    options.settings.daemon.uri = "sim:other".to_owned();
    let before = rig.store().uri().unwrap();
    let prepare = |options| {
        let (hypervisor, access) = (Arc::clone(&hypervisor), Arc::clone(&access));
        daemon::prepare(options, hypervisor, access, Arc::new(Nobody), Arc::clone(&clock))
    };
    let error = prepare(options).unwrap_err();
    assert!(error.is::<daemon::Another>(), "{error:#}");
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error:#}");
    assert_eq!(rig.store().uri().unwrap(), before, "a thaw goes by it");
    // One with a state of its own fails later, and does as little.
    let elsewhere = rig.directory().join("elsewhere");
    let (ready, _control) = prepare(daemon::Options { state: elsewhere, ..rig.options() }).unwrap();
    let error = soon("the second daemon's end", ready.run()).await.unwrap_err();
    assert!(error.to_string().contains("does another virtsnapd run"), "{error:#}");
    assert_eq!(other.calls(), [], "it has no right to thaw, to clean up, or to fire");
    assert_eq!(rig.store().frozen().unwrap(), [id(1)].into());
    gate.open();
    rig.client.wait(&job).await.unwrap();
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_stay_for_ten_minutes_and_then_the_newest_64_do() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for _ in 0..70 {
        rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    }
    let jobs = async || rig.client.managed().await.keys().filter(|p| p.contains("/job/")).count();
    assert_eq!(jobs().await, 70, "none of them is ten minutes old");
    let mut signals = rig.client.signals().await;
    rig.clock.advance(SignedDuration::from_mins(10));
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until_there(&format!("{MANAGER}/job/7"), false).await;
    assert_eq!(jobs().await, 64);
    // Each goes with its own signal, and none that stays does.
    let mut removed = Vec::new();
    soon("JobRemoved", async {
        while removed.len() < 7 {
            let message = signals.next().await.unwrap().unwrap();
            if message.header().member().is_some_and(|m| m.as_str() == "JobRemoved") {
                let (number, path, result): (u32, OwnedObjectPath, String) =
                    message.body().deserialize().unwrap();
                assert_eq!(path.as_str(), format!("{MANAGER}/job/{number}"));
                removed.push((number, result));
            }
        }
    })
    .await;
    assert_eq!(removed, (1..=7).map(|n| (n, "done".to_owned())).collect::<Vec<_>>());
    let (error, _) = rig.client.wait(&format!("{MANAGER}/job/1")).await.unwrap_err();
    assert_eq!(error, "org.freedesktop.DBus.Error.UnknownObject");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirt_that_does_not_answer_holds_up_nobody_who_asks() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let gate = rig.sim.gate(Op::Snapshots);
    rig.sim.set_tags(id(1), &["a"]).unwrap();
    held(&gate);
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.Name").await, "web");
    assert!(rig.client.managed().await.contains_key(vm_path(id(2)).as_str()));
    let job = rig.client.ask_create(id(2), "s1", none()).await.unwrap();
    assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "running");
    gate.open();
    rig.client.wait(&job).await.unwrap();
}
