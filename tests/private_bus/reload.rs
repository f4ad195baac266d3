//! Reading the configuration again: all of it or nothing.

use std::process::Command;

use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::{Client, Failure, MANAGER, none},
    command_line::virtsnap,
    rig::{Rig, id, policy_path, vm_path},
};

const OLD: &str = "[policy.old]\nvms = [\"*\"]\nkeep-last = 3\n";

async fn reload(client: &Client) -> Result<(), Failure> {
    client.call(MANAGER, "Manager.Reload", &(none(),)).await
}

async fn web() -> Rig {
    Rig::start(OLD, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_reported_with_its_place_and_changes_nothing() {
    let rig = web().await;
    for (broken, place) in [
        ("[policy.new]\nvms = [\"*\"]\nkeep-lsat = 3\n", "test.toml:3:1"),
        ("[policy.new]\nvms = [\"*\"]\nschedule = \"61 * * * *\"\n", "test.toml:3:13"),
        ("[policy.new\n", "test.toml:1:"),
        ("[policy.new]\n", "test.toml:1:"),
    ] {
        rig.write_policies(broken);
        let (name, text) = reload(&rig.client).await.unwrap_err();
        assert_eq!(name, "InvalidConfiguration", "{text}");
        assert!(text.contains(place), "no {place} in {text}");
        assert!(text.contains('^') && text.contains("old settings"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours on the bus");
        let objects = rig.client.managed().await;
        assert!(objects.contains_key(&policy_path("old")) && !objects.contains_key(&policy_path("new")));
    }
    let jobs = rig.client.run("old", none()).await.unwrap();
    rig.client.wait(&jobs[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_policies_are_there_and_old_ones_gone_when_the_call_returns() {
    let rig = web().await;
    rig.write_policies("[policy.new]\nvms = [\"web\"]\nschedule = \"@daily\"\n");
    reload(&rig.client).await.unwrap();
    let objects = rig.client.managed().await;
    assert!(objects.contains_key(&policy_path("new")), "the new one is not there yet");
    assert!(!objects.contains_key(&policy_path("old")), "the old one is still there");
    assert_eq!(rig.client.objects(&vm_path(id(1)), "VM.Policies").await, [policy_path("new")]);
    assert!(rig.client.get::<u64>(MANAGER, "Manager.NextRunUSec").await > 0);
    let (error, _) = rig.client.run("old", none()).await.unwrap_err();
    assert_eq!(error, "org.freedesktop.DBus.Error.UnknownObject");

    rig.write_policies("");
    reload(&rig.client).await.unwrap();
    assert_eq!(rig.client.get::<u64>(MANAGER, "Manager.NextRunUSec").await, 0);
    assert_eq!(rig.client.objects(&vm_path(id(1)), "VM.Policies").await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hardly_was_meant_is_a_property_until_it_is_put_right() {
    let rig =
        Rig::start("[policy.p]\nvms = [\"wbe\"]\nschedule = \"@daily\"\nskip-unchanged = true\n", |sim| {
            sim.add_vm(VmSpec::new("web", 1));
        })
        .await;
    let warnings: Vec<String> =
        rig.client.until(MANAGER, "Manager.Warnings", |lines: &Vec<String>| lines.len() == 3).await;
    assert!(warnings[0].contains("test.toml:3:1: warning: policy p: it deletes nothing"), "{warnings:?}");
    assert!(warnings[1].contains("test.toml:4:1: warning: policy p: `skip-unchanged`"), "{warnings:?}");
    assert!(warnings[2].contains("test.toml:2:7: warning: policy p is for no VM"), "{warnings:?}");
    rig.write_policies("[policy.p]\nvms = [\"web\"]\nschedule = \"@daily\"\nkeep-last = 3\n");
    reload(&rig.client).await.unwrap();
    assert_eq!(rig.client.get::<Vec<String>>(MANAGER, "Manager.Warnings").await, [] as [String; 0]);
}

/// Nobody reads the journal every day, and the next restart would end with status 78.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_reload_stays_a_problem_until_a_good_one() {
    let rig = web().await;
    let problems = async || rig.client.get::<Vec<String>>(MANAGER, "Manager.Problems").await;
    let warnings = async || rig.client.get::<Vec<String>>(MANAGER, "Manager.Warnings").await;
    assert_eq!(problems().await, [] as [String; 0]);
    rig.write_policies("[policy.old]\nvms = [\"*\"]\nkeep-lsat = 3\nkeep-dialy = 3\n");
    reload(&rig.client).await.unwrap_err();
    let told = problems().await;
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(line.contains("test.toml:3:1: error: ") && line.contains(", and 1 more)"), "{line}");
    assert_eq!(warnings().await.first(), Some(line), "who reads those alone sees it, too");

    // As monitoring asks.
    let status = async || virtsnap(&["--bus-address", &rig.address(), "status"]).await;
    let (code, screen, err) = status().await;
    assert_eq!(code, Some(1), "{screen}{err}");
    assert!(screen.contains("daemon virtsnapd: the configuration is broken ("), "{screen}");
    assert_eq!(screen.matches("keep-lsat").count(), 1, "once is enough:\n{screen}");

    rig.write_policies(OLD);
    reload(&rig.client).await.unwrap();
    assert!(problems().await.is_empty() && !warnings().await.contains(line));
    assert_eq!(status().await.0, Some(0));
}

#[test]
fn a_tz_that_names_no_zone_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let check = |zone: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnapd"));
        command.arg("--check").arg("--config-dir").arg(directory.path()).env("TZ", zone);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = check("Bogus/Zone");
    assert!(told.contains("warning: Bogus/Zone names no time zone: UTC is used\n--> TZ\n"), "{told}");
    assert!(told.ends_with("0 errors, 1 warning\n"), "{told}");
    assert!(check("Europe/Vienna").ends_with("0 errors, 0 warnings\n"));
}
