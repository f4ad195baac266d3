//! Whole screens as a person sees them: tables, trees and errors. `INSTA_UPDATE=always cargo nextest run --test
//! private_bus -E 'test(screens)'` writes them anew.

use std::fmt::Write as _;

use jiff::SignedDuration;
use serde_json::Value;
use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::{none, options},
    rig::{Rig, id, snapshot_path, vm_path},
    time_travel::told,
};

const POLICIES: &str = "[policy.day]
vms = [\"web\"]
schedule = \"30 2 * * *\"
keep-daily = 7
max-size = \"2GiB\"
";

/// A VM with a branch of snapshots that was left, tags and a pin, and one without anything.
async fn world() -> Rig {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    for (name, value) in [("first", 1), ("second", 2), ("third", 3)] {
        assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, value)));
        let told = options([("tags", vec!["ticket:7"].into()), ("description", "by hand".into())]);
        rig.client.create(id(1), name, told).await.unwrap();
        rig.clock.advance(SignedDuration::from_hours(1));
    }
    let back = options([("safety", false.into())]);
    rig.client.job(&snapshot_path(id(1), "second"), "Snapshot.Revert", back).await.unwrap();
    rig.client.create(id(1), "fourth", none()).await.unwrap();
    let pin = ("the audit", 0_u64, none());
    rig.client.call::<_, ()>(&snapshot_path(id(1), "first"), "Snapshot.Pin", &pin).await.unwrap();
    rig.client.until(&snapshot_path(id(1), "fourth"), "Snapshot.Current", |current: &bool| *current).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn screens_are_what_was_agreed_on() {
    let rig = world().await;
    let mut shown = String::new();
    for verb in [
        &["list"][..],
        &["list", "web"],
        &["list", "db"],
        &["list", "web", "--tree"],
        &["list", "web", "--timeline"],
        &["show", "web"],
        &["show", "web", "second"],
        &["plan", "web"],
        &["policies"],
        &["jobs"],
        &["show", "nobody"],
        &["list", "nobody", "--json"],
        &["delete", "web", "first"],
        &["delete", "web", "second"],
        &["revert", "web", "second"],
        &["delete", "web", "second", "--recursive"],
        &["time-travel", "web", "--to", "1 year ago"],
    ] {
        let (code, out, err) = told(&rig, Some("n\n"), verb).await;
        let _ = write!(shown, "$ virtsnap {}\n{out}{err}= {code}\n\n", verb.join(" "));
    }
    insta::with_settings!({ filters => filters() }, { insta::assert_snapshot!(shown) });
}

/// The daemon's clock goes on by itself, and a freeze takes as long as it takes.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"\x1b\[31m", "<red>"),
        (r"\x1b\[33m", "<yellow>"),
        (r"\x1b\[0m", "<>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "(time)"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+\d\d:\d\d)", "(time)"),
        (r"\b(in )?\d+ (s|min|h|d)( ago)?\b", "(span)"),
        (r"\(now\)", "((span))"),
        (r"  now  ", "  (span)  "),
        (r"(<?\d+(\.\d+)? (ms|s))\b", "(span)"),
        (r"/[^ ]*/etc/policies\.d", "(policies)"),
        (r"  +", "  "),
    ]
}

/// A VM that cannot be snapshotted and one that is in order.
pub async fn failing() -> Rig {
    let policy = "[policy.day]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nquiesce = \"require\"\n";
    let rig = Rig::start(policy, |sim| {
        sim.add_vm(VmSpec::new("db", 1));
        sim.add_vm(VmSpec::new("web", 2));
    })
    .await;
    rig.sim.agent_connected(id(2), false).unwrap();
    rig.client.until(&vm_path(id(2)), "VM.AgentConnected", |connected: &bool| !connected).await;
    for job in rig.client.run("day", none()).await.unwrap() {
        let _ = rig.client.wait(&job).await;
    }
    rig.client.until_idle().await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_comes_first() {
    let rig = failing().await;
    let (code, mut shown, err) = told(&rig, None, &["status"]).await;
    assert_eq!((code, err.as_str()), (1, ""), "{shown}");
    let (_, vms, _) = told(&rig, None, &["list"]).await;
    let _ = write!(shown, "\n$ virtsnap list\n{vms}");
    insta::with_settings!({ filters => filters() }, { insta::assert_snapshot!(shown) });

    let (code, out, _) = told(&rig, None, &["status", "--json"]).await;
    assert_eq!(code, 1);
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["healthy"], false);
    let problems = status["problems"].as_array().unwrap();
    let of = |n: usize| [&problems[n]["kind"], &problems[n]["name"], &problems[n]["severity"]];
    assert_eq!(problems.len(), 2, "{status}");
    assert_eq!([of(0), of(1)], [["vm", "web", "failure"], ["policy", "day", "failure"]]);
    assert_eq!(status["daemon"]["state"], "running");
    assert_eq!(status["policies"][0]["last_result"], "failed");
    let vms: Vec<_> =
        status["vms"].as_array().unwrap().iter().map(|vm| [&vm["name"], &vm["health"]]).collect();
    assert_eq!(vms, [["db", "ok"], ["web", "ok"]]);
    assert!(
        status["vms"][0]["last_error"].is_null() && status["vms"][1]["last_error"].is_string(),
        "{status}"
    );
}
