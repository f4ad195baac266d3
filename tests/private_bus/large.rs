//! A host with so much on it that not all of it goes into one message.

use std::collections::BTreeSet;

use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::{MANAGER, none, options},
    command_line::virtsnap,
    rig::{Rig, id, snapshot_path, vm_path},
};

const VMS: u128 = 40;

/// What is directly below a path, and all that was said of it.
async fn below(rig: &Rig, path: &str) -> (BTreeSet<String>, String) {
    let method = "org.freedesktop.DBus.Introspectable.Introspect";
    let (xml,): (String,) = rig.client.call(path, method, &()).await.unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&xml, options).unwrap();
    let nodes = document.root_element().children().filter(|node| node.has_tag_name("node"));
    (nodes.map(|node| node.attribute("name").unwrap().to_owned()).collect(), xml)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_below_is_told_one_level_at_a_time_and_leads_everywhere() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        for n in 1..=VMS {
            sim.add_vm(VmSpec::new(&format!("vm{n}"), n));
        }
    })
    .await;
    let made = rig.client.create(id(7), "s1", none()).await.unwrap();
    // As `busctl tree` goes about it.
    let (mut known, mut open) = (BTreeSet::new(), vec!["/".to_owned()]);
    while let Some(path) = open.pop() {
        let (labels, xml) = below(&rig, &path).await;
        if !path.contains("/vm/") {
            assert!(!xml.contains("org.virtsnap1.Snapshot") && !xml.contains("Anchor"), "{path}: {xml}");
        }
        let parent = path.trim_end_matches('/');
        open.extend(labels.iter().map(|label| format!("{parent}/{label}")));
        known.insert(path);
    }
    let all = rig.client.managed().await;
    for path in all.keys().map(String::as_str).chain([made.as_str(), "/org/freedesktop/LogControl1"]) {
        assert!(known.contains(path), "nothing leads to {path}");
    }
    assert_eq!(below(&rig, &format!("{MANAGER}/vm")).await.0.len(), 40);
    let (_, root) = below(&rig, MANAGER).await;
    for interface in
        ["org.virtsnap1.Manager", "org.freedesktop.DBus.ObjectManager", "org.freedesktop.DBus.Properties"]
    {
        assert_eq!(root.matches(&format!("<interface name=\"{interface}\">")).count(), 1, "{root}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_are_there_when_nothing_is_below_them() {
    let rig = Rig::start("", |_| {}).await;
    for place in ["vm", "policy", "job"] {
        let path = format!("{MANAGER}/{place}");
        assert_eq!(below(&rig, &path).await.0, BTreeSet::new());
        assert!(!rig.client.managed().await.contains_key(&path));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_bus_takes_at_once_is_refused_and_all_else_goes_on() {
    const SNAPSHOTS: usize = 9;
    // The longest that libvirt's own protocol takes.
    let description = "x".repeat(4 << 20);
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        for n in 0..SNAPSHOTS {
            sim.make_described_snapshot(id(1), &format!("s{n}"), &description).unwrap();
        }
    })
    .await;
    rig.boot().await;
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "running").await;
    let all = "org.freedesktop.DBus.ObjectManager.GetManagedObjects";
    let (name, text) = rig.client.call::<_, ()>(MANAGER, all, &()).await.unwrap_err();
    assert_eq!(name, "LimitExceeded", "{text}");
    assert!(text.contains("are 36 MiB") && text.contains("takes 32 MiB"), "{text}");
    // It is on the bus all the same, and one thing at a time can be read.
    let (labels, _) = below(&rig, &format!("{}/snapshot", vm_path(id(1)))).await;
    assert_eq!(labels.len(), SNAPSHOTS);
    let read = rig.client.text(&snapshot_path(id(1), "s3"), "Snapshot.Description").await;
    assert_eq!(read.len(), description.len());
    // So does the client.
    let (code, out, err) = virtsnap(&["--bus-address", &rig.address(), "list", "web", "--json"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    let snapshots = all["snapshots"].as_array().unwrap();
    let mut names: Vec<_> = snapshots.iter().map(|snapshot| snapshot["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, (0..SNAPSHOTS).map(|n| format!("s{n}")).collect::<Vec<_>>());
    assert_eq!(all["vm"]["name"], "web");
    let foreign = options([("foreign", true.into())]);
    let (job,): (zbus::OwnedObjectPath,) =
        rig.client.call(&snapshot_path(id(1), "s8"), "Snapshot.Delete", &(foreign,)).await.unwrap();
    rig.client.wait(job.as_str()).await.unwrap();
}
