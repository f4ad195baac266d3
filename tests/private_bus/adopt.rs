//! Snapshots that others made, taken over or deleted by command.

use std::collections::BTreeMap;

use virtsnap::hypervisor::{
    Error, ErrorKind, Hypervisor, Metadata as _, Redefine,
    sim::{Fault, Mishap, Op, VmSpec},
};

use super::{
    authorisation::as_nobody,
    client::{none, options},
    command_line::virtsnap,
    fake_polkit::{FakePolkit, Says},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

const POLICIES: &str =
    "[policy.p]\nvms = [\"web\"]\nkeep-last = 1\n[policy.q]\nvms = [\"db\"]\nkeep-last = 1\n";

/// A VM with two snapshots of somebody else.
async fn with_two() -> Rig {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        for (name, value) in [("f1", 1), ("f2", 2)] {
            assert!(sim.write(id(1), "vda", 0, value));
            sim.make_foreign_snapshot(id(1), name).unwrap();
        }
    })
    .await;
    for name in ["f1", "f2"] {
        rig.client.until_there(&snapshot_path(id(1), name), true).await;
    }
    rig
}

async fn adopt(rig: &Rig, names: &[&str], policies: &[&str]) -> Result<(), (String, String)> {
    let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
    let given = options([("snapshots", list(names).into()), ("policies", list(policies).into())]);
    rig.client.call(&vm_path(id(1)), "VM.Adopt", &(given,)).await
}

