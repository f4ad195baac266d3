//! What the client's verbs print and end with, each as a person or a script runs it.

use std::process::{Command, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use virtsnap::hypervisor::{
    Error, ErrorKind,
    sim::{Op, VmSpec},
};

use super::{
    client::{none, soon},
    command_line::virtsnap,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

const POLICIES: &str = "[policy.few]
vms = [\"web\"]
keep-last = 1
max-delete = 2

[policy.nobody]
vms = [\"other\"]
keep-last = 1
";

async fn web() -> Rig {
    Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await
}

/// A verb's exit status, answer and complaints.
async fn told(rig: &Rig, verb: &[&str]) -> (Option<i32>, String, String) {
    virtsnap(&[&["--bus-address", &rig.address()], verb].concat()).await
}

/// The same as JSON, of a verb that ends well.
async fn json(rig: &Rig, verb: &[&str]) -> Value {
    let (code, out, err) = told(rig, &[verb, &["--json"]].concat()).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{verb:?}: {out}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_says_what_is_gone_and_what_the_brake_left() {
    let rig = web().await;
    for _ in 0..2 {
        let jobs = rig.client.run("few", none()).await.unwrap();
        rig.client.wait(&jobs[0]).await.unwrap();
        rig.client.until_idle().await;
    }
    // Four that the policy lets go, of which one prune takes two.
    rig.write_policies(&POLICIES.replace("keep-last = 1\nmax", "keep-last = 9\nmax"));
    told(&rig, &["reload"]).await;
    for _ in 0..4 {
        let jobs = rig.client.run("few", none()).await.unwrap();
        rig.client.wait(&jobs[0]).await.unwrap();
        rig.client.until_idle().await;
    }
    rig.write_policies(POLICIES);
    told(&rig, &["reload"]).await;
    let names = rig.client.snapshots(id(1)).await;
    assert_eq!(names.len(), 5, "{names:?}");

    let (code, out, _) = told(&rig, &["plan", "web"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("web: 2 of 5 snapshots to delete"), "{out}");
    let (_, out, _) = told(&rig, &["plan", "web", "--beyond-max-delete"]).await;
    assert!(out.contains("web: 4 of 5 snapshots to delete"), "{out}");
    let planned = json(&rig, &["plan", "--all"]).await;
    assert_eq!(planned["vms"][0]["verdicts"].as_array().unwrap().len(), 5);
    assert_eq!(planned["failed"], Value::Array(vec![]));

    let (code, _, err) = told(&rig, &["prune", "web"]).await;
    assert_eq!(code, Some(2), "nobody can be asked: {err}");
    let (code, out, err) = told(&rig, &["prune", "web", "--yes"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "web: 2 snapshots deleted\n");
    let pruned = json(&rig, &["prune", "web", "--yes", "--all"]).await;
    assert_eq!(pruned["deleted"].as_array().unwrap().len(), 2, "{pruned}");
    assert_eq!(pruned["job"]["result"], "done");
    assert_eq!(rig.client.snapshots(id(1)).await, names[4..]);
    // Nothing goes, and yet the clock is vouched for.
    assert_eq!(told(&rig, &["prune", "web", "--all"]).await.0, Some(2));
    assert_eq!(told(&rig, &["prune", "web", "--all", "--yes"]).await.0, Some(0));
    let nothing = json(&rig, &["prune", "web", "--yes"]).await;
    assert!(nothing["job"].is_null() && nothing["deleted"] == Value::Array(vec![]), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_are_listed_and_one_is_cancelled() {
    let rig = web().await;
    assert_eq!(json(&rig, &["jobs"]).await["jobs"], Value::Array(vec![]));
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    let waiting = json(&rig, &["create", "web", "--name", "s2", "--no-wait"]).await;
    assert!(waiting["snapshot"].is_null() && waiting["job"]["state"] == "queued", "{waiting}");
    let number = waiting["job"]["id"].to_string();
    let (code, out, _) = told(&rig, &["jobs"]).await;
    assert_eq!(code, Some(0));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        ["ID", "OPERATION", "VM", "SNAPSHOT", "STARTED", "ORIGIN", "UID", "CANCELABLE", "STATE"]
    );
    assert_eq!((lines[1][1], lines[1][2]), ("create", "web"));
    let of_waiting = out.lines().nth(2).unwrap();
    assert!(of_waiting.ends_with("  queued: waiting for job 1 of the same VM"), "{out}");
    // Root asked for both, and only what waits can still be taken back.
    for (line, cancelable) in [(1, "no"), (2, "yes")] {
        let at = lines[line].iter().position(|word| *word == "manual").unwrap();
        assert_eq!(lines[line][at..at + 3], ["manual", "0", cancelable], "{out}");
    }

    let (code, out, err) = told(&rig, &["cancel", &number]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let wanted =
        format!("job {number} (create): cancelled: job {number} (create of VM web) was cancelled before");
    assert!(out.starts_with(&wanted), "{out}");
    let (code, _, err) = told(&rig, &["cancel", &number]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("nothing to cancel"), "{err}");
    assert_eq!(told(&rig, &["cancel", "99"]).await.0, Some(3));
    let of_running = running.rsplit('/').next().unwrap();
    let (code, _, err) = told(&rig, &["cancel", of_running]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("end by itself"), "{err}");
    gate.open();
    rig.client.wait(&running).await.unwrap();

    // A merge stops in the middle of it.
    assert!(rig.sim.write(id(1), "vda", 0, 7));
    let gate = rig.sim.gate(Op::Commit);
    let deleting = json(&rig, &["delete", "web", "s1", "--yes", "--no-wait"]).await;
    held(&gate);
    let number = deleting["job"]["id"].to_string();
    let (code, _, err) = told(&rig, &["cancel", &number, "--no-wait"]).await;
    assert_eq!(code, Some(2), "what it cuts short is worth a question: {err}");
    let (code, out, _) = told(&rig, &["cancel", &number, "--no-wait", "--yes"]).await;
    assert_eq!((code, out), (Some(0), format!("job {number} (delete): is told to stop\n")));
    gate.open();
    rig.client.wait(deleting["job"]["object"].as_str().unwrap()).await.unwrap_err();
    let (_, out, _) = told(&rig, &["jobs"]).await;
    assert!(out.contains("count as failed from now on"), "{out}");
}

/// Whether a process has a handler for a signal.
fn is_caught(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_any_longer_learns_that_the_job_goes_on() {
    let rig = web().await;
    let gate = rig.sim.gate(Op::Create);
    let client = Command::new(env!("CARGO_BIN_EXE_virtsnap"))
        .args(["--bus-address", &rig.address(), "create", "web", "--name", "s1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    held(&gate);
    // It waits once its call of the job's Wait has come, which nobody can see: so it is told until it has gone, from when
    // on that does not just kill it.
    let pid = Pid::from_raw(client.id().try_into().unwrap());
    let ended = tokio::task::spawn_blocking(move || client.wait_with_output());
    let output = soon("the client's end", async {
        let mut ended = std::pin::pin!(ended);
        loop {
            if is_caught(pid, Signal::SIGINT) {
                kill(pid, Signal::SIGINT).unwrap();
            }
            let soon = std::time::Duration::from_millis(50);
            if let Ok(output) = tokio::time::timeout(soon, &mut ended).await {
                return output.unwrap().unwrap();
            }
        }
    })
    .await;
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("the daemon goes on with job 1") && err.contains("virtsnap cancel 1"), "{err}");
    gate.open();
    rig.client.until_there(&snapshot_path(id(1), "s1"), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_jobs_later_is_told_how_each_ended() {
    let rig = web().await;
    told(&rig, &["create", "web", "--name", "s1"]).await;
    rig.sim.fail_next(Op::Create, Error::new(ErrorKind::NoSpace, "No space left on device"));
    told(&rig, &["create", "web"]).await;
    let (code, out, err) = told(&rig, &["wait", "1"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("web: snapshot \"s1\" taken, "), "{out}");
    let (code, out, err) = told(&rig, &["wait", "2", "1", "2"]).await;
    assert_eq!(code, Some(6), "{out}{err}");
    assert!(out.contains("snapshot \"s1\" taken"), "{out}");
    assert!(err.starts_with("error: job 2 (create) of \"web\" was not finished: "), "{err}");
    let (code, out, _) = told(&rig, &["wait", "2", "1", "--json"]).await;
    let answer: Value = serde_json::from_str(&out).unwrap();
    let ids: Vec<_> = answer["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!((code, ids), (Some(6), vec![&Value::from(2), &Value::from(1)]), "{answer}");
    let (code, out, err) = told(&rig, &["wait", "1", "99"]).await;
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("there is no job 99"), "{err}");
    assert_eq!(told(&rig, &["wait"]).await.0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_names_its_way_back_to_scripts_too() {
    let rig = web().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    let reverted = json(&rig, &["revert", "web", "s1", "--yes"]).await;
    assert_eq!(reverted["job"]["result"], "done");
    let safety = reverted["safety"]["name"].as_str().unwrap();
    assert!(safety.starts_with("before-revert-s1-"), "{reverted}");
    assert_eq!(reverted["safety"]["origin"], "safety");
    assert!(rig.client.snapshots(id(1)).await.contains(&safety.to_owned()));
    let reverted = json(&rig, &["revert", "web", "s1", "--yes", "--no-safety"]).await;
    assert!(reverted["safety"].is_null(), "{reverted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_nothing_says_so() {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.make_foreign_snapshot(id(1), "theirs").unwrap();
    })
    .await;
    // Not asked for first, to be refused then.
    let (code, _, err) = told(&rig, &["delete", "web", "theirs"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("not made by virtsnap") && err.contains("--foreign"), "{err}");

    let (code, out, err) = told(&rig, &["run", "nobody"]).await;
    assert_eq!((code, out.as_str()), (Some(0), ""));
    assert!(err.contains("policy \"nobody\" ran on no VM"), "{err}");
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_with_all_that_were_taken_on_top_of_it() {
    let rig = web().await;
    let take = async |name: &str, value: u64| {
        assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, value)));
        rig.client.create(id(1), name, none()).await.unwrap();
    };
    for (name, value) in [("s1", 1), ("s2", 2), ("s3", 3)] {
        take(name, value).await;
    }
    // A branch of its own: s4 is taken on top of s2.
    json(&rig, &["revert", "web", "s2", "--yes", "--no-safety"]).await;
    take("s4", 4).await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 5)));

    rig.client
        .call::<_, ()>(&snapshot_path(id(1), "s4"), "Snapshot.Pin", &("why", 0_u64, none()))
        .await
        .unwrap();
    let (code, _, err) = told(&rig, &["delete", "web", "s2", "--recursive", "--yes"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("snapshot \"s4\" of \"web\" is pinned"), "{err}");
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 4, "all or none");
    rig.client.call::<_, ()>(&snapshot_path(id(1), "s4"), "Snapshot.Unpin", &(none(),)).await.unwrap();

    let gone = json(&rig, &["delete", "web", "s2", "--recursive", "--yes"]).await;
    assert_eq!(gone["deleted"], serde_json::json!(["s3", "s2", "s4"]), "{gone}");
    assert_eq!(gone["jobs"].as_array().unwrap().len(), 3);
    assert_eq!(rig.client.snapshots(id(1)).await, ["s1"]);
    assert!(rig.sim.read(id(1), "vda").unwrap().values().all(|value| *value == 5));
}
