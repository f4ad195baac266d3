//! A daemon that ends in the middle of a policy's runs.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use virtsnap::hypervisor::{
    Hypervisor as _,
    sim::{Op, VmSpec},
};

use super::{
    client::{MANAGER, none, options},
    rig::{Rig, held, id, policy_path, vm_path},
};

const VMS: u128 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_the_queue_costs_no_vm_its_run_and_repeats_none() {
    let policies = "[policy.p]\nvms = [\"*\"]\nschedule = \"5 12 * * *\"\nkeep-last = 9\n";
    let mut rig = Rig::start(policies, |sim| {
        for number in 1..=VMS {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    let gate = rig.sim.gate(Op::Create);
    rig.clock.advance(SignedDuration::from_mins(6));
    // Anything that happens makes the daemon look at the clock.
    rig.sim.set_tags(id(1), &["a"]).unwrap();
    held(&gate);
    rig.tell_to_stop();
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "stopping").await;
    gate.open();
    rig.ended().await;
    let taken =
        |rig: &Rig| -> Vec<usize> { (1..=VMS).map(|n| rig.sim.snapshots(id(n)).unwrap().len()).collect() };
    let before: usize = taken(&rig).iter().sum();
    assert!(before < 12, "some are still owed: {before}");
    let owed: BTreeSet<_> =
        rig.store().owed().unwrap().into_values().flat_map(std::collections::BTreeMap::into_keys).collect();
    assert_eq!(owed.len() + before, 12);

    for _ in 0..2 {
        rig.clock.advance(SignedDuration::from_mins(10));
        rig.boot().await;
        rig.until_running().await;
        rig.client.until(&policy_path("p"), "Policy.NextRunUSec", |at: &u64| *at > 0).await;
        rig.client.until_idle().await;
        assert_eq!(taken(&rig), [1; 12]);
        rig.stop().await;
    }
    assert!(rig.store().owed().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_last_is_told_after_a_restart_too_until_it_works() {
    let mut rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("gone", 2));
    })
    .await;
    for number in [1, 2] {
        rig.sim.agent_connected(id(number), false).unwrap();
        rig.client.until(&vm_path(id(number)), "VM.AgentConnected", |c: &bool| !c).await;
        let required = options([("quiesce", "require".into())]);
        rig.client.create(id(number), "s", required).await.unwrap_err();
    }
    let told = rig.client.text(&vm_path(id(1)), "VM.LastError").await;
    assert!(told.contains("agent"), "{told}");
    rig.stop().await;
    rig.sim.stop(id(2)).unwrap();
    rig.sim.undefine(id(2)).unwrap();
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, told);
    // What it wrote down is there at its end at the latest.
    rig.stop().await;
    let failed: Vec<_> = rig.store().failed().unwrap().into_keys().collect();
    assert_eq!(failed, [id(1)], "who is gone is forgotten");
    rig.boot().await;
    rig.until_running().await;

    rig.client.create(id(1), "s", none()).await.unwrap();
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
}
