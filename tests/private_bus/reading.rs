//! What is to be seen.

use std::collections::HashMap;

use virtsnap::{
    core::model::VmState,
    hypervisor::{
        Agent,
        sim::{BLOCK, VmSpec},
    },
};
use zbus::{OwnedObjectPath, OwnedVariant};

use super::{
    client::{Failure, MANAGER, none, options},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

const POLICIES: &str = r#"
[policy.nightly]
vms = ["web*"]
schedule = "30 2 * * *"
keep-last = 3
keep-daily = 7
max-count = 20
max-size = "2GiB"
max-age = "400d"
max-delete = 5

[policy.by-hand]
vms = ["*"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_object_manager_lists_vms_snapshots_policies_and_jobs() {
    let rig = Rig::start(POLICIES, |sim| {
        let web = sim.add_vm(VmSpec::new("web 1\n<&>", 1).with_disks(&["vda", "vdb"]));
        sim.make_foreign_snapshot(web, "their's\n1").unwrap();
        sim.add_vm(VmSpec::new("db", 2).in_state(VmState::ShutOff).with_agent(Agent::Absent));
    })
    .await;
    let job = rig.client.ask_create(id(2), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    rig.client.until_there(&snapshot_path(id(2), "s1"), true).await;

    let mut seen: Vec<(String, String)> = Vec::new();
    for (path, interfaces) in rig.client.managed().await {
        seen.extend(interfaces.into_keys().map(|i| (path.clone(), i)));
    }
    let mut expected = [
        (vm_path(id(1)), "VM"),
        (snapshot_path(id(1), "their's\n1"), "Snapshot"),
        (vm_path(id(2)), "VM"),
        (snapshot_path(id(2), "s1"), "Snapshot"),
        (policy_path("nightly"), "Policy"),
        (policy_path("by-hand"), "Policy"),
        (job, "Job"),
    ]
    .map(|(path, interface)| (path, format!("org.virtsnap1.{interface}")));
    expected.sort();
    // An object manager lists what is below it, so not the daemon itself.
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sees_that_the_daemon_runs_sees_all_vms_too() {
    let mut rig = Rig::without_daemon("", |sim| {
        for number in 1..=50 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    rig.boot().await;
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "running").await;
    let vms = rig.client.managed().await.into_values().filter(|i| i.contains_key("org.virtsnap1.VM"));
    assert_eq!(vms.count(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_found_by_name_and_by_uuid_and_an_unknown_one_is_not() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web 1\n<&>", 0xAB));
        // Whoever calls a VM so means it: a name wins over a UUID.
        sim.add_vm(VmSpec::new(&id(0xAB).to_string(), 2));
        sim.add_vm(VmSpec::new("db", 3));
    })
    .await;
    let lookup = async |text: &str| -> Result<String, Failure> {
        let (vm,): (OwnedObjectPath,) = rig.client.call(MANAGER, "Manager.LookupVM", &(text,)).await?;
        Ok(vm.to_string())
    };
    assert_eq!(lookup("web 1\n<&>").await.unwrap(), vm_path(id(0xAB)));
    assert_eq!(lookup(&id(3).to_string()).await.unwrap(), vm_path(id(3)));
    assert_eq!(lookup(&id(3).to_string().to_uppercase()).await.unwrap(), vm_path(id(3)));
    for unknown in ["", "we", "WEB", "nobody", &id(9).to_string()] {
        let (name, text) = lookup(unknown).await.unwrap_err();
        assert_eq!(name, "NoSuchVM");
        assert!(text.contains(&format!("{unknown:?}")), "{text}");
    }
    assert_eq!(lookup(&id(0xAB).to_string()).await.unwrap(), vm_path(id(2)), "a name wins over a UUID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_says_how_it_is() {
    let rig = Rig::start(POLICIES, |sim| {
        let web = sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        sim.make_foreign_snapshot(web, "theirs").unwrap();
        assert!(sim.write(web, "vda", 0, 1));
    })
    .await;
    let vm = vm_path(id(1));
    let text = async |property| rig.client.text(&vm, property).await;
    assert_eq!(text("VM.Name").await, "web");
    assert_eq!(text("VM.UUID").await, id(1).to_string());
    assert_eq!(text("VM.State").await, "running");
    assert_eq!(text("VM.LastError").await, "");
    assert_eq!(rig.client.object(&vm, "VM.CurrentSnapshot").await, snapshot_path(id(1), "theirs"));
    assert_eq!(
        rig.client.objects(&vm, "VM.Policies").await,
        [policy_path("by-hand"), policy_path("nightly")]
    );
    assert!(rig.client.get::<bool>(&vm, "VM.AgentConnected").await);
    assert!(!rig.client.get::<bool>(&vm, "VM.Frozen").await);
    assert_eq!(rig.client.get::<u32>(&vm, "VM.ChainDepth").await, 2);
    assert_eq!(rig.client.get::<u64>(&vm, "VM.SnapshotBytes").await, 7 * BLOCK);
    assert_eq!(rig.client.get::<u64>(&vm, "VM.LastSuccessUSec").await, 0, "theirs is no success of ours");

    rig.sim.agent_connected(id(1), false).unwrap();
    rig.client.until(&vm, "VM.AgentConnected", |c: &bool| !c).await;
    rig.sim.stop(id(1)).unwrap();
    rig.client.until(&vm, "VM.State", |s: &String| s == "shut-off").await;
    rig.sim.rename(id(1), "db").unwrap();
    rig.client.until(&vm, "VM.Name", |n: &String| n == "db").await;
    let policies = |p: &Vec<OwnedObjectPath>| p.len() == 1;
    rig.client.until(&vm, "VM.Policies", policies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_says_what_its_file_says_under_the_same_names() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let policy = policy_path("nightly");
    assert_eq!(rig.client.text(&policy, "Policy.Name").await, "nightly");
    assert_eq!(rig.client.get::<Vec<String>>(&policy, "Policy.Schedule").await, ["30 2 * * *"]);
    assert_eq!(rig.client.text(&policy, "Policy.Timezone").await, "UTC");
    assert_eq!(rig.client.objects(&policy, "Policy.VMs").await, [vm_path(id(1))]);
    assert_eq!(rig.client.text(&policy, "Policy.LastResult").await, "");
    assert_eq!(rig.client.get::<u64>(&policy, "Policy.LastRunUSec").await, 0);
    let source = rig.client.text(&policy, "Policy.Source").await;
    assert!(source.ends_with("policies.d/test.toml:2"), "{source}");
    // Half past two in the night after the clock's noon.
    let next = rig.client.get::<u64>(&policy, "Policy.NextRunUSec").await;
    assert_eq!(next, (2_223_374_400 + 52_200) * 1_000_000);
    assert_eq!(rig.client.get::<u64>(MANAGER, "Manager.NextRunUSec").await, next);
    assert_eq!(rig.client.get::<u64>(&policy_path("by-hand"), "Policy.NextRunUSec").await, 0);

    let keep: HashMap<String, u32> = rig.client.get(&policy, "Policy.Keep").await;
    assert_eq!(keep, HashMap::from([("keep-last".to_owned(), 3), ("keep-daily".to_owned(), 7)]));
    let limits: HashMap<String, OwnedVariant> = rig.client.get(&policy, "Policy.Limits").await;
    let mut limits: Vec<(String, String)> =
        limits.into_iter().map(|(k, v)| (k, format!("{:?}", *v))).collect();
    limits.sort();
    let days = 400_u64 * 86_400 * 1_000_000;
    let expected = [
        ("max-age", format!("U64({days})")),
        ("max-count", "U32(20)".to_owned()),
        ("max-delete", "U32(5)".to_owned()),
        ("max-size", format!("U64({})", 2_u64 << 30)),
    ];
    assert_eq!(limits, expected.map(|(k, v)| (k.to_owned(), v)));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_no_method_knows_are_refused_by_every_method() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    let snapshot = snapshot_path(id(1), "s1");
    rig.client.until_there(&snapshot, true).await;
    rig.sim.clear_calls();
    let vm = vm_path(id(1));
    let policy = policy_path("nightly");
    for (path, method, bad) in [
        (MANAGER, "Manager.Reload", "no-such"),
        (&vm, "VM.PreviewPrune", "no-such"),
        (&vm, "VM.Explain", "no-such"),
        (&vm, "VM.Prune", "no-such"),
        (&vm, "VM.Adopt", "no-such"),
        (&vm, "VM.Adopt", "orphans"),
        (&vm, "VM.Prune", "all"),
        (&snapshot, "Snapshot.Delete", "no-such"),
        (&snapshot, "Snapshot.Revert", "no-such"),
        (&vm, "VM.Promote", "no-such"),
        (&policy, "Policy.Run", "no-such"),
        (&policy, "Policy.Run", "vm"),
        (&job, "Job.Wait", "no-such"),
        (&job, "Job.Cancel", "no-such"),
    ] {
        let body = (options([(bad, "text".into())]),);
        let answer: Result<(), Failure> = rig.client.call(path, method, &body).await;
        let (name, text) = answer.expect_err(method);
        assert_eq!(name, "InvalidArgument", "{method}: {text}");
        assert!(text.contains(bad), "{method}: {text}");
    }
    assert_eq!(rig.sim.changes(), []);
}
