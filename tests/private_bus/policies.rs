//! Runs of policies, by hand and by the clock.

use std::collections::HashMap;

use jiff::SignedDuration;
use virtsnap::{core::model::VmState, hypervisor::sim::VmSpec};
use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant};

use super::{
    client::{none, options},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

const POLICIES: &str = r#"
[policy.p]
vms = ["vm*", "!vm4"]
keep-last = 2
quiesce = "require"
"#;

async fn four() -> Rig {
    Rig::start(POLICIES, |sim| {
        for number in 1..=4 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_a_snapshot_of_each_vm_and_prunes_the_oldest() {
    let rig = four().await;
    let mut all = Vec::new();
    for run in 1..=4_usize {
        // Names are made of the second, and used again.
        rig.clock.advance(SignedDuration::from_mins(1));
        let jobs = rig.client.run("p", none()).await.unwrap();
        assert_eq!(jobs.len(), 3);
        for job in &jobs {
            let made = rig.client.wait(job).await.unwrap();
            if made.starts_with(&vm_path(id(1))) {
                all.push(made);
            }
        }
        rig.client.until_idle().await;
        for vm in [id(1), id(2), id(3)] {
            rig.client
                .until(&vm_path(vm), "VM.ChainDepth", |d: &u32| *d == u32::try_from(run.min(2)).unwrap() + 1)
                .await;
            assert_eq!(rig.client.snapshots(vm).await.len(), run.min(2));
        }
    }
    assert_eq!(rig.client.snapshots(id(4)).await, [] as [String; 0]);
    let left = rig.client.managed().await;
    let there: Vec<bool> = all.iter().map(|path| left.contains_key(path)).collect();
    assert_eq!(there, [false, false, true, true], "the newest two stay");
    let newest = all.last().unwrap();
    assert_eq!(rig.client.objects(newest, "Snapshot.Policies").await, [policy_path("p")]);
    assert_eq!(rig.client.text(newest, "Snapshot.Consistency").await, "filesystem");
    assert!(rig.client.text(newest, "Snapshot.Name").await.starts_with("p-2040"));
    assert_eq!(rig.client.text(&policy_path("p"), "Policy.LastResult").await, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn which_file_systems_are_frozen_and_whether_what_did_not_change_is_left_out_is_shown() {
    let all = "[policy.all]\nvms = [\"web\"]\nkeep-last = 1\nmountpoints = \"all\"\nskip-unchanged = true\n";
    let some = "[policy.some]\nvms = [\"web\"]\nkeep-last = 1\nmountpoints = [\"/\", \"/srv\"]\n";
    let rig = Rig::start(&format!("{POLICIES}{all}{some}"), |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for (policy, mountpoints, skips) in
        [("p", &["auto"][..], false), ("all", &["all"], true), ("some", &["/", "/srv"], false)]
    {
        let path = policy_path(policy);
        let settings: HashMap<String, OwnedVariant> = rig.client.get(&path, "Policy.Settings").await;
        let shown = Vec::<String>::try_from(settings["mountpoints"].clone()).unwrap();
        assert_eq!(shown, mountpoints, "{policy}");
        assert_eq!(bool::try_from(settings["skip-unchanged"].clone()).unwrap(), skips, "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_for_one_vm_and_not_for_one_that_the_policy_does_not_select() {
    let rig = four().await;
    let on = |path: &str| options([("vm", ObjectPath::try_from(path.to_owned()).unwrap().into())]);
    let jobs = rig.client.run("p", on(&vm_path(id(2)))).await.unwrap();
    assert_eq!(jobs.len(), 1);
    rig.client.wait(&jobs[0]).await.unwrap();
    assert_eq!(rig.client.objects(&jobs[0], "Job.Objects").await[0], vm_path(id(2)));
    for (path, error) in [
        (vm_path(id(4)), "InvalidArgument"),
        (vm_path(id(9)), "NoSuchVM"),
        (policy_path("p"), "InvalidArgument"),
        ("/".to_owned(), "InvalidArgument"),
    ] {
        assert_eq!(rig.client.run("p", on(&path)).await.unwrap_err().0, error, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_one_vm_is_that_jobs_alone_and_rotates_nothing_out() {
    let rig = four().await;
    for _ in 0..2 {
        for job in rig.client.run("p", none()).await.unwrap() {
            rig.client.wait(&job).await.unwrap();
        }
    }
    rig.client.until_idle().await;
    let before = rig.client.snapshots(id(2)).await;
    rig.sim.agent_connected(id(2), false).unwrap();
    let mut results = Vec::new();
    for job in rig.client.run("p", none()).await.unwrap() {
        results.push(rig.client.wait(&job).await.map_err(|e| e.0).map(drop));
    }
    assert_eq!(results, [Ok(()), Err("QuiesceFailed".to_owned()), Ok(())]);
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(2)).await, before);
    let result = rig.client.until(&policy_path("p"), "Policy.LastResult", |r: &String| r == "failed").await;
    assert_eq!(result, "failed");
    let last = rig.client.text(&vm_path(id(2)), "VM.LastError").await;
    assert!(last.contains("vm2") && last.contains("agent"), "{last}");

    // The next run is one of its own.
    rig.sim.agent_connected(id(2), true).unwrap();
    rig.client.until(&vm_path(id(2)), "VM.AgentConnected", |c: &bool| *c).await;
    for job in rig.client.run("p", none()).await.unwrap() {
        rig.client.wait(&job).await.unwrap();
    }
    rig.client.until(&policy_path("p"), "Policy.LastResult", |r: &String| r == "done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_in_a_state_that_the_policy_is_not_for_is_left_out() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\nwhen = [\"running\"]\n", |sim| {
        sim.add_vm(VmSpec::new("on", 1));
        sim.add_vm(VmSpec::new("off", 2).in_state(VmState::ShutOff));
    })
    .await;
    let jobs = rig.client.run("p", none()).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        rig.client.wait(&jobs[0]).await.unwrap().split("/snapshot/").next(),
        Some(vm_path(id(1)).as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_fires_when_its_time_has_come() {
    let policies = r#"
        [policy.p]
        vms = ["*"]
        schedule = "5 12 * * *"
        keep-last = 1
        [policy.a]
        vms = ["tag:a"]
        [policy.c]
        vms = ["tag:c"]
    "#;
    let rig = Rig::start(policies, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let next = rig.client.get::<u64>(&policy_path("p"), "Policy.NextRunUSec").await;
    rig.clock.advance(SignedDuration::from_secs(4 * 60 + 30));
    // Anything that happens makes the daemon look at the clock; the real timer is not the test's.
    rig.sim.set_tags(id(1), &["a"]).unwrap();
    rig.client.until(&policy_path("a"), "Policy.VMs", |v: &Vec<OwnedObjectPath>| v.len() == 1).await;
    assert_eq!(
        rig.client.get::<u64>(&policy_path("p"), "Policy.LastRunUSec").await,
        0,
        "half a minute too early"
    );

    rig.clock.advance(SignedDuration::from_secs(31));
    rig.sim.set_tags(id(1), &["b"]).unwrap();
    rig.client.until(&policy_path("p"), "Policy.LastRunUSec", |at: &u64| *at == next).await;
    rig.client.until(&policy_path("p"), "Policy.LastResult", |r: &String| r == "done").await;
    rig.client.until_idle().await;
    let made = rig.client.snapshots(id(1)).await;
    assert_eq!(made.len(), 1);
    let made = snapshot_path(id(1), &made[0]);
    assert_eq!(rig.client.text(&made, "Snapshot.Origin").await, "schedule");
    let handled = rig.store().places().unwrap()[&"p".parse().unwrap()].handled;
    assert_eq!(u64::try_from(handled.as_microsecond()).unwrap(), next);
    let following = rig.client.get::<u64>(&policy_path("p"), "Policy.NextRunUSec").await;
    assert_eq!(following - next, 86_400 * 1_000_000);

    // Once is enough.
    rig.sim.set_tags(id(1), &["c"]).unwrap();
    rig.client.until(&policy_path("c"), "Policy.VMs", |v: &Vec<OwnedObjectPath>| v.len() == 1).await;
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 1);
}
