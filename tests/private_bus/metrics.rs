//! The file of metrics: what is in it, and that nobody ever reads half of it.

mod exposition;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use virtsnap::{
    clock,
    hypervisor::{
        Error, ErrorKind,
        sim::{Op, VmSpec},
    },
};
use zbus::ObjectPath;

use self::exposition::{Series, parse};
use super::{
    client::{MANAGER, none, options, soon},
    rig::{Rig, id, policy_path, vm_path},
};

/// As nobody would call a VM.
const NAME: &str = "a\"b\\c\nd";
const POLICY: &str = "[policy.p]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nkeep-last = 2\n";

async fn with_metrics(file: impl Fn(&Path) -> PathBuf) -> (Rig, PathBuf) {
    let mut rig = Rig::without_daemon(POLICY, |sim| {
        sim.add_vm(VmSpec::new(NAME, 1));
        sim.add_vm(VmSpec::new("vm2", 2).in_state(virtsnap::core::model::VmState::ShutOff));
    })
    .await;
    let path = file(rig.directory());
    rig.write_main(&format!("metrics-textfile = \"{}\"\n", path.display()));
    rig.boot().await;
    rig.until_running().await;
    (rig, path)
}

/// Waits until the file, which is whole at each look, says what it should.
async fn until(path: &Path, what: &str, wanted: impl Fn(&BTreeMap<Series, f64>) -> bool) {
    let (send, mut news) = mpsc::unbounded_channel();
    let changed = move || {
        let _ = send.send(());
    };
    clock::watch_entry(path.parent().unwrap(), path.file_name().unwrap(), changed).unwrap();
    soon(what, async {
        loop {
            if let Ok(text) = fs::read_to_string(path)
                && wanted(&parse(&text))
            {
                return;
            }
            news.recv().await.unwrap();
        }
    })
    .await;
}

fn value(all: &BTreeMap<Series, f64>, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    all.get(&(format!("virtsnap_{name}"), labels)).copied()
}

fn is(wanted: f64) -> impl Fn(Option<f64>) -> bool {
    move |found| found.is_some_and(|found| (found - wanted).abs() < 1e-9)
}

async fn run(rig: &Rig) {
    for job in rig.client.run("p", none()).await.unwrap() {
        let _ = rig.client.wait(&job).await;
    }
    rig.client.until_idle().await;
}

async fn reload(rig: &Rig) {
    rig.client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_worth_watching_is_in_the_file() {
    let (rig, path) = with_metrics(|d| d.join("virtsnap.prom")).await;
    let uuid = id(1).to_string();
    let vm = [("vm", NAME), ("uuid", uuid.as_str())];
    let of = [("policy", "p"), vm[0], vm[1]];
    until(&path, "the runs there are none of", |all| {
        is(0.0)(value(all, "runs_total", &of))
            && is(0.0)(value(all, "last_success_timestamp_seconds", &of))
            && is(0.0)(value(all, "policy_suspended", &of))
    })
    .await;
    for _ in 0..4 {
        run(&rig).await;
    }
    until(&path, "runs that were well", |all| {
        is(4.0)(value(all, "runs_total", &of))
            && is(0.0)(value(all, "run_failures_total", &of))
            && value(all, "last_success_timestamp_seconds", &of).is_some_and(|at| at > 2_223_374_399.0)
            && value(all, "vm_frozen_seconds_total", &vm).is_some_and(|sum| sum > 0.0)
            && value(all, "vm_merged_bytes_total", &vm).is_some_and(|sum| sum > 0.0)
            && is(2.0)(value(all, "vm_snapshots", &[vm[0], vm[1], ("managed", "yes")]))
            && is(4.0)(
                value(all, "jobs_total", &[("operation", "create"), ("result", "done")]).map(|n| n / 2.0),
            )
    })
    .await;
    let next = rig.client.get::<u64>(MANAGER, "Manager.NextRunUSec").await / 1_000_000;
    #[expect(clippy::cast_precision_loss, reason = "a float holds seconds for a while yet")]
    until(&path, "the next run", |all| {
        is(next as f64)(value(all, "policy_next_run_timestamp_seconds", &[("policy", "p")]))
    })
    .await;

    rig.write_policies(&format!("{POLICY}quiesce = \"require\"\n"));
    reload(&rig).await;
    rig.sim.agent_connected(id(1), false).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.AgentConnected", |c: &bool| !c).await;
    run(&rig).await;
    until(&path, "a run that failed", |all| {
        is(5.0)(value(all, "runs_total", &of))
            && is(1.0)(value(all, "run_failures_total", &of))
            && is(1.0)(value(all, "vm_failed", &vm))
    })
    .await;
    let on_it = options([("vm", ObjectPath::try_from(vm_path(id(1))).unwrap().into())]);
    rig.client.call::<_, ()>(&policy_path("p"), "Policy.Suspend", &("", on_it)).await.unwrap();
    until(&path, "a policy that is suspended", |all| is(1.0)(value(all, "policy_suspended", &of))).await;
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "who collects is another user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_frozen_for_nothing_was_frozen_all_the_same() {
    let (rig, path) = with_metrics(|d| d.join("virtsnap.prom")).await;
    let uuid = id(1).to_string();
    let vm = [("vm", NAME), ("uuid", uuid.as_str())];
    let frozen = |all: &BTreeMap<Series, f64>| value(all, "vm_frozen_seconds_total", &vm);
    until(&path, "a guest that never was", |all| is(0.0)(frozen(all))).await;

    rig.sim.fail_next(Op::Create, Error::new(ErrorKind::Failed, "on request"));
    rig.client.create(id(1), "s1", none()).await.unwrap_err();
    until(&path, "the time for a snapshot that failed", |all| frozen(all).is_some_and(|sum| sum > 0.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_takes_the_place_of_the_one_before_and_off_leaves_none() {
    let (rig, first) = with_metrics(|d| d.join("first.prom")).await;
    until(&first, "the first file", |all| is(1.0)(value(all, "libvirt_connected", &[]))).await;
    let second = rig.directory().join("second.prom");
    rig.write_main(&format!("metrics-textfile = \"{}\"\n", second.display()));
    reload(&rig).await;
    until(&second, "the second file", |all| is(1.0)(value(all, "libvirt_connected", &[]))).await;
    assert!(!first.exists(), "nobody keeps it true");

    // A third one's being there says that the second one's turn is over.
    rig.write_main("");
    reload(&rig).await;
    let third = rig.directory().join("third.prom");
    rig.write_main(&format!("metrics-textfile = \"{}\"\n", third.display()));
    reload(&rig).await;
    until(&third, "the third file", |all| !all.is_empty()).await;
    assert!(!second.exists(), "it was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_there_stops_nothing_and_is_tried_again() {
    let (rig, path) = with_metrics(|d| d.join("later/virtsnap.prom")).await;
    run(&rig).await;
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 1);
    fs::create_dir(path.parent().unwrap()).unwrap();
    run(&rig).await;
    let uuid = id(1).to_string();
    until(&path, "both runs", |all| {
        is(2.0)(value(all, "runs_total", &[("policy", "p"), ("vm", NAME), ("uuid", &uuid)]))
    })
    .await;
}
