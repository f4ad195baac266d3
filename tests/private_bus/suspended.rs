//! Policies that are suspended: by failures in a row, and by people.

use jiff::SignedDuration;
use virtsnap::hypervisor::sim::VmSpec;
use zbus::{ObjectPath, OwnedObjectPath};

use super::{
    client::{Failure, Options, none, options},
    command_line::virtsnap,
    rig::{Rig, id, policy_path, vm_path},
};

const POLICIES: &str = "[policy.p]
vms = [\"*\"]
schedule = \"5 * * * *\"
keep-last = 2
quiesce = \"require\"
suspend-after = 2
";

/// As the bus has it: of what, by whom, why, since when.
type Suspended = Vec<(OwnedObjectPath, String, String, u64)>;

async fn two() -> Rig {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.sim.agent_connected(id(1), false).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| !c).await;
    rig
}

/// Lets an hour pass, and waits until the policy has run for it.
pub async fn hour(rig: &Rig) {
    let due = rig.client.get::<u64>(&policy_path("p"), "Policy.NextRunUSec").await;
    rig.clock.advance(SignedDuration::from_hours(1));
    // Anything that happens makes the daemon look at the clock.
    rig.sim.set_tags(id(2), &[&due.to_string()]).unwrap();
    rig.client.until(&policy_path("p"), "Policy.LastRunUSec", |at: &u64| *at >= due).await;
    rig.client.until_idle().await;
}

async fn on_vms(rig: &Rig) -> Suspended {
    rig.client.get(&policy_path("p"), "Policy.SuspendedVMs").await
}

fn only(number: u128) -> Options {
    options([("vm", ObjectPath::try_from(vm_path(id(number))).unwrap().into())])
}

async fn resume(rig: &Rig, options: Options) -> Result<(), Failure> {
    rig.client.call(&policy_path("p"), "Policy.Resume", &(options,)).await
}

