//! The way back: tried as long as what is in the way may pass, and told as what it is.

use std::sync::Arc;

use nix::sys::signal::Signal;
use virtsnap::{
    core::model::VmState,
    hypervisor::{
        Hypervisor as _,
        sim::{Op, VmSpec},
    },
};

use super::{
    super::{
        client::{MANAGER, none},
        rig::{Rig, held, id},
    },
    Guarded, all, begin, pins, point, web,
};

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_put_back_that_is_loud_and_the_way_by_hand_is_named() {
    let rig = web().await;
    let guarded = begin(&rig, &[], "exit 7").await;
    rig.sim.block_job(id(1), true).unwrap();
    guarded.go_on();
    let guarded = guarded.until("that is tried again for five minutes (Ctrl-C ends that)").await;
    guarded.tell(Signal::SIGINT);
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(125), "{err}");
    let point = point(&rig).await;
    for words in [
        "ended with exit status 7, and \"web\" was NOT put back to snapshot".to_owned(),
        format!("`virtsnap revert web {point} --start`"),
        format!("`virtsnap unpin web {point}`"),
    ] {
        assert!(err.contains(&words), "{words}: {err}");
    }
    assert_eq!(pins(&rig).await.len(), 1, "it is still needed");
}

async fn assert_put_back(rig: &Rig, guarded: Guarded) -> String {
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(7), "{err}");
    assert!(err.contains("ended with exit status 7; \"web\" was put back to snapshot"), "{err}");
    assert!(!err.contains("NOT put back"), "{err}");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(1));
    assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::Running);
    assert_eq!(pins(rig).await, []);
    err
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_for_a_while_is_waited_out() {
    let rig = web().await;
    rig.sim.add_vm(VmSpec::new("db", 2));
    let guarded = begin(&rig, &[], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    rig.sim.block_job(id(1), true).unwrap();
    guarded.go_on();
    let guarded = guarded.until("cannot be put back to snapshot").await;
    rig.sim.block_job(id(1), false).unwrap();
    // A job that ends may be what was in the way.
    rig.client.create(id(2), "other", none()).await.unwrap();
    assert_put_back(&rig, guarded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_away_is_waited_for() {
    let mut rig = web().await;
    let guarded = begin(&rig, &[], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    rig.stop().await;
    guarded.go_on();
    let guarded = guarded.until("that is tried again").await;
    rig.boot().await;
    let err = assert_put_back(&rig, guarded).await;
    assert_eq!(err.matches("that is tried again").count(), 1, "it is said once: {err}");
}

/// A guard whose daemon ends in the midst of putting the VM back.
async fn cut_short() -> (Rig, Guarded) {
    let mut rig = web().await;
    let guarded = begin(&rig, &[], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    let sim = Arc::clone(&rig.sim);
    let gate = sim.gate(Op::Define);
    guarded.go_on();
    held(&gate);
    rig.tell_to_stop();
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "stopping").await;
    sim.disconnect("libvirtd is gone");
    gate.open();
    rig.ended().await;
    sim.connect();
    (rig, guarded.until("that is tried again").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_in_the_midst_of_it_is_asked_again_how_it_came_out() {
    let (mut rig, guarded) = cut_short().await;
    rig.boot().await;
    assert_put_back(&rig, guarded).await;
    rig.client.until_idle().await;
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_tell_is_told_as_that() {
    let (mut rig, guarded) = cut_short().await;
    guarded.tell(Signal::SIGINT);
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(125), "{err}");
    assert!(err.contains(" is putting \"web\" back to snapshot"), "{err}");
    assert!(err.contains("how that ends is not known") && !err.contains("NOT put back"), "{err}");
    assert!(err.contains("`virtsnap unpin web "), "{err}");
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(pins(&rig).await.len(), 1, "it may still be needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_do_not_take_the_guard_away_from_it() {
    let rig = web().await;
    let guarded = begin(&rig, &[], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    let gate = rig.sim.gate(Op::Define);
    guarded.go_on();
    held(&gate);
    guarded.tell(Signal::SIGINT);
    let guarded = guarded.until("SIGINT does not stop that \"web\" is put back").await;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        guarded.tell(signal);
    }
    gate.open();
    let err = assert_put_back(&rig, guarded).await;
    assert_eq!(err.matches("does not stop").count(), 1, "it is said once: {err}");
}
