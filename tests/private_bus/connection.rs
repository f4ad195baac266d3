//! libvirt comes and goes.

use virtsnap::hypervisor::sim::{Op, VmSpec};
use zbus::OwnedObjectPath;

use super::{
    client::{Failure, MANAGER, none},
    rig::{Rig, held, id, vm_path},
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
async fn what_is_asked_while_libvirt_is_away_ends_one_way_or_the_other() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.sim.disconnect("libvirtd stopped");
    rig.client.until(MANAGER, "Manager.HypervisorConnected", |c: &bool| !c).await;
    rig.sim.stop(id(2)).unwrap();
    rig.sim.undefine(id(2)).unwrap();
    let mut jobs = Vec::new();
    for vm in [id(1), id(2)] {
        match rig.client.ask_create(vm, "s1", none()).await {
            Ok(job) => jobs.push(job),
            Err((name, text)) => assert_eq!(name, "Disconnected", "{text}"),
        }
    }
    rig.sim.connect();
    // Refused at once is an end, too; what was taken on must not wait for ever.
    for job in jobs {
        match rig.client.wait(&job).await {
            Ok(made) => assert!(made.starts_with(&vm_path(id(1))), "{made}"),
            Err((name, text)) => assert_eq!(name, "NoSuchVM", "{text}"),
        }
    }
    rig.until_running().await;
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
