//! The administrator's programs beside operations.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use virtsnap::{
    core::hook::Event,
    hypervisor::{
        Error, ErrorKind, Hypervisor as _,
        sim::{Fault, Mishap, Op, VmSpec},
    },
};

use super::{
    client::none,
    rig::{Rig, id, snapshot_path},
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
