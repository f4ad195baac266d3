//! The administrator's programs beside operations.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use virtsnap::{
    core::hook::Event,
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
};

use super::{
    client::{MANAGER, none, options},
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// A line for each run.
fn log(rig: &Rig) -> PathBuf {
    rig.directory().join("log")
}

/// What they have written since it was last asked.
fn said(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(log(rig)).unwrap_or_default();
    let _ = fs::remove_file(log(rig));
    text.lines().map(str::to_owned).collect()
}

fn put(rig: &Rig, name: &str, then: &str) {
    fs::create_dir_all(rig.hooks()).unwrap();
    let path = rig.hooks().join(name);
    let line = "$(basename $0) $1 $2 $VIRTSNAP_VM:$VIRTSNAP_SNAPSHOT:$VIRTSNAP_ORIGIN:$VIRTSNAP_ERROR_NAME";
    fs::write(&path, format!("#!/bin/sh\necho \"{line}\" >>{}\n{then}\n", log(rig).display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn with_two() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    put(&rig, "10-a", "");
    put(&rig, "20-b", "");
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_run_in_order_and_once_more_in_reverse_order_whatever_came_of_it() {
    let rig = with_two().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(
        said(&rig),
        [
            "10-a before create web:s1:manual:",
            "20-b before create web:s1:manual:",
            "20-b after create web:s1:manual:",
            "10-a after create web:s1:manual:",
        ]
    );
    let full = Error::new(ErrorKind::NoSpace, "No space left on device");
    rig.sim.inject(Fault::new(Op::Create, Mishap::Refuse(full)));
    rig.client.create(id(1), "s2", none()).await.unwrap_err();
    assert_eq!(
        said(&rig)[2..],
        ["20-b failed create web:s2:manual:NoSpace", "10-a failed create web:s2:manual:NoSpace"]
    );
    rig.client.job(&snapshot_path(id(1), "s1"), "Snapshot.Delete", none()).await.unwrap();
    assert_eq!(said(&rig)[0], "10-a before delete web:s1:manual:");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_before_it_keeps_it_from_beginning_and_those_that_were_run_are_told() {
    let rig = with_two().await;
    put(&rig, "15-no", "[ $1 != before ] || { echo the database is being dumped; exit 1; }");
    let (error, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(error, "HookFailed");
    for words in ["web", "15-no", "the database is being dumped", "Nothing was touched"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(rig.sim.snapshots(id(1)).unwrap().is_empty());
    assert_eq!(
        said(&rig)[1..],
        [
            "15-no before create web:s1:manual:",
            "15-no failed create web:s1:manual:HookFailed",
            "10-a failed create web:s1:manual:HookFailed",
        ]
    );
    // By its name its failure is no reason.
    fs::rename(rig.hooks().join("15-no"), rig.hooks().join("15-no.optional")).unwrap();
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(said(&rig).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_a_job_that_an_earlier_life_did_not_end_are_told_before_the_next_one() {
    let mut rig = with_two().await;
    rig.stop().await;
    let told = [("VIRTSNAP_VM", "web"), ("VIRTSNAP_OPERATION", "revert"), ("VIRTSNAP_SNAPSHOT", "s0")]
        .map(|(key, value)| (key, value.to_owned()));
    rig.store().hooks_begin(id(1), &rig.hooks(), &told).unwrap();
    rig.boot().await;
    rig.until_running().await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    let said = said(&rig);
    assert_eq!(
        said[..3],
        [
            "20-b failed revert web:s0::Interrupted",
            "10-a failed revert web:s0::Interrupted",
            "10-a before create web:s1:manual:",
        ]
    );
    assert_eq!((said.len(), rig.store().hooked().unwrap()), (6, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_were_told_once_they_are_told_again_and_nothing_else() {
    let mut rig = with_two().await;
    rig.in_store(
        "CREATE TRIGGER full BEFORE DELETE ON hooked BEGIN SELECT RAISE(ABORT, 'disk is full'); END",
    );
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(said(&rig).len(), 4);
    assert_eq!(rig.store().hooked().unwrap(), [id(1)], "that it is over is not written down");
    rig.in_store("DROP TRIGGER full");
    rig.client.create(id(1), "s2", none()).await.unwrap();
    assert_eq!(said(&rig)[0], "10-a before create web:s2:manual:");

    // An earlier life ended while they were being told.
    rig.stop().await;
    let told = [("VIRTSNAP_VM", "web"), ("VIRTSNAP_OPERATION", "create"), ("VIRTSNAP_SNAPSHOT", "s0")]
        .map(|(key, value)| (key, value.to_owned()));
    rig.store().hooks_tell(id(1), &rig.hooks(), &told, Event::After).unwrap();
    rig.boot().await;
    rig.until_running().await;
    rig.client.create(id(1), "s3", none()).await.unwrap();
    assert_eq!(said(&rig)[..2], ["20-b after create web:s0::", "10-a after create web:s0::"]);
    assert_eq!(rig.store().hooked().unwrap(), []);
}

/// They are run while the guest is frozen, too.
async fn with_frozen(arrange: impl FnOnce(&Sim)) -> Rig {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        arrange(sim);
    })
    .await;
    rig.write_main("hooks-frozen = true\n");
    put(&rig, "10-a", "");
    rig.boot().await;
    rig.until_running().await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_guest_is_frozen_none_is_run_unless_that_is_asked_for_and_then_right_before_the_snapshot() {
    let rig = with_frozen(|_| {}).await;
    // Nobody is in the frozen window but the hook and the test: it goes on when the test has looked.
    let (come, go) = (rig.directory().join("come"), rig.directory().join("go"));
    nix::unistd::mkfifo(&come, nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let meet = format!("[ $1 != frozen ] || {{ echo >{}; read x <{}; }}", come.display(), go.display());
    put(&rig, "20-b", &meet);
    rig.sim.clear_calls();
    let job = rig.client.ask_create(id(1), "s1", options([("quiesce", "require".into())])).await.unwrap();
    tokio::task::block_in_place(|| fs::read_to_string(&come)).unwrap();
    assert!(!rig.sim.frozen(id(1)).unwrap().is_empty(), "nothing is frozen");
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze]);
    tokio::task::block_in_place(|| fs::write(&go, "\n")).unwrap();
    rig.client.wait(&job).await.unwrap();
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze, Op::Create, Op::Thaw]);
    let both = ["10-a", "20-b"].map(|hook| format!("{hook} frozen create web:s1:manual:"));
    assert_eq!(said(&rig)[2..4], both);
    let path = snapshot_path(id(1), "s1");
    assert_eq!(rig.client.text(&path, "Snapshot.Consistency").await, "filesystem");
    rig.assert_thawed(id(1)).await;

    // Nothing is frozen for this one.
    rig.client.create(id(1), "s2", options([("quiesce", "never".into())])).await.unwrap();
    assert!(said(&rig).iter().all(|line| !line.contains("frozen")));
    // Nor is it asked for any more.
    rig.write_main("");
    rig.client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
    rig.client.create(id(1), "s3", options([("quiesce", "require".into())])).await.unwrap();
    assert!(said(&rig).iter().all(|line| !line.contains("frozen")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_while_the_guest_is_frozen_keeps_the_snapshot_from_being_taken_and_the_guest_is_thawed()
 {
    let rig = with_frozen(|_| {}).await;
    put(&rig, "15-no", "[ $1 != frozen ] || { echo the log is full; exit 1; }");
    let images = rig.images();
    let (error, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(error, "HookFailed", "{text}");
    for words in ["VM web", "15-no", "the log is full", "were frozen meanwhile", "The VM runs on as before"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(rig.sim.snapshots(id(1)).unwrap().is_empty());
    assert_eq!((rig.images(), rig.store().intents().unwrap()), (images, vec![]), "nothing is left");
    rig.assert_thawed(id(1)).await;
    assert_eq!(
        said(&rig)[3..],
        ["15-no frozen", "15-no failed", "10-a failed"].map(|what| {
            let error = if what.ends_with("failed") { "HookFailed" } else { "" };
            format!("{what} create web:s1:manual:{error}")
        })
    );
    // By its name its failure is no reason.
    fs::rename(rig.hooks().join("15-no"), rig.hooks().join("15-no.optional")).unwrap();
    rig.client.create(id(1), "s1", none()).await.unwrap();
    assert_eq!(rig.client.text(&snapshot_path(id(1), "s1"), "Snapshot.Consistency").await, "filesystem");
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_while_the_guest_is_frozen_is_killed_and_windows_is_held_for_less() {
    let rig = with_frozen(|sim| sim.runs_windows(id(1)).unwrap()).await;
    let pid = rig.directory().join("pid");
    let hang = format!("[ $1 != frozen ] || {{ tail -f /dev/null & echo $! >{}; wait; }}", pid.display());
    put(&rig, "20-b", &hang);
    put(&rig, "30-c", "");
    let (error, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(error, "HookFailed", "{text}");
    // What the one before it took is not its own.
    assert!(
        text.contains("20-b was killed, as it had not ended after 2 s") || text.contains("after 1."),
        "{text}"
    );
    rig.assert_thawed(id(1)).await;
    assert!(rig.sim.snapshots(id(1)).unwrap().is_empty());
    let started: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let state = fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "what it had started goes on: {state}");

    // Where that is no reason, there is no time left for the next one.
    fs::rename(rig.hooks().join("20-b"), rig.hooks().join("20-b.optional")).unwrap();
    let (error, text) = rig.client.create(id(1), "s1", none()).await.unwrap_err();
    assert_eq!(error, "HookFailed", "{text}");
    assert!(text.contains("hook 30-c was not run, as all may take 2 s while a guest is frozen"), "{text}");
    rig.assert_thawed(id(1)).await;
    fs::remove_file(rig.hooks().join("30-c")).unwrap();
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thaw_that_fails_after_a_hook_did_is_told_with_it_and_tried_on() {
    let rig = with_frozen(|_| {}).await;
    put(&rig, "15-no", "[ $1 != frozen ]");
    let gate = rig.sim.gate(Op::Thaw);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    rig.sim.agent_stuck(id(1), true).unwrap();
    gate.open();
    let (error, text) = rig.client.wait(&job).await.unwrap_err();
    assert_eq!(error, "HookFailed", "{text}");
    assert!(text.contains("may be frozen still, and its thaw is tried on"), "{text}");
    assert!(rig.client.get::<bool>(&vm_path(id(1)), "VM.Frozen").await);
    rig.sim.agent_stuck(id(1), false).unwrap();
    rig.assert_thawed(id(1)).await;
}