async fn suspend(rig: &Rig, reason: &str, options: Options) -> Result<(), Failure> {
    rig.client.call(&policy_path("p"), "Policy.Suspend", &(reason, options)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_suspend_it_over_restarts_until_somebody_resumes_it() {
    let mut rig = two().await;
    hour(&rig).await;
    assert_eq!(on_vms(&rig).await, []);
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    hour(&rig).await;
    let [(vm, by, reason, since)] = &on_vms(&rig).await[..] else { panic!("one is suspended") };
    assert_eq!((vm.as_str(), by.as_str()), (vm_path(id(1)).as_str(), "failures"));
    assert!(reason.starts_with("2 runs failed one after the other") && reason.contains("agent"), "{reason}");
    let of_vm: Suspended = rig.client.get(&vm_path(id(1)), "VM.SuspendedPolicies").await;
    assert_eq!(of_vm, [(policy_path("p").try_into().unwrap(), by.clone(), reason.clone(), *since)]);
    assert!(!rig.client.get::<bool>(&policy_path("p"), "Policy.Suspended").await);

    // The agent is back, and nobody said so: only the other VM gets its snapshots.
    rig.sim.agent_connected(id(1), true).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| *c).await;
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    hour(&rig).await;
    assert_eq!(on_vms(&rig).await.len(), 1);
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [String; 0]);
    assert_eq!(rig.client.snapshots(id(2)).await.len(), 2);

    resume(&rig, only(1)).await.unwrap();
    assert_eq!(on_vms(&rig).await, []);
    let of_vm: Suspended = rig.client.get(&vm_path(id(1)), "VM.SuspendedPolicies").await;
    assert_eq!(of_vm, []);
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [String; 0], "its next run is that of the schedule");
    hour(&rig).await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 1);
    rig.stop().await;
    assert!(rig.store().standings().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_by_hand_that_works_resumes_it() {
    let rig = two().await;
    hour(&rig).await;
    hour(&rig).await;
    assert_eq!(on_vms(&rig).await.len(), 1);
    for job in rig.client.run("p", only(1)).await.unwrap() {
        rig.client.wait(&job).await.unwrap_err();
    }
    assert_eq!(on_vms(&rig).await.len(), 1);
    rig.sim.agent_connected(id(1), true).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| *c).await;
    for job in rig.client.run("p", only(1)).await.unwrap() {
        rig.client.wait(&job).await.unwrap();
    }
    rig.client.until(&policy_path("p"), "Policy.SuspendedVMs", Suspended::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_suspends_and_resumes_it_also_without_libvirt() {
    let mut rig = two().await;
    let path = policy_path("p");
    suspend(&rig, "new disks", only(1)).await.unwrap();
    let [(_, by, reason, since)] = &on_vms(&rig).await[..] else { panic!("one is suspended") };
    assert_eq!((by.as_str(), reason.as_str()), ("person", "new disks"));
    assert!(*since > 2_223_374_400_000_000);
    suspend(&rig, "", none()).await.unwrap();
    assert!(rig.client.get::<bool>(&path, "Policy.Suspended").await);
    assert_eq!(rig.client.get::<u64>(&path, "Policy.NextRunUSec").await, 0);
    let of_vm: Suspended = rig.client.get(&vm_path(id(2)), "VM.SuspendedPolicies").await;
    assert_eq!((of_vm.len(), of_vm[0].1.as_str(), of_vm[0].2.as_str()), (1, "person", ""));
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert!(rig.client.get::<u64>(&path, "Policy.SuspendedUSec").await > *since);
    let refused = resume(&rig, only(1)).await.unwrap_err();
    assert_eq!(refused.0, "InvalidArgument", "{}", refused.1);
    resume(&rig, none()).await.unwrap();
    assert!(!rig.client.get::<bool>(&path, "Policy.Suspended").await);
    assert!(rig.client.get::<u64>(&path, "Policy.NextRunUSec").await > 0);
    assert_eq!(on_vms(&rig).await, []);

    rig.sim.disconnect("it is upgraded");
    rig.client.until("/org/virtsnap1", "Manager.HypervisorConnected", |c: &bool| !c).await;
    suspend(&rig, "libvirt's upgrade", none()).await.unwrap();
    assert_eq!(rig.client.text(&path, "Policy.SuspendedReason").await, "libvirt's upgrade");
    let unknown = suspend(&rig, "", options([("vms", "x".into())])).await.unwrap_err();
    assert_eq!(unknown.0, "InvalidArgument");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_shows_it_with_its_reason_and_resumes_it() {
    let rig = two().await;
    let address = rig.address();
    let told = async |verb: &[&str]| virtsnap(&[&["--bus-address", address.as_str()], verb].concat()).await;
    hour(&rig).await;
    hour(&rig).await;

    let (code, out, _) = told(&["status"]).await;
    assert_eq!(code, Some(1));
    let problem = out.lines().find(|line| line.contains("is suspended")).unwrap_or_else(|| panic!("{out}"));
    for part in ["vm web: policy \"p\"", "2 runs failed one after the other", "virtsnap run p --vm web"] {
        assert!(problem.contains(part), "{part}: {problem}");
    }
    let (_, out, _) = told(&["policies"]).await;
    assert!(out.contains("Not on:") && out.contains("web: suspended since "), "{out}");
    let (_, out, _) = told(&["show", "web"]).await;
    assert!(out.contains("\"p\" is suspended since "), "{out}");
    let (_, out, _) = told(&["explain", "web"]).await;
    assert!(out.lines().any(|line| line.starts_with("    suspended since ")), "{out}");
    let (_, out, _) = told(&["--json", "show", "web"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let why = &json["vm"]["suspended"][0];
    assert_eq!((&why["policy"], &why["by"]), (&"p".into(), &"failures".into()));
    assert!(json["vm"]["next_run"].is_null(), "{json}");

    // What was tried and fails leaves it as it is.
    let (code, out, _) = told(&["run", "p", "--vm", "web"]).await;
    assert!(code == Some(6) && !out.contains("resumed"), "{out}");
    rig.sim.agent_connected(id(1), true).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| *c).await;
    let (code, out, err) = told(&["run", "p", "--vm", "web"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("web: policy \"p\" is resumed\n"), "{out}");
    rig.client.until_idle().await;

    let (code, out, _) = told(&["suspend", "p", "--vm", "db", "--reason", "new disks"]).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("policy \"p\" is suspended on VM \"db\""), "{out}");
    let (_, out, _) = told(&["suspend", "p", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json, serde_json::json!({"policy": "p", "suspended": true, "vms": null}));
    hour_without_runs(&rig).await;
    let (code, out, err) = told(&["status"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "whoever did it wanted it so: {out}");
    let lines: Vec<&str> = out.lines().skip_while(|l| *l != "Suspended by hand:").collect();
    assert!(lines[1].starts_with("  policy p: suspended by hand since "), "{out}");
    assert!(lines[2].starts_with("  policy p on VM db: ") && lines[2].ends_with(": new disks"), "{out}");
    let (code, _, err) = told(&["resume", "p", "--vm", "db"]).await;
    assert!(code == Some(2) && err.contains("resume it as a whole"), "{code:?} {err}");
    let (code, out, _) = told(&["resume", "p"]).await;
    let wanted = "policy \"p\" is resumed on all of its VMs\npolicy \"p\" is resumed on VM \"db\"\n";
    assert_eq!((code, out.as_str()), (Some(0), wanted));
    let (code, out, _) = told(&["resume", "p", "--vm", "web"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "policy \"p\" was not suspended there\n"));
    assert_eq!(told(&["resume", "q"]).await.0, Some(3));
    assert_eq!(told(&["suspend", "p", "--vm", "nobody"]).await.0, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_told_and_stored_later() {
    let mut rig = two().await;
    rig.in_store(
        "CREATE TRIGGER full BEFORE INSERT ON standing BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    );
    let (name, text) = suspend(&rig, "new disks", none()).await.unwrap_err();
    assert!(
        name == "Failed" && text.contains("disk is full") && text.contains("until virtsnapd is"),
        "{name}: {text}"
    );
    assert!(rig.client.get::<bool>(&policy_path("p"), "Policy.Suspended").await, "it holds all the same");
    rig.in_store("DROP TRIGGER full");
    // With whatever is stored next.
    suspend(&rig, "its own disks", only(2)).await.unwrap();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert!(rig.client.get::<bool>(&policy_path("p"), "Policy.Suspended").await);
    assert_eq!(rig.client.text(&policy_path("p"), "Policy.SuspendedReason").await, "new disks");
    assert_eq!(on_vms(&rig).await.len(), 1);
}

/// Lets an hour pass in which the policy runs nowhere.
async fn hour_without_runs(rig: &Rig) {
    let last = rig.client.get::<u64>(&policy_path("p"), "Policy.LastRunUSec").await;
    rig.clock.advance(SignedDuration::from_hours(1));
    rig.sim.set_tags(id(2), &["another"]).unwrap();
    rig.sim.agent_connected(id(2), false).unwrap();
    rig.client.until(&vm_path(id(2)), "VM.AgentConnected", |c: &bool| !c).await;
    rig.client.until_idle().await;
    assert_eq!(rig.client.get::<u64>(&policy_path("p"), "Policy.LastRunUSec").await, last);
}
