//! Whole screens as a person sees them: tables, trees and errors. `INSTA_UPDATE=always cargo nextest run --test
//! private_bus -E 'test(screens)'` writes them anew.

use std::fmt::Write as _;

use jiff::SignedDuration;
use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::{none, options},
    rig::{Rig, id, snapshot_path},
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
    // The daemon's clock goes on by itself, and a freeze takes as long as it takes.
    let filters = [
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "(time)"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+\d\d:\d\d)", "(time)"),
        (r"\b(in )?\d+ (s|min|h|d)( ago)?\b", "(span)"),
        (r"\(now\)", "((span))"),
        (r"  now  ", "  (span)  "),
        (r"(<?\d+(\.\d+)? (ms|s))\b", "(span)"),
        (r"/[^ ]*/etc/policies\.d", "(policies)"),
        (r"  +", "  "),
    ];
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!(shown) });
}
