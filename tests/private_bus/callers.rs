//! Who may do what: everybody may read, and only the superuser may change anything.

use std::process::{Command, Output};

use roxmltree::{Document, ParsingOptions};
use virtsnap::hypervisor::sim::{Op, VmSpec};

use super::{
    client::{MANAGER, none, soon},
    rig::{Rig, held, id, policy_path, snapshot_path, vm_path},
};

/// `busctl` as the user `nobody`, who may do nothing on any system.
async fn as_nobody(rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "busctl", "--timeout=15"]);
    command.arg(format!("--address={}", rig.address())).args(arguments);
    // In its log it says the name of the error, which it shows nowhere else.
    command.env("SYSTEMD_LOG_LEVEL", "debug");
    let run = tokio::task::spawn_blocking(move || command.output());
    soon("busctl", run).await.unwrap().expect("setpriv is installed")
}

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

/// What changes nothing. All other methods that the interface has are for the superuser.
const READERS: [&str; 4] = ["Manager.LookupVM", "VM.PreviewPrune", "VM.Explain", "Job.Wait"];

/// The methods of an interface, as the committed XML has them, with the types of what goes in.
fn methods(interface: &str) -> Vec<(String, Vec<String>)> {
    let file = format!("{}/dbus/org.virtsnap1.{interface}.xml", env!("CARGO_MANIFEST_DIR"));
    let xml = std::fs::read_to_string(file).unwrap();
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(&xml, options).unwrap();
    let methods = document.descendants().filter(|n| n.has_tag_name("method"));
    let of = |method: roxmltree::Node<'_, '_>| {
        let all = method.children().filter(|n| n.has_tag_name("arg"));
        let into = all.filter(|arg| arg.attribute("direction") == Some("in"));
        let types = into.map(|arg| arg.attribute("type").unwrap().to_owned()).collect();
        (method.attribute("name").unwrap().to_owned(), types)
    };
    methods.map(of).collect()
}

/// Something of that type, as busctl takes it.
fn argument(of: &str) -> &'static str {
    match of {
        "s" => "x",
        "o" => MANAGER,
        "t" | "a{sv}" | "as" => "0",
        other => panic!("say here what an argument of type {other} may be"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_superuser_may_change_anything() {
    let (rig, _) = world().await;
    let (vm, snapshot, policy) = (vm_path(id(1)), snapshot_path(id(1), "s1"), policy_path("p"));
    // Something to cancel: a job that waits for one that is held.
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "s2", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "s3", none()).await.unwrap();
    let jobs = rig.client.managed().await.keys().filter(|p| p.contains("/job/")).count();

    let paths = [
        ("VM", vm.as_str()),
        ("Snapshot", &snapshot),
        ("Policy", &policy),
        ("Manager", MANAGER),
        ("Job", &waiting),
    ];
    let mut tried = 0;
    for (interface, path) in paths {
        for (method, types) in methods(interface) {
            if READERS.contains(&format!("{interface}.{method}").as_str()) {
                continue;
            }
            let mut call =
                vec!["call", "org.virtsnap1", path].into_iter().map(str::to_owned).collect::<Vec<_>>();
            call.extend([format!("org.virtsnap1.{interface}"), method.clone(), types.concat()]);
            call.extend(types.iter().map(|of| argument(of).to_owned()));
            let output = as_nobody(&rig, &call.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{interface}.{method} was let through");
            let denied = "error-name=org.freedesktop.DBus.Error.AccessDenied";
            assert!(log.contains(denied), "{interface}.{method}: {log}");
            assert!(log.contains("user 65534 may not"), "{interface}.{method}: {log}");
            tried += 1;
        }
    }
    assert!(tried >= 10, "only {tried} methods that change something were found");
    assert_eq!(rig.client.managed().await.keys().filter(|p| p.contains("/job/")).count(), jobs);
    gate.open();
    rig.client.wait(&running).await.unwrap();
    rig.client.wait(&waiting).await.unwrap();
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
