//! The client's real binary where there are many VMs: more than a bus lets one connection wait for, and a run that takes
//! longer than the daemon remembers jobs.

use std::process::{Command, Output};

use futures_util::StreamExt as _;
use jiff::SignedDuration;
use tokio::task::JoinHandle;
use virtsnap::hypervisor::sim::{Op, VmSpec};
use zbus::{MatchRule, MessageStream, fdo::MonitoringProxy, message::Type};

use super::{
    client::{Client, MANAGER, none, soon},
    rig::{DEADLINE, Rig, held, id, snapshot_path},
};

const POLICY: &str = "[policy.p]\nvms = [\"*\"]\n";
/// More answers than this no connection may wait for on a `dbus-daemon` that is set up as it comes.
const LIMIT: u128 = 128;

async fn with(vms: u128) -> Rig {
    Rig::start(POLICY, |sim| {
        for number in 1..=vms {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await
}

/// All calls of a method from now on, whoever makes them.
async fn calls(rig: &Rig, method: &'static str) -> MessageStream {
    let Client { connection } = Client::connect(&rig.address()).await;
    let calls = MessageStream::from(&connection);
    let monitor = soon("the bus", MonitoringProxy::new(&connection)).await.unwrap();
    let rule = MatchRule::builder().msg_type(Type::MethodCall).member(method).build().unwrap();
    soon("a monitor", monitor.become_monitor(&[rule], 0)).await.unwrap();
    calls
}

/// `virtsnap run p`
fn run(rig: &Rig) -> JoinHandle<std::io::Result<Output>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
    command.args(["--bus-address", &rig.address(), "run", "p"]).env("TZ", "UTC");
    tokio::task::spawn_blocking(move || command.output())
}

/// What it says when it has ended well, however many VMs that are.
async fn done(run: JoinHandle<std::io::Result<Output>>) -> String {
    let Output { status, stdout, stderr } =
        tokio::time::timeout(4 * DEADLINE, run).await.expect("it ends").unwrap().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    let err = super::command_line::complaints(&err);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{out}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_more_vms_than_a_connection_may_wait_for_tells_of_each() {
    let vms = LIMIT + 12;
    let rig = with(vms).await;
    let mut waits = calls(&rig, "Wait").await;
    let gate = rig.sim.gate(Op::Create);
    let run = run(&rig);
    held(&gate);
    soon("the client waits for many", waits.by_ref().take(50).count()).await;
    // Nothing reads it any more, and a full one would hold up the bus.
    drop(waits);
    gate.open();
    let out = done(run).await;
    let all: Vec<&str> = out.lines().collect();
    assert_eq!(u128::try_from(all.len()).unwrap(), vms, "{out}");
    for (number, line) in (1..).zip(all) {
        assert!(line.starts_with(&format!("vm{number}: snapshot ")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_of_each_vm_however_long_the_last_one_takes() {
    // Of the jobs that ended, 64 stay.
    let vms: u8 = 70;
    let rig = with(vms.into()).await;
    let reads = calls(&rig, "GetAll").await;
    let gate = rig.sim.gate_vm(Op::Create, id(vms.into()));
    let run = run(&rig);
    held(&gate);
    // Each job is read once before its end and once after it, but for the one that goes on.
    let of_jobs = reads.filter(|call| {
        let call = call.as_ref().unwrap().header();
        std::future::ready(call.path().is_some_and(|path| path.contains("/job/")))
    });
    soon("each job's end is read", of_jobs.take(2 * usize::from(vms) - 1).count()).await;
    let gone = rig.client.snapshots(id(1)).await;
    rig.client.job(&snapshot_path(id(1), &gone[0]), "Snapshot.Delete", none()).await.unwrap();
    rig.clock.advance(SignedDuration::from_mins(11));
    gate.open();
    let out = done(run).await;
    rig.client.until_there(&format!("{MANAGER}/job/1"), false).await;
    let all: Vec<&str> = out.lines().collect();
    assert_eq!(all.len(), usize::from(vms), "{out}");
    assert_eq!(all[0], "vm1: a snapshot was taken, which is gone by now");
    for (number, line) in (1..).zip(&all).skip(1) {
        assert!(line.starts_with(&format!("vm{number}: snapshot ")), "{line}");
    }
}