async fn managed(rig: &Rig, name: &str) -> bool {
    rig.client.get(&snapshot_path(id(1), name), "Snapshot.Managed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_over_counts_for_its_policy_and_is_pruned_by_it() {
    let rig = with_two().await;
    adopt(&rig, &["f1"], &["p"]).await.unwrap();
    // It is seen when the call is over.
    let f1 = snapshot_path(id(1), "f1");
    assert!(managed(&rig, "f1").await && !managed(&rig, "f2").await);
    assert_eq!(rig.client.text(&f1, "Snapshot.Origin").await, "foreign");
    assert_eq!(rig.client.objects(&f1, "Snapshot.Policies").await, [policy_path("p")]);
    assert_eq!(rig.client.text(&f1, "Snapshot.Description").await, "");
    for job in rig.client.run("p", none()).await.unwrap() {
        rig.client.wait(&job).await.unwrap();
    }
    rig.client.until_idle().await;
    let left = rig.client.snapshots(id(1)).await;
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&"f2".to_owned()) && !left.contains(&"f1".to_owned()), "{left:?}");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap()[&0], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_is_refused() {
    let rig = with_two().await;
    for (names, policies, error) in [
        (&["f1", "none"][..], &[][..], "NoSuchSnapshot"),
        (&["f1"], &["none"], "NoSuchPolicy"),
        (&["f1"], &["q"], "InvalidArgument"),
        (&["f1"], &["a b"], "InvalidArgument"),
    ] {
        let (name, text) = adopt(&rig, names, policies).await.unwrap_err();
        assert_eq!(name, error, "{text}");
    }
    rig.sim.make_internal_snapshot(id(1), "inside").unwrap();
    let (name, text) = adopt(&rig, &["f1"], &[]).await.unwrap_err();
    assert_eq!(name, "Unsupported", "{text}");
    assert!(
        text.contains("VM web") && text.contains("mixed") && text.contains("Nothing was touched"),
        "{text}"
    );
    assert!(!managed(&rig, "f1").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_libvirt_goes_it_is_theirs_or_ours_and_can_be_asked_for_again() {
    let rig = with_two().await;
    for op in [Op::Vm, Op::Snapshots, Op::Copy, Op::Redefine] {
        for lost in [false, true] {
            let gone = Error::new(ErrorKind::Disconnected, "on request");
            let mishap = if lost { Mishap::Lose(gone) } else { Mishap::Refuse(gone) };
            let before = rig.sim.snapshots(id(1)).unwrap();
            rig.sim.inject(Fault::new(op, mishap));
            let (error, _) = adopt(&rig, &["f1"], &[]).await.unwrap_err();
            assert_eq!(error, "Disconnected", "{op:?}");
            rig.sim.heal();
            rig.reconnect().await;
            let mut after = rig.sim.snapshots(id(1)).unwrap();
            after[0].description.clear();
            after[0].xml_bytes = before[0].xml_bytes;
            assert_eq!(after, before, "{op:?}");
            adopt(&rig, &["f1"], &[]).await.unwrap();
            assert!(managed(&rig, "f1").await);
            rig.sim.redefine(id(1), &theirs()).unwrap();
        }
    }
}

/// As they made it.
fn theirs() -> Redefine {
    let name = virtsnap::core::model::SnapshotName::existing("f1");
    Redefine { description: Some(String::new()), ..Redefine::new(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_adopts_and_deletes_what_others_made_when_it_is_told_to() {
    let rig = with_two().await;
    let address = rig.address();
    let client = |arguments: &[&str]| {
        let all: Vec<String> =
            ["--bus-address", &address].iter().chain(arguments).map(|s| (*s).to_owned()).collect();
        async move { virtsnap(&all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let (code, _, err) = client(&["adopt", "web"]).await;
    assert_eq!(code, Some(2), "without a terminal it does not take all there are: {err}");
    assert_eq!(
        client(&["adopt", "web", "f1", "--policy", "p"]).await.0,
        Some(2),
        "it may be pruned from then on"
    );
    let (code, out, err) = client(&["adopt", "web", "f1", "--policy", "p", "--yes"]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "web: snapshot \"f1\" adopted\n", ""));
    let (code, _, err) = client(&["delete", "web", "f2", "--yes"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("--foreign"), "{err}");
    let (code, _, err) = client(&["delete", "web", "f1", "--metadata-only", "--yes"]).await;
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("its images are there"), "{err}");
    let (code, out, err) = client(&["delete", "web", "f2", "--foreign", "--yes"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, out, _) = client(&["--json", "adopt", "web", "--yes"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["snapshots"], serde_json::json!([]));
    assert_eq!(rig.client.snapshots(id(1)).await, ["f1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_decides_on_a_deletion_is_told_that_others_made_it() {
    let rig = with_two().await;
    adopt(&rig, &["f2"], &["p"]).await.unwrap();
    let polkit = FakePolkit::start(&rig, Says::No).await;
    for (name, option, foreign) in
        [("f1", "metadata-only", true), ("f1", "foreign", true), ("f2", "metadata-only", false)]
    {
        let path = snapshot_path(id(1), name);
        let interface = "org.virtsnap1.Snapshot";
        let call = ["call", "org.virtsnap1", &path, interface, "Delete", "a{sv}", "1", option, "b", "true"];
        assert!(!as_nobody(&rig, &call).await.status.success());
        let question = polkit.questions().remove(0);
        let told = question.details.get("foreign").map(String::as_str);
        assert_eq!(told, foreign.then_some("true"), "{option} of {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_decides_on_an_adoption_is_told_of_all_that_is_adopted() {
    let rig = with_two().await;
    let polkit = FakePolkit::start(&rig, Says::No).await;
    let path = vm_path(id(1));
    let ask = async |given: &[&str]| {
        let call = ["call", "org.virtsnap1", &path, "org.virtsnap1.VM", "Adopt", "a{sv}"];
        assert!(!as_nobody(&rig, &[&call[..], given].concat()).await.status.success());
        polkit.questions().remove(0).details
    };
    let said = |details: &BTreeMap<String, String>| {
        ["snapshot", "snapshots", "orphans", "layers"]
            .map(|key| details.get(key).cloned().unwrap_or_default())
    };

    let one = ask(&["1", "snapshots", "as", "1", "f1"]).await;
    assert_eq!(said(&one), ["f1", r#"["f1"]"#, "", ""]);
    assert!(one["polkit.message"].ends_with("(VM \"web\", snapshot \"f1\")"), "{one:?}");

    // Whatever is in a name, and whether there is such a snapshot or not.
    let odd = ["f1", "a,b", "c\"]", "ä\nb", "f2"];
    let names = [&["1", "snapshots", "as", "5"][..], &odd].concat();
    let several = ask(&names).await;
    let [one, all, ..] = said(&several);
    assert_eq!(
        (one.as_str(), serde_json::from_str::<Vec<String>>(&all).unwrap()),
        ("", odd.map(str::to_owned).into())
    );
    let message = &several["polkit.message"];
    assert!(message.ends_with(r#"(VM "web", snapshots "f1", "a,b", "c\"]" and 2 more)"#), "{message}");

    // Not even of many is one left out, and what a person reads has an end.
    let many: Vec<String> = (0..400).map(|n| format!("{n}-{}", "x".repeat(120))).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let many_of = ask(&[&["1", "snapshots", "as", "400"][..], &names].concat()).await;
    assert_eq!(serde_json::from_str::<Vec<String>>(&many_of["snapshots"]).unwrap(), many);
    assert!(many_of["polkit.message"].len() < 1000, "{many_of:?}");

    // With something else it is not about one snapshot alone, so that no rule takes it for that.
    let more = ask(&["2", "snapshots", "as", "1", "f1", "layers", "b", "true"]).await;
    assert_eq!(said(&more), ["", r#"["f1"]"#, "", "true"]);
    let message = &more["polkit.message"];
    assert!(message.ends_with(r#"(VM "web", snapshots "f1", layers without a snapshot)"#), "{message}");
    // What counts for a policy that policy prunes.
    let counts = ask(&["2", "snapshots", "as", "1", "f1", "policies", "as", "2", "b", "a"]).await;
    assert_eq!(counts["policy"], "a,b");
    assert!(counts["polkit.message"].ends_with(r#"(VM "web", snapshot "f1", policy "a,b")"#), "{counts:?}");
    let files = ask(&["1", "orphans", "as", "1", "/images/none"]).await;
    assert_eq!(said(&files), ["", "", "true", ""]);
}
