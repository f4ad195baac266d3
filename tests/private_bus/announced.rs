//! Operations that a program announces, and the policies that run before them.

use virtsnap::hypervisor::sim::{Op, VmSpec};
use zbus::{ObjectPath, OwnedObjectPath};

use super::{
    client::{Failure, MANAGER, none, options},
    rig::{Rig, held, id, policy_path, snapshot_path, vm_path},
};

const POLICIES: &str = r#"
[policy.careful]
vms = ["*"]
before = ["upgrade", "delete"]
name = "{operation}-{policy}-{sequence}"
keep-last = 2
[policy.twin]
vms = ["web"]
before = "upgrade"
[policy.frozen]
vms = ["web"]
before = "upgrade"
quiesce = "never"
[policy.nightly]
vms = ["*"]
schedule = "30 2 * * *"
"#;

async fn two() -> Rig {
    Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await
}

async fn announce(rig: &Rig, vm: &str, operation: &str) -> Result<Vec<String>, Failure> {
    let vm = ObjectPath::try_from(vm).unwrap();
    let body = (vm, operation, none());
    let (jobs,): (Vec<OwnedObjectPath>,) = rig.client.call(MANAGER, "Manager.BeforeOperation", &body).await?;
    Ok(jobs.iter().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_that_list_it_run_on_that_vm_and_share_what_is_the_same() {
    let rig = two().await;
    let jobs = announce(&rig, &vm_path(id(1)), "upgrade").await.unwrap();
    assert_eq!(jobs.len(), 2, "what is not frozen is another snapshot");
    let mut made = Vec::new();
    for job in &jobs {
        assert_eq!(rig.client.text(job, "Job.Origin").await, "operation");
        made.push(rig.client.wait(job).await.unwrap());
    }
    assert_eq!(made[0], snapshot_path(id(1), "upgrade-careful+twin-1"));
    for snapshot in &made {
        rig.client.until_there(snapshot, true).await;
        assert_eq!(rig.client.text(snapshot, "Snapshot.Origin").await, "operation");
    }
    let policies = rig.client.objects(&made[0], "Snapshot.Policies").await;
    assert_eq!(policies, [policy_path("careful"), policy_path("twin")]);
    assert_eq!(rig.client.get::<u64>(&policy_path("nightly"), "Policy.LastRunUSec").await, 0);
    rig.client.until_idle().await;
    assert_eq!(rig.client.text(&policy_path("careful"), "Policy.LastResult").await, "done");
    assert_eq!(rig.client.snapshots(id(2)).await, [] as [String; 0]);
    let jobs = announce(&rig, &vm_path(id(2)), "delete").await.unwrap();
    assert_eq!(rig.client.wait(&jobs[0]).await.unwrap(), snapshot_path(id(2), "delete-careful-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_done_at_once_though_suspended_or_inhibited_and_twice_is_once() {
    let rig = two().await;
    let why = ("", none());
    let () = rig.client.call(&policy_path("careful"), "Policy.Suspend", &why).await.unwrap();
    let body = ("backup", "", none());
    let (_fd,): (zbus::OwnedFd,) = rig.client.call(MANAGER, "Manager.Inhibit", &body).await.unwrap();
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(2), "first", none()).await.unwrap();
    held(&gate);
    let jobs = announce(&rig, &vm_path(id(2)), "delete").await.unwrap();
    assert_eq!(announce(&rig, &vm_path(id(2)), "delete").await.unwrap(), jobs);
    gate.open();
    rig.client.wait(&running).await.unwrap();
    for job in &jobs {
        rig.client.wait(job).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_runs_before_has_no_jobs_and_what_is_wrong_is_refused() {
    let rig = two().await;
    assert_eq!(announce(&rig, &vm_path(id(2)), "reboot").await.unwrap(), [] as [String; 0]);
    for operation in ["", "Upgrade", "{vm}", "a b", "-x", &"x".repeat(33)] {
        let (name, text) = announce(&rig, &vm_path(id(1)), operation).await.unwrap_err();
        assert!(name == "InvalidArgument" && text.contains("lower-case"), "{operation}: {name}: {text}");
    }
    assert_eq!(announce(&rig, &vm_path(id(9)), "upgrade").await.unwrap_err().0, "NoSuchVM");
    assert_eq!(announce(&rig, MANAGER, "upgrade").await.unwrap_err().0, "InvalidArgument");
    let vm = ObjectPath::try_from(vm_path(id(1))).unwrap();
    let body = (vm, "upgrade", options([("all", true.into())]));
    let unknown: Result<(Vec<OwnedObjectPath>,), _> =
        rig.client.call(MANAGER, "Manager.BeforeOperation", &body).await;
    assert_eq!(unknown.unwrap_err().0, "InvalidArgument");
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [String; 0]);
}
