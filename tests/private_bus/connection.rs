//! libvirt comes and goes.

use std::sync::Arc;

use virtsnap::hypervisor::sim::{Op, VmSpec};
use zbus::OwnedObjectPath;

use super::{
    client::{Failure, MANAGER, none},
    command_line::virtsnap,
    rig::{Rig, held, id, policy_path, snapshot_path, vm_path},
};

async fn lookup(rig: &Rig, name: &str) -> Result<String, Failure> {
    let (vm,): (OwnedObjectPath,) = rig.client.call(MANAGER, "Manager.LookupVM", &(name,)).await?;
    Ok(vm.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_libvirt_the_daemon_is_there_and_says_so_and_gets_to_work_when_it_comes() {
    let mut rig = Rig::without_daemon("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.disconnect("not started yet");
    })
    .await;
    rig.boot().await;
    assert!(!rig.client.get::<bool>(MANAGER, "Manager.HypervisorConnected").await);
    assert_eq!(rig.client.text(MANAGER, "Manager.HypervisorVersion").await, "");
    assert_eq!(rig.client.text(MANAGER, "Manager.HypervisorURI").await, "qemu:///system");
    assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "starting");
    // Which VMs there are is not known, so that there is no such one would be a lie.
    let (error, text) = lookup(&rig, "web").await.unwrap_err();
    assert_eq!(error, "Disconnected", "{text}");
    let (error, text) = rig.client.run("p", none()).await.unwrap_err();
    assert_eq!(error, "Disconnected", "{text}");

    rig.sim.connect();
    rig.until_running().await;
    assert!(rig.client.get::<bool>(MANAGER, "Manager.HypervisorConnected").await);
    assert_eq!(rig.client.text(MANAGER, "Manager.HypervisorURI").await, "sim:///system");
    assert_ne!(rig.client.text(MANAGER, "Manager.HypervisorVersion").await, "");
    assert_eq!(lookup(&rig, "web").await.unwrap(), vm_path(id(1)));
    rig.client.create(id(1), "s1", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_libvirt_was_away_is_seen_when_it_is_back() {
    let rig = Rig::start("", |sim| {
        for number in 1..=3 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    rig.sim.disconnect("libvirtd stopped");
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
    assert_eq!(lookup(&rig, "vm1").await.unwrap(), vm_path(id(1)), "what was known last is shown");
    rig.sim.stop(id(1)).unwrap();
    rig.sim.undefine(id(1)).unwrap();
    rig.sim.pause(id(2)).unwrap();
    rig.sim.make_foreign_snapshot(id(3), "theirs").unwrap();
    rig.sim.add_vm(VmSpec::new("new", 4));

    rig.sim.connect();
    rig.client.until_there(&vm_path(id(1)), false).await;
    rig.client.until_there(&vm_path(id(4)), true).await;
    rig.client.until(&vm_path(id(2)), "VM.State", |s: &String| s == "paused").await;
    rig.client.until(&vm_path(id(3)), "VM.ChainDepth", |d: &u32| *d == 2).await;
    assert_eq!(rig.client.snapshots(id(3)).await, ["theirs"]);
    assert!(rig.client.get::<bool>(MANAGER, "Manager.HypervisorConnected").await);
    assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_while_libvirt_is_away_is_refused_and_what_waited_before_waits_on() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.client.create(id(1), "s0", none()).await.unwrap();
    let gate = rig.sim.gate(Op::Create);
    rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    let cancelled = rig.client.ask_create(id(1), "s3", none()).await.unwrap();
    rig.sim.disconnect("libvirtd stopped");
    gate.open();
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
    let jobs = || async { rig.client.managed().await.into_keys().filter(|p| p.contains("/job/")).count() };
    let before = jobs().await;
    let (vm, s0) = (vm_path(id(1)), snapshot_path(id(1), "s0"));
    let (address, policy) = (rig.address(), policy_path("p"));
    for (path, method) in [
        (&vm, "VM.Prune"),
        (&vm, "VM.Promote"),
        (&vm, "VM.Adopt"),
        (&s0, "Snapshot.Delete"),
        (&s0, "Snapshot.Revert"),
        (&policy, "Policy.Run"),
    ] {
        let refused = rig.client.call::<_, ()>(path, method, &(none(),)).await;
        let (name, text) = refused.unwrap_err();
        assert_eq!(name, "Disconnected", "{method}: {text}");
        assert!(text.contains("nothing was begun"), "{method}: {text}");
    }
    assert_eq!(rig.client.ask_create(id(2), "s1", none()).await.unwrap_err().0, "Disconnected");
    // The client does not hang either, and scripts learn that it is worth another try.
    let (code, _, err) = virtsnap(&["--bus-address", &address, "create", "db"]).await;
    assert_eq!(code, Some(75), "{err}");
    assert!(err.contains("no connection to libvirt") && err.contains("hint: "), "{err}");
    assert_eq!(jobs().await, before, "a job was queued all the same");
    rig.client.call::<_, ()>(&cancelled, "Job.Cancel", &(none(),)).await.unwrap();

    rig.sim.connect();
    let made = rig.client.wait(&waiting).await.unwrap();
    assert_eq!(made, snapshot_path(id(1), "s2"));
    rig.until_running().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_no_such_vm_is_said_only_when_it_is_known() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let address = rig.address();
    let asked = async |verb: &[&str]| virtsnap(&[&["--bus-address", &address], verb].concat()).await;
    // Connected, and in the middle of looking at what there is.
    let sim = Arc::clone(&rig.sim);
    let gate = sim.gate_vm(Op::Vm, id(2));
    rig.boot().await;
    held(&gate);
    rig.client.until_there(&vm_path(id(1)), true).await;
    assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "starting");
    assert_eq!(lookup(&rig, "web").await.unwrap(), vm_path(id(1)));
    assert_eq!(lookup(&rig, "db").await.unwrap_err().0, "Disconnected");
    for verb in [&["list", "db"][..], &["plan", "db"], &["explain", "db"], &["delete", "db", "s", "--yes"]] {
        let (code, out, err) = asked(verb).await;
        assert_eq!(code, Some(75), "{verb:?}: {out}{err}");
        assert!(err.contains("starting") && !err.contains("there is no VM"), "{verb:?}: {err}");
    }
    gate.open();
    rig.until_running().await;
    assert_eq!(asked(&["list", "db"]).await.0, Some(0));
    assert_eq!(asked(&["list", "nobody"]).await.0, Some(3));

    rig.sim.disconnect("libvirtd stopped");
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
    assert_eq!(asked(&["list", "db"]).await.0, Some(0), "what was known last is shown");
    let (code, _, err) = asked(&["list", "nobody"]).await;
    assert_eq!(code, Some(75), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_goes_takes_its_waiting_jobs_with_it() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    rig.sim.stop(id(1)).unwrap();
    rig.sim.undefine(id(1)).unwrap();
    assert_eq!(rig.client.wait(&waiting).await.unwrap_err().0, "NoSuchVM");
    gate.open();
    assert_eq!(rig.client.wait(&running).await.unwrap_err().0, "NoSuchVM");
    rig.client.until_there(&vm_path(id(1)), false).await;
    assert!(rig.hypervisor.vms().unwrap().is_empty());
    assert!(rig.store().frozen().unwrap().is_empty());
}
