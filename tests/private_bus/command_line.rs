//! The client's real binary against the daemon: what a person types, and what comes out.

use std::{collections::HashMap, process::Command};

use virtsnap::hypervisor::sim::VmSpec;
use zbus::OwnedVariant;

use super::{
    client::{none, soon},
    rig::{Rig, id, vm_path},
};

/// What was complained of on standard error, without how far jobs were meanwhile, which nobody can foretell.
pub fn complaints(err: &str) -> String {
    let progress =
        |line: &str| (line.starts_with("job ") && line.contains("): ")) || line.ends_with(" jobs done");
    err.lines().filter(|line| !progress(line)).flat_map(|line| [line, "\n"]).collect()
}

/// The exit status, the answer and the complaints of a `virtsnap` command.
pub async fn virtsnap(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
    command.args(arguments).env("TZ", "UTC").env_remove("VIRTSNAP_BUS_ADDRESS");
    let output =
        soon("virtsnap", tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), complaints(&text(output.stderr)))
}

const POLICIES: &str = "[policy.day]
vms = [\"web*\", \"tag:prod\"]
schedule = \"30 2 * * *\"
keep-daily = 7

[policy.week]
vms = [\"*\", \"!web*\"]
schedule = \"@weekly\"
keep-weekly = 4

[vm.web1]
disks = [\"vda\"]
policy.day.keep-daily = 3
";

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_line_that_decides() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web1", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    let address = rig.address();
    let (code, out, err) = virtsnap(&["--bus-address", &address, "explain", "web1"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    // The directory is another one in each run.
    let lines: Vec<&str> =
        out.lines().map(|line| line.split_once(" (/").map_or(line, |(what, _)| what)).collect();
    assert_eq!(
        lines,
        [
            "web1: 1 policy",
            "",
            "day: runs at 30 2 * * * (UTC), keeps daily 3 (union)",
            "    selected by `web*`",
            "    keep-daily = 3",
            "",
            "The VM itself:",
            "    disks = [\"vda\"]",
            "",
            "Not for this VM:",
            "    week: left out by `!web*`",
        ]
    );
    assert!(out.contains("test.toml:13) instead of 7 ("), "{out}");

    // A tag that the VM gets meanwhile counts at once.
    let db = id(2);
    let holds = |out: &str| {
        let answer: serde_json::Value = serde_json::from_str(out).unwrap();
        let all = answer["reasons"].as_array().unwrap().clone();
        let of = all.iter().filter(|why| why["about"] == "holds");
        of.map(|why| why["policy"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (_, out, _) = virtsnap(&["--bus-address", &address, "--json", "explain", "db"]).await;
    assert_eq!(holds(&out), ["week"]);
    rig.sim.set_tags(db, &["prod"]).unwrap();
    rig.client.until(&vm_path(db), "VM.Policies", |p: &Vec<zbus::OwnedObjectPath>| p.len() == 2).await;
    let (_, out, _) = virtsnap(&["--bus-address", &address, "--json", "explain", "db"]).await;
    assert_eq!(holds(&out), ["day", "week"]);

    let (code, _, err) = virtsnap(&["--bus-address", &address, "explain", "nobody"]).await;
    assert_eq!(code, Some(3));
    assert!(err.contains("there is no VM \"nobody\"") && err.contains("virtsnap list"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_each_reason_as_a_dictionary() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web1", 1));
    })
    .await;
    let (reasons,): (Vec<HashMap<String, OwnedVariant>>,) =
        rig.client.call(&vm_path(id(1)), "VM.Explain", &(none(),)).await.unwrap();
    let text = |why: &HashMap<String, OwnedVariant>, key: &str| {
        why.get(key).map(|v| String::try_from(v.try_clone().unwrap()).unwrap())
    };
    let changed = reasons.iter().find(|why| text(why, "about").as_deref() == Some("overridden")).unwrap();
    assert_eq!(text(changed, "policy").as_deref(), Some("day"));
    assert_eq!(text(changed, "key").as_deref(), Some("keep-daily"));
    assert_eq!(text(changed, "value").as_deref(), Some("3"));
    assert_eq!(text(changed, "instead-of").as_deref(), Some("7"));
    assert!(text(changed, "source").unwrap().ends_with("test.toml:13"));
    assert!(text(changed, "instead-of-source").unwrap().ends_with("test.toml:4"));
    let set = reasons.iter().find(|why| text(why, "about").as_deref() == Some("set")).unwrap();
    assert_eq!(text(set, "policy"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let drop_ins = directory.path().join("policies.d");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("a.toml"), POLICIES).unwrap();
    let path = directory.path().to_str().unwrap();
    // No bus anywhere: this must not ask for one.
    let nowhere = "--bus-address=unix:path=/nonexistent";
    let (code, out, err) = virtsnap(&[nowhere, "check", "--config-dir", path]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.starts_with("policy day (") && out.contains("1 file, 2 policies, 0 errors, 0 warnings"),
        "{out}"
    );

    std::fs::write(drop_ins.join("b.toml"), "[policy.x]\nvms = [\"*\"]\nkeep-lst = 3\n").unwrap();
    let (code, out, _) = virtsnap(&[nowhere, "check", "--config-dir", path]).await;
    assert_eq!(code, Some(1));
    assert!(out.contains("b.toml:3:1") && out.contains("did you mean `keep-last`?"), "{out}");
    assert!(!out.contains('\u{1b}'), "no terminal, no colours: {out:?}");
    let (code, out, _) = virtsnap(&[nowhere, "--json", "check", "--config-dir", path]).await;
    assert_eq!(code, Some(1));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["valid"], false);
    let first = &answer["diagnostics"][0];
    assert_eq!(
        (&first["severity"], &first["line"], &first["column"]),
        (&"error".into(), &3.into(), &1.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_tried_without_a_daemon() {
    let nowhere = "--bus-address=unix:path=/nonexistent";
    let rules =
        ["--keep-last", "2", "--schedule", "0 3 * * *", "--now", "2026-11-20", "--until", "2026-11-23"];
    let (code, out, err) = virtsnap(&[&[nowhere, "simulate"][..], &rules].concat()).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("nothing to delete of 2 snapshots\n"), "{out}");
}
