//! Snapshots that get too old.

use virtsnap::hypervisor::sim::VmSpec;
use zbus::OwnedObjectPath;

use super::{
    command_line::virtsnap,
    rig::{Rig, id, policy_path, vm_path},
    suspended::hour,
};

const POLICIES: &str = "[policy.p]
vms = [\"*\"]
schedule = \"5 * * * *\"
keep-last = 2
quiesce = \"require\"
suspend-after = \"never\"
stale-after = \"150min\"
";

type Stale = Vec<(OwnedObjectPath, u64)>;

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_too_old_is_a_problem_until_there_is_a_new_one() {
    let mut rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let connected = async |rig: &Rig, is: bool| {
        rig.sim.agent_connected(id(1), is).unwrap();
        rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| *c == is).await;
    };
    let stale =
        async |rig: &Rig, number| rig.client.get::<Stale>(&vm_path(id(number)), "VM.StalePolicies").await;
    hour(&rig).await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 1);
    let newest = rig.client.get::<u64>(&vm_path(id(1)), "VM.LastSuccessUSec").await;
    connected(&rig, false).await;
    hour(&rig).await;
    hour(&rig).await;
    assert_eq!(stale(&rig, 1).await, []);
    hour(&rig).await;
    let of_p: OwnedObjectPath = policy_path("p").try_into().unwrap();
    assert_eq!((stale(&rig, 1).await, stale(&rig, 2).await), (vec![(of_p.clone(), newest)], vec![]));
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(stale(&rig, 1).await, [(of_p, newest)]);

    let address = rig.address();
    let (code, out, _) = virtsnap(&["--bus-address", &address, "status"]).await;
    assert_eq!(code, Some(1));
    assert!(out.contains("vm web: the newest good snapshot of policy \"p\" is of "), "{out}");
    assert!(!out.contains("vm db"), "{out}");
    let (_, out, _) = virtsnap(&["--bus-address", &address, "--json", "show", "web"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["vm"]["stale"][0]["policy"], "p");
    let (_, out, _) = virtsnap(&["--bus-address", &address, "show", "web"]).await;
    assert!(out.contains("\"p\" is stale"), "{out}");

    connected(&rig, true).await;
    hour(&rig).await;
    rig.client.until(&vm_path(id(1)), "VM.StalePolicies", Stale::is_empty).await;
}
