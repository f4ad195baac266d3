//! What everybody may do, and nobody: all may read, and nothing but the daemon can be the daemon.

use virtsnap::hypervisor::sim::VmSpec;

use super::{
    authorisation::as_nobody,
    client::{MANAGER, none},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

async fn read(rig: &Rig, arguments: &[&str]) -> String {
    let output = as_nobody(rig, arguments).await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "busctl {arguments:?}: {log}");
    String::from_utf8(output.stdout).unwrap()
}

async fn world() -> (Rig, String) {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
    (rig, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_read_everything() {
    let (rig, job) = world().await;
    let (vm, snapshot, policy) = (vm_path(id(1)), snapshot_path(id(1), "s1"), policy_path("p"));
    let get = async |path: &str, interface: &str, property: &str| {
        let interface = format!("org.virtsnap1.{interface}");
        read(&rig, &["get-property", "org.virtsnap1", path, &interface, property]).await
    };
    assert_eq!(get(MANAGER, "Manager", "State").await, "s \"running\"\n");
    assert_eq!(get(&vm, "VM", "Name").await, "s \"web\"\n");
    assert_eq!(get(&snapshot, "Snapshot", "State").await, "s \"ready\"\n");
    assert_eq!(get(&policy, "Policy", "Name").await, "s \"p\"\n");
    assert_eq!(get(&job, "Job", "Result").await, "s \"done\"\n");

    let call = async |path: &str, interface: &str, rest: &[&str]| {
        let arguments = [&["call", "org.virtsnap1", path, interface], rest].concat();
        read(&rig, &arguments).await
    };
    let all = call(MANAGER, "org.freedesktop.DBus.ObjectManager", &["GetManagedObjects"]).await;
    for path in [&vm, &snapshot, &policy, &job] {
        assert!(all.contains(path.as_str()), "no {path} in {all}");
    }
    assert_eq!(
        call(MANAGER, "org.virtsnap1.Manager", &["LookupVM", "s", "web"]).await,
        format!("o \"{vm}\"\n")
    );
    let preview = call(&vm, "org.virtsnap1.VM", &["PreviewPrune", "a{sv}", "0"]).await;
    assert!(preview.contains("\"s1\" true"), "{preview}");
    let waited = call(&job, "org.virtsnap1.Job", &["Wait", "a{sv}", "0"]).await;
    assert_eq!(waited, format!("so \"done\" \"{snapshot}\"\n"));
    let tree = read(&rig, &["introspect", "org.virtsnap1", &vm]).await;
    assert!(tree.contains("CreateSnapshot"), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_be_the_daemon_and_properties_cannot_be_set() {
    let (mut rig, _) = world().await;
    let set = ["set-property", "org.virtsnap1", MANAGER, "org.virtsnap1.Manager", "State", "s", "x"];
    assert!(!as_nobody(&rig, &set).await.status.success());
    rig.stop().await;
    let own = [
        "call",
        "org.freedesktop.DBus",
        "/",
        "org.freedesktop.DBus",
        "RequestName",
        "su",
        "org.virtsnap1",
        "4",
    ];
    let output = as_nobody(&rig, &own).await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("AccessDenied"), "{log}");
}
